"""A page behind the last is the last: a list that became shorter is not an empty one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlmodel import SQLModel

from finance.models import BuyerChannel, SellerChannel
from finance.networks import NETWORKS
from finance.operations import Token, Withdrawal
from node.accounts.access import Role
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.plans.models import Invoice
from node.usage.calls import CallRecord
from node.usage.models import ConsumerKey, Side
from tests.conftest import book_calls
from tests.console_world import Console, serve_console

CHAIN = NETWORKS["devnet"].chain_id
NOW = int(time.time())
PAYER = "0x" + "ab" * 20


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home: Path = tmp_path_factory.mktemp("node")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        _fill(console)
        yield console
    engine.dispose()


def _fill(console: Console) -> None:
    """One line in each list."""
    store(console, ConsumerKey(id="k1", name="Kim", secret_hash="x", integrator=True))
    sold = CallRecord("c1", Side.SERVED, NOW * 1000, "lst", "GET", "/", 200, 5, payer=PAYER)
    book_calls(console.engine, sold)
    parties = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token")
    channel = dict.fromkeys(parties, PAYER) | {"chain_id": CHAIN, "channel_id": "0x" + "cd" * 32}
    channel |= {"withdraw_delay": 900, "salt": "0x0"}
    store(console, SellerChannel(**channel))
    store(console, BuyerChannel(**channel, origin="https://seller.example"))
    by = {"actor_id": "u", "actor_name": "admin", "created_at": NOW}
    wish = {"token": Token.USDC, "destination": PAYER, "amount": "1500000"}
    store(console, Withdrawal(id="w1", chain_id=CHAIN, **wish, **by))
    names = ("subscription_id", "listing_id", "listing_name", "plan_name", "seller", "buyer")
    billed = dict.fromkeys((*names, "tx_hash"), PAYER) | {"side": "sold", "number": "FB-2026-1"}
    times = {"period_start": 0, "period_end": 1, "paid_at": NOW}
    store(console, Invoice(chain_id=CHAIN, lines="[]", amount_atoms=1, **billed, **times))


def store(console: Console, row: SQLModel) -> None:
    with writer(console.engine).begin() as connection:
        connection.execute(insert(type(row)).values(row.model_dump(exclude_none=True)))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/developers", "Kim"),
        ("/developers/customers", "0xabab"),
        ("/finance/channels", "0xcdcd"),
        ("/finance/channels/buying", "seller.example"),
        ("/finance/withdrawals", "1.5"),
        ("/finance/invoices", "FB-2026-1"),
        ("/settings/security", "Kim"),
        ("/settings/users", "viewer"),
    ],
)
def test_a_page_behind_the_last_is_the_last(console: Console, path: str, shown: str) -> None:
    page = console.client(Role.ADMIN).get(f"{path}?page=9")
    assert page.status_code == 200
    assert shown in page.text
    assert "Page 9" not in page.text
