"""`/api/notifications`, `/api/rules`, `/api/email`, `/api/webhook`, `/api/deliveries`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from pydantic import Field, SecretStr

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.alerts.alerts import Alerts
from node.alerts.choices import (
    EmailView,
    MailSecurity,
    RuleChoice,
    RulesView,
    WebhookView,
    read_email,
    read_rules,
    read_webhook,
)
from node.alerts.configure import (
    EmailChange,
    Seal,
    queue_test,
    rotate_secret,
    save_email,
    save_rules,
    save_webhook,
)
from node.alerts.courier import Courier
from node.alerts.mailbox import MailPage, MailRecord, list_mail, read_mail
from node.alerts.models import Channel, NotificationState
from node.alerts.reading import (
    DeliveryFilter,
    DeliveryPage,
    DeliveryView,
    NotificationFilter,
    NotificationPage,
    NotificationView,
    list_deliveries,
    list_notifications,
    read_notification,
)
from node.alerts.rules import Level, Rule, Severity
from node.api.paging import Sent
from node.api.routing import Caller, Endpoints

MOST_IDS = 1000
LAST_PAGE = 1_000_000
LAST_ID = 2**63 - 1

Page = Annotated[int, Query(ge=1, le=LAST_PAGE)]
Id = Annotated[int, Field(ge=1, le=LAST_ID)]


class Ids(Sent):
    """Which notifications."""

    ids: list[Id] = Field(max_length=MOST_IDS)


class AllOf(Sent):
    """All that are new; of one rule when it is named."""

    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """How many were changed; those that were not open, or not new, are left out."""

    changed: int


@dataclass(frozen=True, slots=True)
class Unread:
    """The figure of the bell."""

    unread: int


class RuleChange(Sent):
    """How one rule speaks from now on."""

    level: Level
    severity: Severity


class RulesChange(Sent):
    """Rules that are left out stay as they are."""

    rules: dict[Rule, RuleChange] = Field(default_factory=dict)
    notify_resolved: bool = True


class MailServerIn(Sent):
    """The mail server. `password` is left out to keep the stored one."""

    host: str = Field(max_length=253)
    port: int = Field(default=587, ge=1, le=65535)
    security: MailSecurity = MailSecurity.STARTTLS
    user: str = Field(default="", max_length=200)
    password: SecretStr = SecretStr("")
    sender: str = Field(default="", max_length=320)
    recipients: list[str] = Field(default_factory=list, max_length=100)


class WebhookIn(Sent):
    """Where incidents are posted; empty: nowhere."""

    url: str = Field(max_length=2000)


@dataclass(frozen=True, slots=True)
class WebhookSaved:
    """`secret` is empty unless one was just made; it is not shown again."""

    url: str
    secret: str


def endpoints(alerts: Alerts, courier: Courier, seal: Seal) -> list[Endpoints]:
    """All of this area."""
    return [
        _notifications(alerts),
        _rules(alerts),
        _email(courier, seal),
        _webhook(courier, seal),
        _deliveries(courier),
    ]


def _notifications(alerts: Alerts) -> Endpoints:
    area = Endpoints("/notifications", ["notifications"])

    @area.get("", Permission.SEE_NOTIFICATIONS)
    async def list_all(
        state: NotificationState | None = None, rule: Rule | None = None, page: Page = 1
    ) -> NotificationPage:
        """Newest first."""
        which = NotificationFilter(state, rule)
        return await asyncio.to_thread(list_notifications, alerts.engine, which, page)

    @area.get("/unread", Permission.SEE_NOTIFICATIONS)
    async def unread() -> Unread:
        """How many are new."""
        return Unread(await asyncio.to_thread(alerts.unread))

    @area.get("/{notification_id}", Permission.SEE_NOTIFICATIONS)
    async def show(notification_id: Id) -> NotificationView:
        """One of them."""
        return await asyncio.to_thread(read_notification, alerts.engine, notification_id)

    @area.post("/acknowledge", Permission.HANDLE_NOTIFICATIONS)
    async def acknowledge(which: Ids, identity: Caller) -> Changed:
        """Mark new ones as seen."""
        return Changed(await alerts.acknowledge(which.ids, Actor.of(identity)))

    @area.post("/acknowledge-all", Permission.HANDLE_NOTIFICATIONS)
    async def acknowledge_all(which: AllOf, identity: Caller) -> Changed:
        """Mark all new ones as seen."""
        return Changed(await alerts.acknowledge_all(which.rule, Actor.of(identity)))

    @area.post("/resolve", Permission.HANDLE_NOTIFICATIONS)
    async def resolve(which: Ids, identity: Caller) -> Changed:
        """End open ones; what still holds is reported anew."""
        return Changed(await alerts.resolve_by_hand(which.ids, Actor.of(identity)))

    return area


def _rules(alerts: Alerts) -> Endpoints:
    area = Endpoints("/rules", ["notifications"])

    @area.get("", Permission.CONFIGURE)
    async def show() -> RulesView:
        """How each rule speaks."""
        return await asyncio.to_thread(read_rules, alerts.engine)

    @area.put("", Permission.CONFIGURE)
    async def save(change: RulesChange, identity: Caller) -> RulesView:
        """Change how rules speak."""
        choices = {
            rule: RuleChoice(each.level, each.severity) for rule, each in change.rules.items()
        }
        actor, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(
            save_rules, alerts.engine, choices, change.notify_resolved, actor, now
        )
        return await asyncio.to_thread(read_rules, alerts.engine)

    return area


def _email(courier: Courier, seal: Seal) -> Endpoints:
    area, engine = Endpoints("/email", ["notifications"]), courier.engine

    @area.get("", Permission.CONFIGURE)
    async def show() -> EmailView:
        """The mail server, without its password."""
        return await asyncio.to_thread(read_email, engine)

    @area.put("", Permission.CONFIGURE)
    async def save(change: MailServerIn, identity: Caller) -> EmailView:
        """Change the mail server."""
        typed = EmailChange(
            change.host,
            change.port,
            change.security,
            change.user,
            change.sender,
            tuple(change.recipients),
            change.password.get_secret_value(),
        )
        actor, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(save_email, engine, typed, seal, actor, now)
        return await asyncio.to_thread(read_email, engine)

    @area.post("/test", Permission.CONFIGURE)
    async def test(identity: Caller) -> DeliveryView:
        """Send a test mail, and wait for what comes of it."""
        return await _test(courier, Channel.EMAIL, identity)

    @area.get("/mailbox", Permission.CONFIGURE)
    async def mailbox(page: Page = 1) -> MailPage:
        """Mails as they were written, sent or not, newest first."""
        return await asyncio.to_thread(list_mail, engine, page)

    @area.get("/mailbox/{mail_id}", Permission.CONFIGURE)
    async def mail(mail_id: Id) -> MailRecord:
        """One of them."""
        return await asyncio.to_thread(read_mail, engine, mail_id)

    return area


def _webhook(courier: Courier, seal: Seal) -> Endpoints:
    area, engine = Endpoints("/webhook", ["notifications"]), courier.engine

    @area.get("", Permission.CONFIGURE)
    async def show() -> WebhookView:
        """Where incidents are posted."""
        return await asyncio.to_thread(read_webhook, engine)

    @area.put("", Permission.CONFIGURE)
    async def save(change: WebhookIn, identity: Caller) -> WebhookSaved:
        """Change the address; the first one comes with a secret."""
        actor, now = Actor.of(identity), int(time.time())
        secret = await asyncio.to_thread(save_webhook, engine, change.url, seal, actor, now)
        return WebhookSaved(change.url, secret)

    @area.post("/secret", Permission.CONFIGURE)
    async def rotate(identity: Caller) -> WebhookSaved:
        """A new secret; the old one signs nothing from now on."""
        actor, now = Actor.of(identity), int(time.time())
        secret = await asyncio.to_thread(rotate_secret, engine, seal, actor, now)
        settings = await asyncio.to_thread(read_webhook, engine)
        return WebhookSaved(settings.url, secret)

    @area.post("/test", Permission.CONFIGURE)
    async def test(identity: Caller) -> DeliveryView:
        """Post a test, and wait for what comes of it."""
        return await _test(courier, Channel.WEBHOOK, identity)

    return area


def _deliveries(courier: Courier) -> Endpoints:
    area = Endpoints("/deliveries", ["notifications"])

    @area.get("", Permission.CONFIGURE)
    async def list_all(
        channel: Channel | None = None,
        notification_id: Annotated[int | None, Query(ge=1, le=LAST_ID)] = None,
        page: Page = 1,
    ) -> DeliveryPage:
        """Mails and posts about incidents, newest first."""
        which = DeliveryFilter(channel, notification_id)
        return await asyncio.to_thread(list_deliveries, courier.engine, which, page)

    return area


async def _test(courier: Courier, channel: Channel, identity: Caller) -> DeliveryView:
    actor, now = Actor.of(identity), int(time.time())
    delivery_id = await asyncio.to_thread(queue_test, courier.engine, channel, actor, now)
    return await courier.deliver_now(delivery_id)
