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

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, func, insert, select, update
from sqlmodel import col

from node.accounts.audit import COMMAND, Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown
from node.db.engine import writer
from node.db.locks import number_in_turn
from node.usage.key_choices import KeyChoices, read_scopes
from node.usage.models import ConsumerKey
from node.usage.quotas import key_subject

PREFIX = "fbx_"
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
    secret before the last rotation is still good; `last_used_at` is seconds behind at most;
    `version` grows with every change of the key."""

    id: str
    name: str
    created_at: int
    revoked_at: int | None
    previous_until: int | None
    last_used_at: int | None
    owner_email: str
    integrator: bool
    scopes: tuple[str, ...]
    per_minute: int | None
    version: int

    @property
    def choices(self) -> KeyChoices:
        return KeyChoices(
            self.name, self.owner_email, self.integrator, self.scopes, self.per_minute
        )


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as the proxy needs it for each call. `scopes` None: every listing; `subject` is
    whom its calls are counted on."""

    id: str
    integrator: bool = False
    scopes: frozenset[str] | None = None
    per_minute: int | None = None
    subject: str = ""


def hash_secret(secret: str) -> str:
    """SHA-256 of a secret, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(
    engine: Engine, choices: KeyChoices | str, now: int, actor: Actor = COMMAND
) -> NewKey:
    """Make a key and store its hash; a name alone makes an internal key without limits of its
    own (blocking). Raises AccountInvalid."""
    if isinstance(choices, str):
        choices = KeyChoices(choices)
    key_id, secret = f"key_{secrets.token_hex(6)}", _new_secret()
    with writer(engine).begin() as connection:
        choices = choices.checked(connection)
        row = {"id": key_id, "secret_hash": hash_secret(secret), "created_at": now}
        row |= {"version": _next_version(connection), **choices.columns()}
        connection.execute(insert(ConsumerKey), row)
        record(connection, actor, "key.create", key_id, now, after=choices.told())
    return NewKey(key_id, choices.name, secret)


def change_key(
    engine: Engine,
    key_id: str,
    choices: KeyChoices,
    now: int,
    actor: Actor = COMMAND,
    seen: int | None = None,
) -> None:
    """Choose anew for a key that is valid, and whose version is the one that was `seen`, if
    any was (blocking). Raises AccountInvalid, AccountUnknown."""
    with writer(engine).begin() as connection:
        before = _view(_valid(connection, key_id, seen)).choices
        choices = choices.checked(connection)
        if choices == before:
            return
        _update(connection, key_id, choices.columns())
        record(connection, actor, "key.change", key_id, now, before.told(), choices.told())


def rotate_key(
    engine: Engine,
    key_id: str,
    grace_seconds: int,
    now: int,
    actor: Actor = COMMAND,
    seen: int | None = None,
) -> NewKey:
    """A new secret for a key; the old one is good for `grace_seconds` more (blocking).

    Raises AccountUnknown, AccountInvalid. A secret from before an unfinished rotation
    ends at once: `seen`, the version on the page this comes from, keeps a page that is sent
    again from ending the one that was to go on.
    """
    if not 0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
        raise AccountInvalid("grace_seconds", "The old secret can be kept for up to 30 days.")
    secret = _new_secret()
    with writer(engine).begin() as connection:
        row = _valid(connection, key_id, seen)
        values: dict[str, Any] = {"secret_hash": hash_secret(secret)}
        values["previous_hash"] = row["secret_hash"] if grace_seconds else None
        values["previous_until"] = now + grace_seconds if grace_seconds else None
        _update(connection, key_id, values)
        record(connection, actor, "key.rotate", key_id, now, after={"grace_seconds": grace_seconds})
    return NewKey(key_id, row["name"], secret)


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
    revoked = update(ConsumerKey).where(found, open_)
    with writer(engine).begin() as connection:
        revoked = revoked.values(revoked_at=now, version=_next_version(connection))
        ids = connection.scalars(revoked.returning(col(ConsumerKey.id))).all()
        for each in ids:
            record(connection, actor, "key.revoke", each, now)
    return ids


def list_keys(engine: Engine) -> list[KeyView]:
    """Every key, newest first (blocking)."""
    statement = _KEYS.order_by(col(ConsumerKey.created_at).desc(), col(ConsumerKey.id))
    with engine.connect() as connection:
        return [_view(row) for row in connection.execute(statement).mappings()]


def read_key(engine: Engine, key_id: str) -> KeyView:
    """One key, also a revoked one (blocking). Raises AccountUnknown."""
    with engine.connect() as connection:
        row = connection.execute(_KEYS.where(col(ConsumerKey.id) == key_id)).mappings().first()
    if row is None:
        raise AccountUnknown("There is no such secret.")
    return _view(row)


def find_key(engine: Engine, wanted: str) -> KeyView:
    """The key with this id, also a revoked one, else the valid one with this name (blocking).
    Raises AccountUnknown, AccountInvalid (several have that name)."""
    keys = list_keys(engine)
    called = [key for key in keys if key.name == wanted and key.revoked_at is None]
    found = [key for key in keys if key.id == wanted] or called
    if not found:
        raise AccountUnknown(f"There is no key {wanted!r}; `farebox key list` shows them.")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise AccountInvalid("key", f"Several keys are called {wanted!r}; say which: {ids}.")
    return found[0]


def valid_keys(engine: Engine, now: int) -> dict[str, KeyRecord]:
    """Hash of every secret that opens the proxy now, to its key (blocking)."""
    found: dict[str, KeyRecord] = {}
    with engine.connect() as connection:
        for row in connection.execute(_SECRETS.where(col(ConsumerKey.revoked_at).is_(None))):
            scopes = frozenset(read_scopes(row.scopes)) or None
            key = KeyRecord(row.id, row.integrator, scopes, row.per_minute, key_subject(row.id))
            found[row.secret_hash] = key
            if row.previous_hash is not None and row.previous_until > now:
                found[row.previous_hash] = key
    return found


def keys_version(connection: Connection, now: int) -> tuple[int, ...]:
    """Differs whenever the proxy must take over something, also when the time of an old secret
    is up."""
    going = col(ConsumerKey.previous_until) > now
    statement = select(func.max(col(ConsumerKey.version)), func.count())
    old = select(func.count()).select_from(ConsumerKey).where(going)
    version, count = connection.execute(statement.select_from(ConsumerKey)).one()
    return version or 0, count, connection.scalar(old) or 0


def _valid(connection: Connection, key_id: str, seen: int | None) -> RowMapping:
    number_in_turn(connection)
    statement = _KEYS.add_columns(col(ConsumerKey.secret_hash)).where(
        col(ConsumerKey.id) == key_id, col(ConsumerKey.revoked_at).is_(None)
    )
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise AccountUnknown("There is no such secret that is still valid.")
    if seen not in (None, row["version"]):
        raise AccountInvalid("", "This key was changed after the page was made. Look at it again.")
    return row


def _update(connection: Connection, key_id: str, values: dict[str, Any]) -> None:
    values = values | {"version": _next_version(connection)}
    connection.execute(update(ConsumerKey).where(col(ConsumerKey.id) == key_id).values(values))


def _next_version(connection: Connection) -> int:
    number_in_turn(connection)
    return (connection.scalar(select(func.max(col(ConsumerKey.version)))) or 0) + 1


def _view(row: RowMapping) -> KeyView:
    fields = {name: row[name] for name in KeyView.__slots__}
    return KeyView(**fields | {"scopes": read_scopes(row["scopes"])})


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


_KEYS: Final[Any] = select(*(col(getattr(ConsumerKey, name)) for name in KeyView.__slots__))
_SECRETS: Final[Any] = select(
    col(ConsumerKey.id),
    col(ConsumerKey.secret_hash),
    col(ConsumerKey.previous_hash),
    col(ConsumerKey.previous_until),
    col(ConsumerKey.integrator),
    col(ConsumerKey.scopes),
    col(ConsumerKey.per_minute),
)
