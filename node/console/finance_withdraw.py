"""Finance > Withdraw: a form, a page that says exactly what will happen, the stages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.responses import Response

from finance.errors import FinanceError, WithdrawalRefused
from finance.money import Usdc, Wei
from finance.networks import Network
from finance.operations import Token
from finance.withdrawal import Quote, Stage, read_amount, read_destination
from finance.withdrawals import (
    WithdrawalView,
    count_withdrawals,
    export_withdrawals,
    find_withdrawal,
    recent_withdrawals,
)
from finance.x402.text import checksum, parse_address
from node.accounts.access import Permission
from node.console.format import (
    Amount,
    Moment,
    Short,
    address,
    aligned,
    amount,
    cell_amount,
    exact_amount,
    exact_text,
    moment,
    transaction,
)
from node.console.forms import FieldError, Form
from node.console.pager import Pager, numbered, page_within
from node.console.pages import Pages
from node.console.visit import Visit
from node.treasury.sending import send_withdrawal
from node.treasury.treasury import Treasury

PATH = "/finance/withdrawals"
PER_PAGE = 30
_TOKENS = tuple((each.value, each.value) for each in Token)
_HEADER = ("id", "unix", "token", "amount", "destination", "stage", "by", "transaction", "error")
TONES = {
    Stage.REQUESTED: "plain",
    Stage.SIGNED: "info",
    Stage.SENT: "info",
    Stage.MINED: "good",
    Stage.FINAL: "good",
    Stage.FAILED: "bad",
}
_NOTHING_ASKED = "Say here what is to be sent where; then you are asked to confirm it."
_STEPS = (Stage.SIGNED, Stage.SENT, Stage.MINED, Stage.FINAL)


@dataclass(frozen=True, slots=True)
class WithdrawalRow:
    """One withdrawal, formatted; `stages` are pairs of label and state."""

    id: str
    at: Moment
    token: str
    amount: Amount
    destination: Short
    stage: str
    tone: str
    stages: tuple[tuple[str, str], ...]
    by: str
    transaction: Short | None
    fee: Amount | None
    error: str
    open: bool


@dataclass(frozen=True, slots=True)
class FormView:
    """What `finance/withdraw.html` shows."""

    form: Form
    tokens: tuple[tuple[str, str], ...]
    usdc: Amount
    eth: Amount
    network: str


@dataclass(frozen=True, slots=True)
class ConfirmView:
    """What `finance/withdraw_confirm.html` shows: exactly what will happen."""

    form: Form
    id: str
    token: str
    amount: Amount
    raw_amount: str
    destination: str
    checked: bool
    expected_fee: Amount
    worst_fee: Amount
    left: Amount
    network: str
    main_network: bool


@dataclass(frozen=True, slots=True)
class ListView:
    """What `finance/withdrawals.html` shows."""

    rows: tuple[WithdrawalRow, ...]
    pager: Pager
    may_move: bool


class WithdrawPages:
    """The handlers."""

    def __init__(self, treasury: Treasury) -> None:
        self._treasury = treasury

    async def ask(self, visit: Visit) -> Response:
        return self._ask(visit, Form({"token": "USDC", **dict(visit.query)}))

    async def check(self, visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            quote = await _quote(self._treasury, form)
        except FinanceError as error:
            return self._ask(visit, form.refused(error), 422)
        return visit.redirect(f"/finance/withdraw/confirm?{urlencode(_asked(quote))}")

    async def confirm(self, visit: Visit) -> Response:
        return await self._confirm(visit, Form(visit.query), 200)

    async def send(self, visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            await visit.confirm_password()
            view = await _send(self._treasury, visit, form)
        except (FieldError, FinanceError) as error:
            known = Form({**form.values, "password": ""}).refused(error)
            return await self._confirm(visit, known, 422)
        return visit.redirect(f"{PATH}/{view.id}")

    async def show_all(self, visit: Visit) -> Response:
        view = await asyncio.to_thread(_list_view, self._treasury, visit)
        return visit.page("finance/withdrawals.html", view, "Withdrawals")

    async def export(self, visit: Visit) -> Response:
        return visit.csv("withdrawals.csv", _HEADER, _csv_rows(self._treasury))

    async def show(self, visit: Visit) -> Response:
        id_ = visit.path["withdrawal_id"]
        found = await asyncio.to_thread(find_withdrawal, self._treasury.engine, id_)
        network = self._treasury.network
        if found is None or found.chain_id != network.chain_id:
            return visit.redirect(PATH, "There is no such withdrawal.", "bad")
        row = withdrawal_row(found, network, visit)
        return visit.page("finance/withdrawal.html", row, "Withdrawal")

    def _ask(self, visit: Visit, form: Form, status: int = 200) -> Response:
        view = _form_view(self._treasury, form)
        return visit.page("finance/withdraw.html", view, "Withdraw", status)

    async def _confirm(self, visit: Visit, form: Form, status: int) -> Response:
        """What will happen, as of now; if it cannot, the form again with the reason."""
        id_, treasury = form.value("id"), self._treasury
        if not _is_id(id_):
            return visit.redirect("/finance/withdraw", _NOTHING_ASKED, "bad")
        if known := await asyncio.to_thread(find_withdrawal, treasury.engine, id_):
            return visit.redirect(f"{PATH}/{known.id}")
        try:
            asked = (_token(form), form.value("destination"), form.value("amount"))
            quote = await treasury.withdrawals.quote(*asked)
        except FinanceError as error:
            return self._ask(visit, form.refused(error), 422)
        view = _confirm_view(treasury, form, quote)
        return visit.page("finance/withdraw_confirm.html", view, "Confirm the withdrawal", status)


def pages(treasury: Treasury) -> Pages:
    """Form, confirmation, list and single withdrawals."""
    pages, handlers = Pages("finance", "withdrawals"), WithdrawPages(treasury)
    move, see = Permission.MOVE_MONEY, Permission.SEE_FINANCE
    pages.get("/finance/withdraw", move)(handlers.ask)
    pages.post("/finance/withdraw", move)(handlers.check)
    pages.get("/finance/withdraw/confirm", move)(handlers.confirm)
    pages.post("/finance/withdraw/confirm", move)(handlers.send)
    pages.get(PATH, see)(handlers.show_all)
    pages.get(f"{PATH}.csv", see)(handlers.export)
    pages.get(PATH + "/{withdrawal_id}", see)(handlers.show)
    return pages


async def _quote(treasury: Treasury, form: Form) -> Quote:
    everything = form.value("all") == "on"
    text = None if everything else form.value("amount")
    return await treasury.withdrawals.quote(_token(form), form.value("destination"), text)


def _token(form: Form) -> Token:
    if form.value("token") not in list(Token):
        raise WithdrawalRefused("Choose USDC or ETH.", "token_invalid", "token")
    return Token(form.value("token"))


def _asked(quote: Quote) -> dict[str, str]:
    """The address of the page that asks to confirm; its id makes the confirmation unique."""
    kind = Usdc if quote.token is Token.USDC else Wei
    return {
        "id": secrets.token_hex(16),
        "token": quote.token.value,
        "destination": checksum(parse_address(quote.destination)),
        "amount": str(kind(quote.amount)),
    }


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(each in "0123456789abcdef" for each in text)


async def _send(treasury: Treasury, visit: Visit, form: Form) -> WithdrawalView:
    token = _token(form)
    if not _is_id(form.value("id")):
        raise WithdrawalRefused("Start again from the form.", "withdrawal_conflict")
    to = read_destination(form.value("destination"), treasury.address, treasury.network)
    atoms = read_amount(token, form.value("amount"))
    return await send_withdrawal(
        treasury.withdrawals, form.value("id"), token, to, atoms, visit.actor, visit.now
    )


def _form_view(treasury: Treasury, form: Form) -> FormView:
    balances = treasury.purse.balances
    return FormView(
        form, _TOKENS, amount(balances.usdc), amount(balances.gas), treasury.network.name
    )


def _confirm_view(treasury: Treasury, form: Form, quote: Quote) -> ConfirmView:
    kind = Usdc if quote.token is Token.USDC else Wei
    typed = form.value("destination").strip()
    return ConfirmView(
        form=form,
        id=form.value("id"),
        token=quote.token.value,
        amount=exact_amount(kind(quote.amount)),
        raw_amount=str(kind(quote.amount)),
        destination=checksum(parse_address(quote.destination)),
        checked=typed == checksum(parse_address(quote.destination)),
        expected_fee=exact_amount(Wei(quote.fee.expected_wei)),
        worst_fee=exact_amount(Wei(quote.fee.worst_wei)),
        left=exact_amount(kind(quote.left)),
        network=treasury.network.name,
        main_network=treasury.network.name == "base",
    )


def _list_view(treasury: Treasury, visit: Visit) -> ListView:
    chain_id = treasury.network.chain_id
    total = count_withdrawals(treasury.engine, chain_id)
    page = page_within(visit.query, PER_PAGE, total)
    found = recent_withdrawals(treasury.engine, chain_id, PER_PAGE, PER_PAGE * (page - 1))
    rows = [withdrawal_row(each, treasury.network, visit) for each in found]
    amounts = aligned([row.amount for row in rows])
    return ListView(
        tuple(replace(row, amount=each) for row, each in zip(rows, amounts, strict=True)),
        numbered(PATH, {}, page, PER_PAGE, total),
        visit.identity.may(Permission.MOVE_MONEY),
    )


def withdrawal_row(found: WithdrawalView, network: Network, visit: Visit) -> WithdrawalRow:
    """A withdrawal, formatted."""
    kind = Usdc if found.token is Token.USDC else Wei
    return WithdrawalRow(
        id=found.id,
        at=moment(found.created_at, visit.now, visit.zone),
        token=found.token.value,
        amount=cell_amount(kind(found.amount)),
        destination=address(checksum(parse_address(found.destination)), network),
        stage=found.stage.value.capitalize(),
        tone=TONES[found.stage],
        stages=stages_of(found.stage, bool(found.tx_hash)),
        by=found.actor_name,
        transaction=transaction(found.tx_hash, network) if found.tx_hash else None,
        fee=None if found.fee_wei is None else exact_amount(Wei(found.fee_wei)),
        error=found.error or "",
        open=found.stage not in (Stage.FINAL, Stage.FAILED),
    )


def stages_of(stage: Stage, sent: bool = True) -> tuple[tuple[str, str], ...]:
    """Signed, sent, mined, final, each done, now, open or failed."""
    if stage is Stage.FAILED:
        steps = (("Signed", "done"), ("Sent", "done")) if sent else ()
        return (*steps, ("Failed", "failed"))
    reached = _STEPS.index(stage) if stage in _STEPS else -1
    states = ["done" if at <= reached else "open" for at in range(len(_STEPS))]
    if reached + 1 < len(_STEPS):
        states[reached + 1] = "now"
    return tuple(
        (step.value.capitalize(), state) for step, state in zip(_STEPS, states, strict=True)
    )


def _csv_rows(treasury: Treasury) -> Iterator[list[object]]:
    for each in export_withdrawals(treasury.engine, treasury.network.chain_id):
        kind = Usdc if each.token is Token.USDC else Wei
        number = exact_text(kind(each.amount)).replace(",", "")
        about = (each.id, each.created_at, each.token, number, each.destination)
        yield [*about, each.stage, each.actor_name, each.tx_hash or "", each.error or ""]
