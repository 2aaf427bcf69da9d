"""Changing rules, the mail server and the webhook; each change with its audit entry."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection, Engine
from yarl import URL

from node.accounts.audit import Actor, record
from node.alerts.choices import (
    AlertRules,
    EmailSettings,
    MailSecurity,
    RuleChoice,
    WebhookSettings,
)
from node.alerts.errors import AlertsInvalid, NotConfigured
from node.alerts.incidents import queue
from node.alerts.models import Channel, DeliveryKind
from node.alerts.rules import ABOUT, Rule
from node.db.engine import writer
from node.preferences import read_preference, store_preference

Seal = Callable[[bytes], str]

MOST_RECIPIENTS = 20
SECRET_PREFIX = "whsec_"
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class EmailChange:
    """The mail server as somebody typed it. `password` empty: the stored one stays."""

    host: str
    port: int
    security: MailSecurity
    user: str
    sender: str
    recipients: tuple[str, ...]
    password: str = field(default="", repr=False)


def save_rules(
    engine: Engine,
    choices: Mapping[Rule, RuleChoice],
    notify_resolved: bool,
    actor: Actor,
    now: int,
) -> None:
    """Keep how each rule speaks; those that are left out stay as they are (blocking)."""
    with writer(engine).begin() as connection:
        before = read_preference(connection, AlertRules)
        kept = {rule: before.of(rule) for rule in Rule} | dict(choices)
        changed = {
            rule.value: choice
            for rule, choice in kept.items()
            if choice != RuleChoice(ABOUT[rule].level, ABOUT[rule].severity)
        }
        after = AlertRules(rules=changed, notify_resolved=notify_resolved)
        store_preference(connection, after, actor, now)


def save_email(engine: Engine, change: EmailChange, seal: Seal, actor: Actor, now: int) -> None:
    """Check and keep the mail server (blocking). Raises AlertsInvalid."""
    _check_email(change)
    with writer(engine).begin() as connection:
        before = read_preference(connection, EmailSettings)
        after = EmailSettings(
            host=change.host,
            port=change.port,
            security=change.security,
            user=change.user,
            password_sealed=_password(change, before, seal),
            sender=change.sender,
            recipients=change.recipients,
        )
        store_preference(connection, after, actor, now)


def send_warnings_to(engine: Engine, email: str, actor: Actor, now: int) -> None:
    """Make this the recipient of mail if nobody is yet and mail can go there (blocking)."""
    if not _ADDRESS.fullmatch(email):
        return
    with writer(engine).begin() as connection:
        before = read_preference(connection, EmailSettings)
        if not before.recipients:
            after = msgspec.structs.replace(before, recipients=(email,))
            store_preference(connection, after, actor, now)


def _password(change: EmailChange, before: EmailSettings, seal: Seal) -> str:
    """The stored password goes to the server it was typed for, and to no other."""
    if not change.user:
        return ""
    if change.password:
        return seal(change.password.encode())
    same = (change.host, change.port, change.security, change.user) == (
        before.host,
        before.port,
        before.security,
        before.user,
    )
    if not same or not before.password_sealed:
        raise AlertsInvalid("password", "Enter the password for this server and user.")
    return before.password_sealed


def _check_email(change: EmailChange) -> None:
    if change.host and not _HOST.fullmatch(change.host):
        raise AlertsInvalid("host", "Enter a host name or an address, e.g. smtp.example.org.")
    if not 1 <= change.port <= 65535:
        raise AlertsInvalid("port", "A port is a number from 1 to 65535; 587 and 465 are usual.")
    if change.user and not (change.user.isprintable() and len(change.user) <= 200):
        raise AlertsInvalid("user", "Enter at most 200 printable characters.")
    if change.user and change.security is MailSecurity.NONE and change.host not in _HERE:
        raise AlertsInvalid(
            "security", "The password would travel unencrypted. Choose STARTTLS or TLS."
        )
    _check_addresses(change)


def _check_addresses(change: EmailChange) -> None:
    if change.sender or change.host:
        _check_address("sender", change.sender)
    if change.host and not change.recipients:
        raise AlertsInvalid("recipients", "Enter at least one address that gets the mail.")
    if len(change.recipients) > MOST_RECIPIENTS:
        raise AlertsInvalid("recipients", f"At most {MOST_RECIPIENTS} addresses.")
    for each in change.recipients:
        _check_address("recipients", each)


def _check_address(name: str, text: str) -> None:
    if not _ADDRESS.fullmatch(text):
        raise AlertsInvalid(name, f"{text!r} is no mail address, such as ops@example.org.")


def save_webhook(engine: Engine, url: str, seal: Seal, actor: Actor, now: int) -> str:
    """Keep where incidents are posted; empty: nowhere. The new secret when there was none,
    else an empty text (blocking). Raises AlertsInvalid."""
    if url:
        _check_url(url)
    with writer(engine).begin() as connection:
        before = read_preference(connection, WebhookSettings)
        secret = "" if before.secret_sealed or not url else _new_secret()
        sealed = seal(secret.encode()) if secret else before.secret_sealed
        after = WebhookSettings(url=url, secret_sealed=sealed)
        store_preference(connection, after, actor, now)
    return secret


def rotate_secret(engine: Engine, seal: Seal, actor: Actor, now: int) -> str:
    """A new secret, which is kept sealed only; the old one signs nothing from now on."""
    with writer(engine).begin() as connection:
        before = read_preference(connection, WebhookSettings)
        if not before.url:
            raise NotConfigured("Set the webhook's address first.")
        secret = _new_secret()
        sealed = seal(secret.encode())
        store_preference(
            connection, msgspec.structs.replace(before, secret_sealed=sealed), actor, now
        )
        record(connection, actor, "webhook.rotate_secret", "", now)
    return secret


def queue_test(engine: Engine, channel: Channel, actor: Actor, now: int) -> str:
    """Store that a test is to be sent; the id of its delivery (blocking)."""
    with writer(engine).begin() as connection:
        _require_address(connection, channel)
        [delivery_id] = queue(connection, None, (channel,), DeliveryKind.TEST, now)
        record(connection, actor, f"{channel.value}.test", delivery_id, now)
    return delivery_id


def _require_address(connection: Connection, channel: Channel) -> None:
    if channel is Channel.WEBHOOK and not read_preference(connection, WebhookSettings).url:
        raise NotConfigured("Set the webhook's address first.")


def _new_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def _check_url(text: str) -> None:
    try:
        url = URL(text)
        plain = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError:
        plain = False
    if not plain or len(text) > 2000 or not text.isprintable() or " " in text:
        raise AlertsInvalid("url", "Enter an address that begins with http:// or https://.")
    if url.user or url.password:
        raise AlertsInvalid("url", "Leave user and password out of the address.")
