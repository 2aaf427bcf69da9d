"""Notifications: the list behind the bell, one of them, and the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from starlette.responses import Response

from node.accounts.access import Permission
from node.alerts.alerts import Alerts
from node.alerts.choices import RuleChoice, RulesView, read_rules
from node.alerts.configure import save_rules
from node.alerts.models import NotificationState
from node.alerts.reading import (
    PER_PAGE,
    DeliveryFilter,
    NotificationFilter,
    NotificationView,
    export_notifications,
    list_deliveries,
    list_notifications,
    read_notification,
)
from node.alerts.rules import Level, Rule, Severity, about
from node.console.deliveries import DeliveryRow, delivery_row
from node.console.format import Moment, count, moment
from node.console.forms import Form
from node.console.pager import Pager, link, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit

SEVERITY_TONES = {"info": "info", "warning": "loud", "error": "bad"}
STATE_TONES = {"new": "bad", "acknowledged": "loud", "resolved": "good"}
LEVEL_LABELS = {
    Level.OFF: "Off",
    Level.PANEL: "Panel",
    Level.EMAIL: "Email",
    Level.EMAIL_WEBHOOK: "Email + webhook",
}
_HEADER = (
    "id",
    "rule",
    "subject",
    "severity",
    "message",
    "link",
    "state",
    "count",
    "opened_at",
    "last_at",
    "acknowledged_at",
    "acknowledged_by",
    "resolved_at",
    "resolved_by",
)


@dataclass(frozen=True, slots=True)
class Pill:
    """A choice of the filter."""

    label: str
    path: str
    current: bool


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """One incident as lists and its own page show it; moments are None when not yet."""

    id: int
    label: str
    meaning: str
    subject: str
    message: str
    link: str
    severity: str
    severity_tone: str
    state: str
    state_tone: str
    open: bool
    new: bool
    times: str
    opened: Moment
    last: Moment
    acknowledged: Moment | None
    acknowledged_by: str
    resolved: Moment | None
    resolved_by: str


@dataclass(frozen=True, slots=True)
class ListView:
    """What `notifications/index.html` shows."""

    rows: tuple[NotificationRow, ...]
    pills: tuple[Pill, ...]
    filter: Form
    rules: tuple[tuple[str, str], ...]
    total: str
    unread: int
    filtered: bool
    pager: Pager
    csv: str
    may_handle: bool


@dataclass(frozen=True, slots=True)
class DetailView:
    """What `notifications/notification.html` shows."""

    row: NotificationRow
    deliveries: tuple[DeliveryRow, ...]
    may_handle: bool


@dataclass(frozen=True, slots=True)
class RulesPage:
    """What `notifications/rules.html` shows; options are (value, label)."""

    rules: RulesView
    form: Form
    levels: tuple[tuple[str, str], ...]
    severities: tuple[tuple[str, str], ...]


def pages(alerts: Alerts) -> Pages:
    """`/notifications` and what is below it, but for the rules."""
    pages = Pages("notifications", "list")

    @pages.get("/notifications", Permission.SEE_NOTIFICATIONS)
    async def show(visit: Visit) -> Response:
        which = _filter(visit.query)
        view = await asyncio.to_thread(_list_view, alerts, visit, which)
        return visit.page("notifications/index.html", view, "Notifications")

    @pages.get("/notifications/export.csv", Permission.SEE_NOTIFICATIONS)
    async def export(visit: Visit) -> Response:
        rows = export_notifications(alerts.engine, _filter(visit.query))
        return visit.csv("notifications.csv", _HEADER, _csv_rows(rows))

    @pages.post("/notifications", Permission.HANDLE_NOTIFICATIONS)
    async def handle(visit: Visit) -> Response:
        back = link("/notifications", _kept(visit.form))
        return visit.redirect(back, await _handle(alerts, visit))

    @pages.get("/notifications/{notification_id:int}", Permission.SEE_NOTIFICATIONS)
    async def detail(visit: Visit) -> Response:
        notification_id = int(visit.path["notification_id"])
        view = await asyncio.to_thread(_detail_view, alerts, visit, notification_id)
        return visit.page("notifications/notification.html", view, view.row.label)

    @pages.post("/notifications/{notification_id:int}", Permission.HANDLE_NOTIFICATIONS)
    async def handle_one(visit: Visit) -> Response:
        path = f"/notifications/{int(visit.path['notification_id'])}"
        return visit.redirect(path, await _handle(alerts, visit))

    return pages


def rule_pages(alerts: Alerts) -> Pages:
    """`/notifications/rules`."""
    pages = Pages("notifications", "rules")

    @pages.get("/notifications/rules", Permission.CONFIGURE)
    async def show(visit: Visit) -> Response:
        rules = await asyncio.to_thread(read_rules, alerts.engine)
        return visit.page("notifications/rules.html", _rules_page(rules), "Rules")

    @pages.post("/notifications/rules", Permission.CONFIGURE)
    async def save(visit: Visit) -> Response:
        rules = await asyncio.to_thread(read_rules, alerts.engine)
        form, choices = _choices(visit.form)
        if form.errors:
            view = RulesPage(rules, form, _LEVELS, _SEVERITIES)
            return visit.page("notifications/rules.html", view, "Rules", 422)
        ended = visit.form.get("notify_resolved") == "on"
        await asyncio.to_thread(save_rules, alerts.engine, choices, ended, visit.actor, visit.now)
        return visit.redirect("/notifications/rules", "Rules saved.")

    return pages


async def _handle(alerts: Alerts, visit: Visit) -> str:
    """Do what the form's button says; the sentence about it."""
    ids = [int(text) for text in visit.form_list("id") if text.isdecimal() and len(text) < 19]
    match visit.form.get("action"):
        case "acknowledge":
            return _said(await alerts.acknowledge(ids, visit.actor), "acknowledged")
        case "acknowledge_all":
            rule = _filter(visit.form).rule
            return _said(await alerts.acknowledge_all(rule, visit.actor), "acknowledged")
        case "resolve":
            return _said(await alerts.resolve_by_hand(ids, visit.actor), "marked as resolved")
    return "Nothing was changed: choose what to do with one of the buttons."


def _said(done: int, what: str) -> str:
    if not done:
        return "Nothing was changed: select notifications that are still open."
    return f"{count(done)} notification{'' if done == 1 else 's'} {what}."


def _list_view(alerts: Alerts, visit: Visit, which: NotificationFilter) -> ListView:
    page = list_notifications(alerts.engine, which, page_number(visit.query))
    query = _kept(visit.query)
    return ListView(
        rows=tuple(notification_row(each, visit.now, visit.zone) for each in page.items),
        pills=tuple(_pills(query, which.state)),
        filter=Form({"state": query["state"], "rule": query["rule"]}),
        rules=(("", "All rules"), *((rule.value, about(rule).label) for rule in Rule)),
        total=count(page.total),
        unread=alerts.unread(),
        filtered=which != NotificationFilter(),
        pager=numbered("/notifications", query, page.page, PER_PAGE, page.total),
        csv=link("/notifications/export.csv", query),
        may_handle=visit.identity.may(Permission.HANDLE_NOTIFICATIONS),
    )


def _detail_view(alerts: Alerts, visit: Visit, notification_id: int) -> DetailView:
    found = read_notification(alerts.engine, notification_id)
    sent = list_deliveries(alerts.engine, DeliveryFilter(notification_id=notification_id), 1)
    return DetailView(
        row=notification_row(found, visit.now, visit.zone),
        deliveries=tuple(delivery_row(each, visit.now, visit.zone) for each in sent.items),
        may_handle=visit.identity.may(Permission.HANDLE_NOTIFICATIONS),
    )


def notification_row(found: NotificationView, now: int, zone: ZoneInfo) -> NotificationRow:
    """An incident, formatted."""

    def at(seconds: int | None) -> Moment | None:
        return None if seconds is None else moment(seconds, now, zone)

    return NotificationRow(
        id=found.id,
        label=about(found.rule).label,
        meaning=about(found.rule).meaning,
        subject=found.subject,
        message=found.message,
        link=found.link,
        severity=found.severity.capitalize(),
        severity_tone=SEVERITY_TONES.get(found.severity, "plain"),
        state=found.state.capitalize(),
        state_tone=STATE_TONES.get(found.state, "plain"),
        open=found.resolved_at is None,
        new=found.state == NotificationState.NEW,
        times=count(found.count),
        opened=moment(found.opened_at, now, zone),
        last=moment(found.last_at, now, zone),
        acknowledged=at(found.acknowledged_at),
        acknowledged_by=found.acknowledged_by,
        resolved=at(found.resolved_at),
        resolved_by=found.resolved_by,
    )


def _filter(fields: Mapping[str, str]) -> NotificationFilter:
    """What is no state and no rule filters nothing."""
    state, rule = fields.get("state", ""), fields.get("rule", "")
    return NotificationFilter(
        NotificationState(state) if state in list(NotificationState) else None,
        Rule(rule) if rule in list(Rule) else None,
    )


def _kept(fields: Mapping[str, str]) -> dict[str, str]:
    """The filter as it stands in addresses."""
    which = _filter(fields)
    return {"state": which.state or "", "rule": which.rule or ""}


def _pills(query: Mapping[str, str], chosen: NotificationState | None) -> Iterator[Pill]:
    yield Pill("All", link("/notifications", query, state=None), chosen is None)
    for state in NotificationState:
        path = link("/notifications", query, state=state.value)
        yield Pill(state.value.capitalize(), path, state is chosen)


def _csv_rows(rows: Iterator[NotificationView]) -> Iterator[list[object]]:
    for row in rows:
        yield [getattr(row, name) for name in _HEADER]


_LEVELS = tuple((level.value, label) for level, label in LEVEL_LABELS.items())
_SEVERITIES = tuple((each.value, each.value.capitalize()) for each in Severity)


def _rules_page(rules: RulesView) -> RulesPage:
    values = {f"level-{each.rule.value}": each.level.value for each in rules.items}
    values |= {f"severity-{each.rule.value}": each.severity.value for each in rules.items}
    values["notify_resolved"] = "on" if rules.notify_resolved else ""
    return RulesPage(rules, Form(values), _LEVELS, _SEVERITIES)


def _choices(fields: Mapping[str, str]) -> tuple[Form, dict[Rule, RuleChoice]]:
    form, choices = Form(fields), {}
    for rule in Rule:
        level, severity = fields.get(f"level-{rule}", ""), fields.get(f"severity-{rule}", "")
        if level not in list(Level):
            form = form.with_error(f"level-{rule}", "Choose one of the levels.")
        elif severity not in list(Severity):
            form = form.with_error(f"severity-{rule}", "Choose one of the severities.")
        else:
            choices[rule] = RuleChoice(Level(level), Severity(severity))
    return form, choices
