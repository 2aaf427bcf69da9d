"""Somebody who is told of incidents."""

from __future__ import annotations

from node.alerts.rules import Rule


class Told:
    """Remembers incidents of failed backups while they are open, by their subject."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}

    async def raise_(self, rule: Rule, subject: str, message: str, link: str) -> None:
        if rule is Rule.BACKUP_FAILED:
            self.open[subject] = message

    async def resolve(self, rule: Rule, subject: str) -> None:
        if rule is Rule.BACKUP_FAILED:
            self.open.pop(subject, None)
