"""A header's two shells, base64 and JSON, opened without trusting either."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import TypeVar

import msgspec

from finance.errors import PaymentMalformed
from finance.x402 import codes
from finance.x402.values import X402_VERSION

_T = TypeVar("_T")
# What msgspec (its errors are ValueErrors), int() and the codecs raise on hostile input.
UNREADABLE = (ValueError, RecursionError, OverflowError)


class _VersionWire(msgspec.Struct):
    x402_version: int = msgspec.field(name="x402Version")


_VERSION = msgspec.json.Decoder(_VersionWire)


def unwrap(header: bytes | str, max_bytes: int) -> tuple[bytes, bytes]:
    """Return (header as bytes, document in it); raise PaymentMalformed."""
    try:
        raw = header.encode("ascii") if isinstance(header, str) else header
        if len(raw) > max_bytes:
            raise PaymentMalformed(f"The header is longer than {max_bytes} bytes.")
        return raw, a2b_base64(raw, strict_mode=True)
    except ValueError as error:
        raise PaymentMalformed("The header is not base64.") from error


def unwrap_storable(header: bytes | str, max_bytes: int) -> bytes:
    """The document in a header of a seller, whose texts are written down. Raises PaymentMalformed,
    also for a NUL in any of them: PostgreSQL has none. JSON has it as an escape only."""
    document = unwrap(header, max_bytes)[1]
    if b"\\u0000" in document:
        raise PaymentMalformed("The header has a NUL in a text.")
    return document


def wrap(document: bytes) -> bytes:
    """A JSON document as a header value."""
    return b2a_base64(document, newline=False)


def decode(decoder: msgspec.json.Decoder[_T], document: bytes) -> _T:
    """Read a JSON document into its shape; raise PaymentMalformed."""
    try:
        return decoder.decode(document)
    except UNREADABLE as error:
        if _is_other_version(document):
            message = f"Only x402 version {X402_VERSION} is spoken here."
            raise PaymentMalformed(message, codes.INVALID_VERSION) from error
        raise PaymentMalformed(sentence(error)) from error


def sentence(error: Exception) -> str:
    """A refusal's text: at most a line of what the client may have put into it."""
    return f"The header cannot be read: {str(error)[:200]}"


def _is_other_version(document: bytes) -> bool:
    try:
        return _VERSION.decode(document).x402_version != X402_VERSION
    except UNREADABLE:
        return False
