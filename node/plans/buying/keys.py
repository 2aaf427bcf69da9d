"""The keys of live subscriptions, as the proxy holds them in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, func, select
from sqlmodel import col

from finance.errors import WalletError
from node.plans.buying.models import LIVE, BoughtSubscription
from node.plans.buying.read import plan_in, standing_of
from node.plans.buying.states import Standing
from node.plans.terms import Beyond

Unseal = Callable[[str], bytes]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class HeldKey:
    """What a call may show instead of money. `base`: the seller's address it is for, and no
    other; `pays`: a call it does not cover is paid. The proxy notes in it until when its quota
    is used up, or the seller does not know it."""

    subscription_id: str
    base: str
    secret: bytes = field(repr=False)
    standing: Standing
    pays: bool
    resets_at: int
    gone_until: int = 0
    streams_gone_until: int = 0
    doubted_until: int = 0


def load_held(engine: Engine, unseal: Unseal) -> dict[str, HeldKey]:
    """By listing (blocking). One that cannot be unsealed or read is named in the log, and is
    no key."""
    statement = select(BoughtSubscription.__table__).where(  # type: ignore[attr-defined]
        col(BoughtSubscription.state).in_([state.value for state in LIVE])
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    found = {}
    for row in rows:
        try:
            found[row.listing_id] = _key(row, unseal)
        except (WalletError, msgspec.MsgspecError) as error:
            _log.error("the key of subscription %s is not used: %s", row.id, error)
    return found


def _key(row: Row[Any], unseal: Unseal) -> HeldKey:
    plan = plan_in(row)
    # A seller that stops at the quota does not want this customer's calls paid singly either.
    pays = row.beyond == Beyond.PAY and plan.beyond != Beyond.STOP
    secret, standing = unseal(row.secret_sealed), standing_of(row, plan)
    return HeldKey(row.id, row.base_url, secret, standing, pays, row.resets_at)


def held_version(connection: Connection) -> tuple[int, int]:
    """Differs whenever the proxy must take over something."""
    statement = select(func.max(col(BoughtSubscription.version)), func.count())
    version, count = connection.execute(statement.select_from(BoughtSubscription)).one()
    return version or 0, count
