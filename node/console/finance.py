"""Finance: what the wallet holds, where to send money, whether serving is paused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from finance.balance import money_in_books
from finance.history import Filter, read_history
from finance.money import Usdc, Wei
from finance.withdrawals import recent_withdrawals
from node.accounts.access import Permission
from node.console.finance_history import HistoryRow, history_row
from node.console.finance_withdraw import WithdrawalRow, withdrawal_row
from node.console.format import Amount, Moment, Short, address, amount, moment
from node.console.pages import Pages
from node.console.qr import Qr, qr
from node.console.visit import Visit
from node.preferences import read_preference
from node.treasury.choices import Thresholds
from node.treasury.paying_in import pay_link
from node.treasury.treasury import Treasury

_LINES = 6


@dataclass(frozen=True, slots=True)
class ServingView:
    """Whether paid calls are served; `why` when not, `since` when it began."""

    paused: bool
    by_hand: bool
    why: str
    since: Moment | None
    low: tuple[str, ...]
    waived: bool


@dataclass(frozen=True, slots=True)
class FinanceView:
    """What `finance/index.html` shows."""

    usdc: Amount
    eth: Amount
    in_channels: Amount
    unclaimed: Amount
    read_at: Moment | None
    wallet: Short
    address: str
    network: str
    pay_link: str
    usdc_qr: Qr
    address_qr: Qr
    serving: ServingView
    moves: tuple[HistoryRow, ...]
    withdrawals: tuple[WithdrawalRow, ...]
    may_move: bool


def pages(treasury: Treasury) -> Pages:
    """`/finance` and the pause switch."""
    pages = Pages("finance", "overview")

    @pages.get("/finance", Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_view, treasury, visit)
        return visit.page("finance/index.html", view, "Finance")

    @pages.post("/finance/serving", Permission.MOVE_MONEY)
    async def switch(visit: Visit) -> Response:
        back = "/finance/thresholds" if visit.form.get("back") == "thresholds" else "/finance"
        if visit.form.get("action") == "pause":
            await treasury.guard.pause(visit.actor, visit.now)
            return visit.redirect(back, "Paid serving is paused until you resume it.", "loud")
        await treasury.guard.resume(visit.actor, visit.now)
        return visit.redirect(back, "Paid serving goes on.")

    return pages


def _view(treasury: Treasury, visit: Visit) -> FinanceView:
    network, purse = treasury.network, treasury.purse
    chain_id = network.chain_id
    in_channels, unclaimed = money_in_books(treasury.engine, chain_id)
    moves = read_history(treasury.engine, Filter(chain_id=chain_id), None, _LINES).lines
    link = pay_link(treasury)
    recent = recent_withdrawals(treasury.engine, chain_id, _LINES)
    open_ = [each for each in recent if not each.ended]
    return FinanceView(
        usdc=amount(purse.balances.usdc),
        eth=amount(purse.balances.gas),
        in_channels=amount(Usdc(in_channels)),
        unclaimed=amount(Usdc(unclaimed)),
        read_at=moment(int(purse.looked_at), visit.now, visit.zone) if purse.looked_at else None,
        wallet=address(treasury.address, network),
        address=treasury.address,
        network=network.name,
        pay_link=link,
        usdc_qr=qr(link),
        address_qr=qr(treasury.address),
        serving=serving_view(treasury, visit),
        moves=tuple(history_row(each, network, visit) for each in moves),
        withdrawals=tuple(withdrawal_row(each, network, visit) for each in open_),
        may_move=visit.identity.may(Permission.MOVE_MONEY),
    )


def serving_view(treasury: Treasury, visit: Visit) -> ServingView:
    """The pause as the screen tells it (blocking)."""
    standing = treasury.guard.standing
    chosen = read_preference(treasury.engine, Thresholds)
    low = []
    if standing.low_usdc:
        low.append(f"less than {Usdc(chosen.low_usdc_atoms)} USDC")
    if standing.low_gas:
        low.append(f"less than {Wei(chosen.low_gas_wei)} ETH for gas")
    since = standing.hand_paused_at or standing.auto_paused_at
    why = "by hand" if standing.hand_paused_at else "by itself: the wallet is low"
    return ServingView(
        paused=standing.paused,
        by_hand=bool(standing.hand_paused_at),
        why=why if standing.paused else "",
        since=moment(since, visit.now, visit.zone) if since else None,
        low=tuple(low),
        waived=standing.waived,
    )
