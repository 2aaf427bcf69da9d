"""Finance > Invoices: what was paid for plans, to this node and by it; each fit for print."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Engine
from starlette.responses import Response

from finance.money import Usdc
from finance.networks import NETWORKS, Network
from node.accounts.access import Permission
from node.console.format import (
    Amount,
    Moment,
    Short,
    address,
    cell_amount,
    count,
    exact_amount,
    moment,
    short,
    transaction,
)
from node.console.pager import Pager, link, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit
from node.plans.invoices import InvoiceView, every_invoice, list_invoices, read_invoice
from node.plans.models import InvoiceSide

PATH: Final = "/finance/invoices"
PER_PAGE: Final = 50
SEE: Final = Permission.SEE_FINANCE
_SIDES: Final = (("", "All"), ("sold", "Sold"), ("bought", "Bought"))
_CSV: Final = (
    "number",
    "side",
    "paid_utc",
    "listing",
    "plan",
    "period_start_utc",
    "period_end_utc",
    "usdc",
    "seller",
    "buyer",
    "buyer_name",
    "buyer_email",
    "chain_id",
    "transaction",
    "lines",
)


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    """One line of the list; `other` is who paid, or was paid."""

    id: int
    number: str
    side: str
    tone: str
    paid: Moment
    listing: str
    plan: str
    period: str
    amount: Amount
    other: Short
    name: str
    transaction: Short | None


@dataclass(frozen=True, slots=True)
class InvoicesView:
    """What `finance/invoices.html` shows; `sum` of one side: what came in and what went out
    make none together."""

    rows: tuple[InvoiceRow, ...]
    sides: tuple[tuple[str, str, bool], ...]
    total: str
    sum: Amount | None
    pager: Pager
    csv: str


@dataclass(frozen=True, slots=True)
class InvoicePageView:
    """What `finance/invoice.html` shows; times in UTC, whole texts, for paper."""

    number: str
    side: str
    paid: str
    period: str
    listing: str
    plan: str
    seller: str
    buyer: str
    buyer_name: str
    buyer_email: str
    lines: tuple[tuple[str, Amount], ...]
    total: Amount
    network: str
    tx_hash: str
    tx_link: str | None
    subscription: str


def pages(engine: Engine, network: Network) -> Pages:
    """The list, its file, and one page for each."""
    pages = Pages("finance", "invoices")

    @pages.get(PATH, SEE)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_view, engine, network, visit)
        return visit.page("finance/invoices.html", view, "Invoices")

    @pages.get(f"{PATH}.csv", SEE)
    async def export(visit: Visit) -> Response:
        found = every_invoice(engine, network.chain_id, _side(visit))
        return visit.csv("invoices.csv", _CSV, (_line(each) for each in found))

    @pages.get(f"{PATH}/{{invoice_id:int}}", SEE)
    async def one(visit: Visit) -> Response:
        number = min(int(visit.path["invoice_id"]), 2**62)
        found = await asyncio.to_thread(read_invoice, engine, number)
        return visit.page("finance/invoice.html", _page(found), found.number)

    return pages


def _side(visit: Visit) -> InvoiceSide | None:
    text = visit.query.get("side", "")
    return InvoiceSide(text) if text in list(InvoiceSide) else None


def _view(engine: Engine, network: Network, visit: Visit) -> InvoicesView:
    side = _side(visit)
    found = list_invoices(engine, network.chain_id, side, page_number(visit.query), PER_PAGE)
    query = {"side": side.value if side else ""}
    return InvoicesView(
        rows=tuple(_row(each, network, visit) for each in found.invoices),
        sides=tuple((link(PATH, {}, side=v), label, v == query["side"]) for v, label in _SIDES),
        total=count(found.total),
        sum=cell_amount(Usdc(found.amount_atoms)) if side else None,
        pager=numbered(PATH, query, found.page, PER_PAGE, found.total),
        csv=link(f"{PATH}.csv", query),
    )


def _row(each: InvoiceView, network: Network, visit: Visit) -> InvoiceRow:
    sold = each.side is InvoiceSide.SOLD
    other = each.buyer if sold else each.seller
    return InvoiceRow(
        id=each.id,
        number=each.number,
        side="sold" if sold else "bought",
        tone="good" if sold else "plain",
        paid=moment(each.paid_at, visit.now, visit.zone),
        listing=each.listing_name,
        plan=each.plan_name,
        period=_period(each),
        amount=cell_amount(Usdc(each.amount_atoms)),
        other=address(other, network) if other.startswith("0x") else short(other),
        name=each.buyer_name if sold else "",
        transaction=transaction(each.tx_hash, network) if each.tx_hash else None,
    )


def _page(each: InvoiceView) -> InvoicePageView:
    network = next((n for n in NETWORKS.values() if n.chain_id == each.chain_id), None)
    shown = None if network is None else transaction(each.tx_hash, network).link
    return InvoicePageView(
        number=each.number,
        side=each.side.value,
        paid=_utc(each.paid_at),
        period=_period(each),
        listing=each.listing_name,
        plan=each.plan_name,
        seller=each.seller,
        buyer=each.buyer,
        buyer_name=each.buyer_name,
        buyer_email=each.buyer_email,
        lines=tuple((line.text, exact_amount(Usdc(line.amount_atoms))) for line in each.lines),
        total=exact_amount(Usdc(each.amount_atoms)),
        network=f"chain {each.chain_id}" if network is None else network.name,
        tx_hash=each.tx_hash,
        tx_link=shown if each.tx_hash else None,
        subscription=each.subscription_id,
    )


def _period(each: InvoiceView) -> str:
    days = (datetime.fromtimestamp(at, UTC) for at in (each.period_start, each.period_end))
    return " – ".join(day.strftime("%Y-%m-%d") for day in days)


def _utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _line(each: InvoiceView) -> tuple[object, ...]:
    times = (_iso(each.period_start), _iso(each.period_end))
    return (
        each.number,
        each.side.value,
        _iso(each.paid_at),
        each.listing_name,
        each.plan_name,
        *times,
        str(Usdc(each.amount_atoms)),
        each.seller,
        each.buyer,
        each.buyer_name,
        each.buyer_email,
        each.chain_id,
        each.tx_hash,
        "; ".join(f"{line.text}: {Usdc(line.amount_atoms)}" for line in each.lines),
    )


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
