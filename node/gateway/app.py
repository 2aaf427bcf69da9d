"""The public side of a node: a raw ASGI app with five kinds of addresses.

`/v1/{slug}/{path}` sells calls; `/.well-known/x402` and `/discovery/resources` say
what is sold; `/healthz` and `/readyz` are for whoever keeps the node running.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from sqlalchemy.exc import SQLAlchemyError

from catalog.listings import PathAmbiguous, PricedListing
from finance.errors import FinanceError, StoreUnavailable
from finance.selling.reservations import release_of, reserving_owners
from finance.store import Batch
from node.gateway.desk import Desk, Refused
from node.gateway.discovery import Directory
from node.gateway.forward import Forwarder, UpstreamError
from node.gateway.match import PREFIX, RouteTable
from node.gateway.own import OWN_PATH, Shelf, Shelves
from node.gateway.plans import Counter, PlanShelf
from node.gateway.ports import Seller
from node.gateway.request import BodyTooLarge, Call, CallerGone, Receive, Scope, Send
from node.gateway.serve import give_problem, preflight, problem_of, serve
from node.gateway.stream_minutes import SHELF, Minutes
from node.gateway.stream_socket import SocketCall, StreamOpened
from node.gateway.subscriptions import SubscriptionShelf
from node.gateway.unpaid import undo_unpaid
from node.plans.gate import SubscriberGate
from node.usage.streams import Streams

log = logging.getLogger("farebox.gateway")

TIDY_SECONDS = 15.0

_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_JSON = (b"content-type", b"application/json")


class Gateway:
    """Callable as ASGI. `start` before the first request, `stop` after the last."""

    def __init__(
        self,
        seller: Seller,
        listings: Iterable[PricedListing] = (),
        streams: Streams | None = None,
        subscribers: SubscriberGate | None = None,
    ) -> None:
        """`streams` are both sides' of a node, which starts and stops them; `subscribers`
        those who have a plan."""
        self._seller, self.subscribers = seller, subscribers
        self._streams = streams or Streams(seller.store)
        self._counts_itself = streams is None
        self._forwarder = Forwarder(seller.egress, seller.sale.max_timeout_seconds)
        self._desk = Desk(seller, self._forwarder, self._streams, subscribers)
        self.minutes = Minutes(self._streams, seller.store, subscribers)
        own: dict[str, Shelf] = {SHELF: self.minutes}
        if subscribers is not None:
            counter = Counter(seller.sale, subscribers, seller.store.engine)
            own |= {"plans": PlanShelf(counter), "subscriptions": SubscriptionShelf(counter)}
        self._shelves = Shelves(seller.sale, own)
        self._tidying: asyncio.Task[None] | None = None
        self.reload(listings)

    def reload(self, listings: Iterable[PricedListing]) -> None:
        """Replace all routes and prices at once. Calls already admitted keep theirs."""
        table = RouteTable(listings, self._seller.sale, self._seller.unseal)
        for slug, reason in table.broken.items():
            log.error("listing %s cannot be sold: %s", slug, reason)
        self._table, self._directory = table, Directory(table)

    async def take_over_plans(self) -> None:
        """Plans, periods and overrides as the database has them now."""
        if self.subscribers is not None:
            await self.subscribers.load()

    async def start(self) -> None:
        """Put the books in order after a crash; call once the store is open."""
        await self._tidy()
        if self._counts_itself:
            await self._streams.start()
        if self.subscribers is not None:
            await self.subscribers.start()
        self.minutes.start()
        self._tidying = asyncio.create_task(self._keep_tidy(), name="tidy")

    async def stop(self) -> None:
        """Finish what is being booked and close the pool."""
        await self._desk.stop()
        await self.minutes.stop()
        if self.subscribers is not None:
            await self.subscribers.stop()
        await self._forwarder.stop()
        if self._counts_itself:
            await self._streams.stop()
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await asyncio.to_thread(self._desk.presence.leave)

    async def _tidy(self) -> None:
        """Show that we live; free what processes that are gone have held, carry on what they
        had owed, undo calls whose money did not come."""
        presence, store = self._desk.presence, self._seller.store
        await asyncio.to_thread(presence.show)
        owners = await asyncio.to_thread(reserving_owners, store.engine)
        gone = await asyncio.to_thread(presence.departed, owners)
        if gone:
            await store.commit(Batch([release_of(each, int(time.time())) for each in gone]))
            await self._seller.settlement.take_over(gone)
        if presence.shared:
            await self._seller.refunds.finish_abandoned()
        taken_back = await self._seller.channels.reverse_broken_streams(presence.departed)
        if taken_back:
            log.warning("%d charges of broken streams were taken back", taken_back)
        if unpaid := await undo_unpaid(store):
            log.warning("%d calls are undone: their payment failed", unpaid)

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                await self._tidy()
            except (FinanceError, SQLAlchemyError) as error:
                log.warning("what other processes held cannot be looked at now: %s", error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._edge(Call(scope, receive, send, self._seller.max_body_bytes))
            case "websocket":
                await self._socket(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the wish to connect
        call = SocketCall(scope, receive, send, self._streams)
        try:
            await self._edge(call)
            if call.accepted:
                await call.carry(receive)
        finally:
            call.drop()

    async def _edge(self, call: Call) -> None:
        """Every error ends here as an answer, or as a cut connection once one has begun."""
        try:
            await self._route(call)
        except CallerGone:
            log.info("call %s: the caller left, nothing was charged", call.id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, Refused | BodyTooLarge | PathAmbiguous | StreamOpened):
                self._log(call, error)
            if not call.started:
                await self._explain(call, error)
            # Else: returning without an end makes the server cut the connection.

    async def _explain(self, call: Call, error: Exception) -> None:
        match error:
            case Refused():
                await give_problem(call, error.code, error.headers, error.detail, **error.extra)
            case PathAmbiguous():
                await give_problem(call, "path_ambiguous", detail=str(error))
            case StreamOpened():
                await give_problem(call, "stream_opened", error.receipt)
            case BodyTooLarge():
                limit = self._seller.max_body_bytes
                await give_problem(call, "body_too_large", detail=f"At most {limit} bytes.")
            case UpstreamError():
                await give_problem(call, error.code)
            case FinanceError():
                await give_problem(call, *problem_of(error))
            case SQLAlchemyError():
                await give_problem(call, *problem_of(StoreUnavailable()))
            case _:
                await give_problem(call, "internal_error")

    def _log(self, call: Call, error: Exception) -> None:
        if isinstance(error, UpstreamError):
            log.warning("call %s: %s (%s)", call.id, error.code, error.reason)
        elif isinstance(error, FinanceError):
            log.warning("call %s: %s: %s", call.id, error.code, error)
        elif isinstance(error, SQLAlchemyError):
            log.warning("call %s: the database cannot be read: %s", call.id, error)
        else:
            log.error("call %s failed", call.id, exc_info=error)

    async def _route(self, call: Call) -> None:
        path = call.raw_path
        if path.startswith(PREFIX):
            match = self._table.match(call.method, path)
            if match is None:
                raise Refused("no_such_listing")
            if match.rest.startswith(OWN_PATH) and match.route is not None:
                match = await self._shelves.find(call, match)
            await serve(self._desk, call, match)
        elif call.method in ("GET", "HEAD"):
            await self._serve_own(call, path)
        elif call.method == "OPTIONS":
            # The official clients name a content type even where they ask for a list.
            await preflight(call)
        else:
            raise Refused("no_such_resource")

    async def _serve_own(self, call: Call, path: bytes) -> None:
        match path:
            case b"/healthz":
                await call.answer(200, [_TEXT, (b"content-length", b"3")], b"ok\n")
            case b"/readyz" if self._seller.ready():
                await call.answer(200, [_TEXT, (b"content-length", b"6")], b"ready\n")
            case b"/readyz":
                await call.answer(503, [_TEXT, (b"content-length", b"10")], b"not ready\n")
            case b"/.well-known/x402":
                await _give_json(call, self._directory.well_known)
            case b"/discovery/resources":
                await _give_json(call, self._directory.page(call.query))
            case _:
                raise Refused("no_such_resource")


async def _give_json(call: Call, body: bytes) -> None:
    """For pages too, also where a cache was asked by somebody else before."""
    headers = [_JSON, (b"content-length", b"%d" % len(body)), (b"cache-control", b"max-age=60")]
    await call.answer(200, [*headers, (b"access-control-allow-origin", b"*")], body)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The parts are started and stopped by node.app, not by the server."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
