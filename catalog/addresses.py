"""Web addresses, as operators and strangers write them."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from yarl import URL


def as_called(address: str) -> str:
    """An address as requests have it: percent-encoded, its host as name servers know it."""
    return address if address.isascii() else str(URL(address))


def callable_parts(address: str) -> SplitResult | None:
    """The parts of an http or https address; None for one that nothing can connect to."""
    try:
        host = URL(address).origin().host  # raises for one that no name server could know (IDNA)
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None
