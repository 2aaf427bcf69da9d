"""Settings > Limits: the most this node signs for calls it buys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from finance.buying.limits import EVERY
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.finance_choices import read_usdc
from node.console.format import Amount, cell_amount, exact_amount, percent
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.visit import Visit
from node.treasury.errors import TreasuryError
from node.treasury.limits import SCOPES, LimitLine, read_limits, set_limit
from node.treasury.treasury import Treasury

PATH = "/settings/limits"
_HEADER = ("limit", "for", "name", "usdc", "used_today_usdc", "default")
LABELS = {
    "call": "Per call",
    "listing": "Per listing and day",
    "key": "Per key and day",
    "day": "Per day",
    "deposit": "In one channel",
}
MEANINGS = {
    "call": "The most that is signed for one call, whatever a seller asks.",
    "listing": "The most that is signed for one listing in a UTC day.",
    "key": "The most that one key may spend in a UTC day.",
    "day": "The most that is signed in a UTC day in all. Deposits count on their own against it.",
    "deposit": "The most that may lie unspent in one channel.",
}


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit, formatted; `used` is today's."""

    scope: str
    subject: str
    label: str
    meaning: str
    name: str
    limit: Amount
    used: Amount | None
    share: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class LimitsPage:
    """What `settings/limits.html` shows; options are (value, label)."""

    form: Form
    general: tuple[LimitRow, ...]
    overrides: tuple[LimitRow, ...]
    subjects: tuple[tuple[str, str], ...]
    scopes: tuple[tuple[str, str], ...]
    day: str
    deposited: Amount
    may_move: bool


def pages(treasury: Treasury) -> Pages:
    """The page and its two forms: the general limits, and one limit of its own."""
    pages = Pages("settings", "limits")

    @pages.get(PATH, Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        return await _page(treasury, visit, None, 200)

    @pages.post(PATH, Permission.MOVE_MONEY)
    async def save(visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            # What nobody touched may have been changed since in another tab, and stays so.
            typed = [each for each in SCOPES if form.value(each) != form.value(f"was-{each}")]
            wanted = {scope: read_usdc(form, scope) for scope in typed}
            for scope, atoms in wanted.items():
                await set_limit(treasury.store, scope, EVERY, atoms, visit.actor, visit.now)
        except (FieldError, TreasuryError) as error:
            return await _page(treasury, visit, form.refused(error), 422)
        return visit.redirect(PATH, "Limits saved; the node follows them within seconds.")

    @pages.get(f"{PATH}.csv", Permission.SEE_FINANCE)
    async def export(visit: Visit) -> Response:
        found = await asyncio.to_thread(read_limits, treasury.engine, visit.now)
        lines = (_csv_line(each) for each in (*found.general, *found.overrides))
        return visit.csv("limits.csv", _HEADER, lines)

    @pages.post(f"{PATH}/own", Permission.MOVE_MONEY)
    async def save_own(visit: Visit) -> Response:
        form = Form(visit.form)
        clearing = form.value("action") == "clear"
        try:
            atoms = None if clearing else read_usdc(form, "limit")
            scope, subject = form.value("scope"), form.value("subject")
            if subject == EVERY or not subject:
                raise FieldError("subject", "Choose a listing or a key.")
            await set_limit(treasury.store, scope, subject, atoms, visit.actor, visit.now)
        except TreasuryError as error:
            field = getattr(error, "field", "") or "subject"
            return await _page(treasury, visit, form.with_error(field, str(error)), 422)
        except FieldError as error:
            return await _page(treasury, visit, form.refused(error), 422)
        return visit.redirect(PATH, "Limit taken away." if clearing else "Limit saved.")

    return pages


async def _page(treasury: Treasury, visit: Visit, form: Form | None, status: int) -> Response:
    view = await asyncio.to_thread(read_limits, treasury.engine, visit.now)
    if form is None:
        form = Form({each.scope: str(Usdc(each.limit)) for each in view.general})
    typed = {each.scope: str(Usdc(each.limit)) for each in view.general}
    shown = {f"was-{scope}": text for scope, text in typed.items()}
    form = Form({**typed, **shown, **form.values}, form.errors)
    page = LimitsPage(
        form=form,
        general=tuple(_row(each) for each in view.general),
        overrides=tuple(_row(each) for each in view.overrides),
        subjects=(
            ("", "Choose…"),
            *((each.id, f"Listing: {each.name}") for each in view.listings),
            *((each.id, f"Key: {each.name}") for each in view.keys),
        ),
        scopes=tuple((scope, LABELS[scope]) for scope in SCOPES if scope != "day"),
        day=view.day,
        deposited=exact_amount(Usdc(view.deposited)),
        may_move=visit.identity.may(Permission.MOVE_MONEY),
    )
    return visit.page("settings/limits.html", page, "Limits", status)


def _csv_line(line: LimitLine) -> list[object]:
    used = "" if line.used is None else str(Usdc(line.used))
    return [line.scope, line.subject, line.name, str(Usdc(line.limit)), used, not line.chosen]


def _row(line: LimitLine) -> LimitRow:
    used = None if line.used is None else cell_amount(Usdc(line.used))
    share = "" if line.used is None else percent(min(line.used, line.limit), line.limit)
    return LimitRow(
        line.scope,
        line.subject,
        LABELS[line.scope],
        MEANINGS[line.scope],
        line.name,
        cell_amount(Usdc(line.limit)),
        used,
        share,
        line.chosen,
    )
