"""Consumer keys: the bearer secrets of the buyer's apps.

A secret is shown once, when it is made; the database keeps its SHA-256. Secrets are
256 random bits, so the hash needs neither salt nor stretching.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select, update
from sqlmodel import col

from node.db.engine import writer
from node.usage.models import ConsumerKey

PREFIX = "fbx_"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `secret` is not kept anywhere."""

    id: str
    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as operators see it; times in Unix seconds."""

    id: str
    name: str
    created_at: int
    revoked_at: int | None


def hash_secret(secret: str) -> str:
    """SHA-256 of a secret, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(engine: Engine, name: str, now: int) -> NewKey:
    """Make a key and store its hash."""
    key = NewKey(f"key_{secrets.token_hex(6)}", name, PREFIX + secrets.token_urlsafe(32))
    row = {"id": key.id, "name": name, "secret_hash": hash_secret(key.secret), "created_at": now}
    with writer(engine).begin() as connection:
        connection.execute(insert(ConsumerKey), row)
    return key


def revoke_key(engine: Engine, key: str, now: int) -> int:
    """Revoke the key with this id, or all with this name; the number revoked."""
    found = (col(ConsumerKey.id) == key) | (col(ConsumerKey.name) == key)
    open_ = col(ConsumerKey.revoked_at).is_(None)
    with writer(engine).begin() as connection:
        result = connection.execute(update(ConsumerKey).where(found, open_).values(revoked_at=now))
    return result.rowcount


def list_keys(engine: Engine) -> list[KeyView]:
    """Every key, newest first."""
    columns = [col(getattr(ConsumerKey, name)) for name in KeyView.__slots__]
    statement = select(*columns).order_by(col(ConsumerKey.created_at).desc(), col(ConsumerKey.id))
    with engine.connect() as connection:
        return [KeyView(**row) for row in connection.execute(statement).mappings()]
