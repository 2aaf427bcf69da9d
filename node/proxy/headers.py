"""Which headers pass: to the seller, and back to the buyer's app."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urljoin

from yarl import URL

Pairs = Iterable[tuple[bytes, bytes]]

# RFC 9110 7.6.1; they belong to one connection.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# The bearer secret, the console's cookies and address, and payments that are ours to make.
_NOT_TO_SELLER = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"idempotency-key",
    b"origin",
    b"payment-signature",
    b"referer",
    b"via",
    b"x-payment",
    b"x-real-ip",
}
_NOT_TO_SELLER_PREFIXES = (b"farebox-", b"x-farebox-", b"x-forwarded-")
# The proxy shares its origin with the console: a seller must not set its state.
_NOT_TO_BUYER = _HOP_BY_HOP | {
    b"alt-svc",
    b"clear-site-data",
    b"content-length",
    b"content-security-policy",
    b"date",  # the server in front of us writes its own
    b"payment-required",
    b"service-worker-allowed",
    b"set-cookie",
    b"strict-transport-security",
}
_SANDBOX = (
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
)


def to_seller(headers: Pairs) -> list[tuple[bytes, bytes]]:
    """The app's headers without what is between it and us (names lower-case, as in ASGI)."""
    named = _connection_names(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in _NOT_TO_SELLER
        and not name.startswith(_NOT_TO_SELLER_PREFIXES)
        and name not in named
    ]


def to_buyer(headers: Pairs, *, paid: bool) -> list[tuple[bytes, bytes]]:
    """The seller's headers, harmless on the console's origin; paid answers are never cached."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = _connection_names(lowered)
    kept = [
        (name, value)
        for name, value in lowered
        if name not in _NOT_TO_BUYER
        and not name.startswith(b"farebox-")
        and name not in named
        and not (paid and name == b"cache-control")
    ]
    if paid:
        kept.append((b"cache-control", b"no-store"))
    return [*kept, *_SANDBOX]


def here(headers: Pairs, url: URL, base: str, slug: str) -> list[tuple[bytes, bytes]]:
    """The seller's headers in answer to `url`; a redirect to what is below the listing leads here:
    whoever followed it to the seller would have left its payments behind."""
    return [
        (name, _leading_here(value, url, base, slug) if name.lower() == b"location" else value)
        for name, value in headers
    ]


def _leading_here(value: bytes, url: URL, base: str, slug: str) -> bytes:
    try:
        target = urljoin(str(url), value.decode("latin-1"))
    except ValueError:
        return value  # no address
    if not (f"{target}/".startswith(f"{base}/") or target.startswith(f"{base}?")):
        return value
    return f"/call/{slug}{target[len(base) :]}".encode("latin-1")


def find(headers: Pairs, wanted: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    for name, value in headers:
        if name == wanted or name.lower() == wanted:
            return value
    return None


def _connection_names(headers: Pairs) -> frozenset[bytes]:
    listed = [value for name, value in headers if name == b"connection"]
    return frozenset(each.strip().lower() for value in listed for each in value.split(b","))
