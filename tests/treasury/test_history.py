"""The history says what moved, to the atom, found again by any filter."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from finance import history
from finance.actions import Action, action_of
from finance.chain.events import SeenEvent
from finance.chain.sightings import Sightings
from finance.history import Filter, Line, Place, all_history, read_history
from finance.ledger import Account
from finance.models import ChainEvent, ChainTx, ChainTxAttempt, LedgerEntry
from finance.operations import Arrival, Token
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade

LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
BATCH = "0x4020074e9df2ce1dee5a9c1b5c3f541d02a10003"
COLLECTOR = "0x4020806089470a89826cb9fb1f4059150b550004"
FRIEND, WALLET = "0x" + "ab" * 20, "0x" + "11" * 20
CHARGES = 10_000_000 if os.environ.get("FAREBOX_SOAK") == "1" else 20_000
DAY = 86_400


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


def tx(number: int) -> str:
    return f"0x{number:064x}"


def put_transfer(
    engine: Engine, number: int, at: int, amount: int, other: str, purpose: str = ""
) -> None:
    """One transfer with its event and, for one of ours, its transaction with its gas."""
    sender, to = (other, WALLET) if amount > 0 else (WALLET, other)
    moved = {"from": sender, "to": to, "value": str(abs(amount))}
    args, action = json.dumps(moved), action_of(amount, moved, purpose)
    row = {"tx_hash": tx(number), "channel_id": None, "call_id": None, "at": at}
    with writer(engine).begin() as connection:
        connection.execute(
            insert(LEDGER),
            {
                **row,
                "key": f"transfer:{number}",
                "account": Account.WALLET,
                "amount": amount,
                "log_index": 1,
                "action": action,
            },
        )
        event = {"chain_id": 31337, "block_number": 5, "block_hash": "0x1", "name": "Transfer"}
        place = {"tx_hash": tx(number), "log_index": 1, "args": args}
        connection.execute(insert(ChainEvent), {**event, **place, "orphaned": False, "seen_at": at})
        if purpose:
            sent = {
                "chain_id": 31337,
                "sender": WALLET,
                "to": other,
                "data": "0x",
                "value_wei": "0",
            }
            connection.execute(
                insert(ChainTx),
                {
                    **sent,
                    "purpose": purpose,
                    "ref": str(number),
                    "state": "final",
                    "nonce": number,
                    "tx_hash": tx(number),
                    "fee_wei": 21,
                    "created_at": at,
                    "updated_at": at,
                },
            )
            gas = {"key": f"gas:{number}", "account": Account.GAS, "amount": -21, "action": None}
            connection.execute(insert(LEDGER), {**row, **gas, "log_index": None})


def fill(engine: Engine) -> None:
    """One of everything, an hour apart from 1,000 on."""
    put_transfer(engine, 1, 1000, 500, FRIEND)
    put_transfer(engine, 2, 4600, 70, FRIEND, "settle")
    put_transfer(engine, 3, 8200, 300, BATCH, "claim")
    put_transfer(engine, 4, 11_800, -40, COLLECTOR)
    put_transfer(engine, 5, 15_400, 15, BATCH)
    put_transfer(engine, 6, 19_000, -8, FRIEND)
    put_transfer(engine, 7, 22_600, -100, FRIEND, "withdraw_usdc")
    eth = {"chain_id": 31337, "token": "ETH", "source": "", "tx_hash": None}
    with writer(engine).begin() as connection:
        connection.execute(
            insert(Arrival),
            {**eth, "key": "eth", "amount": str(10**19), "block_number": 9, "at": 26_200},
        )
        connection.execute(
            insert(ChainTx),
            {
                "chain_id": 31337,
                "sender": WALLET,
                "to": FRIEND,
                "data": "0x",
                "value_wei": str(3 * 10**19),
                "purpose": "withdraw_eth",
                "ref": "e",
                "state": "mined",
                "nonce": 99,
                "tx_hash": tx(99),
                "created_at": 29_800,
                "updated_at": 29_800,
            },
        )


def lines(engine: Engine, **wanted: object) -> list[Line]:
    return list(all_history(engine, Filter(**wanted), step=3))  # type: ignore[arg-type]


def test_every_kind_of_movement_has_its_name_and_its_exact_amount(engine: Engine) -> None:
    fill(engine)
    assert [(each.action, each.token, each.amount) for each in lines(engine) if each.token] == [
        (Action.WITHDRAWAL, Token.ETH, -3 * 10**19),
        (Action.RECEIVED, Token.ETH, 10**19),
        (Action.WITHDRAWAL, Token.USDC, -100),
        (Action.GAS, Token.ETH, -21),
        (Action.PURCHASE, Token.USDC, -8),
        (Action.RETURNED, Token.USDC, 15),
        (Action.DEPOSIT, Token.USDC, -40),
        (Action.SWEEP, Token.USDC, 300),
        (Action.GAS, Token.ETH, -21),
        (Action.SALE, Token.USDC, 70),
        (Action.GAS, Token.ETH, -21),
        (Action.RECEIVED, Token.USDC, 500),
    ]


def test_pages_of_any_size_show_each_line_once(engine: Engine) -> None:
    fill(engine)
    whole = [each.place for each in read_history(engine, Filter(), None, 100).lines]
    for size in (1, 2, 5):
        seen, after = [], None
        while True:
            page = read_history(engine, Filter(), after, size)
            seen += [each.place for each in page.lines]
            after = page.older
            if after is None:
                break
        assert seen == whole
    assert all(Place.parse(place.text()) == place for place in whole)


@pytest.mark.parametrize("text", ["", "x", "1.w", "1.z.3", "a.w.1", "-1.w.1", "1.w.1.1"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    assert Place.parse(text) is None


def test_filters_find_by_kind_token_time_and_text(engine: Engine) -> None:
    fill(engine)
    assert {each.amount for each in lines(engine, action=Action.WITHDRAWAL)} == {-100, -3 * 10**19}
    assert [each.amount for each in lines(engine, action=Action.SWEEP)] == [300]
    assert len(lines(engine, action=Action.GAS)) == 3
    assert {each.token for each in lines(engine, token=Token.USDC)} == {Token.USDC}
    spans = lines(engine, since=4600, before=8200)
    assert {each.at for each in spans} == {4600}
    assert [each.amount for each in lines(engine, text=tx(5))] == [15]
    assert {each.amount for each in lines(engine, text="AB" * 20)} == {
        500,
        70,
        -8,
        -100,
        -3 * 10**19,
    }
    assert lines(engine, text="100%_") == []


def test_a_movement_that_was_reorganised_away_is_shown_as_taken_back(engine: Engine) -> None:
    put_transfer(engine, 1, 1000, 500, FRIEND)
    back = {"key": "reversal:transfer:1", "account": Account.WALLET, "amount": -500, "at": 1010}
    with writer(engine).begin() as connection:
        place = {"tx_hash": tx(1), "log_index": 1, "action": Action.TAKEN_BACK}
        connection.execute(insert(LEDGER), {**back, **place})
    assert [(each.action, each.amount) for each in lines(engine)] == [
        (Action.TAKEN_BACK, -500),
        (Action.RECEIVED, 500),
    ]


def test_a_text_is_found_however_far_back_it_stands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    monkeypatch.setattr(history, "LOOKED_THROUGH", 2)
    first = read_history(engine, Filter(text="settling"), None, 50)
    assert first.lines == () and first.older is not None
    assert [each.amount for each in lines(engine, text="settle")] == [70, -21]
    assert [each.amount for each in lines(engine, text="settle", action=Action.SALE)] == [70]
    whole = [each.place for each in lines(engine, text="0x")]
    assert whole == sorted(whole, reverse=True) and len(whole) == 11
    at_once = read_history(engine, Filter(text=tx(1).upper().replace("X", "x")), None, 50)
    assert [each.amount for each in at_once.lines] == [500] and at_once.older is None


@pytest.mark.parametrize("purpose", ["", "claim", "withdraw_usdc"])
def test_what_the_chain_moved_is_booked_with_its_action(engine: Engine, purpose: str) -> None:
    """Also before our own transaction knows by which of its forms it was mined."""
    amount = -5 if purpose == "withdraw_usdc" else 5
    sender, to = (FRIEND, WALLET) if amount > 0 else (WALLET, FRIEND)
    args = {"from": sender, "to": to, "value": 5}
    if purpose:
        _send(engine, purpose, tx(1))
    seen = SeenEvent("Transfer", None, args, 7, "0xb", tx(1), 0)
    asyncio.run(_book_and_take_back(engine, seen))
    wanted = {"": Action.RECEIVED, "claim": Action.SWEEP, "withdraw_usdc": Action.WITHDRAWAL}
    assert [(each.action, each.amount) for each in lines(engine)] == [
        (Action.TAKEN_BACK, -amount),
        (wanted[purpose], amount),
    ]


async def _book_and_take_back(engine: Engine, seen: SeenEvent) -> None:
    journal = Journal(engine)
    sightings = Sightings(journal, 31337, WALLET)
    await sightings.book([seen], [])
    await sightings.take_back(sightings.stored(7))
    await asyncio.to_thread(journal.close)


def _send(engine: Engine, purpose: str, tx_hash: str) -> None:
    sent = {"chain_id": 31337, "sender": WALLET, "purpose": purpose, "ref": "1", "to": FRIEND}
    form = {"tx_hash": tx_hash, "raw": "0x", "max_fee_wei": 1, "max_priority_fee_wei": 1}
    with writer(engine).begin() as connection:
        made = connection.execute(insert(ChainTx), {**sent, "data": "0x", "state": "broadcast"})
        connection.execute(insert(ChainTxAttempt), {**form, "tx_id": made.inserted_primary_key[0]})


def test_history_is_quick_beside_millions_of_charges(tmp_path: Path) -> None:
    """p95 within 100 ms, unfiltered, filtered, and deep in the past."""
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    upgrade(engine)
    now = int(time.time())
    with writer(engine).begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO ledger_entry (key, account, amount, channel_id, call_id, at)"
            " SELECT 'charge:' || i, 'charged', 1000, 'c' || (i % 999), 'call' || i, ? - i / 4"
            " FROM n",
            (CHARGES, now),
        )
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            " INSERT INTO ledger_entry (key, account, amount, tx_hash, log_index, at, action)"
            " SELECT 'transfer:' || i, 'wallet', 5, '0x' || i, 1, ? - i * 100, 'received' FROM n",
            (now,),
        )
    deep = Place(now - 1_500_000, "w", 10**15)
    asks = [(Filter(), None), (Filter(), deep), (Filter(action=Action.RECEIVED), deep)]
    asks += [(Filter(token=Token.ETH), None), (Filter(since=now - DAY), None)]
    asks += [(Filter(action=Action.DEPOSIT), None), (Filter(text="nothing has it"), None)]
    asks += [(Filter(text=tx(1)), None)]
    took = []
    for wanted, after in asks * 8:
        begun = time.thread_time()  # of others on the machine nothing
        read_history(engine, wanted, after, 50)
        took.append(time.thread_time() - begun)
    engine.dispose()
    assert sorted(took)[int(len(took) * 0.95) - 1] < 0.1, sorted(took)
