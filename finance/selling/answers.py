"""Answers that were paid for, kept so that a retry gets them without paying again (law 1)."""

from __future__ import annotations

import hashlib

import msgspec
from sqlalchemy import Engine, text

from finance.store import Store, Write

Headers = list[tuple[bytes, bytes]]
_ENCODER = msgspec.json.Encoder()

# A channel keeps its last answer only; an authorization's is written once.
KEEP = text(
    "INSERT INTO stored_answer (key, fingerprint, call_id, status, headers, body, created_at)"
    " VALUES (:key, :fingerprint, :call_id, :status, :headers, :body, :created_at)"
    " ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint,"
    " call_id = excluded.call_id, status = excluded.status, headers = excluded.headers,"
    " body = excluded.body, created_at = excluded.created_at"
)
KEEP_ONCE = text(
    "INSERT INTO stored_answer (key, fingerprint, call_id, status, headers, body, created_at)"
    " VALUES (:key, :fingerprint, :call_id, :status, :headers, :body, :created_at)"
)
# Of what was bought as a stream: the answer's place is taken, there is nothing to give again.
STREAMED = 101
# Of what is bought as a stream, and is opened once its money has arrived.
UNOPENED = 100
# The number in its words, or the database does not see that its index fits.
FORGET_STREAM = text(f"DELETE FROM stored_answer WHERE call_id = :call_id AND status = {STREAMED}")
_OPEN = text(
    f"UPDATE stored_answer SET status = {STREAMED}"
    f" WHERE key = :key AND call_id = :call_id AND status = {UNOPENED}"
)
_IS_KEPT = text("SELECT 1 FROM stored_answer WHERE key = :key")
_BY_KEY = text("SELECT * FROM stored_answer WHERE key = :key")
_ADD_HEADER = text("UPDATE stored_answer SET headers = :headers WHERE key = :key")


class KeptAnswer(msgspec.Struct, frozen=True):
    """An answer as it left, with what it was the answer to."""

    fingerprint: str
    call_id: str
    status: int
    headers: Headers
    body: bytes

    @property
    def streamed(self) -> bool:
        """Whether it was given while it came, and cannot be given again."""
        return self.status == STREAMED

    @property
    def unopened(self) -> bool:
        """Whether it is a stream that is paid for, or will be, and was not given yet."""
        return self.status == UNOPENED


def fingerprint(method: str, target: bytes, body: bytes, payment: bytes) -> str:
    """What a payment was presented for. `body` and `payment` are digests.

    The target is compared as it was sent, path and query byte for byte.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in (method.encode("latin-1"), target, body, payment):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.hexdigest()


def channel_answer_key(channel_id: str) -> str:
    return f"channel:{channel_id}"


def authorization_answer_key(chain_id: int, token: str, payer: str, nonce: str) -> str:
    return f"auth:{chain_id}:{token}:{payer}:{nonce}"


def identifier_answer_key(listing_id: str, payment_identifier: str) -> str:
    return f"id:{listing_id}:{payment_identifier}"


def keep(key: str, answer: KeptAnswer, at: int, once: bool = False) -> Write:
    """Store an answer; with `once`, a second one under this key refuses its batch."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return Write(
        KEEP_ONCE if once else KEEP,
        {
            "key": key,
            "fingerprint": answer.fingerprint,
            "call_id": answer.call_id,
            "status": answer.status,
            "headers": _ENCODER.encode(headers).decode(),
            "body": answer.body,
            "created_at": at,
        },
    )


def forget_streamed(call_id: str) -> Write:
    """What was to be given while it came broke off: its identifier has bought nothing."""
    return Write(FORGET_STREAM, {"call_id": call_id}, rows=None)


def opened(key: str, call_id: str) -> Write:
    """A stream is given from now on; refuses its batch where it has been given."""
    return Write(_OPEN, {"key": key, "call_id": call_id})


def add_header(key: str, headers: Headers) -> Write:
    """Replace the headers of a kept answer, once its payment's outcome is known."""
    pairs = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
    return Write(_ADD_HEADER, {"key": key, "headers": _ENCODER.encode(pairs).decode()}, rows=None)


async def is_kept(store: Store, key: str) -> bool:
    """Whether there is an answer under a key: asked before each call with an identifier."""
    return await store.first(_IS_KEPT, {"key": key}) is not None


def read_answer(engine: Engine, key: str) -> KeptAnswer | None:
    """The answer under a key. Blocks: call it off the event loop."""
    with engine.connect() as connection:
        row = connection.execute(_BY_KEY, {"key": key}).one_or_none()
    if row is None:
        return None
    pairs = msgspec.json.decode(row.headers)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return KeptAnswer(row.fingerprint, row.call_id, row.status, headers, bytes(row.body))
