"""The tables of what this node subscribed to. Amounts are USDC atoms, times Unix seconds."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID
from node.plans.terms import Beyond


class BoughtState(StrEnum):
    """Drawn in node.plans.buying; stored, only ever added to."""

    ORDERED = "ordered"
    ACTIVE = "active"
    GRACE = "grace"
    CANCELLED = "cancelled"  # good until its end, and not renewed
    LAPSED = "lapsed"
    ENDED = "ended"
    FAILED = "failed"


LIVE = frozenset((BoughtState.ACTIVE, BoughtState.GRACE, BoughtState.CANCELLED))


class OrderKind(StrEnum):
    SUBSCRIBE = "subscribe"
    RENEWAL = "renewal"
    UPGRADE = "upgrade"


class OrderState(StrEnum):
    """Drawn in node.plans.buying."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    GIVING_UP = "giving_up"  # not sent any more; what was signed may still be charged
    GIVEN_UP = "given_up"


UNDER_WAY = (OrderState.OPEN, OrderState.GIVING_UP)


def _amount(description: str) -> int:
    value: int = Field(default=0, sa_type=BigInteger, description=description)
    return value


def _time(description: str) -> int:
    value: int = Field(default=0, sa_type=BigInteger, description=f"{description}; 0: not")
    return value


class BoughtSubscription(SQLModel, table=True):
    """A plan of somebody else's listing that this node holds, or held."""

    __tablename__ = "bought_subscription"
    __table_args__ = (
        CheckConstraint("agreed_atoms >= 0", name="bought_subscription_agreed"),
        CheckConstraint("period_end >= period_start", name="bought_subscription_lasts"),
        Index("ix_bought_subscription_listing", "listing_id", "created_at"),
    )

    id: str = Field(primary_key=True)
    listing_id: str
    open_for: str | None = Field(
        default=None, unique=True, description="its listing, until it is over: one at a time"
    )
    base_url: str = Field(sa_type=Text, description="of the listing when it was bought")
    seller_id: str = Field(default="", description="what the seller calls it; empty: not told yet")
    state: str
    plan: str = Field(sa_type=Text, description="JSON of the seller's plan, as last told")
    next_plan: str = Field(
        default="", sa_type=Text, description="JSON of the plan that the renewal buys; empty: same"
    )
    secret_sealed: str = Field(sa_type=Text, description="its key, sent as Farebox-Key")
    new_secret_sealed: str = Field(
        default="", sa_type=Text, description="of a rotation the seller has not confirmed yet"
    )
    renews: bool = Field(default=True, description="by itself, within the last day")
    agreed_atoms: int = _amount("most that a renewal may cost")
    beyond: str = Field(default=Beyond.PAY, description="pay or stop, once the quota is used up")
    paid_until: int = _time("end of the last period that is paid")
    period_start: int = _time("begin of the present period")
    period_end: int = _time("its end")
    period_calls: int | None = Field(
        default=None, sa_type=BigInteger, description="calls of the period; null: no end"
    )
    period_stream_seconds: int | None = Field(
        default=None, sa_type=BigInteger, description="seconds of streams; null: no end"
    )
    period_price_atoms: int = _amount("what the period cost")
    used_calls: int = Field(default=0, sa_type=BigInteger, description="as the seller last said")
    used_stream_seconds: int = Field(default=0, sa_type=BigInteger)
    per_minute_now: int = Field(
        default=0, sa_type=BigInteger, description="calls in the minute before the last look"
    )
    resets_at: int = _time("when the quota begins anew")
    next_at: int = _time("when the next payment is due")
    next_price_atoms: int = _amount("what it will be, as the seller last said")
    synced_at: int = _time("when the seller was last asked, and answered")
    sync_failed: str = Field(
        default="", sa_type=Text, description="why it could not be asked; empty: it could"
    )
    noticed_for: int = _time("end of the period whose renewal was announced")
    ended_at: int = _time("when it was over")
    created_at: int = _time("when it was ordered")
    created_by: str = Field(default="")
    version: int = Field(
        default=0, sa_type=BigInteger, index=True, description="grows with every change of any"
    )


class BoughtOrder(SQLModel, table=True):
    """A stretch of time to be bought; written before the seller hears of it."""

    __tablename__ = "bought_order"
    __table_args__ = (
        # One order per stretch, so that nothing makes a second one for the same month.
        UniqueConstraint("subscription_id", "slot", name="uq_bought_order_slot"),
        CheckConstraint("most_atoms >= 0 AND charged_atoms >= 0", name="bought_order_amounts"),
        Index("ix_bought_order_state", "state"),
    )

    id: str = Field(primary_key=True, description="the Idempotency-Key of its call")
    subscription_id: str
    slot: str = Field(description="subscribe, renewal:<month's start>, upgrade:<number>")
    kind: str
    plan_id: str
    path: str = Field(description="below the listing")
    body: str = Field(sa_type=Text, description="JSON, sent again byte by byte")
    state: str = Field(default=OrderState.OPEN)
    most_atoms: int = _amount("what was agreed to; above, nothing is signed")
    charged_atoms: int = _amount("what it cost")
    call_id: str = Field(default="", description="of the call that bought it")
    tx_hash: str = Field(default="")
    error: str = Field(default="", description="code of what last went wrong")
    detail: str = Field(default="", sa_type=Text, description="the same as a sentence")
    tries: int = 0
    next_try_at: int = _time("when it is carried on at the earliest")
    created_at: int = _time("when it was written")
    done_at: int = _time("when it was done, or failed for good")


class BoughtRequest(SQLModel, table=True):
    """Something this node asked its seller for: an override, or support."""

    __tablename__ = "bought_request"
    __table_args__ = (Index("ix_bought_request_subscription", "subscription_id", "asked_at"),)

    id: str = Field(primary_key=True)
    subscription_id: str
    seller_id: str = Field(default="", description="what the seller calls it; empty: not sent yet")
    kind: str = Field(description="override or support")
    meter: str = Field(default="", description="override: calls or stream_seconds")
    cap: int | None = Field(
        default=None, sa_type=BigInteger, description="override: units a month; null: no end"
    )
    until: int = _time("override: how long")
    text: str = Field(sa_type=Text)
    state: str = Field(default="open", description="as the seller says: open, granted, ...")
    answer: str = Field(default="", sa_type=Text)
    asked_at: int = _time("when it was written")
    asked_by: str = Field(default="")
    answered_at: int = _time("when the seller answered")


class BoughtChange(SQLModel, table=True):
    """What happened to a subscription; never edited."""

    __tablename__ = "bought_change"
    __table_args__ = (Index("ix_bought_change_subscription", "subscription_id", "id"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    subscription_id: str
    at: int = _time("when")
    kind: str = Field(description="subscribed, renewed, upgraded, cancelled, lapsed, ...")
    text: str = Field(sa_type=Text, description="one sentence")
    atoms: int = _amount("what it cost")
    by: str = Field(default="")
