"""Lists as files: each row once, whatever is written while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from sqlmodel import SQLModel

from finance import channel_views, chunks, withdrawals
from finance.models import BuyerChannel, SellerChannel
from finance.networks import NETWORKS
from finance.operations import Token, Withdrawal
from node.accounts import trail
from node.accounts.models import AuditEntry
from node.alerts import mailbox, reading
from node.alerts.models import Delivery, Mail
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.plans import invoices
from node.plans.models import Invoice

ROWS = 2 * chunks.CHUNK + 1
CHAIN = NETWORKS["devnet"].chain_id
_PARTIES = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "salt")
_CHANNEL = dict.fromkeys(_PARTIES, "0x0") | {"withdraw_delay": 900, "signed_atoms": 10**6}


def _sold(number: int) -> SellerChannel:
    about = {**_CHANNEL, "channel_id": f"0x{number:064x}", "charged_atoms": number}
    return SellerChannel(chain_id=CHAIN, **about)


def _bought(number: int) -> BuyerChannel:
    about = {**_CHANNEL, "channel_id": f"0x{number:064x}", "charged_atoms": number}
    return BuyerChannel(chain_id=CHAIN, origin="http://x", balance_atoms=10**6, **about)


def _withdrawal(number: int) -> Withdrawal:
    about = {
        "token": Token.USDC,
        "destination": "0x1",
        "amount": "1",
        "actor_id": "",
        "actor_name": "",
    }
    # Three at a time are of one second.
    return Withdrawal(id=f"{number:06}", chain_id=CHAIN, created_at=number // 3, **about)


def _mail(number: int) -> Mail:
    texts = dict.fromkeys(("sender", "subject", "text", "html", "message_id"), str(number))
    return Mail(at=number, state="sent", recipients="[]", **texts)


def _delivery(number: int) -> Delivery:
    about: dict[str, Any] = {"channel": "webhook", "kind": "opened", "next_attempt_at": 0}
    return Delivery(id=f"{number:06}", created_at=number // 3, **about)


def _invoice(number: int) -> Invoice:
    names = ("subscription_id", "listing_id", "listing_name", "plan_name", "seller", "buyer")
    about: dict[str, Any] = dict.fromkeys((*names, "tx_hash"), "x")
    about |= {"period_start": 0, "period_end": 1, "lines": "[]", "amount_atoms": 1}
    whose = {"side": "bought", "number": str(number), "paid_at": number // 3}
    return Invoice(chain_id=CHAIN, **whose, **about)


def _entry(number: int) -> AuditEntry:
    texts = dict.fromkeys(("actor_id", "actor_name", "address", "subject"), "x")
    return AuditEntry(at=number, action="x.change", **texts)


LISTS: dict[str, tuple[Callable[[int], SQLModel], Callable[[Engine], Iterator[Any]], str]] = {
    "sold": (_sold, lambda engine: channel_views.export_sold(engine, CHAIN), "channel_id"),
    "bought": (_bought, lambda engine: channel_views.export_bought(engine, CHAIN), "channel_id"),
    "withdrawals": (
        _withdrawal,
        lambda engine: withdrawals.export_withdrawals(engine, CHAIN),
        "id",
    ),
    "mails": (_mail, mailbox.export_mail, "subject"),
    "deliveries": (
        _delivery,
        lambda engine: reading.export_deliveries(engine, reading.DeliveryFilter()),
        "id",
    ),
    "invoices": (_invoice, lambda engine: invoices.every_invoice(engine, CHAIN, None), "number"),
    "trail": (_entry, lambda engine: trail.all_entries(engine, trail.TrailFilter()), "at"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_grows_and_moves_while_it_is_read_has_each_row_once(
    database_url: str, name: str
) -> None:
    row, export, key = LISTS[name]
    engine = open_engine(database_url)
    upgrade(engine)

    def store(*numbers: int) -> None:
        rows = [row(number).model_dump(exclude_none=True) for number in numbers]
        with writer(engine).begin() as connection:
            connection.execute(insert(type(row(0))), rows)

    store(*range(1, ROWS + 1))
    lines = export(engine)
    read = [getattr(next(lines), key) for _ in range(chunks.CHUNK)]
    store(*range(ROWS + 1, ROWS + 4))
    if name in ("sold", "bought"):
        # What owed least owes most now, and the other way round.
        table: Any = type(row(0))
        with writer(engine).begin() as connection:
            turned = ROWS + 4 - table.charged_atoms
            connection.execute(update(table).values(charged_atoms=turned))
    read += [getattr(line, key) for line in lines]
    engine.dispose()
    wanted = {getattr(row(number), key) for number in range(1, ROWS + 1)}
    assert len(read) == len(set(read))
    assert wanted <= set(read)
