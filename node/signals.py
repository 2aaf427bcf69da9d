"""What must not be overlooked on the first page, asked of those who know it."""

from __future__ import annotations

from node.treasury.guard import Guard
from node.usage.signals import Signals
from node.vault.service import Vault


def read_signals(guard: Guard, vault: Vault, now: int) -> Signals:
    """The present state of serving and backups (blocking)."""
    standing, backup = guard.standing, vault.overdue(now)
    return Signals(
        serving_paused=bool(standing.auto_paused_at),
        paused_by_hand=bool(standing.hand_paused_at),
        backup_overdue=backup.overdue,
        days_without_backup=backup.days,
        ever_backed_up=backup.ever,
    )
