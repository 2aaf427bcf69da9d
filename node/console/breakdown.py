"""The table of every API that was called, and the links that sort it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from finance.money import Usdc
from node.console.format import NOT_KNOWN, Amount, cell_amount, count, latency, percent
from node.console.pager import Pager, link, page_of
from node.usage.breakdown import ApiSums, SortBy, sort_breakdown
from node.usage.models import Side
from node.usage.windows import Sums

PAGE_ROWS = 20
PLACE = "#breakdown"
SIDE_NAMES = {Side.BOUGHT: "buyer", Side.SERVED: "seller"}
SIDES = {name: side for side, name in SIDE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class SortLink:
    """A heading; `order` is the one the table is in now, empty for other columns."""

    label: str
    href: str
    order: str


@dataclass(frozen=True, slots=True)
class Heading:
    """One column: its links, for `success / errors` two."""

    links: tuple[SortLink, ...]
    number: bool

    @property
    def order(self) -> str:
        return next((link.order for link in self.links if link.order), "")


@dataclass(frozen=True, slots=True)
class Row:
    """One API, linked to its calls."""

    name: str
    href: str
    calls: str
    succeeded: str
    errors: str
    money: Amount
    last: str


@dataclass(frozen=True, slots=True)
class BreakdownView:
    """What `dashboard/_breakdown.html` shows."""

    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    pager: Pager
    csv: str


@dataclass(frozen=True, slots=True)
class Order:
    """The column and direction that the address asks for."""

    by: SortBy
    descending: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Order:
        """What is no column of ours sorts by calls."""
        text = query.get("sort", "")
        by = SortBy(text) if text in set(SortBy) else SortBy.CALLS
        return cls(by, query.get("order", _first(by)) == "desc")


def breakdown_view(apis: Sequence[ApiSums], side: Side, query: Mapping[str, str]) -> BreakdownView:
    """One page of the table in the order asked for."""
    order = Order.of(query)
    rows = sort_breakdown(apis, order.by, order.descending)
    shown, pager = page_of("/", query, rows, PAGE_ROWS)
    return BreakdownView(
        _headings(side, order, query),
        tuple(_row(row, side) for row in shown),
        _placed(pager),
        link("/breakdown.csv", {}, side=SIDE_NAMES[side], sort=order.by, order=_text(order)),
    )


def breakdown_header(side: Side) -> tuple[str, ...]:
    """The first line of the file."""
    last = "average_latency_ms" if side is Side.BOUGHT else "success_rate_percent"
    money = "cost_usdc" if side is Side.BOUGHT else "revenue_usdc"
    return ("api", "listing_id", "calls", "success", "errors", money, last)


def breakdown_lines(
    apis: Sequence[ApiSums], side: Side, query: Mapping[str, str]
) -> Iterator[tuple[object, ...]]:
    """Every row, in the order asked for."""
    order = Order.of(query)
    for row in sort_breakdown(apis, order.by, order.descending):
        sums = row.sums
        last = _mean_ms(sums) if side is Side.BOUGHT else percent(sums.succeeded, sums.calls)[:-2]
        money = str(Usdc(sums.amount_atoms))
        yield row.name, row.listing_id, sums.calls, sums.succeeded, sums.errors, money, last


def _mean_ms(sums: Sums) -> str:
    mean = sums.mean_latency_us or 0
    return f"{mean // 1000}.{mean % 1000:03d}"


def _row(row: ApiSums, side: Side) -> Row:
    sums = row.sums
    mean = sums.mean_latency_us
    took = NOT_KNOWN if mean is None else latency(mean)
    return Row(
        name=row.name,
        href=link("/calls", {}, side=SIDE_NAMES[side], listing=row.listing_id),
        calls=count(sums.calls),
        succeeded=count(sums.succeeded),
        errors=count(sums.errors),
        money=cell_amount(Usdc(sums.amount_atoms)),
        last=took if side is Side.BOUGHT else percent(sums.succeeded, sums.calls),
    )


def _headings(side: Side, order: Order, query: Mapping[str, str]) -> tuple[Heading, ...]:
    buying = side is Side.BOUGHT
    last = (SortBy.LATENCY, "Avg latency") if buying else (SortBy.SUCCESS_RATE, "Success rate")
    columns: tuple[tuple[tuple[SortBy, str], ...], ...] = (
        ((SortBy.NAME, "API"),),
        ((SortBy.CALLS, "Calls"),),
        ((SortBy.SUCCESS, "Success"), (SortBy.ERRORS, "errors")),
        ((SortBy.AMOUNT, "USDC cost" if buying else "USDC revenue"),),
        (last,),
    )
    return tuple(
        Heading(tuple(_sort_link(by, label, order, query) for by, label in column), number > 0)
        for number, column in enumerate(columns)
    )


def _sort_link(by: SortBy, label: str, order: Order, query: Mapping[str, str]) -> SortLink:
    """The column sorts; the one that sorts already turns round."""
    current = by is order.by
    direction = _first(by)
    if current:
        direction = "asc" if order.descending else "desc"
    href = link("/", query, sort=by.value, order=direction, page=None) + PLACE
    return SortLink(label, href, _aria(order) if current else "")


def _first(by: SortBy) -> str:
    return "asc" if by is SortBy.NAME else "desc"


def _text(order: Order) -> str:
    return "desc" if order.descending else "asc"


def _aria(order: Order) -> str:
    return "descending" if order.descending else "ascending"


def _placed(pager: Pager) -> Pager:
    newer, older = (href and href + PLACE for href in (pager.newer, pager.older))
    return replace(pager, newer=newer, older=older)
