"""Figures and times as the screen shows them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finance.money import Usdc, Wei
from finance.networks import NETWORKS
from node.console import format
from node.console.charts import HEIGHT, Part, Slot, bars
from node.console.pager import link, numbered, page_number
from node.console.visit import _cell

NOW = 1_764_000_000


def test_less_than_a_cent_is_not_shown_as_nothing() -> None:
    assert [format.amount(Usdc(atoms)).text for atoms in (0, 1, 9_999, 10_000)] == [
        "0.00",
        "< 0.01",
        "< 0.01",
        "0.01",
    ]
    assert format.amount(Usdc(1)).exact == "0.000001 USDC"
    assert format.amount(Wei(1)).text == "< 0.000001" and format.amount(Wei(0)).text == "0.000000"


def test_money_is_cut_never_rounded_up_and_whole_on_hover() -> None:
    shown = format.amount(Usdc(1_234_567_899_999))
    assert (shown.text, shown.exact) == ("1,234,567.89", "1,234,567.899999 USDC")
    assert format.amount(Wei(1_999_999_999_999)).text == "0.000001"
    assert format.amount(None).text == "—"
    assert format.signed_amount(-1_500_000) == format.Amount("−1.500000", "−1.5 USDC", "USDC")


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1))
def test_the_points_of_a_column_of_usdc_stand_below_each_other(column: list[int]) -> None:
    cells = [format.cell_amount(Usdc(atoms)) for atoms in column]
    assert {len(cell.text.partition(".")[2]) for cell in cells} == {6}
    assert [int(Usdc.parse(cell.text.replace(",", ""))) for cell in cells] == column


@given(st.integers(0, 2**63 - 1))
def test_an_exact_amount_reads_back_to_the_atom(atoms: int) -> None:
    text = format.exact_amount(Usdc(atoms)).text
    assert "e" not in text.lower()
    assert int(Usdc.parse(text.replace(",", ""))) == atoms


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "59 s ago"), (60, "1 min ago"), (3600, "1 h ago"), (86_399, "23 h ago")],
)
def test_a_time_under_a_day_is_relative(seconds: int, text: str) -> None:
    assert format.moment(NOW - seconds, NOW, ZoneInfo("UTC")).text == text


def test_an_older_time_is_in_the_viewers_zone_with_utc_on_hover() -> None:
    shown = format.moment(NOW - 90_000, NOW, ZoneInfo("Asia/Kolkata"))
    assert shown.text == "2025-11-23 20:30" and shown.utc == "2025-11-23 15:00:00 UTC"


def test_a_time_ahead_is_not_called_past() -> None:
    assert "ago" not in format.moment(NOW + 5, NOW, ZoneInfo("UTC")).text


def test_a_share_that_is_not_whole_is_not_shown_as_whole() -> None:
    assert format.percent(9_999, 10_000) == "99.9 %"
    assert format.percent(0, 0) == "—"


def test_hashes_are_cut_in_the_middle_and_linked_where_there_is_an_explorer() -> None:
    shown = format.transaction("0x" + "ab" * 32, NETWORKS["base"])
    assert shown.short == "0xabab…abab" and shown.link == f"https://basescan.org/tx/{shown.full}"
    assert format.address("0x12", NETWORKS["devnet"]).link is None
    # The first example of EIP-55.
    written = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert format.address(written.lower(), NETWORKS["devnet"]).full == written


@pytest.mark.parametrize(("octets", "text"), [(999, "999 B"), (1_000, "1.0 kB"), (2**40, "1.1 TB")])
def test_sizes(octets: int, text: str) -> None:
    assert format.size(octets) == text


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=48))
def test_bars_stay_in_their_place_and_what_is_there_is_seen(counts: list[tuple[int, int]]) -> None:
    slots = [
        Slot(f"{n}:00", "", (Part("ok", "good", ok), Part("errors", "bad", errors)))
        for n, (ok, errors) in enumerate(counts)
    ]
    for column, (ok, errors) in zip(bars("x", slots).columns, counts, strict=True):
        assert len(column.bars) == bool(ok) + bool(errors)
        assert all(bar.height >= 1 and 0 <= bar.y <= HEIGHT for bar in column.bars)


def test_a_page_number_that_is_none_is_the_first() -> None:
    for text in ("", "0", "-1", "x", "9" * 40, "²"):
        assert page_number({"page": text}) == 1
    assert numbered("/a", {"q": "x y"}, 2, 30, 61).older == "/a?q=x+y&page=3"
    assert link("/a", {"page": "2", "q": "é&"}, page=None) == "/a?q=%C3%A9%26"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_a_spreadsheet_runs_no_text_of_strangers(text: str) -> None:
    assert _cell(text) == f"'{text}"
    assert _cell(-5) == -5


def test_a_column_of_two_tokens_has_its_points_below_each_other() -> None:
    cells = [
        format.signed_amount(-1_500_000),
        format.signed_amount(2, Wei),
        format.signed_amount(3 * 10**18, Wei),
    ]
    texts = [cell.text + cell.blank for cell in format.aligned(cells)]
    # As wide as a digit, as wide as a point: flush right, they end where the longest does.
    assert texts[0] == "−1.500000" + "\u2007" * 12
    assert texts[1] == "+0.000000000000000002"
    assert texts[2] == "+3" + "\u2008" + "\u2007" * 18
    assert [cell.text + cell.blank for cell in format.aligned(cells[2:])] == ["+3"]
    assert format.aligned([]) == []


def test_a_time_of_whole_days_is_told_in_days() -> None:
    assert [format.duration(each * 3600) for each in (96, 99)] == ["4 d", "4 d 3 h"]
