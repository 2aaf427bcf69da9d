"""The second factor: codes of an authenticator app (TOTP, RFC 6238) and recovery codes.

A code is taken one step (30 s) early or late, and each step once, whoever saw it typed.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import pyotp
from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlmodel import col

from node.accounts.audit import Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown
from node.accounts.models import RecoveryCode, User
from node.accounts.sessions import hash_token
from node.db.engine import writer

STEP_SECONDS = 30
RECOVERY_CODES = 10
ISSUER = "Farebox"


@dataclass(frozen=True, slots=True)
class Offer:
    """A secret to put into an authenticator app; `uri` is what its QR code says."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class FactorState:
    """Whether a user has a second factor, whether one is offered, codes left."""

    enabled: bool
    offered: bool
    recovery_codes_left: int


def read_factor(engine: Engine, user_id: str) -> FactorState:
    """How things stand for a user (blocking)."""
    unused = select(func.count()).where(
        col(RecoveryCode.user_id) == user_id, col(RecoveryCode.used_at).is_(None)
    )
    with engine.connect() as connection:
        secret, pending, _ = _secrets(connection, user_id)
        left = connection.scalar(unused) or 0
    return FactorState(bool(secret), bool(pending), left)


def offer_factor(
    engine: Engine, seal: Callable[[bytes], str], user_id: str, actor: Actor, now: int
) -> Offer:
    """Make a secret and keep it aside until a code confirms it (blocking)."""
    secret = pyotp.random_base32()
    with writer(engine).begin() as connection:
        enabled, _, name = _secrets(connection, user_id)
        if enabled:
            raise AccountInvalid("code", "A second factor is on already. Turn it off first.")
        _store(connection, user_id, totp_pending_sealed=seal(secret.encode()))
        record(connection, actor, "totp.offer", user_id, now)
    return _offer(secret, name)


def read_offer(engine: Engine, unseal: Callable[[str], bytes], user_id: str) -> Offer | None:
    """The secret that waits for its first code, or None (blocking)."""
    with engine.connect() as connection:
        _, pending, name = _secrets(connection, user_id)
    return _offer(unseal(pending).decode(), name) if pending else None


def confirm_factor(
    engine: Engine,
    unseal: Callable[[str], bytes],
    user_id: str,
    code: str,
    actor: Actor,
    now: int,
) -> tuple[str, ...]:
    """Turn the factor on with a code of it; the recovery codes, shown once (blocking)."""
    with writer(engine).begin() as connection:
        _, pending, _ = _secrets(connection, user_id)
        if not pending:
            raise AccountInvalid("code", "Nothing waits for a code. Begin again.")
        step = matching_step(unseal(pending).decode(), code, now, 0)
        if step is None:
            raise AccountInvalid("code", "This is not the code the app shows now. Try the next.")
        _store(
            connection,
            user_id,
            totp_secret_sealed=pending,
            totp_pending_sealed="",
            totp_last_step=step,
        )
        codes = _replace_recovery_codes(connection, user_id)
        record(connection, actor, "totp.enable", user_id, now)
    return codes


def disable_factor(engine: Engine, user_id: str, actor: Actor, now: int) -> None:
    """Turn it off (blocking); whoever calls has asked for the password."""
    with writer(engine).begin() as connection:
        remove_factor(connection, user_id)
        record(connection, actor, "totp.disable", user_id, now)


def remove_factor(connection: Connection, user_id: str) -> None:
    """The same without its audit entry, in the caller's transaction."""
    _store(connection, user_id, totp_secret_sealed="", totp_pending_sealed="")
    connection.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))


def renew_recovery_codes(engine: Engine, user_id: str, actor: Actor, now: int) -> tuple[str, ...]:
    """New codes; the old ones are worth nothing from now on (blocking)."""
    with writer(engine).begin() as connection:
        enabled, _, _ = _secrets(connection, user_id)
        if not enabled:
            raise AccountInvalid("code", "Turn the second factor on first.")
        codes = _replace_recovery_codes(connection, user_id)
        record(connection, actor, "totp.recovery_codes", user_id, now, after={"made": len(codes)})
    return codes


def use_code(connection: Connection, user_id: str, secret: str, code: str, now: int) -> str | None:
    """Spend a code in the caller's transaction: `totp`, `recovery_code`, or None: not valid."""
    last = connection.scalar(select(col(User.totp_last_step)).where(col(User.id) == user_id)) or 0
    step = matching_step(secret, code, now, last)
    if step is not None:
        unused = (col(User.id) == user_id) & (col(User.totp_last_step) < step)
        taken = connection.execute(update(User).where(unused).values(totp_last_step=step))
        return "totp" if taken.rowcount else None
    spent = connection.execute(
        update(RecoveryCode)
        .where(
            col(RecoveryCode.code_hash) == hash_token(_plain(code)),
            col(RecoveryCode.user_id) == user_id,
            col(RecoveryCode.used_at).is_(None),
        )
        .values(used_at=now)
    )
    return "recovery_code" if spent.rowcount else None


def matching_step(secret: str, code: str, now: int, last_step: int) -> int | None:
    """The 30 s step whose code this is, one early or late, later than `last_step`."""
    totp, given = pyotp.TOTP(secret), code.replace(" ", "").strip()
    current = now // STEP_SECONDS
    for step in (current, current - 1, current + 1):
        right = totp.at(step * STEP_SECONDS)
        if step > last_step and hmac.compare_digest(given.encode(), right.encode()):
            return step
    return None


def _plain(code: str) -> str:
    return "".join(code.split()).replace("-", "").lower()


def _replace_recovery_codes(connection: Connection, user_id: str) -> tuple[str, ...]:
    """80 random bits each, so that their hash needs no stretching."""
    connection.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    plain = [
        base64.b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)
    ]
    rows = [{"code_hash": hash_token(code), "user_id": user_id} for code in plain]
    connection.execute(insert(RecoveryCode), rows)
    return tuple("-".join(code[at : at + 4] for at in range(0, 16, 4)) for code in plain)


def _offer(secret: str, name: str) -> Offer:
    return Offer(secret, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER))


def _secrets(connection: Connection, user_id: str) -> tuple[str, str, str]:
    columns = (col(User.totp_secret_sealed), col(User.totp_pending_sealed), col(User.name))
    row = connection.execute(select(*columns).where(col(User.id) == user_id)).first()
    if row is None:
        raise AccountUnknown("There is no such user.")
    return row[0], row[1], row[2]


def _store(connection: Connection, user_id: str, **values: object) -> None:
    connection.execute(update(User).where(col(User.id) == user_id).values(**values))
