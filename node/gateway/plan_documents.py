"""Plans and subscriptions as the wire shows them, and what customers send."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from catalog.characters import is_readable
from node.gateway.desk import Refused
from node.gateway.request import BodyTooLarge, Call
from node.plans.invoices import InvoiceView
from node.plans.requests import MOST_CHARACTERS, Request
from node.plans.subscribers import Offered, Subscriber
from node.plans.terms import Deal, first_stretch, next_renewal, terms_of
from node.usage.windows import window_of

MOST_BYTES: Final = 16 * 1024
_KEY_HASH: Final = re.compile(r"[0-9a-f]{64}")

_Hash = Annotated[str, Meta(min_length=64, max_length=64)]
_Short = Annotated[str, Meta(max_length=200)]
_Count = Annotated[int, Meta(ge=1, le=10**12)]
_T = TypeVar("_T", bound=msgspec.Struct)


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a subscription; `payer` and `signature` where nothing is paid."""

    key_hash: _Hash
    name: _Short = ""
    email: _Short = ""
    payer: _Short = ""
    signature: _Short = ""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of an order that is said by its address."""


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_hash: _Hash


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan_id: Annotated[str, Meta(max_length=80)] | None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An override (`cap` a month, None for no end, `until` in Unix seconds), or words."""

    kind: Literal["override", "support"]
    text: Annotated[str, Meta(max_length=MOST_CHARACTERS)]
    meter: Literal["calls", "stream_seconds"] | None = None
    cap: _Count | None = None
    until: Annotated[int, Meta(ge=0, le=10**11)] | None = None


async def read_body(call: Call, kind: type[_T]) -> _T:
    """What was sent; nothing reads as an empty object. Raises Refused (400)."""
    try:
        body = await call.read_body(MOST_BYTES)
        wish = msgspec.json.decode(body or b"{}", type=kind)
    except BodyTooLarge:
        raise Refused("request_invalid", detail=f"At most {MOST_BYTES} bytes.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused("request_invalid", detail=f"{error}.") from error
    for field in msgspec.structs.fields(kind):
        value = getattr(wish, field.name)
        if isinstance(value, str) and not is_readable(value, "\r\n\t"):
            detail = f"`{field.name}` has characters that cannot be shown."
            raise Refused("request_invalid", detail=detail)
        if field.name == "key_hash" and _KEY_HASH.fullmatch(value) is None:
            detail = "`key_hash` is the SHA-256 of the key, 64 digits of lower-case hex."
            raise Refused("request_invalid", detail=detail)
    return wish


def plan_document(plan: Offered) -> dict[str, Any]:
    """A plan; null quotas have no end."""
    return _plan_document(plan, plan.deal)


def _plan_document(plan: Offered, deal: Deal) -> dict[str, Any]:
    terms = terms_of(deal)
    price = {"monthly_price_atoms": terms.pop("price_atoms")}
    return {"id": plan.id, "name": plan.name, "description": plan.description} | price | terms


def plans_document(plans: list[Offered], now: int) -> dict[str, Any]:
    """What a listing offers, with what the rest of this month costs."""
    month = window_of(now)
    return {
        "plans": [plan_document(plan) | {"now": _now(plan, now)} for plan in plans],
        "month": {"start": month.start, "end": month.end},
    }


def _now(plan: Offered, now: int) -> dict[str, Any]:
    stretch = first_stretch(plan.deal, now)
    return {
        "price_atoms": stretch.price_atoms,
        "calls": stretch.calls,
        "stream_seconds": stretch.stream_seconds,
        "until": stretch.end,
    }


def subscription_document(
    subscriber: Subscriber,
    plans: dict[str, Offered],
    used: dict[str, int],
    per_minute_now: int,
    invoices: list[InvoiceView],
    requests: list[Request],
    now: int,
) -> dict[str, Any]:
    """A subscription as its customer sees it. `plans` of its listing, by id, also retired."""
    standing = subscriber.standing(now)
    goes_on = plans[subscriber.goes_on_with]
    following = next_renewal(subscriber.periods, subscriber.cancelled_at, goes_on.deal, now)
    changes = goes_on.id != standing.plan_id
    return {
        "id": subscriber.id,
        "plan": _plan_held(subscriber, plans, now),
        "next_plan": plan_document(goes_on) if changes else None,
        "state": standing.state.value,
        "period": {
            "start": standing.start,
            "end": standing.end,
            "calls": standing.calls,
            "stream_seconds": standing.stream_seconds,
            "price_atoms": standing.price_atoms,
        },
        "used": used,
        "per_minute_now": per_minute_now,
        "resets_at": window_of(now).end,
        "cancelled_at": subscriber.cancelled_at,
        "ended": None if subscriber.ended is None else _ended(subscriber),
        "next": None if following is None else {"at": following[0], "price_atoms": following[1]},
        "invoices": [_invoice(each) for each in invoices],
        "requests": [_request(each) for each in requests],
    }


def _ended(subscriber: Subscriber) -> dict[str, Any]:
    """That the seller ended it and why; `served_until` where a free one ends before its month."""
    assert subscriber.ended is not None
    return {"reason": subscriber.ended.reason, "served_until": subscriber.served_until}


def _plan_held(subscriber: Subscriber, plans: dict[str, Offered], now: int) -> dict[str, Any]:
    """The plan with the terms it was paid for, which a change of the plan does not touch."""
    standing = subscriber.standing(now)
    return _plan_document(plans[standing.plan_id], standing.deal)


def _invoice(view: InvoiceView) -> dict[str, Any]:
    return {
        "number": view.number,
        "issued_at": view.paid_at,
        "period_start": view.period_start,
        "period_end": view.period_end,
        "amount_atoms": view.amount_atoms,
        "tx_hash": view.tx_hash,
        "lines": [{"text": line.text, "amount_atoms": line.amount_atoms} for line in view.lines],
        "plan": view.plan_name,
        "seller": view.seller,
        "buyer": view.buyer,
    }


def _request(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "kind": request.kind,
        "meter": request.meter,
        "cap": request.cap,
        "until": request.until,
        "text": request.text,
        "asked_at": request.asked_at,
        "state": request.state.value,
        "answer": request.answer or None,
        "answered_at": request.answered_at,
    }
