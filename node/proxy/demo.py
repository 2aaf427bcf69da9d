"""Calls of listings in demo mode: recorded answers, free. Nothing here can sign.

A seller that is a Farebox node is asked for its own recorded answer (`Farebox-Demo: 1`,
see node.gateway.demo) and believed only if it says that this is one. For any other
seller, or when that one has none, the answer is what this node has recorded itself, or
the example in the seller's own description.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, Engine, select
from sqlmodel import col

from catalog.editing import read_listing
from catalog.errors import ListingUnknown
from catalog.listings import PathAmbiguous, compile_listing, split_path
from catalog.models import Sample
from catalog.samples import DemoAnswer
from finance.store import Batch, Store
from node.lines.pool import Answer as Received
from node.problems import Headers
from node.proxy.answer import Answer
from node.proxy.call import Request
from node.proxy.errors import ProxyError, RequestRefused, SellerFailed
from node.proxy.headers import to_buyer, to_seller
from node.proxy.rows import record_of
from node.proxy.seller import SellerClient, read_up_to

DEMO = "farebox-demo"
SCHEME = "demo"  # of such a call in the journal
MOST_BYTES = 1 << 20
_MARK = (DEMO.encode(), b"true")
_NONE = (
    "No sample answer is recorded for this request. Switch the listing to production to"
    " buy the call, or try an operation that has a sample."
)


class DemoDesk:
    """Answers calls of listings in demo mode. One per node."""

    def __init__(self, store: Store, seller: SellerClient) -> None:
        self._store = store
        self._seller = seller

    async def answer(self, request: Request) -> Answer:
        """The recorded answer, booked as a free call; raise ProxyError (404: there is none)."""
        given = await self._find(request)
        ours = [
            _MARK,
            (b"farebox-call-id", request.call_id.encode()),
            (b"farebox-cost", b"0"),
        ]
        if given.status not in (204, 304):
            ours.append((b"content-length", b"%d" % len(given.start)))
        given.headers = [*given.headers, *ours]
        record = record_of(request, given.status, SCHEME, bytes_out=len(given.start))
        await self._store.commit(Batch([record.write()], [record.increment()]))
        return given

    async def _find(self, request: Request) -> Answer:
        failure: ProxyError | None = None
        if request.source.seller_demo:
            try:
                answer = await self._of_seller(request)
            except ProxyError as error:
                answer, failure = None, error
            if answer is not None:
                return answer
        own = await asyncio.to_thread(_recorded, self._store.engine, request)
        if own is not None:
            return own
        raise failure or RequestRefused("demo_not_recorded", _NONE)

    async def _of_seller(self, request: Request) -> Answer | None:
        """The seller's recorded answer; None when it has none, or says nothing of demo."""
        headers = [*to_seller(request.headers), (_MARK[0], b"1")]
        answer = await self._seller.send(request.method, request.url, headers, request.body)
        try:
            return await _passed_on(answer)
        finally:
            answer.close()


async def _passed_on(answer: Received) -> Answer | None:
    if answer.header(_MARK[0]) != b"true" or answer.status >= 400:
        return None
    body, complete = await read_up_to(answer, MOST_BYTES)
    if not complete:
        raise SellerFailed("seller_failed", "The seller's sample is larger than 1 MB.")
    source = [(b"farebox-demo-source", b"seller")]
    return Answer(answer.status, to_buyer(answer.raw_headers, paid=True) + source, body)


def _recorded(engine: Engine, request: Request) -> Answer | None:
    """What this node has recorded for a request (blocking)."""
    try:
        path = b"/" + request.path.encode("latin-1")
        segments = split_path(path)
    except (PathAmbiguous, UnicodeEncodeError) as error:
        raise RequestRefused("path_ambiguous", str(error)) from error
    with engine.connect() as connection:
        found = _sample(connection, request, path, segments)
    if found is None:
        return None
    headers: Headers = to_buyer(found.headers, paid=True)
    headers.append((b"farebox-demo-source", b"recorded here"))
    headers.append((b"farebox-demo-recorded-at", b"%d" % found.recorded_at))
    return Answer(found.status, headers, b"" if request.method == "HEAD" else found.body)


def _sample(
    connection: Connection, request: Request, path: bytes, segments: tuple[str, ...]
) -> DemoAnswer | None:
    listing_id = request.source.listing_id
    try:
        listing, prices = read_listing(connection, listing_id)
    except ListingUnknown:
        return None
    rows = connection.execute(select(Sample).where(col(Sample.listing_id) == listing_id))
    compiled = compile_listing(listing, prices, [Sample(**row) for row in rows.mappings()])
    route = compiled.match(request.method, segments)
    operation = (route.method, route.template) if route is not None else ("", "")
    query = request.url.raw_query_string.encode("latin-1", "replace")
    return compiled.answers.find(request.method, path, query, operation)
