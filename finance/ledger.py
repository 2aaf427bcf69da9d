"""The ledger: every movement of money as one row with a unique key (law 9).

A key says what moved, so that the same movement can never be booked twice, from
whichever place it was learned first.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import insert

from finance.models import LedgerEntry
from finance.store import Write


class Account(StrEnum):
    """Where a row counts. Signs are seen from this node: in is positive."""

    WALLET = "wallet"  # USDC of the wallet, row by row its Transfer events
    CHARGED = "charged"  # seller: charged by voucher (reversals negative)
    EXACT = "exact"  # seller: charged by an exact payment
    CLAIMED = "claimed"  # seller: vouchers claimed on-chain
    SPENT = "spent"  # buyer: paid for calls (negative)
    DEPOSITED = "deposited"  # buyer: moved into channels (refunds negative)
    GAS = "gas"  # ETH paid for transactions, in wei (negative)


INSERT_ENTRY = insert(LedgerEntry)


def entry(
    key: str,
    account: Account,
    amount: int,
    at: int,
    *,
    channel_id: str | None = None,
    call_id: str | None = None,
    tx_hash: str | None = None,
    log_index: int | None = None,
    action: str | None = None,
) -> Write:
    """One ledger row to write; a second one with the same key breaks its batch. `action` is
    told of the wallet's transfers only: charges are written without that column."""
    row: dict[str, object] = {
        "key": key,
        "account": account.value,
        "amount": amount,
        "channel_id": channel_id,
        "call_id": call_id,
        "tx_hash": tx_hash,
        "log_index": log_index,
        "at": at,
    }
    if action is not None:
        row["action"] = action
    return Write(INSERT_ENTRY, row)


def charge_key(call_id: str) -> str:
    """Call ids grow with time, so these keys lie side by side in the index that every paid
    call writes: one page of it is touched, not one per channel."""
    return f"charge:{call_id}"


def reversal_key(key: str) -> str:
    return f"reversal:{key}"


def exact_key(payer: str, nonce: str) -> str:
    return f"exact:{payer}:{nonce}"


def transfer_key(tx_hash: str, log_index: int, owner: str) -> str:
    return f"transfer:{tx_hash}:{log_index}:{owner}"


def gas_key(tx_hash: str) -> str:
    return f"gas:{tx_hash}"


def purchase_key(call_id: str) -> str:
    return f"purchase:{call_id}"
