"""Headers on their way through: what must not pass, what is set in its place.

Hop-by-hop headers end here (RFC 9110, 7.6.1), also those that `Connection` lists.
Payments, our own headers and what could make the upstream act on another path,
method or host than the one that was paid for never reach it (law 11).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from catalog.samples import gives_away
from node.gateway.match import Upstream

Headers = list[tuple[bytes, bytes]]
RawHeaders = Iterable[tuple[bytes, bytes]]

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
        b"http2-settings",
    )
)
_NEVER_UPSTREAM = _HOP_BY_HOP | {
    b"host",
    b"content-length",  # set anew by whoever writes the body
    b"expect",
    # Aimed at this gateway, or able to spend.
    b"authorization",
    b"payment-signature",
    b"payment-required",
    b"payment-response",
    b"x-payment",
    b"x-payment-response",
    b"farebox-call-id",
    b"farebox-cost",
    b"farebox-scheme",
    b"farebox-demo",
    b"farebox-key",  # of a subscriber
    b"farebox-stream",
    b"farebox-paid-until",
    # A handshake of its own is made with the upstream.
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-protocol",
    b"sec-websocket-extensions",
    # Who called is said by us.
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-real-ip",
    # Another method or path than the one that was priced.
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
    b"x-original-uri",
}
_NEVER_DOWNSTREAM = _HOP_BY_HOP | {
    b"content-length",
    b"date",  # the server in front of us writes its own
    b"payment-required",
    b"payment-response",
    b"payment-signature",
    b"x-payment-response",
    b"farebox-call-id",
    b"farebox-cost",
    b"farebox-scheme",
    b"farebox-demo",  # a paid answer never passes for a recorded one
    b"farebox-demo-recorded-at",
    b"farebox-stream",  # an upstream does not tell anybody to go on paying
    b"farebox-paid-until",
}
_ADDRESSES = frozenset((b"location", b"content-location", b"refresh", b"link"))
_CACHING = frozenset(
    (b"expires", b"pragma", b"age", b"surrogate-control", b"edge-control", b"x-accel-expires")
)
_NOTHING: frozenset[bytes] = frozenset()
_BEGUN = rb"(?i)(^|<|url=['\"]?)"  # where an address begins in them


def to_upstream(
    given: RawHeaders, upstream: Upstream, call_id: str, client: str, scheme: str
) -> Headers:
    """The headers of the forwarded request, without framing."""
    dropped, host = _connection_listed(given), b""
    injected = {_as_read(name) for name, _ in upstream.headers}
    headers: Headers = []
    for name, value in given:
        if name == b"host":
            host = value
            continue
        read = _as_read(name)
        if not (read in _NEVER_UPSTREAM or read in injected or name in dropped):
            headers.append((name, value))
    return [
        (b"Host", upstream.host),
        *headers,
        *upstream.headers,
        (b"X-Forwarded-For", client.encode()),
        (b"X-Forwarded-Proto", scheme.encode()),
        (b"X-Forwarded-Host", host),
        (b"X-Request-Id", call_id.encode()),
    ]


def _as_read(name: bytes) -> bytes:
    """A name as CGI and WSGI hand it on: they take `_` for `-`."""
    return name.replace(b"_", b"-")


def to_caller(given: RawHeaders, upstream: Upstream, paid: bool) -> Headers:
    """The headers of the answer, without framing. Paid answers are never cached (law 11)."""
    dropped = _connection_listed(given)
    headers: Headers = []
    for name, value in given:
        name = name.lower()
        if name in _NEVER_DOWNSTREAM or name in dropped:
            continue
        if paid and _rules_caches(name):
            continue
        if name in _ADDRESSES:
            value = _public_address(value, upstream)
        if upstream.secrets and gives_away(value, upstream.secrets):
            continue
        headers.append((name, value))
    if paid:
        headers.append((b"cache-control", b"no-store"))
    return headers


def _rules_caches(name: bytes) -> bool:
    """Also caches of one kind, which heed their own before `Cache-Control` (RFC 9213)."""
    return name in _CACHING or name.endswith(b"cache-control")


def _public_address(value: bytes, upstream: Upstream) -> bytes:
    """An address at the upstream, or its path alone, becomes one at the gateway; its credential
    goes."""
    if upstream.query:
        given = upstream.query
        for joint in (b"?" + given + b"&", b"&" + given, b"?" + given):
            value = value.replace(joint, b"?" if joint.endswith(b"&") else b"")
    base, path = upstream.public_base.encode(), upstream.path
    end = rb"(?=[/?#>;]|$)" if path else rb"(?=/(?!/))"
    value = re.sub(_BEGUN + re.escape(path) + end, lambda begun: begun[1] + base, value)
    return value.replace(upstream.base.encode(), base)


def _connection_listed(headers: RawHeaders) -> frozenset[bytes]:
    listed = [value for name, value in headers if name.lower() == b"connection"]
    if not listed or listed == [b"keep-alive"]:
        return _NOTHING
    return frozenset(each.strip().lower() for value in listed for each in value.split(b","))
