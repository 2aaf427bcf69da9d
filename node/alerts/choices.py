"""What operators choose about notifications: rules, mail server, webhook."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from node.alerts.rules import ABOUT, Level, Rule, Severity
from node.preferences import Preference


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
