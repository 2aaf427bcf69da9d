"""What a busy month moves on the chain: sweeps of what was charged, with their gas."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert

from finance.actions import Action
from finance.chain.events import BATCH_SETTLEMENT_HEX
from finance.ledger import Account
from finance.models import ChainEvent, ChainTx, LedgerEntry, TxState

CALLS_PER_SWEEP = 200
CHAIN_ID = 31337
WALLET = "0x" + "11" * 20
GAS_WEI = 51_000 * 10**8
STEP = 5_000  # sweeps per transaction

Rows = tuple[dict[str, Any], ...]


def move_on_chain(connection: Connection, calls: int, since: int, until: int) -> int:
    """One sweep for every CALLS_PER_SWEEP calls, evenly spread; how many there are.

    Each is a claim of ours, the transfer that the watcher saw, and two rows of the ledger.
    """
    count = calls // CALLS_PER_SWEEP
    sweeps = (_sweep(n, since + n * (until - since) // count) for n in range(count))
    while step := list(islice(sweeps, STEP)):
        for model, place in ((ChainTx, 0), (ChainEvent, 1)):
            connection.execute(insert(model), [rows[place] for rows in step])
        connection.execute(insert(LedgerEntry), list(_ledger(step)))
        connection.commit()
    return count


def _ledger(step: list[Rows]) -> Iterator[dict[str, Any]]:
    for rows in step:
        yield from rows[2:]


def _sweep(n: int, at: int) -> Rows:
    """Transaction, event, and the rows of wallet and gas."""
    tx_hash, amount = f"0x{n:064x}", 250_000 + n % 1_000
    sent = {
        "chain_id": CHAIN_ID,
        "sender": WALLET,
        "purpose": "claim",
        "ref": f"month:{n}",
        "to": BATCH_SETTLEMENT_HEX,
        "data": "0x",
        "state": TxState.FINAL,
        "nonce": n,
        "tx_hash": tx_hash,
        "fee_wei": GAS_WEI,
        "created_at": at,
        "updated_at": at,
    }
    args = f'{{"from": "{BATCH_SETTLEMENT_HEX}", "to": "{WALLET}", "value": "{amount}"}}'
    seen = {
        "chain_id": CHAIN_ID,
        "block_number": n,
        "block_hash": f"0x{n:x}",
        "tx_hash": tx_hash,
        "log_index": 0,
        "name": "Transfer",
        "args": args,
        "seen_at": at,
    }
    booked = {"tx_hash": tx_hash, "at": at}
    swept = {"account": Account.WALLET, "amount": amount, "log_index": 0, "action": Action.SWEEP}
    burnt = {"account": Account.GAS, "amount": -GAS_WEI, "log_index": None, "action": None}
    return (
        sent,
        seen,
        booked | swept | {"key": f"sweep:{n}"},
        booked | burnt | {"key": f"gas:{n}"},
    )
