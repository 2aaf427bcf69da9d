"""The alerts of one node, with a clock that tests move."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from finance.wallet.signer import Keys, Signer
from node.accounts.audit import Actor
from node.alerts.alerts import Alerts
from node.alerts.choices import MailSecurity, RuleChoice
from node.alerts.configure import EmailChange, save_email, save_rules, save_webhook
from node.alerts.courier import Courier
from node.alerts.mail import Mailer
from node.alerts.rules import Level, Rule, Severity
from node.alerts.webhook import Webhook
from node.alerts.wording import NodeName
from node.egress import EgressPolicy

ADMIN = Actor("user_1", "ada", "127.0.0.1")
NODE = NodeName("devnet", "0x" + "ab" * 20, "http://127.0.0.1:8400")
NOON = 1_800_000_000


class World:
    """Everything a process has for its notifications."""

    def __init__(
        self,
        engine: Engine,
        allowed: tuple[str, ...] = ("127.0.0.1",),
        timeout: float = 2.0,
        keys: Keys | None = None,
    ) -> None:
        self.engine = engine
        self.now = NOON
        self.allowed = allowed
        self.keys = keys or Keys(Signer.random(), Signer.random(), Signer.random(), b"k" * 32)
        self.alerts = Alerts(engine, self.clock)
        self.courier = Courier(
            engine,
            self.alerts.wake,
            Mailer(engine, self.keys.unseal, self.clock),
            Webhook(
                engine, self.keys.unseal, lambda: EgressPolicy(self.allowed), self.clock, timeout
            ),
            NODE,
            self.clock,
        )

    def clock(self) -> float:
        return float(self.now)

    def speak(self, rule: Rule, level: Level, severity: Severity = Severity.WARNING) -> None:
        choices = {rule: RuleChoice(level, severity)}
        save_rules(self.engine, choices, True, ADMIN, self.now)

    def use_mail(
        self,
        port: int,
        security: MailSecurity = MailSecurity.NONE,
        user: str = "",
        password: str = "",
        recipients: tuple[str, ...] = ("ops@example.org",),
        host: str = "127.0.0.1",
    ) -> None:
        change = EmailChange(host, port, security, user, "node@example.org", recipients, password)
        save_email(self.engine, change, self.keys.seal, ADMIN, self.now)

    def use_webhook(self, url: str) -> str:
        """The secret."""
        return save_webhook(self.engine, url, self.keys.seal, ADMIN, self.now)

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def everything_stored(self) -> str:
        """All that the database shows of texts, for secrets to be looked for."""
        tables = ("notification", "delivery", "mail", "event", "audit_entry", "preference")
        return "\n".join(str(self.rows(f"SELECT * FROM {table}")) for table in tables)
