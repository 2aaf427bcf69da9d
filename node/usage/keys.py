"""Consumer keys: the bearer secrets of the buyer's apps.

A secret is shown once, when it is made; the database keeps its SHA-256. Secrets are
256 random bits, so the hash needs neither salt nor stretching. A key that is rotated
keeps its id, limits and history; its old secret goes on for as long as it is given.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, insert, select, update
from sqlmodel import col

from node.accounts.audit import COMMAND, Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown
from node.db.engine import writer
from node.usage.models import ConsumerKey

PREFIX = "fbx_"
MAX_NAME = 60
LONGEST_GRACE_SECONDS = 30 * 86_400


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made or rotated; `secret` is not kept anywhere."""

    id: str
    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as operators see it; times in Unix seconds. `previous_until` is set while the
    secret before the last rotation is still good."""

    id: str
    name: str
    created_at: int
    revoked_at: int | None
    previous_until: int | None


def hash_secret(secret: str) -> str:
    """SHA-256 of a secret, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(engine: Engine, name: str, now: int, actor: Actor = COMMAND) -> NewKey:
    """Make a key and store its hash (blocking). Raises AccountInvalid."""
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise AccountInvalid("name", f"Name the app it is for, in at most {MAX_NAME} characters.")
    key = NewKey(f"key_{secrets.token_hex(6)}", name, _new_secret())
    row = {"id": key.id, "name": name, "secret_hash": hash_secret(key.secret), "created_at": now}
    with writer(engine).begin() as connection:
        connection.execute(insert(ConsumerKey), row)
        record(connection, actor, "key.create", key.id, now, after={"name": name})
    return key


def rotate_key(
    engine: Engine, key_id: str, grace_seconds: int, now: int, actor: Actor = COMMAND
) -> NewKey:
    """A new secret for a key; the old one is good for `grace_seconds` more (blocking).

    Raises AccountUnknown, AccountInvalid. A secret from before an unfinished rotation
    ends at once.
    """
    if not 0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
        raise AccountInvalid("grace_seconds", "The old secret can be kept for up to 30 days.")
    secret, open_ = _new_secret(), col(ConsumerKey.revoked_at).is_(None)
    with writer(engine).begin() as connection:
        found = select(col(ConsumerKey.name), col(ConsumerKey.secret_hash)).where(
            col(ConsumerKey.id) == key_id, open_
        )
        row = connection.execute(found).first()
        if row is None:
            raise AccountUnknown("There is no such secret that is still valid.")
        values: dict[str, Any] = {"secret_hash": hash_secret(secret)}
        values["previous_hash"] = row[1] if grace_seconds else None
        values["previous_until"] = now + grace_seconds if grace_seconds else None
        connection.execute(update(ConsumerKey).where(col(ConsumerKey.id) == key_id).values(values))
        record(connection, actor, "key.rotate", key_id, now, after={"grace_seconds": grace_seconds})
    return NewKey(key_id, row[0], secret)


def revoke_key(engine: Engine, key: str, now: int, actor: Actor = COMMAND) -> int:
    """Revoke the key with this id, or all with this name; the number revoked (blocking)."""
    found = (col(ConsumerKey.id) == key) | (col(ConsumerKey.name) == key)
    return len(_revoke(engine, found, now, actor))


def revoke_key_id(engine: Engine, key_id: str, now: int, actor: Actor) -> None:
    """Revoke one key (blocking). Raises AccountUnknown."""
    if not _revoke(engine, col(ConsumerKey.id) == key_id, now, actor):
        raise AccountUnknown("There is no such secret that is still valid.")


def _revoke(engine: Engine, found: ColumnElement[bool], now: int, actor: Actor) -> Sequence[str]:
    open_ = col(ConsumerKey.revoked_at).is_(None)
    revoked = update(ConsumerKey).where(found, open_).values(revoked_at=now)
    with writer(engine).begin() as connection:
        ids = connection.scalars(revoked.returning(col(ConsumerKey.id))).all()
        for each in ids:
            record(connection, actor, "key.revoke", each, now)
    return ids


def list_keys(engine: Engine) -> list[KeyView]:
    """Every key, newest first (blocking)."""
    columns = [col(getattr(ConsumerKey, name)) for name in KeyView.__slots__]
    statement = select(*columns).order_by(col(ConsumerKey.created_at).desc(), col(ConsumerKey.id))
    with engine.connect() as connection:
        return [KeyView(**row) for row in connection.execute(statement).mappings()]


def valid_hashes(engine: Engine, now: int) -> dict[str, str]:
    """Hash of every secret that opens the proxy now, to its key's id (blocking)."""
    with engine.connect() as connection:
        rows = connection.execute(_SECRETS.where(col(ConsumerKey.revoked_at).is_(None)))
        found: dict[str, str] = {}
        for key_id, secret_hash, previous_hash, previous_until in rows:
            found[secret_hash] = key_id
            if previous_hash is not None and previous_until > now:
                found[previous_hash] = key_id
    return found


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


_SECRETS: Final[Any] = select(
    col(ConsumerKey.id),
    col(ConsumerKey.secret_hash),
    col(ConsumerKey.previous_hash),
    col(ConsumerKey.previous_until),
)
