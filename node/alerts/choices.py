"""What operators choose about notifications: rules, mail server, webhook; and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec
from sqlalchemy import Engine

from node.alerts.rules import ABOUT, Level, Rule, Severity
from node.preferences import Preference, read_preference


class RuleChoice(msgspec.Struct, frozen=True):
    """How one rule speaks."""

    level: Level
    severity: Severity


class AlertRules(Preference, frozen=True, tag="alert_rules"):
    """The rules that were changed, by name; those that are absent stand as in `ABOUT`."""

    rules: dict[str, RuleChoice] = msgspec.field(default_factory=dict)
    notify_resolved: bool = True  # also tell, by the same channels, that an incident ended

    def of(self, rule: Rule) -> RuleChoice:
        """How `rule` speaks now."""
        default = RuleChoice(ABOUT[rule].level, ABOUT[rule].severity)
        return self.rules.get(rule, default)


class MailSecurity(StrEnum):
    """How the connection to the mail server is protected; nothing is sent if it is not."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


class EmailSettings(Preference, frozen=True, tag="email"):
    """The mail server. Without a host, mail is kept in the local mailbox only."""

    host: str = ""
    port: int = 587
    security: MailSecurity = MailSecurity.STARTTLS
    user: str = ""  # empty: no sign-in
    password_sealed: str = ""
    sender: str = ""  # address mail comes from
    recipients: tuple[str, ...] = ()


class WebhookSettings(Preference, frozen=True, tag="webhook"):
    """Where incidents are posted; an empty address: nowhere."""

    url: str = ""
    secret_sealed: str = ""  # signs each post


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule, and how it speaks now."""

    rule: Rule
    label: str
    meaning: str
    level: Level
    severity: Severity


@dataclass(frozen=True, slots=True)
class RulesView:
    """All rules. `notify_resolved`: that an incident ended is told as well."""

    items: tuple[RuleView, ...]
    notify_resolved: bool


@dataclass(frozen=True, slots=True)
class EmailView:
    """The mail server without its password; an empty `host`: mail stays in the mailbox."""

    host: str
    port: int
    security: MailSecurity
    user: str
    password_set: bool
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WebhookView:
    """The webhook without its secret; an empty `url`: nothing is posted."""

    url: str
    secret_set: bool


def read_rules(engine: Engine) -> RulesView:
    """As they stand (blocking)."""
    chosen = read_preference(engine, AlertRules)
    items = tuple(
        RuleView(rule, ABOUT[rule].label, ABOUT[rule].meaning, choice.level, choice.severity)
        for rule in Rule
        for choice in (chosen.of(rule),)
    )
    return RulesView(items, chosen.notify_resolved)


def read_email(engine: Engine) -> EmailView:
    """As it stands (blocking)."""
    chosen = read_preference(engine, EmailSettings)
    return EmailView(
        chosen.host,
        chosen.port,
        chosen.security,
        chosen.user,
        bool(chosen.password_sealed),
        chosen.sender,
        chosen.recipients,
    )


def read_webhook(engine: Engine) -> WebhookView:
    """As it stands (blocking)."""
    chosen = read_preference(engine, WebhookSettings)
    return WebhookView(chosen.url, bool(chosen.secret_sealed))
