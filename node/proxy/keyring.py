"""Bearer secrets of the buyer's apps, in memory; the database has only their hashes."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

from sqlalchemy import Engine

from node.usage.keys import KeyRecord, valid_keys


class Keyring:
    """The keys that may call; replaced whole when one is created or revoked."""

    def __init__(self, keys: Mapping[str, KeyRecord]) -> None:
        """`keys`: by the SHA-256 of their secrets (hex)."""
        self._keys = dict(keys)
        self._by_id = {key.id: key for key in self._keys.values()}

    @classmethod
    def load(cls, engine: Engine) -> Keyring:
        """All secrets that are good now (blocking: call it off the loop)."""
        return cls(valid_keys(engine, int(time.time())))

    def named(self, key_id: str) -> KeyRecord | None:
        """The key with this id, if one of its secrets is still good."""
        return self._by_id.get(key_id)

    def find(self, authorization: bytes | None) -> KeyRecord | None:
        """The key behind an Authorization header, or None.

        The lookup is by hash, so its timing says nothing about a secret; the comparison
        that decides takes the same time for every secret.
        """
        if authorization is None or authorization[:7].lower() != b"bearer ":
            return None
        given = hashlib.sha256(authorization[7:].strip()).hexdigest()
        key = self._keys.get(given)
        known = given if key is not None else "0" * 64
        return key if hmac.compare_digest(given, known) else None
