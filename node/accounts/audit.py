"""The trail of changes: who, when, from where, before, after. Written with the change itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from finance.store import Write
from node.accounts.access import Identity
from node.accounts.models import AuditEntry


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever changes something."""

    id: str
    name: str
    address: str = ""

    @classmethod
    def of(cls, identity: Identity) -> Actor:
        return cls(identity.user_id, identity.name, identity.address)


SYSTEM = Actor("system", "Farebox")
COMMAND = Actor("cli", "farebox command")


_INSERT = insert(AuditEntry)


def record(
    connection: Connection,
    actor: Actor,
    action: str,
    subject: str,
    now: int,
    before: Any = None,
    after: Any = None,
) -> None:
    """Add an entry in the caller's transaction. `before` and `after` are JSON values
    without secrets; None: there was, or is, nothing."""
    connection.execute(_INSERT, _row(actor, action, subject, now, before, after))


def audit_write(
    actor: Actor, action: str, subject: str, now: int, before: Any = None, after: Any = None
) -> Write:
    """The same entry as part of a journal's batch, beside the money rows it is about."""
    return Write(_INSERT, _row(actor, action, subject, now, before, after))


def _row(
    actor: Actor, action: str, subject: str, now: int, before: Any, after: Any
) -> dict[str, Any]:
    return {
        "at": now,
        "actor_id": actor.id,
        "actor_name": actor.name,
        "address": actor.address,
        "action": action,
        "subject": subject,
        "before": "" if before is None else json.dumps(before),
        "after": "" if after is None else json.dumps(after),
    }
