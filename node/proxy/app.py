"""The proxy: `/call/{slug}/{path}` for the buyer's apps, one bearer secret, no SDK.

A raw ASGI app: it authenticates, finds the listing and hands the call to `Calls`. It is
mounted on the private listener only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from finance.buying.buyer import Buyer
from finance.buying.lost import lost
from finance.buying.onchain import ChainReader
from finance.buying.policy import BuyingPolicy
from finance.buying.recovery import restore, settle_channels, settle_exact
from finance.chain.events import SeenEvent
from finance.errors import ChainError, FinanceError, StoreConflict, StoreUnavailable
from finance.models import Purchase
from finance.networks import Network
from finance.store import Batch, Store, Write
from finance.wallet.signer import Keys
from node.db.locks import locks_of
from node.egress import EgressPolicy
from node.lines.websocket import Handshake
from node.plans.buying.ports import Asked, PlacedOrder, Told
from node.proxy.answer import Answer
from node.proxy.body import ClientGone, Receive, read_body
from node.proxy.call import Calls, Request
from node.proxy.demo import DemoDesk
from node.proxy.errors import ProxyError, RequestRefused, rendered, translated
from node.proxy.gate import Gate
from node.proxy.headers import find
from node.proxy.idempotency import IdempotencyKeys, kept_headers, read_key
from node.proxy.keyring import Keyring
from node.proxy.minutes import MinutePayer, Sold
from node.proxy.plan_line import ask, place
from node.proxy.plans import PlanKeys
from node.proxy.routes import Routes
from node.proxy.rows import record_of
from node.proxy.seller import SellerClient
from node.proxy.sending import send_answer, send_whole
from node.proxy.sources import Offered, Source, checked_path, load_sources, probe
from node.proxy.stream import (
    SWITCHING,
    Streamed,
    Upgrade,
    carry_socket,
    check_quota,
    check_unannounced,
    read_upgrade,
)
from node.proxy.terms_cache import TermsCache
from node.proxy.tryout import Trial, Tried, try_out
from node.usage.calls import new_call_id
from node.usage.keys import KeyRecord
from node.usage.late_charges import late_charges
from node.usage.models import Event, Side
from node.usage.quotas import Quotas
from node.usage.streams import Stream, Streams

_log = logging.getLogger(__name__)
_PREFIX = b"/call/"
_UPKEEP_SECONDS = 15
# A call that is still running settles its own authorization.
_OPEN_SECONDS = 180
INSERT_EVENT = insert(Event)

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Proxy:
    """The buyer's side of a node, as an ASGI app. `start` and `stop` belong to the node."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        network: Network,
        rpc: ChainReader,
        allowed_hosts: Iterable[str] = (),
        policy: BuyingPolicy | None = None,
        answer_seconds: float = 120.0,
        egress: EgressPolicy | None = None,
        quotas: Quotas | None = None,
        streams: Streams | None = None,
    ) -> None:
        """`egress` stands for `allowed_hosts` where several parts share one policy; `quotas`
        and `streams` are those of the process, which starts and stops the latter."""
        proved_late, locks = late_charges(store.engine), locks_of(store.engine)
        self.buyer = Buyer(store, keys, network, rpc, _event, proved_late, policy, locks)
        self._store = store
        policed = egress or EgressPolicy(allowed_hosts)
        self._client = SellerClient(policed, answer_seconds=answer_seconds)
        self.plans = PlanKeys(store.engine, keys.unseal)
        self._calls = Calls(self.buyer, self._client, TermsCache(), self.plans)
        self._demo = DemoDesk(store, self._client)
        self.gate = Gate(store, quotas or Quotas(store.engine))
        self._streams = streams or Streams(store, quotas=self.gate.quotas)
        self._counts_itself = streams is None
        self.minutes = MinutePayer(self._streams, self._buy_minute, self._standing)
        self._keys = Keyring({})
        self._sources: dict[str, Source] = {}
        self._routes = Routes(store.engine)
        self._idempotency = IdempotencyKeys(store)
        self._upkeep: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Load channels, counters, keys and listings; take up what a crash left open."""
        await self._client.start()
        await restore(self.buyer)
        await self.gate.start()
        if self._counts_itself:
            await self._streams.start()
        await self.reload()
        self.minutes.start()
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self.minutes.stop()
        if self._counts_itself:
            await self._streams.stop()
        await self.gate.stop()
        await asyncio.gather(self._client.stop(), self.buyer.pools.stop())

    async def reload(self) -> None:
        """Take over changed keys, listings and limits. Call it after each such change."""
        engine = self._store.engine
        self._keys = await asyncio.to_thread(Keyring.load, engine)
        for stream in self._streams.going_on(Side.BOUGHT):
            self._check_key(stream)
        self._sources = dict(await asyncio.to_thread(load_sources, engine))
        await asyncio.to_thread(self.buyer.spending.load_limits)
        await self.plans.reload()
        await self.gate.reload()

    def notice(self, events: Iterable[SeenEvent]) -> None:
        """What the watcher saw on the chain: channels that it changed are looked at."""
        if self.buyer.pools.notice(events):
            self._changed.set()

    def look_soon(self) -> None:
        """Have stale channels looked at now, not when their turn comes."""
        self._changed.set()

    async def probe(self, url: str) -> Offered:
        """What an address asks for, before it becomes a listing (see `sources.probe`)."""
        return await probe(url, self.buyer.network, self._client, self.buyer.policy)

    async def try_out(self, trial: Trial) -> Tried:
        """One call as an app makes it, by somebody who has signed in (see `tryout`)."""
        return await try_out(self._serve, trial)

    async def ask_seller(self, asked: Asked) -> Told:
        """What a seller says of its plans; nothing is paid (see `plan_line`)."""
        return await ask(self._client, asked)

    async def place(self, order: PlacedOrder) -> Told:
        """Buy a stretch of a plan, once (see `plan_line`)."""
        return await place(self._guarded, self._record_failure, order)

    def take_doubted(self) -> set[str]:
        """Subscriptions whose keys sellers did not take, since last asked."""
        doubted, self.plans.doubted = self.plans.doubted, set()
        return doubted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        upgrade = None
        if scope["type"] == "websocket":
            await receive()  # the wish to connect
            upgrade = read_upgrade(scope, receive, send)
            scope, receive, send = upgrade.scope, upgrade.receive, upgrade.send
        call_id = new_call_id(time.time_ns() // 1_000_000)
        try:
            answer = await self._answer(scope, receive, call_id)
            if upgrade is not None and answer.status == SWITCHING:
                await self._carry(upgrade, answer)
                return
        except ClientGone:
            return
        except ProxyError as error:
            await send_whole(send, *rendered(error, call_id))
            return
        except FinanceError as error:
            await send_whole(send, *rendered(translated(error), call_id))
            return
        except SQLAlchemyError as error:
            _log.warning("call %s: the database cannot be read: %s", call_id, error)
            await send_whole(send, *rendered(translated(StoreUnavailable()), call_id))
            return
        except Exception:
            _log.exception("call %s failed here", call_id)
            await send_whole(send, *rendered(ProxyError("internal_error"), call_id))
            return
        if not await send_answer(self._streams, send, receive, answer):
            await self._note_lost(scope, answer)

    async def _note_lost(self, scope: Scope, answer: Answer) -> None:
        """What broke off on its way can be asked for again under its Idempotency-Key."""
        name = find(scope["headers"], b"idempotency-key")
        if name is None or answer.stream is None:
            return
        asked = name.decode("ascii", "replace")
        with contextlib.suppress(StoreConflict, StoreUnavailable):
            write = lost(answer.stream.key.id, asked, int(time.time()))
            await self._store.commit(Batch([write]))

    async def _carry(self, upgrade: Upgrade, answer: Answer) -> None:
        assert answer.more is not None and answer.stream is not None
        await carry_socket(upgrade, answer.more, answer.headers, self._streams, answer.stream)

    async def _answer(self, scope: Scope, receive: Receive, call_id: str) -> Answer:
        key = self._keys.find(find(scope["headers"], b"authorization"))
        if key is None:
            sentence = "Send the header `Authorization: Bearer <secret>` with a key of this node."
            raise RequestRefused("secret_invalid", sentence)
        standing = self.gate.admit(key, int(time.time()))
        answer = await self._serve(key, scope, receive, call_id)
        if answer.more is not None:
            await check_unannounced(self.gate, self._store, key, scope, answer.more, call_id)
        if standing is not None:
            answer.headers = [*answer.headers, *standing.headers()]
        return answer

    async def _serve(
        self, key: KeyRecord, scope: Scope, receive: Receive, call_id: str, demo: bool = False
    ) -> Answer:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        source, path = self._find(scope)
        self.gate.check_scope(key, source.listing_id)
        handshake: Handshake | None = scope.get("farebox.handshake")
        if demo and not source.demo:
            source = replace(source, demo=True)
        url = source.url(path, scope["query_string"].decode("latin-1"))
        self._client.check(url)
        has_body = any(name in _BODY_HEADERS for name, _ in headers)
        body = await read_body(headers, receive) if has_body else None
        request = Request(call_id, key.id, source, scope["method"], path, url, headers, body)
        request.handshake = handshake
        try:
            request.route = await self._routes.name(source, request.method, path)
            if source.demo and handshake is not None:
                raise RequestRefused("demo_without_streams", "Switch the listing to production.")
            if source.demo:
                return await self._demo.answer(request)
            await check_quota(self.gate, key, scope)
            request.plan = self.plans.find(source)
            answer = await self._guarded(key, request)
            answer.stream = self._streamed(key, request, answer.minutes)
            return answer
        except ProxyError as error:
            await self._record_failure(request, error)
            raise
        finally:
            if body is not None:
                body.close()

    def _streamed(self, key: KeyRecord, request: Request, sold: Sold | None) -> Streamed:
        def opened(stream: Stream) -> None:
            if sold is not None:
                self.minutes.follow(stream, key, request.source, sold)
            self._check_key(stream)

        minute_atoms = 0 if sold is None else sold.minute_atoms
        return Streamed(request.call_id, request.source.listing_id, key, minute_atoms, opened)

    def _check_key(self, stream: Stream) -> None:
        """Whose key is revoked holds no stream any more."""
        if self._keys.named(stream.key_id or "") is None:
            stream.ask_to_stop("secret_invalid")

    def _standing(self, key: KeyRecord, source: Source) -> tuple[KeyRecord, Source]:
        """Key and listing of an open stream, if they may still pay for it."""
        known, listed = self._keys.named(key.id), self._sources.get(source.slug)
        if known is None:
            raise RequestRefused("secret_invalid", "The key is good no longer.")
        if listed is None or listed.base != source.base or listed.demo:
            raise RequestRefused("no_such_listing", "The listing is another one now.")
        if listed.paused:
            raise RequestRefused("listing_paused", "Its operator has paused it on this node.")
        self.gate.check_scope(known, listed.listing_id)
        return known, listed

    async def _buy_minute(self, key: KeyRecord, request: Request) -> Answer:
        try:
            return await self._guarded(key, request)
        except ProxyError as error:
            await self._record_failure(request, error)
            raise

    def _find(self, scope: Scope) -> tuple[Source, str]:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        start = raw.find(_PREFIX)
        slug, _, path = raw[start + len(_PREFIX) :].decode("latin-1").partition("/")
        source = self._sources.get(slug) if start >= 0 else None
        if source is None:
            raise RequestRefused("no_such_listing", "See the catalog for what can be called.")
        if source.paused and not source.demo:
            raise RequestRefused("listing_paused", "Its operator has paused it on this node.")
        return source, checked_path(path)

    async def _guarded(self, key: KeyRecord, request: Request) -> Answer:
        """The call, once per Idempotency-Key."""
        name = read_key(find(request.headers, b"idempotency-key"))
        if request.handshake is not None:
            name = None  # a stream cannot be given again
        try:
            if name is None:
                return await self._buy(key, request)
            request.idempotency_key = name
            request.fingerprint = _fingerprint(request)
            self._idempotency.begin(request.key_id, name)
            try:
                return await self._once(key, request, name)
            finally:
                self._idempotency.end(request.key_id, name)
        except FinanceError as error:
            raise translated(error) from error

    async def _once(self, key: KeyRecord, request: Request, name: str) -> Answer:
        known = await self._idempotency.look_up(request.key_id, name, request.fingerprint)
        if known.answer is not None:
            headers = [*kept_headers(known.answer), (b"farebox-replayed", b"true")]
            return Answer(known.answer.status, headers, known.answer.body)
        return await self._buy(key, request, known.purchase)

    async def _buy(
        self, key: KeyRecord, request: Request, earlier: Purchase | None = None
    ) -> Answer:
        """Within the key's quota, which gets its part back when nothing was delivered."""
        held = request.held = await self.gate.claim(key, request.at_ms // 1000)
        if held is None:
            return await self._calls.buy(request, earlier)
        try:
            return await self._calls.buy(request, earlier)
        except Exception:
            held.release()
            raise
        finally:
            # A call that is cut off while it is booked is booked all the same.
            if not held.committed:
                held.release()

    async def _record_failure(self, request: Request, error: ProxyError) -> None:
        if request.recorded:
            return
        record = record_of(request, rendered(error, None)[0], error=error.code)
        try:
            await self._store.commit(Batch([record.write()], [record.increment()]))
        except (StoreConflict, StoreUnavailable) as failure:
            _log.warning("call %s could not be recorded: %s", request.call_id, failure)

    async def _keep_up(self) -> None:
        """Settle what is open, for as long as the node runs."""
        while True:
            self._changed.clear()
            try:
                await settle_exact(self.buyer, _OPEN_SECONDS)
                await settle_channels(self.buyer)
            except (ChainError, StoreConflict, StoreUnavailable, SQLAlchemyError) as error:
                _log.warning("open purchases cannot be settled now: %s", error)
            except Exception:
                _log.exception("settling open purchases failed")
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_SECONDS):
                    await self._changed.wait()


_BODY_HEADERS = (b"content-length", b"transfer-encoding")


def _event(kind: str, severity: str, message: str) -> Write:
    params = {"at": int(time.time()), "type": kind, "severity": severity, "message": message}
    return Write(INSERT_EVENT, params)


def _fingerprint(request: Request) -> str:
    """What an Idempotency-Key is bound to: listing, method, target, body."""
    content = request.body.digest() if request.body is not None else b""
    parts = (request.source.listing_id, request.method, str(request.url))
    return hashlib.blake2b("\n".join(parts).encode() + content, digest_size=32).hexdigest()
