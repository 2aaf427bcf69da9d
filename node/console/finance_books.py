"""Finance > Reconcile and Finance > Wallet: the books against the chain, the key as a file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.responses import Response

from finance.errors import WalletError
from finance.money import Usdc, Wei
from finance.reconcile import Difference
from node.accounts.access import Permission
from node.console.format import (
    Moment,
    Short,
    address,
    cell_amount,
    count,
    duration,
    moment,
    short,
)
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.visit import Visit
from node.treasury.errors import NotPossible, TreasuryError
from node.treasury.reconciling import (
    MOST_KEPT,
    Run,
    Unit,
    read_run,
    recent_runs,
    unit_of,
)
from node.treasury.treasury import Treasury
from node.treasury.wallet_file import export_wallet, import_wallet, why_no_import

PATH = "/finance/reconcile"
_SHOWN = 200
_WALLET_BYTES = 100_000
_HEADER = ("kind", "subject", "books", "chain", "unit")
_RUNS_HEADER = (
    "id",
    "started_unix",
    "finished_unix",
    "by",
    "block",
    "compared",
    "differences",
    "open",
    "error",
)
KINDS = {
    "wallet_usdc": "USDC in the wallet",
    "transfer": "A transfer",
    "settled": "A sweep",
    "gas_wei": "Gas of a transaction",
    "gas_ledger_wei": "Gas in the ledger",
    "exact_ledger": "Exact sales in the ledger",
    "exact_payment": "An exact sale",
    "exact_spent": "Exact purchases in the ledger",
    "exact_purchases": "Exact purchases of a transaction",
    "receiver_claimed": "All that was claimed",
    "seller_total_claimed": "Claimed from a channel",
    "seller_withdrawal": "A buyer's withdrawal",
    "seller_balance": "What a buyer's channel holds",
    "seller_charged_ledger": "A buyer's charges in the ledger",
    "seller_claimed_ledger": "Claims of a channel in the ledger",
    "seller_charged_above_signed": "Charged, above what a buyer signed",
    "seller_claimed_above_charged": "Claimed, above what was charged",
    "seller_charged_above_balance": "Charged, above what a channel holds",
    "seller_voucher": "A buyer's voucher",
    "buyer_spent_ledger": "Our spending in the ledger",
    "buyer_charged_above_signed": "Charged to us, above what we signed",
    "buyer_claimed_above_signed": "Claimed from us, above what we signed",
    "buyer_balance": "What our channel holds",
    "buyer_deposits": "Deposits into our channel",
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One reconciliation, formatted."""

    id: int
    at: Moment
    by: str
    took: str
    outcome: str
    tone: str
    checked: str
    block: str
    differences: str
    open: str
    error: str
    running: bool


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """Something books and chain do not agree on."""

    kind: str
    subject: Short
    books: str
    chain: str


@dataclass(frozen=True, slots=True)
class OpenRow:
    """Something on its way."""

    kind: str
    subject: Short
    state: str


@dataclass(frozen=True, slots=True)
class ReconcileView:
    """What `finance/reconcile.html` shows: one run, and those before it."""

    run: RunRow | None
    differences: tuple[DifferenceRow, ...]
    open: tuple[OpenRow, ...]
    more: bool
    runs: tuple[RunRow, ...]
    error: str
    may_move: bool


@dataclass(frozen=True, slots=True)
class WalletView:
    """What `finance/wallet.html` shows; `why_not` is what keeps it from being replaced."""

    wallet: Short
    form: Form
    import_form: Form
    why_not: str


def pages(treasury: Treasury) -> Pages:
    """Reconciliations."""
    pages = Pages("finance", "reconcile")

    @pages.get(PATH, Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        return await _reconcile_page(treasury, visit, None, "", 200)

    @pages.get(f"{PATH}.csv", Permission.SEE_FINANCE)
    async def export_runs(visit: Visit) -> Response:
        found = await asyncio.to_thread(recent_runs, treasury.engine)
        return visit.csv("reconciliations.csv", _RUNS_HEADER, map(_run_line, found))

    @pages.get(PATH + "/{run_id:int}", Permission.SEE_FINANCE)
    async def show_one(visit: Visit) -> Response:
        return await _reconcile_page(treasury, visit, int(visit.path["run_id"]), "", 200)

    @pages.get(PATH + "/{run_id:int}/differences.csv", Permission.SEE_FINANCE)
    async def export(visit: Visit) -> Response:
        id_ = int(visit.path["run_id"])
        run = await asyncio.to_thread(read_run, treasury.engine, id_)
        return visit.csv(f"differences-{id_}.csv", _HEADER, _csv_rows(run))

    @pages.post(PATH, Permission.MOVE_MONEY)
    async def begin(visit: Visit) -> Response:
        try:
            await treasury.reconciler.begin(visit.actor, visit.now)
        except NotPossible as error:
            return await _reconcile_page(treasury, visit, None, str(error), 409)
        return visit.redirect(PATH, "The books are being compared with the chain.", "info")

    return pages


def wallet_pages(treasury: Treasury) -> Pages:
    """Export and import."""
    pages = Pages("finance", "wallet")

    @pages.get("/finance/wallet", Permission.EXPORT_WALLET)
    async def show(visit: Visit) -> Response:
        return await _wallet_page(treasury, visit, Form(), Form(), 200)

    @pages.post("/finance/wallet/export", Permission.EXPORT_WALLET)
    async def export(visit: Visit) -> Response:
        try:
            await visit.confirm_password()
            text = await export_wallet(
                treasury.engine,
                treasury.keystore,
                visit.form.get("passphrase", ""),
                visit.actor,
                visit.now,
            )
        except (FieldError, TreasuryError, WalletError) as error:
            return await _wallet_page(treasury, visit, Form().refused(error), Form(), 422)
        name = f"farebox-wallet-{treasury.address[2:10].lower()}.json"
        return visit.download(name, text.encode(), "application/json")

    @pages.post("/finance/wallet/import", Permission.EXPORT_WALLET)
    async def take_in(visit: Visit) -> Response:
        form = Form()
        try:
            await visit.confirm_password("import_password")
            new = await _import(treasury, visit)
        except (FieldError, TreasuryError) as error:
            return await _wallet_page(treasury, visit, Form(), form.refused(error), 422)
        note = f"Wallet {new} is stored. Restart the node now: until then it uses the old one."
        return visit.redirect("/finance/wallet", note, "loud")

    return pages


async def _import(treasury: Treasury, visit: Visit) -> str:
    content = await visit.upload("file")
    if content is None or len(content) > _WALLET_BYTES:
        raise FieldError("file", "Choose a keystore file (JSON, version 3).")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FieldError("file", "This is no keystore file.") from None
    if not text.lstrip().startswith("{"):
        raise FieldError("file", "Only an encrypted keystore (JSON, version 3) is taken here.")
    form = visit.form
    its, own = form.get("its_passphrase", ""), form.get("own_passphrase", "")
    try:
        return await import_wallet(
            treasury.engine,
            treasury.keystore,
            text,
            its,
            own,
            treasury.purse.seen(visit.now),
            visit.actor,
            visit.now,
        )
    except TreasuryError as error:
        # The page has another field of this name.
        if getattr(error, "field", "") == "passphrase":
            raise FieldError("own_passphrase", str(error)) from error
        raise


async def _wallet_page(
    treasury: Treasury, visit: Visit, form: Form, import_form: Form, status: int
) -> Response:
    why = await why_no_import(treasury.engine, treasury.purse.seen(visit.now))
    view = WalletView(address(treasury.address, treasury.network), form, import_form, why)
    return visit.page("finance/wallet.html", view, "Wallet", status)


async def _reconcile_page(
    treasury: Treasury, visit: Visit, run_id: int | None, error: str, status: int
) -> Response:
    view = await asyncio.to_thread(_view, treasury, visit, run_id, error)
    return visit.page("finance/reconcile.html", view, "Reconcile", status)


def _view(treasury: Treasury, visit: Visit, run_id: int | None, error: str) -> ReconcileView:
    runs = recent_runs(treasury.engine)
    run = (runs[0] if runs else None) if run_id is None else read_run(treasury.engine, run_id)
    found = run.differences if run else ()
    return ReconcileView(
        run=None if run is None else run_row(run, visit),
        differences=tuple(difference_row(each) for each in found[:_SHOWN]),
        open=tuple(
            OpenRow(each.kind.capitalize(), _subject(each.subject), each.state)
            for each in (run.open_items if run else ())[:_SHOWN]
        ),
        more=len(found) > _SHOWN,
        runs=tuple(run_row(each, visit) for each in runs),
        error=error,
        may_move=visit.identity.may(Permission.MOVE_MONEY),
    )


def _kind(kind: str) -> str:
    words = kind.replace("_", " ")
    return KINDS.get(kind, words[:1].upper() + words[1:])


def difference_row(found: Difference) -> DifferenceRow:
    """A difference, with the unit of its numbers."""
    unit = unit_of(found)
    books, chain = _value(found.books, unit), _value(found.chain, unit)
    return DifferenceRow(_kind(found.kind), _subject(found.subject), books, chain)


def _subject(text: str) -> Short:
    """Hashes are cut in their middle, words are not."""
    return short(text) if text.startswith("0x") else Short(text, text)


def _value(value: int | str, unit: Unit) -> str:
    """`−1.5 USDC`; texts as they are."""
    if isinstance(value, str):
        return value
    kind = Wei if unit is Unit.WEI else Usdc
    if abs(value) > kind.ceiling:
        return f"{value:,} atoms"
    return f"{'−' if value < 0 else ''}{cell_amount(kind(abs(value))).text} {kind.symbol}"


def run_row(run: Run, visit: Visit) -> RunRow:
    """A reconciliation, formatted."""
    if not run.finished_at:
        outcome, tone = "Running", "info"
    elif run.error:
        outcome, tone = "Not done", "bad"
    elif run.differences:
        outcome, tone = "Differences", "bad"
    else:
        outcome, tone = "Equal to the atom", "good"
    more = "+" if len(run.differences) == MOST_KEPT else ""
    return RunRow(
        id=run.id,
        at=moment(run.started_at, visit.now, visit.zone),
        by=run.actor_name,
        took=duration(run.finished_at - run.started_at) if run.finished_at else "",
        outcome=outcome,
        tone=tone,
        checked=count(run.checked),
        block=count(run.block_number),
        differences=count(len(run.differences)) + more,
        open=count(len(run.open_items)),
        error=run.error or "",
        running=not run.finished_at,
    )


def _run_line(run: Run) -> list[object]:
    about = (run.id, run.started_at, run.finished_at or "", run.actor_name, run.block_number)
    return [*about, run.checked, len(run.differences), len(run.open_items), run.error or ""]


def _csv_rows(run: Run | None) -> Iterator[list[object]]:
    for each in run.differences if run else ():
        yield [each.kind, each.subject, each.books, each.chain, unit_of(each)]
