"""Settings > Audit: who changed what, when, from where, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.responses import Response

from node.accounts.access import Permission
from node.accounts.service import Accounts
from node.accounts.trail import (
    PAGE_SIZE,
    TrailEntry,
    TrailFilter,
    all_entries,
    areas,
    read_trail,
)
from node.console.format import Moment, count, moment
from node.console.forms import Form
from node.console.pager import Pager, link, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit

_PATH = "/settings/audit"
_CSV_HEADER = ("at", "who", "who_id", "address", "action", "subject", "before", "after")


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One change; before and after as pairs of name and value."""

    at: Moment
    who: str
    who_id: str
    address: str
    action: str
    subject: str
    before: tuple[tuple[str, str], ...]
    after: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AuditView:
    """What `settings/audit.html` shows."""

    form: Form
    areas: tuple[tuple[str, str], ...]
    lines: tuple[AuditLine, ...]
    total: str
    filtered: bool
    pager: Pager
    csv: str


def pages(accounts: Accounts) -> Pages:
    """`/settings/audit`, and the same as a file."""
    pages = Pages("settings", "audit")

    @pages.get(_PATH, Permission.SEE_AUDIT)
    async def show(visit: Visit) -> Response:
        form = _checked(visit)
        wanted = _filter(visit, form)
        found = await accounts.read(read_trail, wanted, page_number(visit.query))
        known = await accounts.read(areas)
        view = AuditView(
            form=form,
            areas=(
                ("", "Everything"),
                *((area, area.replace("_", " ").capitalize()) for area in known),
            ),
            lines=tuple(_line(visit, entry) for entry in found.items),
            total=count(found.total),
            filtered=wanted != TrailFilter(),
            pager=numbered(_PATH, visit.query, found.page, PAGE_SIZE, found.total),
            csv=link(f"{_PATH}.csv", visit.query, page=None),
        )
        return visit.page("settings/audit.html", view, "Audit log")

    @pages.get(f"{_PATH}.csv", Permission.SEE_AUDIT)
    async def export(visit: Visit) -> Response:
        wanted = _filter(visit, _checked(visit))
        return visit.csv("audit.csv", _CSV_HEADER, _csv_lines(all_entries(accounts.engine, wanted)))

    return pages


def _checked(visit: Visit) -> Form:
    """The filter as it was typed, with what is wrong about its days."""
    form = Form(dict(visit.query))
    for name in ("since", "until"):
        if form.value(name) and _day(visit, form.value(name)) is None:
            form = form.with_error(name, "Write a day as 2026-05-31.")
    return form


def _filter(visit: Visit, form: Form) -> TrailFilter:
    return TrailFilter(
        area=form.value("area"),
        actor=form.value("who"),
        text=form.value("text"),
        since=_day(visit, form.value("since")),
        until=_day(visit, form.value("until"), days_later=1),
    )


def _day(visit: Visit, text: str, days_later: int = 0) -> int | None:
    """When a day begins in the viewer's zone, Unix seconds."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d") + timedelta(days=days_later)
        return int(day.replace(tzinfo=visit.zone).timestamp())
    except (ValueError, OverflowError):
        return None


def _line(visit: Visit, entry: TrailEntry) -> AuditLine:
    return AuditLine(
        at=moment(entry.at, visit.now, visit.zone),
        who=entry.actor_name,
        who_id=entry.actor_id,
        address=entry.address,
        action=entry.action,
        subject=entry.subject,
        before=_pairs(visit, entry.before),
        after=_pairs(visit, entry.after),
    )


def _pairs(visit: Visit, text: str) -> tuple[tuple[str, str], ...]:
    """JSON as names and values; what is no object is a value without a name."""
    if not text:
        return ()
    value = json.loads(text)
    if not isinstance(value, dict):
        return (("", _plain(value)),)
    return tuple((name.replace("_", " "), _named(visit, name, value[name])) for name in value)


def _named(visit: Visit, name: str, value: object) -> str:
    """Times are told by their names; they are read in the viewer's zone."""
    if name.endswith(("_at", "_until")) and isinstance(value, int) and value > 0:
        return moment(value, visit.now, visit.zone).local
    return _plain(value)


def _plain(value: object) -> str:
    if value is None or value == "":
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _csv_lines(entries: Iterator[TrailEntry]) -> Iterator[tuple[object, ...]]:
    for entry in entries:
        who = (entry.actor_name, entry.actor_id, entry.address)
        yield (entry.at, *who, entry.action, entry.subject, entry.before, entry.after)
