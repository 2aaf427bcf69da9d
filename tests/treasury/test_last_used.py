"""Where a seller is asked for a channel's unspent money, found among millions of purchases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Engine, event
from sqlmodel import Session

from finance.models import Purchase
from node.treasury.refund_request import last_used
from node.usage.calls import CallRecord
from node.usage.models import Side
from tests.conftest import book_calls

NOON = 1_800_000_000


def _bought(engine: Engine, numbers: Iterable[int], channel: str, deposit: int = 0) -> None:
    calls = [
        CallRecord(f"{n:032x}", Side.BOUGHT, (NOON + n) * 1000, "l", "POST", "/", 200, 1)
        for n in numbers
    ]
    book_calls(engine, *calls)
    rows = [
        Purchase(
            call_id=call.id,
            key_id="k",
            fingerprint="f",
            listing_id="l",
            url=f"https://seller.example/{call.at_ms // 1000 - NOON}",
            scheme="batch-settlement",
            deposit_atoms=deposit,
            channel_id=channel,
            payment_header="h",
            created_at=call.at_ms // 1000,
        )
        for call in calls
    ]
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()


def test_a_channel_is_found_where_it_was_used_last_or_paid_into(migrated_engine: Engine) -> None:
    _bought(migrated_engine, [1], "0xquiet", deposit=5)
    _bought(migrated_engine, [2], "0xbusy", deposit=5)
    _bought(migrated_engine, range(3, 1_010), "0xbusy")
    assert last_used(migrated_engine, "0xbusy") == ("POST", "https://seller.example/1009")
    assert last_used(migrated_engine, "0xquiet") == ("POST", "https://seller.example/1")
    assert last_used(migrated_engine, "0xnever") is None


def test_the_look_up_never_reads_all_purchases(migrated_engine: Engine) -> None:
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        plan = cursor.connection.cursor().execute("EXPLAIN QUERY PLAN " + statement, values)
        plans.extend(str(row[3]) for row in plan)

    event.listen(migrated_engine, "before_cursor_execute", explain)
    last_used(migrated_engine, "0xnever")
    assert any("ix_purchase_deposit" in plan for plan in plans), plans
    assert not [plan for plan in plans if plan.startswith(("SCAN purchase", "SCAN call"))], plans
