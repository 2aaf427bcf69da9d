"""Tables of plans, of who subscribes to them, and of what was paid.

Amounts are USDC atoms, times Unix seconds. A period counts once its payment is settled
(`onchain_payment`): there is no second write that could be lost.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID


class Plan(SQLModel, table=True):
    """What a seller offers for a month of a listing. Its quotas: null is no end."""

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint("price_atoms >= 0", name="plan_price"),
        CheckConstraint("grace_days >= 0 AND grace_days <= 14", name="plan_grace"),
    )

    id: str = Field(primary_key=True)
    listing_id: str = Field(index=True)
    name: str
    description: str = Field(default="", sa_type=Text)
    price_atoms: int = Field(sa_type=BigInteger, description="of a whole month; 0: free")
    calls: int | None = Field(default=None, sa_type=BigInteger, description="a month")
    stream_seconds: int | None = Field(default=None, sa_type=BigInteger, description="a month")
    per_minute: int | None = Field(
        default=None, sa_type=BigInteger, description="calls in any 60 seconds"
    )
    beyond: str = Field(description="pay: calls beyond may be paid singly; stop: are refused")
    grace_days: int = Field(description="served so long after an unpaid month's end")
    created_at: int = Field(sa_type=BigInteger)
    changed_at: int = Field(sa_type=BigInteger)
    retired_at: int | None = Field(
        default=None, sa_type=BigInteger, description="not offered any more; those who have it stay"
    )


class Subscription(SQLModel, table=True):
    """A customer's hold on a plan. It is good once one of its periods is settled."""

    __tablename__ = "subscription"
    __table_args__ = (Index("ix_subscription_changed", "changed_at"),)

    id: str = Field(primary_key=True)
    listing_id: str = Field(index=True)
    key_hash: str = Field(unique=True, description="SHA-256 of the customer's secret, hex")
    payer: str = Field(index=True, description="address that paid first, or signed for a free one")
    name: str = Field(default="", description="as the customer calls itself")
    email: str = Field(default="")
    free_for: str | None = Field(
        default=None, unique=True, description="listing and payer, while it holds a free plan"
    )
    next_plan_id: str | None = Field(default=None, description="plan to go on with")
    next_plan_after: int = Field(
        default=0, description="number of the period it follows; void once there is a later one"
    )
    created_at: int = Field(sa_type=BigInteger)
    cancelled_at: int | None = Field(default=None, sa_type=BigInteger)
    ended_by: str = Field(
        default="", description="user of the seller that cancelled it; empty: its customer did"
    )
    end_reason: str = Field(default="", sa_type=Text, description="told to the customer")
    served_until: int | None = Field(
        default=None, sa_type=BigInteger, description="a free one that was ended before its month"
    )
    changed_at: int = Field(sa_type=BigInteger)
    changes: int = Field(default=0, sa_type=BigInteger, description="how often it was changed")


class SubscriptionPeriod(SQLModel, table=True):
    """What was ordered at once, with the plan as it was on that day."""

    __tablename__ = "subscription_period"
    __table_args__ = (
        UniqueConstraint("payment_id", name="uq_subscription_period_payment"),
        CheckConstraint("ends_at > starts_at", name="subscription_period_lasts"),
        CheckConstraint(
            "price_atoms >= 0 AND (price_atoms = 0 OR payment_id IS NOT NULL)",
            name="subscription_period_paid",
        ),
    )

    subscription_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True, description="1, 2, … of the subscription: orders race")
    kind: str = Field(description="first, renewal, upgrade")
    plan_id: str
    plan_name: str = Field(description="as it was then")
    starts_at: int = Field(sa_type=BigInteger)
    ends_at: int = Field(sa_type=BigInteger)
    calls: int | None = Field(default=None, sa_type=BigInteger, description="given; null: no end")
    stream_seconds: int | None = Field(default=None, sa_type=BigInteger, description="given")
    price_atoms: int = Field(sa_type=BigInteger, description="what this order cost")
    month_price_atoms: int = Field(sa_type=BigInteger, description="of the plan, as it was then")
    month_calls: int | None = Field(default=None, sa_type=BigInteger)
    month_stream_seconds: int | None = Field(default=None, sa_type=BigInteger)
    per_minute: int | None = Field(default=None, sa_type=BigInteger)
    beyond: str
    grace_days: int
    payment_id: str | None = Field(default=None, description="onchain_payment; null when free")
    ordered_at: int = Field(sa_type=BigInteger)


class RequestState(StrEnum):
    """open -> granted | refused (override), open -> answered (support)"""

    OPEN = "open"
    GRANTED = "granted"
    REFUSED = "refused"
    ANSWERED = "answered"


class SubscriptionRequest(SQLModel, table=True):
    """What a customer asked of the seller, and what it was told."""

    __tablename__ = "subscription_request"
    __table_args__ = (Index("ix_subscription_request_state", "state", "asked_at"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    subscription_id: str = Field(index=True)
    kind: str = Field(description="override, support")
    meter: str | None = Field(default=None, description="override: calls, stream_seconds")
    cap: int | None = Field(default=None, sa_type=BigInteger, description="override: a month")
    until: int | None = Field(default=None, sa_type=BigInteger, description="override: its end")
    text: str = Field(sa_type=Text)
    asked_at: int = Field(sa_type=BigInteger)
    state: str = Field(default=RequestState.OPEN)
    answer: str = Field(default="", sa_type=Text)
    answered_by: str = Field(default="", description="name of the user, as it was then")
    answered_at: int | None = Field(default=None, sa_type=BigInteger)
    override_id: int | None = Field(default=None, sa_type=BigInteger, description="quota_override")


class InvoiceSide(StrEnum):
    SOLD = "sold"
    BOUGHT = "bought"


class Invoice(SQLModel, table=True):
    """A payment for a period, as it was billed. Those we issue are numbered without a gap;
    those we got keep their seller's number."""

    __tablename__ = "invoice"
    __table_args__ = (
        UniqueConstraint("side", "seller", "number", name="uq_invoice_number"),
        UniqueConstraint("payment_id", name="uq_invoice_payment"),
        UniqueConstraint("sequence", name="uq_invoice_sequence"),
        Index("ix_invoice_paid", "side", "paid_at"),
        CheckConstraint("amount_atoms >= 0", name="invoice_amount"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    side: str = Field(description="sold, bought")
    number: str = Field(description="FB-2026-000001")
    sequence: int | None = Field(default=None, sa_type=BigInteger, description="sold: 1, 2, …")
    payment_id: str | None = Field(default=None, description="sold: onchain_payment")
    subscription_id: str = Field(index=True, description="the seller's name of it")
    listing_id: str = Field(description="of this node")
    listing_name: str = Field(description="as it was then, like all names here")
    plan_name: str
    seller: str = Field(description="address that was paid")
    buyer: str = Field(description="address that paid")
    buyer_name: str = Field(default="")
    buyer_email: str = Field(default="")
    period_start: int = Field(sa_type=BigInteger)
    period_end: int = Field(sa_type=BigInteger)
    lines: str = Field(sa_type=Text, description="JSON: list of {text, amount_atoms}")
    amount_atoms: int = Field(sa_type=BigInteger)
    chain_id: int
    tx_hash: str
    paid_at: int = Field(sa_type=BigInteger, description="when the money was seen to have arrived")
