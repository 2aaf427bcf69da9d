"""`Idempotency-Key`: the same key gives the answer that was paid for, also after a restart."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import msgspec
from sqlalchemy import insert, text
from sqlmodel import Session, select

from finance.buying.lost import ANSWER_LOST
from finance.models import Purchase, PurchaseState, StoredAnswer
from finance.store import Store, Write
from node.problems import Headers
from node.proxy.errors import RequestRefused

KEPT_BYTES = 256 << 10
MAX_KEY_LENGTH = 255
INSERT_ANSWER = insert(StoredAnswer)
_IS_KNOWN = text(
    "SELECT 1 FROM stored_answer WHERE key = :row_key"
    " UNION ALL SELECT 1 FROM purchase WHERE key_id = :key_id AND idempotency_key = :key"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier request with this key left: its answer, or a payment still open."""

    answer: StoredAnswer | None
    purchase: Purchase | None


class IdempotencyKeys:
    """Keys in flight in memory (one node per data directory), the finished ones on disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: set[tuple[str, str]] = set()

    def begin(self, key_id: str, key: str) -> None:
        """Claim a key; raise RequestRefused (409) while another request has it."""
        if (key_id, key) in self._running:
            raise RequestRefused("idempotency_in_flight", "Ask again when it has ended.")
        self._running.add((key_id, key))

    def end(self, key_id: str, key: str) -> None:
        self._running.discard((key_id, key))

    async def look_up(self, key_id: str, key: str, fingerprint: str) -> Known:
        """What is known; raise RequestRefused (409) if the key was for another request, or its
        paid answer was too large to be kept, or is too old. One that was lost is still to be
        asked for."""
        named = {"row_key": _row_key(key_id, key), "key_id": key_id, "key": key}
        if await self._store.first(_IS_KNOWN, named) is None:
            return Known(None, None)
        known = await asyncio.to_thread(self._read, key_id, key)
        for earlier in (known.answer, known.purchase):
            if earlier is not None and earlier.fingerprint != fingerprint:
                raise RequestRefused("idempotency_key_reused", "Use a new key for a new request.")
        paid = known.purchase
        if known.answer is not None or paid is None or paid.state != PurchaseState.PAID:
            return known
        if paid.error == ANSWER_LOST:
            return known
        raise RequestRefused(
            "answer_not_kept",
            "It was charged once.",
            paid_call_id=paid.call_id,
            charged=paid.charged_atoms,
        )

    def _read(self, key_id: str, key: str) -> Known:
        with Session(self._store.engine, expire_on_commit=False) as session:
            answer = session.get(StoredAnswer, _row_key(key_id, key))
            purchase = session.exec(
                select(Purchase).where(Purchase.key_id == key_id, Purchase.idempotency_key == key)
            ).first()
            session.expunge_all()
        return Known(answer, purchase)


def kept(
    key_id: str,
    key: str,
    fingerprint: str,
    call_id: str,
    status: int,
    headers: Headers,
    body: bytes,
) -> Write:
    """The paid answer's row, for the commit that books its charge."""
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    params = {
        "key": _row_key(key_id, key),
        "fingerprint": fingerprint,
        "call_id": call_id,
        "status": status,
        "headers": msgspec.json.encode(pairs).decode(),
        "body": body,
        "created_at": int(time.time()),
    }
    return Write(INSERT_ANSWER, params)


def kept_headers(answer: StoredAnswer) -> Headers:
    pairs = msgspec.json.decode(answer.headers, type=list[tuple[str, str]])
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def read_key(header: bytes | None) -> str | None:
    """The key of a request; raise RequestRefused (400) for one that cannot be used."""
    if header is None:
        return None
    if not 0 < len(header) <= MAX_KEY_LENGTH or not header.isascii():
        raise RequestRefused("request_invalid", "An Idempotency-Key is 1 to 255 characters.")
    return header.decode()


def _row_key(key_id: str, key: str) -> str:
    return f"idem:{key_id}:{key}"
