"""What sellers say of plans and subscriptions, as it comes over the wire.

Strangers write it: fields have bounds, and what is not known here is passed over. A text
with controls in it, or with marks that turn letters round, is refused: it could not be
stored, or would read as something else. What people answered is cleaned where it is kept.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from finance.money import MAX_ATOMS
from node.plans.buying.errors import SellerSaysNo

MAX_PLANS = 50
_MOST = 10**15
_Atoms = Annotated[int, Meta(ge=0, le=MAX_ATOMS)]
_Count = Annotated[int, Meta(ge=0, le=_MOST)]
_At = Annotated[int, Meta(ge=0, le=10**11)]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# Line separators and what embeds, overrides or isolates a direction.
_TURNING = "\u2028-\u202e\u2066-\u2069"
# \Z, because $ also stands before a line break at the end.
_Id = Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_-]+\Z")]
_Line = Annotated[str, Meta(max_length=200, pattern=rf"^[^\x00-\x1f\x7f-\x9f{_TURNING}]*\Z")]
_Text = Annotated[
    str,
    Meta(max_length=4000, pattern=rf"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_TURNING}]*\Z"),
]
_Words = Annotated[str, Meta(max_length=4000)]
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_Hash = Annotated[str, Meta(pattern=r"^(0x[0-9a-fA-F]{64})?\Z")]


class Now(msgspec.Struct, frozen=True):
    """What the rest of the month costs, and has."""

    price_atoms: _Atoms
    calls: _Count | None = None
    stream_seconds: _Count | None = None
    until: _At = 0


class Plan(msgspec.Struct, frozen=True):
    """A plan of a listing. `calls`, `stream_seconds` (a month) and `per_minute` None: no end."""

    id: _Id
    name: _Line
    description: _Text = ""
    monthly_price_atoms: _Atoms = 0
    calls: _Count | None = None
    stream_seconds: _Count | None = None
    per_minute: _Count | None = None
    beyond: _Line = "pay"
    grace_days: Annotated[int, Meta(ge=0, le=31)] = 0
    now: Now | None = None


class PlanList(msgspec.Struct, frozen=True):
    plans: Annotated[tuple[Plan, ...], Meta(max_length=MAX_PLANS)]


class Period(msgspec.Struct, frozen=True):
    """What is paid: [start, end)."""

    start: _At
    end: _At
    calls: _Count | None = None
    stream_seconds: _Count | None = None
    price_atoms: _Atoms = 0


class Used(msgspec.Struct, frozen=True):
    calls: _Count = 0
    stream_seconds: _Count = 0


class Due(msgspec.Struct, frozen=True):
    """The next payment."""

    at: _At
    price_atoms: _Atoms


class Request(msgspec.Struct, frozen=True):
    """A request of ours, as the seller keeps it. `text` is only compared with what was asked."""

    id: _Id | _Number
    kind: _Line
    text: _Words = ""
    meter: _Line | None = None
    cap: _Count | None = None
    until: _At | None = None
    state: _Line = "open"
    answer: _Words | None = None
    answered_at: _At | None = None


class InvoiceLine(msgspec.Struct, frozen=True):
    text: _Line
    amount_atoms: _Atoms


class Invoice(msgspec.Struct, frozen=True):
    """An invoice of the seller, as it wrote it."""

    number: _Line
    issued_at: _At = 0
    period_start: _At = 0
    period_end: _At = 0
    amount_atoms: _Atoms = 0
    tx_hash: _Hash | None = None
    lines: Annotated[tuple[InvoiceLine, ...], Meta(max_length=50)] = ()
    plan: _Line = ""
    seller: _Line = ""
    buyer: _Line = ""


class Ended(msgspec.Struct, frozen=True):
    """That the seller ended it; `served_until` where a free one ends before its month does."""

    reason: _Words = ""
    served_until: _At | None = None


class Subscription(msgspec.Struct, frozen=True):
    """How a subscription stands at the seller."""

    id: _Id
    plan: Plan
    state: _Line
    period: Period
    next_plan: Plan | None = None
    used: Used = Used()
    per_minute_now: _Count = 0
    resets_at: _At = 0
    cancelled_at: _At | None = None
    ended: Ended | None = None
    next: Due | None = None
    invoices: Annotated[tuple[Invoice, ...], Meta(max_length=500)] = ()
    requests: Annotated[tuple[Request, ...], Meta(max_length=500)] = ()


class _Answer(msgspec.Struct, frozen=True):
    subscription: Subscription


def read_plans(body: bytes) -> tuple[Plan, ...]:
    """Raises SellerSaysNo for what cannot be read."""
    try:
        return msgspec.json.decode(body, type=PlanList).plans
    except _UNREADABLE as error:
        raise SellerSaysNo(f"The seller's plans cannot be read: {_why(error)}.") from error


def read_subscription(body: bytes) -> Subscription:
    """Of an order's answer or of a look; raises SellerSaysNo for what cannot be read."""
    try:
        if b'"subscription"' in body[:40]:
            return msgspec.json.decode(body, type=_Answer).subscription
        return msgspec.json.decode(body, type=Subscription)
    except _UNREADABLE as error:
        raise SellerSaysNo(f"The seller's subscription cannot be read: {_why(error)}.") from error


def _why(error: Exception) -> str:
    """What is wrong with it, without our patterns."""
    said, _, where = str(error).partition(" - at ")
    if "matching regex" in said:
        said = "characters that are not allowed"
    return f"{said}, at {where.rstrip('.')}" if where else said.rstrip(".")


def plan_text(plan: Plan | None) -> str:
    """A plan as its column has it; empty for none."""
    return "" if plan is None else msgspec.json.encode(plan).decode()


def plan_of(text: str) -> Plan | None:
    """The reverse."""
    return msgspec.json.decode(text, type=Plan) if text else None
