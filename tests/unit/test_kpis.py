"""The figures an operator trusts: each card from rollups, nothing rounded up."""

from __future__ import annotations

from sqlalchemy import Engine, insert

from catalog.models import Listing, ListingOrigin
from finance.money import Usdc, Wei
from node.db.engine import writer
from node.usage.calls import CallRecord
from node.usage.kpis import Balances, Overview, Sums, read_overview, success_rate
from node.usage.models import Side
from tests.conftest import book_calls

NOW = 1_800_000_000


def call(number: int, age_seconds: int, side: Side = Side.BOUGHT, status: int = 200) -> CallRecord:
    return CallRecord(
        id=f"call_{number}",
        side=side,
        at_ms=(NOW - age_seconds) * 1000,
        listing_id="lst_1",
        method="GET",
        path="/forecast",
        status=status,
        latency_us=12_000,
        scheme="exact" if status < 400 else None,
        amount_atoms=1_999 if status < 400 else 0,
    )


def cards(overview: Overview) -> dict[str, tuple[str, str]]:
    return {card.title: (card.value, card.detail) for card in overview.cards}


def test_buyer_sees_balances_calls_latency_and_spending(migrated_engine: Engine) -> None:
    book_calls(
        migrated_engine, call(1, 60), call(2, 120), call(3, 180, status=502), call(4, 40 * 3600)
    )
    overview = read_overview(
        migrated_engine, None, Balances(Usdc(12_345_678_901), Wei(10**16)), NOW
    )
    assert cards(overview) == {
        "USDC Balance": ("12,345.67", "USDC"),
        "Gas Balance": ("0.010000", "ETH"),
        "Calls (24h)": ("3", "66.6 % successful"),
        "Avg Latency": ("12.0 ms", "last 24 hours"),
        "USDC Spent (24h)": ("0.00", "2 paid calls"),
        "Total Calls Ever": ("4", "0.00 USDC spent"),
    }
    assert [card.exact for card in overview.cards][4:] == ["0.003998 USDC", "0.005997 USDC"]


def test_seller_who_is_called_sees_the_seller_cards_first(migrated_engine: Engine) -> None:
    listing = {"id": "lst_1", "slug": "weather", "name": "Weather", "base_url": "http://x"}
    with writer(migrated_engine).begin() as connection:
        connection.execute(insert(Listing), {**listing, "origin": ListingOrigin.OWN})
    book_calls(migrated_engine, call(1, 60, Side.SERVED), call(2, 3 * 86400, Side.SERVED))
    overview = read_overview(migrated_engine, None, Balances(), NOW)
    assert overview.side is Side.SERVED
    assert cards(overview) == {
        "Calls Served (24h)": ("1", "1 paid"),
        "Success Rate": ("100.0 %", "0 errors in 24 hours"),
        "Revenue (24h)": ("0.00", "charged"),
        "Calls Served (7d)": ("2", "0.00 USDC revenue"),
    }
    assert [line.listing for line in overview.calls] == ["Weather", "Weather"]
    assert read_overview(migrated_engine, Side.BOUGHT, Balances(), NOW).side is Side.BOUGHT


def test_balance_that_is_not_known_is_not_shown_as_nothing(migrated_engine: Engine) -> None:
    overview = read_overview(migrated_engine, None, Balances(), NOW)
    assert cards(overview)["USDC Balance"] == ("—", "the chain has not answered yet")
    assert overview.empty


def test_one_error_among_thousands_is_never_rounded_to_perfection() -> None:
    assert success_rate(Sums(calls=100_000, errors=1)) == "99.9 %"
    assert success_rate(Sums()) == "—"


def test_page_hurries_while_calls_come_in(migrated_engine: Engine) -> None:
    assert read_overview(migrated_engine, None, Balances(), NOW).refresh_seconds == 30
    book_calls(migrated_engine, call(1, 5))
    assert read_overview(migrated_engine, None, Balances(), NOW).refresh_seconds == 5
