"""What sellers asked for when they were last asked, so that the payment goes with the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finance.buying.terms import Terms

if TYPE_CHECKING:
    from node.proxy.call import Request

MAX_CACHED_TERMS = 4096


class TermsCache:
    """The terms last seen, per listing, method and path; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._terms: dict[tuple[str, str, str], Terms] = {}

    def get(self, request: Request) -> Terms | None:
        return self._terms.get(_key(request))

    def put(self, request: Request, terms: Terms) -> None:
        key = _key(request)
        self._terms.pop(key, None)
        self._terms[key] = terms
        if len(self._terms) > MAX_CACHED_TERMS:
            del self._terms[next(iter(self._terms))]

    def drop(self, request: Request) -> None:
        self._terms.pop(_key(request), None)


def _key(request: Request) -> tuple[str, str, str]:
    # What a seller asks for a handshake may be shorter than for a call, and has to be.
    method = request.method if request.handshake is None else "WEBSOCKET"
    return request.source.listing_id, method, request.path
