"""What mails and posts say about an incident."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from node.alerts.mail import Letter
from node.alerts.models import DeliveryKind
from node.alerts.reading import NotificationView
from node.alerts.rules import about
from node.template_dir import template_dir

_PREFIX = {"info": "Info", "warning": "Warning", "error": "Error"}


@dataclass(frozen=True, slots=True)
class NodeName:
    """Which node speaks: its network, its wallet, and where its console is."""

    network: str
    address: str
    console_url: str


@dataclass(frozen=True, slots=True)
class LetterView:
    """What `templates/email/` shows; times are UTC."""

    heading: str
    severity: str
    message: str
    meaning: str
    opened: str
    resolved: str
    url: str
    rules_url: str
    network: str
    address: str


class Incident(msgspec.Struct, frozen=True):
    """An incident as receivers of the webhook get it; times in Unix seconds."""

    id: int
    rule: str
    subject: str
    severity: str
    message: str
    opened_at: int
    resolved_at: int | None
    url: str


class Payload(msgspec.Struct, frozen=True):
    """The body of a post. `type`: incident.opened, incident.resolved or test."""

    id: str
    type: str
    created_at: int
    network: str
    address: str
    incident: Incident | None


def event_name(kind: DeliveryKind) -> str:
    """`type` of the body, and the `Farebox-Event` header."""
    return "test" if kind is DeliveryKind.TEST else f"incident.{kind.value}"


def payload(
    delivery_id: str,
    kind: DeliveryKind,
    created_at: int,
    node: NodeName,
    incident: NotificationView | None,
) -> bytes:
    """The body of a post, JSON: the same for every attempt."""
    told = None if incident is None else _incident(incident, node, kind)
    body = Payload(delivery_id, event_name(kind), created_at, node.network, node.address, told)
    return msgspec.json.encode(body)


def _incident(incident: NotificationView, node: NodeName, kind: DeliveryKind) -> Incident:
    ended = incident.resolved_at if kind is DeliveryKind.RESOLVED else None
    return Incident(
        incident.id,
        incident.rule,
        incident.subject,
        incident.severity,
        incident.message,
        incident.opened_at,
        ended,
        _url(node, f"/notifications/{incident.id}"),
    )


class Letters:
    """Mails from `templates/email/`: a plain and an HTML part of each kind."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(template_dir() / "email"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def incident(self, incident: NotificationView, kind: DeliveryKind, node: NodeName) -> Letter:
        """That an incident began, or that it ended."""
        label, over = about(incident.rule).label, kind is DeliveryKind.RESOLVED
        prefix = "Resolved" if over else _PREFIX.get(incident.severity, "Notice")
        view = LetterView(
            heading=f"{prefix}: {label}",
            severity="resolved" if over else incident.severity,
            message=incident.message,
            meaning=about(incident.rule).meaning,
            opened=_utc(incident.opened_at),
            resolved=_utc(incident.resolved_at) if over and incident.resolved_at else "",
            url=_url(node, f"/notifications/{incident.id}"),
            rules_url=_url(node, "/notifications/rules"),
            network=node.network,
            address=node.address,
        )
        return self._letter("incident", f"[Farebox] {prefix}: {incident.message}", view)

    def test(self, at: int, node: NodeName) -> Letter:
        """That mail arrives."""
        view = LetterView(
            heading="Mail from this node arrives",
            severity="info",
            message="This is the test mail you asked for. Nothing is wrong.",
            meaning="",
            opened=_utc(at),
            resolved="",
            url=_url(node, "/settings/email"),
            rules_url=_url(node, "/notifications/rules"),
            network=node.network,
            address=node.address,
        )
        return self._letter("incident", "[Farebox] Test mail", view)

    def _letter(self, name: str, subject: str, view: LetterView) -> Letter:
        text, html = (
            self._environment.get_template(f"{name}.{kind}").render(view=view)
            for kind in ("txt", "html")
        )
        return Letter(subject, text, html)


def _url(node: NodeName, path: str) -> str:
    return node.console_url.rstrip("/") + path


def _utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
