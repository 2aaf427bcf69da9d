"""First start: who may set the node up, the one-time code, and how far the wizard has come.

Until the first admin is made, whoever reaches the wizard owns the node. So it answers
only to this machine under its own name, without a proxy in between, or to whoever has
the code that the node prints at its start. No password works before that.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, Protocol
from urllib.parse import urlsplit

from msgspec.structs import replace
from sqlalchemy import Engine, delete, func, insert, select
from sqlmodel import col

from node.accounts.audit import Actor
from node.accounts.errors import AccountInvalid
from node.accounts.models import SetupCode, User
from node.accounts.sessions import hash_token
from node.accounts.users import change_email, clean_email
from node.alerts.configure import send_warnings_to
from node.db.engine import writer
from node.preferences import Preference, change_preference, read_preference

TERMS_VERSION: Final = 1
CODE_SECONDS: Final = 86_400
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PROXY_HEADERS: Final = frozenset({"forwarded", "via", "x-real-ip", "cf-connecting-ip"})


class SetupProgress(Preference, frozen=True, tag="setup"):
    """How far the wizard has come; times in Unix seconds, 0: not yet."""

    terms_version: int = 0
    terms_accepted_at: int = 0
    email_at: int = 0
    backup_at: int = 0
    finished_at: int = 0


class Step(StrEnum):
    """Pages of the wizard, in their order."""

    TERMS = "terms"
    ADMIN = "admin"
    EMAIL = "email"
    BACKUP = "backup"
    DONE = "done"


class BackupKeeper(Protocol):
    """What the wizard asks of backups."""

    async def set_password(self, password: str, actor: Actor, now: int) -> None:
        """Encrypt backups with this password from now on."""

    async def back_up_now(self, reason: str) -> object:
        """Write one, open it again, check it."""


def next_step(progress: SetupProgress, has_users: bool, has_backups: bool) -> Step:
    """The page that comes next, also after a reload or a restart."""
    if not has_users:
        return Step.ADMIN if progress.terms_version == TERMS_VERSION else Step.TERMS
    if not progress.email_at:
        return Step.EMAIL
    return Step.BACKUP if has_backups and not progress.backup_at else Step.DONE


def unfinished(progress: SetupProgress) -> bool:
    """Whether somebody began with the wizard and did not see its end."""
    return bool(progress.terms_accepted_at and not progress.finished_at)


def from_this_machine(peer: str, hosts: Sequence[str], headers: Iterable[str]) -> bool:
    """Whether a request was made here: a loopback peer that names the node by a loopback
    name, and no sign of a proxy, whose visitors would all seem to be here.

    `hosts`: the Host headers; `headers`: names of all headers, in lower case.
    """
    try:
        if not ipaddress.ip_address(peer).is_loopback:
            return False
        name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
    except ValueError:
        return False
    forwarded = any(
        header in _PROXY_HEADERS or header.startswith("x-forwarded") for header in headers
    )
    return name in _LOOPBACK_NAMES and not forwarded


def issue_code(engine: Engine, now: int) -> str | None:
    """A new code in place of older ones, for a day; None when there are users (blocking)."""
    code = secrets.token_urlsafe(24)
    row = {"code_hash": hash_token(code), "created_at": now, "expires_at": now + CODE_SECONDS}
    with writer(engine).begin() as connection:
        if connection.scalar(select(func.count()).select_from(User)):
            return None
        connection.execute(delete(SetupCode))
        connection.execute(insert(SetupCode), row)
    return code


def code_valid(engine: Engine, code: str, now: int) -> bool:
    """Whether it is the code printed last, not used up, not too old (blocking)."""
    given = hash_token(code)
    statement = select(col(SetupCode.code_hash)).where(col(SetupCode.expires_at) > now)
    with engine.connect() as connection:
        known = connection.scalars(statement).all()
    return any(hmac.compare_digest(given, each) for each in known)


def read_progress(engine: Engine) -> SetupProgress:
    """(blocking)"""
    return read_preference(engine, SetupProgress)


def accept_terms(engine: Engine, actor: Actor, now: int) -> None:
    """Remember that the terms of use were accepted (blocking)."""
    _advance(engine, actor, now, terms_version=TERMS_VERSION, terms_accepted_at=now)


def choose_email(engine: Engine, user_id: str, email: str, actor: Actor, now: int) -> None:
    """Store the admin's email address, which gets the warnings until others are chosen
    (blocking). Raises AccountInvalid."""
    if not email.strip():
        raise AccountInvalid("email", "Enter the address that warnings should go to.")
    change_email(engine, user_id, email, actor, now)
    send_warnings_to(engine, clean_email(email), actor, now)
    _advance(engine, actor, now, email_at=now)


def backup_chosen(engine: Engine, actor: Actor, now: int) -> None:
    """The backup password is set and the first backup was written (blocking)."""
    _advance(engine, actor, now, backup_at=now)


def finish(engine: Engine, actor: Actor, now: int) -> None:
    """The last page was seen (blocking)."""
    _advance(engine, actor, now, finished_at=now)


def _advance(engine: Engine, actor: Actor, now: int, **steps: int) -> None:
    progress = read_preference(engine, SetupProgress)
    change_preference(engine, replace(progress, **steps), actor, now)
