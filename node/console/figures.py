"""The first page's cards and bars, formatted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from finance.money import Usdc, Wei
from node.console.charts import Chart, Part, Slot, bars
from node.console.format import NOT_KNOWN, age, amount, count, latency, percent
from node.usage.call_rate import HourBucket
from node.usage.dashboard import Dashboard
from node.usage.kpis import Balances
from node.usage.models import Side
from node.usage.windows import Sums

TICK_HOURS = 6
OLD_SECONDS = 120  # a balance older than this is shown with its age


@dataclass(frozen=True, slots=True)
class Card:
    """One figure and a line beneath; each with what hovering says."""

    title: str
    value: str
    value_hover: str
    detail: str
    detail_hover: str = ""


def cards(page: Dashboard, balances: Balances, looked_at: int | None) -> tuple[Card, ...]:
    """The cards of one side, in their order on the page; `looked_at` is when the chain told
    the balances."""
    if page.side is Side.SERVED:
        return _seller_cards(page)
    return _buyer_cards(page, balances, page.now - (looked_at or page.now))


def _buyer_cards(page: Dashboard, balances: Balances, old: int) -> tuple[Card, ...]:
    day, ever = page.day, page.ever
    spent = amount(Usdc(ever.amount_atoms))
    return (
        _balance("USDC Balance", balances.usdc, old),
        _balance("Gas Balance", balances.gas, old),
        _calls("Calls (24h)", day),
        _latency("Avg Latency", day),
        _money("USDC Spent (24h)", day),
        Card(
            "Total Calls Ever",
            count(ever.calls),
            "",
            f"{spent.text} USDC spent",
            spent.exact,
        ),
    )


def _seller_cards(page: Dashboard) -> tuple[Card, ...]:
    day, week = page.day, page.week or Sums()
    earned = amount(Usdc(week.amount_atoms))
    return (
        Card("Calls Served (24h)", count(day.calls), "", _errors(day)),
        Card("Success Rate", percent(day.succeeded, day.calls), "", "last 24 hours"),
        _money("Revenue (24h)", day),
        Card(
            "Calls Served (7d)",
            count(week.calls),
            "",
            f"{earned.text} USDC revenue",
            earned.exact,
        ),
    )


def _balance(title: str, value: Usdc | Wei | None, old: int) -> Card:
    shown = amount(value)
    if value is None:
        return Card(title, shown.text, shown.exact, "the chain has not answered yet")
    since = f", as of {age(old)}" if old > OLD_SECONDS else ""
    return Card(title, shown.text, shown.exact, f"{shown.symbol}{since}")


def _calls(title: str, sums: Sums) -> Card:
    rate = f"{percent(sums.succeeded, sums.calls)} successful" if sums.calls else "none in 24 hours"
    return Card(title, count(sums.calls), "", rate, _errors(sums))


def _errors(sums: Sums) -> str:
    return f"{count(sums.errors)} error{'' if sums.errors == 1 else 's'}"


def _latency(title: str, sums: Sums) -> Card:
    mean = sums.mean_latency_us
    return Card(title, NOT_KNOWN if mean is None else latency(mean), "", "last 24 hours")


def _money(title: str, sums: Sums) -> Card:
    shown = amount(Usdc(sums.amount_atoms))
    return Card(title, shown.text, shown.exact, shown.symbol)


def call_rate_chart(hours: Sequence[HourBucket], zone: ZoneInfo) -> Chart:
    """Green successes with red errors on top, hours as the viewer's clock shows them."""
    slots = [
        Slot(
            label=_label(hour.at, zone),
            tick=_tick(hour.at, zone),
            parts=(Part("ok", "good", hour.succeeded), Part("errors", "bad", hour.errors)),
        )
        for hour in hours
    ]
    return bars(f"Calls per hour, last {len(slots)} hours ({zone.key})", slots)


def _label(at: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%b %-d, %H:%M")


def _tick(at: int, zone: ZoneInfo) -> str:
    """Every six hours; midnight names the day that begins."""
    local = datetime.fromtimestamp(at, zone)
    if local.hour % TICK_HOURS:
        return ""
    return local.strftime("%H:%M") if local.hour else local.strftime("%a")
