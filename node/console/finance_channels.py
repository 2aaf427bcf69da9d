"""Finance > Channels: those we are paid through, and those we pay through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from finance.channel_views import (
    BoughtChannel,
    SoldChannel,
    bought_channel,
    bought_channels,
    count_bought,
    export_bought,
    export_sold,
    sold_channel,
    sold_channels,
    sold_totals,
)
from finance.money import Usdc
from finance.operations import ClosingStep
from node.accounts.access import Permission
from node.accounts.audit import audit_write
from node.console.finance_confirm import Deed, ask, do
from node.console.finance_transactions import TransactionRow, transaction_rows
from node.console.format import (
    Amount,
    Moment,
    Short,
    address,
    amount,
    cell_amount,
    count,
    duration,
    exact_text,
    moment,
    short,
)
from node.console.pager import Pager, numbered, page_within
from node.console.pages import Pages
from node.console.visit import Visit
from node.treasury.treasury import Treasury

SOLD, BOUGHT = "/finance/channels", "/finance/channels/buying"
PER_PAGE = 30
_PURPOSES = ("claim", "refund", "channel_leave", "channel_take")
_STATE_TONES = {"open": "good", "opening": "info", "stopped": "bad", "closed": "plain"}
_SOLD_HEADER = ("channel", "payer", "state", "balance", "charged", "claimed", "unclaimed")
_BOUGHT_HEADER = ("channel", "origin", "state", "balance", "charged", "unspent", "closing", "why")
STEPS = {
    ClosingStep.ASKING: "Asking the seller for a refund",
    ClosingStep.LEAVING: "Announcing the withdrawal",
    ClosingStep.WAITING: "Waiting for the channel's delay",
    ClosingStep.CLOSED: "Closed",
    ClosingStep.FAILED: "Not closed",
}


@dataclass(frozen=True, slots=True)
class SoldRow:
    """One channel we are paid through."""

    id: str
    channel: Short
    payer: Short
    state: str
    tone: str
    balance: Amount
    charged: Amount
    unclaimed: Amount
    unspent: Amount
    owes: bool
    refundable: bool
    leaves: Moment | None


@dataclass(frozen=True, slots=True)
class SoldView:
    """What `finance/channels.html` shows."""

    rows: tuple[SoldRow, ...]
    channels: str
    balance: Amount
    unclaimed: Amount
    leaving: str
    owes: bool
    claiming: bool
    transactions: tuple[TransactionRow, ...]
    pager: Pager
    may_move: bool


@dataclass(frozen=True, slots=True)
class BoughtRow:
    """One channel we pay through; `step` is how its closing stands."""

    id: str
    channel: Short
    origin: str
    state: str
    tone: str
    balance: Amount
    unspent: Amount
    why: str
    step: str
    available: Moment | None
    closable: bool


@dataclass(frozen=True, slots=True)
class BoughtView:
    """What `finance/buying.html` shows."""

    rows: tuple[BoughtRow, ...]
    transactions: tuple[TransactionRow, ...]
    pager: Pager
    may_move: bool


def pages(treasury: Treasury) -> Pages:
    """Both lists, and what can be done with a channel."""
    pages = Pages("finance", "channels")
    _lists(pages, treasury)
    _claims(pages, treasury)
    _closings(pages, treasury)
    return pages


def _lists(pages: Pages, treasury: Treasury) -> None:
    @pages.get(SOLD, Permission.SEE_FINANCE)
    async def show_sold(visit: Visit) -> Response:
        view = await asyncio.to_thread(_sold_view, treasury, visit)
        return visit.page("finance/channels.html", view, "Channels")

    @pages.get(f"{SOLD}.csv", Permission.SEE_FINANCE)
    async def export_sold(visit: Visit) -> Response:
        return visit.csv("channels-selling.csv", _SOLD_HEADER, _sold_csv(treasury))

    @pages.get(BOUGHT, Permission.SEE_FINANCE)
    async def show_bought(visit: Visit) -> Response:
        view = await asyncio.to_thread(_bought_view, treasury, visit)
        return visit.page("finance/buying.html", view, "Channels")

    @pages.get(f"{BOUGHT}.csv", Permission.SEE_FINANCE)
    async def export_bought(visit: Visit) -> Response:
        return visit.csv("channels-buying.csv", _BOUGHT_HEADER, _bought_csv(treasury))


def _claims(pages: Pages, treasury: Treasury) -> None:
    @pages.get(f"{SOLD}/claim", Permission.MOVE_MONEY)
    async def ask_claim(visit: Visit) -> Response:
        return ask(visit, await asyncio.to_thread(_claim_deed, treasury, visit.query))

    @pages.post(f"{SOLD}/claim", Permission.MOVE_MONEY)
    async def claim(visit: Visit) -> Response:
        deed = await asyncio.to_thread(_claim_deed, treasury, visit.query)
        wanted = visit.query.get("channel")
        work = treasury.selling.claim
        return await do(
            visit,
            deed,
            lambda: work([wanted] if wanted else None, visit.actor, visit.now),
            "The claim is on its way; its transaction is listed below.",
        )

    @pages.get(SOLD + "/{channel_id}/refund", Permission.MOVE_MONEY)
    async def ask_refund(visit: Visit) -> Response:
        deed = await asyncio.to_thread(_refund_deed, treasury, visit.path["channel_id"])
        return ask(visit, deed) if deed else _gone(visit, SOLD)

    @pages.post(SOLD + "/{channel_id}/refund", Permission.MOVE_MONEY)
    async def refund(visit: Visit) -> Response:
        id_ = visit.path["channel_id"]
        deed = await asyncio.to_thread(_refund_deed, treasury, id_)
        if deed is None:
            return _gone(visit, SOLD)
        work = treasury.selling.refund
        note = "The refund is on its way; its transaction is listed below."
        return await do(visit, deed, lambda: work(id_, visit.actor, visit.now), note)


def _closings(pages: Pages, treasury: Treasury) -> None:
    @pages.get(BOUGHT + "/{channel_id}/close", Permission.MOVE_MONEY)
    async def ask_close(visit: Visit) -> Response:
        deed = await asyncio.to_thread(_close_deed, treasury, visit.path["channel_id"])
        return ask(visit, deed) if deed else _gone(visit, BOUGHT)

    @pages.post(BOUGHT + "/{channel_id}/close", Permission.MOVE_MONEY)
    async def close(visit: Visit) -> Response:
        id_ = visit.path["channel_id"]
        deed = await asyncio.to_thread(_close_deed, treasury, id_)
        if deed is None:
            return _gone(visit, BOUGHT)
        trail = audit_write(visit.actor, "channel.close", id_, visit.now)
        return await do(
            visit,
            deed,
            lambda: treasury.closings.close(id_, (trail,)),
            "The channel is being closed; how far it is stands in its row.",
        )


def _gone(visit: Visit, back: str) -> Response:
    return visit.redirect(back, "There is no such channel.", "bad")


def _claim_deed(treasury: Treasury, query: Mapping[str, str]) -> Deed:
    wanted = query.get("channel", "")
    chain_id = treasury.network.chain_id
    found = sold_channel(treasury.engine, chain_id, wanted) if wanted else None
    totals = sold_totals(treasury.engine, chain_id)
    unclaimed = found.unclaimed if found else totals.unclaimed
    what = (("Channel", wanted),) if found else (("Channels", "all that owe something"),)
    return Deed(
        title="Claim now",
        path=f"{SOLD}/claim" + (f"?channel={wanted}" if found else ""),
        facts=(*what, ("Unclaimed", f"{Usdc(unclaimed)} USDC"), ("To", treasury.address)),
        points=(
            "The vouchers are claimed on the chain and the money is swept into the wallet, in"
            " one transaction for up to a hundred channels.",
            "The wallet pays the gas. The channels stay open.",
        ),
        button="Claim",
        back=SOLD,
    )


def _refund_deed(treasury: Treasury, channel_id: str) -> Deed | None:
    found = sold_channel(treasury.engine, treasury.network.chain_id, channel_id)
    if found is None:
        return None
    return Deed(
        title="Refund a channel",
        path=f"{SOLD}/{channel_id}/refund",
        facts=(
            ("Channel", channel_id),
            ("To its payer", found.payer),
            ("Goes back", f"{Usdc(found.unspent)} USDC"),
            ("Claimed before that", f"{Usdc(found.unclaimed)} USDC"),
        ),
        points=(
            "What is owed is claimed and swept, the rest goes back to the buyer, in one"
            " transaction that the wallet pays the gas of.",
            "The channel is closed by it. A new deposit of the buyer opens it again.",
        ),
        button="Refund",
        back=SOLD,
        danger=True,
    )


def _close_deed(treasury: Treasury, channel_id: str) -> Deed | None:
    found = bought_channel(treasury.engine, treasury.network.chain_id, channel_id)
    if found is None:
        return None
    return Deed(
        title="Close a channel",
        path=f"{BOUGHT}/{channel_id}/close",
        facts=(
            ("Channel", channel_id),
            ("Seller", found.origin or found.receiver),
            ("Comes back", f"{Usdc(found.unspent)} USDC"),
            ("To", treasury.address),
        ),
        points=(
            "The seller is asked for a refund first; it pays the gas of that.",
            "Does it not give it, the money is withdrawn through the contract: two transactions"
            f" that this wallet pays the gas of, {duration(found.withdraw_delay)} apart.",
            "Nothing is paid through the channel any more; the next call to this seller opens"
            " a new one.",
        ),
        button="Close",
        back=BOUGHT,
        danger=True,
    )


def _sold_view(treasury: Treasury, visit: Visit) -> SoldView:
    chain_id = treasury.network.chain_id
    totals = sold_totals(treasury.engine, chain_id)
    page = page_within(visit.query, PER_PAGE, totals.channels)
    found = sold_channels(treasury.engine, chain_id, PER_PAGE, PER_PAGE * (page - 1))
    return SoldView(
        rows=tuple(_sold_row(each, treasury, visit) for each in found),
        channels=count(totals.channels),
        balance=amount(Usdc(max(0, totals.balance))),
        unclaimed=amount(Usdc(totals.unclaimed)),
        leaving=count(totals.leaving),
        owes=totals.unclaimed > 0,
        claiming=treasury.selling.claiming,
        transactions=transaction_rows(treasury, visit, _PURPOSES[:2]),
        pager=numbered(SOLD, {}, page, PER_PAGE, totals.channels),
        may_move=visit.identity.may(Permission.MOVE_MONEY),
    )


def _sold_row(found: SoldChannel, treasury: Treasury, visit: Visit) -> SoldRow:
    leaves = moment(found.leaves_at, visit.now, visit.zone) if found.leaves_at else None
    return SoldRow(
        id=found.channel_id,
        channel=short(found.channel_id),
        payer=address(found.payer, treasury.network),
        state=found.state.capitalize(),
        tone=_STATE_TONES.get(found.state, "loud"),
        balance=cell_amount(Usdc(found.balance)),
        charged=cell_amount(Usdc(found.charged)),
        unclaimed=cell_amount(Usdc(found.unclaimed)),
        unspent=cell_amount(Usdc(found.unspent)),
        owes=found.unclaimed > 0,
        refundable=found.state == "open" and found.unspent > 0,
        leaves=leaves,
    )


def _bought_view(treasury: Treasury, visit: Visit) -> BoughtView:
    chain_id = treasury.network.chain_id
    total = count_bought(treasury.engine, chain_id)
    page = page_within(visit.query, PER_PAGE, total)
    found = bought_channels(treasury.engine, chain_id, PER_PAGE, PER_PAGE * (page - 1))
    return BoughtView(
        rows=tuple(_bought_row(each, visit) for each in found),
        transactions=transaction_rows(treasury, visit, _PURPOSES[2:]),
        pager=numbered(BOUGHT, {}, page, PER_PAGE, total),
        may_move=visit.identity.may(Permission.MOVE_MONEY),
    )


def _bought_row(found: BoughtChannel, visit: Visit) -> BoughtRow:
    closing = found.closing
    after = closing.finalize_after if closing and closing.step is ClosingStep.WAITING else 0
    why = closing.note if closing and closing.note else found.stop_reason
    return BoughtRow(
        id=found.channel_id,
        channel=short(found.channel_id),
        origin=found.origin or found.receiver,
        state={"refunding": "Closing"}.get(found.state, found.state.capitalize()),
        tone=_STATE_TONES.get(found.state, "loud"),
        balance=cell_amount(Usdc(found.balance)),
        unspent=cell_amount(Usdc(found.unspent)),
        why=why,
        step=STEPS[closing.step] if closing else "",
        available=moment(after, visit.now, visit.zone) if after else None,
        closable=found.closable,
    )


def _plain(atoms: int) -> str:
    return exact_text(Usdc(atoms)).replace(",", "")


def _sold_csv(treasury: Treasury) -> Iterator[list[object]]:
    for each in export_sold(treasury.engine, treasury.network.chain_id):
        amounts = (each.balance, each.charged, each.claimed, each.unclaimed)
        yield [each.channel_id, each.payer, each.state, *map(_plain, amounts)]


def _bought_csv(treasury: Treasury) -> Iterator[list[object]]:
    for each in export_bought(treasury.engine, treasury.network.chain_id):
        amounts = map(_plain, (each.balance, each.charged, each.unspent))
        step = each.closing.step.value if each.closing else ""
        why = each.closing.note if each.closing and each.closing.note else each.stop_reason
        yield [each.channel_id, each.origin, each.state, *amounts, step, why]
