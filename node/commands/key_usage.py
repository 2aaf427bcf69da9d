"""What a key used, as rows for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finance.money import Usdc
from node.commands.output import format_time
from node.usage.endpoints import EndpointUse
from node.usage.key_record import RecordLine
from node.usage.my_usage import KeyUsage


def key_facts(usage: KeyUsage) -> dict[str, Any]:
    """The cards, the month and what is to be paid next."""
    key, cards, sums = usage.key, usage.cards, usage.cards.sums
    facts: dict[str, Any] = {
        "id": key.id,
        "name": key.name,
        "email": key.owner_email,
        "integrator": key.integrator,
        "requests_90_days": sums.calls,
        "days": cards.days,
        "daily_average": round(sums.calls / cards.days, 3),
        "avg_latency_us": sums.mean_latency_us,
        "errors": sums.errors,
        "rate_limit_hits": cards.hits,
        "requests_this_month": usage.month.calls,
        "stream_seconds_this_month": usage.streams.seconds,
        "month_ends": format_time(usage.window.end),
        "per_minute_now": usage.per_minute_now,
        "per_minute": key.per_minute,
    }
    for each in usage.meters:
        facts[f"quota_{each.meter.value}"] = {
            "tier": each.shared.tier.value,
            "mine": each.mine,
            "used": each.shared.used,
            "cap": each.shared.cap,
        }
    facts["next_billing"] = [
        {
            "listing": each.listing,
            "plan": each.plan_name,
            "at": format_time(each.next_billing_at or 0),
            "usdc": str(Usdc(each.next_price_atoms)),
        }
        for each in usage.next_billings
    ]
    return facts


def endpoint_rows(found: Iterable[EndpointUse]) -> list[dict[str, Any]]:
    """A row for every endpoint and status."""
    return [
        {
            "api": each.name,
            "endpoint": each.route,
            "status": one.status,
            "requests": one.sums.calls,
            "errors": one.sums.errors,
            "avg_latency_us": one.sums.mean_latency_us,
            "usdc": str(Usdc(one.sums.amount_atoms)),
        }
        for each in found
        for one in each.statuses
    ]


def record_rows(found: Iterable[RecordLine]) -> list[dict[str, Any]]:
    return [
        {
            "time": format_time(each.at),
            "kind": each.kind.value,
            "api": each.about,
            "text": each.text,
            "by": each.by,
            "usdc": str(Usdc(each.atoms)) if each.atoms else None,
            "state": each.state,
            "answer": each.answer,
        }
        for each in found
    ]
