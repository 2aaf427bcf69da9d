"""What the first page says: cards and last calls, read from rollups, already formatted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select
from sqlmodel import col

from catalog.models import Listing, ListingOrigin
from finance.money import Usdc, Wei
from node.usage.calls import SLOT_SECONDS
from node.usage.models import Call, CallRollup, Side

HOUR = 3600
DAY = 24 * HOUR
LAST_CALLS = 25
BUSY_SECONDS = 120  # a call this recent makes the page refresh faster
NOT_KNOWN = "—"


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals of one side over a time; `latency_us` is a sum."""

    calls: int = 0
    errors: int = 0
    paid: int = 0
    amount_atoms: int = 0
    latency_us: int = 0


@dataclass(frozen=True, slots=True)
class Balances:
    """What the wallet held when the chain was last asked; None before it answered."""

    usdc: Usdc | None = None
    gas: Wei | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One figure; `exact` is shown on hover, `detail` beneath."""

    title: str
    value: str
    detail: str = ""
    exact: str = ""


@dataclass(frozen=True, slots=True)
class CallLine:
    """One of the last calls."""

    at: str
    at_exact: str
    listing: str
    request: str
    status: str
    tone: str
    amount: str
    scheme: str
    latency: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the first page that comes from the database."""

    side: Side
    cards: tuple[Card, ...]
    calls: tuple[CallLine, ...]
    refresh_seconds: int
    empty: bool


def read_overview(engine: Engine, side: Side | None, balances: Balances, now: int) -> Overview:
    """The page for one side; without one, the side this node is busy on."""
    with engine.connect() as connection:
        shown = side or _own_side(connection)
        calls = _read_calls(connection, shown, now)
        day, week, ever = (
            _read_sums(connection, shown, since) for since in (now - DAY, now - 7 * DAY, 0)
        )
        newest = select(func.max(col(Call.at_ms))).where(col(Call.side) == shown)
        last_ms = connection.scalar(newest) or 0
    cards = seller_cards(day, week) if shown is Side.SERVED else buyer_cards(balances, day, ever)
    busy = now - last_ms // 1000 < BUSY_SECONDS
    return Overview(shown, cards, calls, 5 if busy else 30, not calls and not balances.usdc)


def buyer_cards(balances: Balances, day: Sums, ever: Sums) -> tuple[Card, ...]:
    """The cards of a buyer, in their order on the page."""
    usdc, gas = balances.usdc, balances.gas
    return (
        _balance_card("USDC Balance", usdc, 2),
        _balance_card("Gas Balance", gas, 6),
        Card("Calls (24h)", f"{day.calls:,}", f"{success_rate(day)} successful"),
        Card("Avg Latency", average_latency(day), "last 24 hours"),
        _usdc_card("USDC Spent (24h)", day.amount_atoms, f"{day.paid:,} paid calls"),
        Card("Total Calls Ever", f"{ever.calls:,}", **_lifetime(ever)),
    )


def seller_cards(day: Sums, week: Sums) -> tuple[Card, ...]:
    """The cards of a seller, in their order on the page."""
    earned = Usdc(week.amount_atoms)
    return (
        Card("Calls Served (24h)", f"{day.calls:,}", f"{day.paid:,} paid"),
        Card("Success Rate", success_rate(day), f"{day.errors:,} errors in 24 hours"),
        _usdc_card("Revenue (24h)", day.amount_atoms, "charged"),
        Card(
            "Calls Served (7d)",
            f"{week.calls:,}",
            f"{earned.rounded_down(2)} USDC revenue",
            f"{earned} USDC",
        ),
    )


def success_rate(sums: Sums) -> str:
    """Share of calls answered with a status below 400, in percent; a dash without calls."""
    if not sums.calls:
        return NOT_KNOWN
    tenths = (sums.calls - sums.errors) * 1000 // sums.calls
    return f"{tenths // 10}.{tenths % 10} %"


def average_latency(sums: Sums) -> str:
    """Mean time to the answer; a dash without calls."""
    return format_latency(sums.latency_us // sums.calls) if sums.calls else NOT_KNOWN


def format_latency(microseconds: int) -> str:
    """Milliseconds, from ten seconds on seconds."""
    if microseconds >= 10_000_000:
        return f"{microseconds / 1_000_000:.1f} s"
    return f"{microseconds / 1000:.1f} ms"


def format_age(seconds: int) -> str:
    """How long ago, for times under a day: `12 s ago`, `3 min ago`, `5 h ago`."""
    if seconds < 60:
        return f"{max(seconds, 0)} s ago"
    if seconds < HOUR:
        return f"{seconds // 60} min ago"
    return f"{seconds // HOUR} h ago"


def format_time(at_seconds: int) -> str:
    """A moment in UTC, e.g. `2026-11-21 10:45:00 UTC`."""
    return datetime.fromtimestamp(at_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _balance_card(title: str, amount: Usdc | Wei | None, places: int) -> Card:
    if amount is None:
        return Card(title, NOT_KNOWN, "the chain has not answered yet")
    return Card(title, amount.rounded_down(places), amount.symbol, f"{amount} {amount.symbol}")


def _usdc_card(title: str, atoms: int, detail: str) -> Card:
    amount = Usdc(atoms)
    return Card(title, amount.rounded_down(2), detail, f"{amount} USDC")


def _lifetime(ever: Sums) -> dict[str, str]:
    spent = Usdc(ever.amount_atoms)
    return {"detail": f"{spent.rounded_down(2)} USDC spent", "exact": f"{spent} USDC"}


def _own_side(connection: Connection) -> Side:
    own = select(col(Listing.id)).where(col(Listing.origin) == ListingOrigin.OWN).limit(1)
    served = select(col(CallRollup.side)).where(col(CallRollup.side) == Side.SERVED).limit(1)
    selling = connection.scalar(own) is not None and connection.scalar(served) is not None
    return Side.SERVED if selling else Side.BOUGHT


def _read_sums(connection: Connection, side: Side, since: int) -> Sums:
    columns = [func.coalesce(func.sum(getattr(CallRollup, name)), 0) for name in Sums.__slots__]
    statement = select(*columns).where(
        col(CallRollup.side) == side, col(CallRollup.slot) > since - SLOT_SECONDS
    )
    return Sums(*(int(value) for value in connection.execute(statement).one()))


def _read_calls(connection: Connection, side: Side, now: int) -> tuple[CallLine, ...]:
    statement: Any = (
        select(Call, col(Listing.name).label("listing_name"))
        .outerjoin(Listing, col(Listing.id) == col(Call.listing_id))
        .where(col(Call.side) == side)
        .order_by(col(Call.at_ms).desc())
        .limit(LAST_CALLS)
    )
    return tuple(_call_line(row, now) for row in connection.execute(statement))


def _call_line(call: Row[Any], now: int) -> CallLine:
    at = call.at_ms // 1000
    paid = call.scheme is not None and call.amount_atoms > 0
    return CallLine(
        at=format_age(now - at) if now - at < DAY else format_time(at),
        at_exact=format_time(at),
        listing=call.listing_name or call.listing_id,
        request=f"{call.method} {call.path}",
        status=str(call.status),
        tone="bad" if call.status >= 400 else "good",
        amount=str(Usdc(call.amount_atoms)) if paid else "0",
        scheme=call.scheme or "free",
        latency=format_latency(call.latency_us),
    )
