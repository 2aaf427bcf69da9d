"""The event log on the first page: severities, older lines, a file of all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from node.console.format import Moment, moment
from node.console.pager import Pager, keyset, link
from node.usage.events import SEVERITIES, EventPage, EventView, Severity

PAGE_LINES = 15
PLACE = "#events"
_MOST_DIGITS = 18
_LABELS: dict[Severity | None, str] = {
    None: "All",
    "info": "Info",
    "warning": "Warnings",
    "error": "Errors",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One event."""

    at: Moment
    type: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class FilterLink:
    """A severity to look at; the current one is marked."""

    label: str
    href: str
    current: bool


@dataclass(frozen=True, slots=True)
class EventLogView:
    """What `dashboard/_events.html` shows."""

    lines: tuple[Line, ...]
    filters: tuple[FilterLink, ...]
    filtered: bool
    pager: Pager
    csv: str


def asked_severity(query: Mapping[str, str]) -> Severity | None:
    """What is no severity is all of them."""
    return next((each for each in SEVERITIES if each == query.get("severity")), None)


def asked_before(query: Mapping[str, str]) -> int | None:
    """The line to go on before; what is no number begins anew."""
    text = query.get("before", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def event_log_view(
    page: EventPage, query: Mapping[str, str], now: int, zone: ZoneInfo
) -> EventLogView:
    """One page of the log as the address asks for it."""
    severity = asked_severity(query)
    older = None if page.older is None else str(page.older)
    pager = keyset("/", query, older, asked_before(query) is None)
    newer, further = (href and href + PLACE for href in (pager.newer, pager.older))
    return EventLogView(
        lines=tuple(_line(event, now, zone) for event in page.events),
        filters=tuple(
            FilterLink(
                label, link("/", query, severity=each, before=None) + PLACE, each == severity
            )
            for each, label in _LABELS.items()
        ),
        filtered=severity is not None,
        pager=replace(pager, newer=newer, older=further),
        csv=link("/events.csv", {}, severity=severity),
    )


def _line(event: EventView, now: int, zone: ZoneInfo) -> Line:
    return Line(moment(event.at, now, zone), event.type, event.severity, event.message)
