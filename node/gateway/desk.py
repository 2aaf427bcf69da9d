"""What every way of paying shares: forwarding, booking calls, giving answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from finance.errors import FinanceError, PaymentRefused, SettlementFailed, SettlementUnknown
from finance.selling.answers import KeptAnswer, identifier_answer_key, keep
from finance.selling.channels import Channel
from finance.store import Batch, Write
from finance.x402.receipt import encode_response
from finance.x402.values import Payment, Receipt
from node.db.presence import Presence
from node.gateway.forward import Answer, Forwarder, UpstreamError
from node.gateway.headers import to_caller
from node.gateway.match import Match
from node.gateway.ports import Seller
from node.gateway.request import Call, CallerGone
from node.gateway.stream_events import counted
from node.gateway.stream_socket import SocketCall
from node.plans.gate import SubscriberGate
from node.problems import PROBLEMS, Headers
from node.usage.calls import CallRecord
from node.usage.models import Side
from node.usage.streams import Streams

log = logging.getLogger("farebox.gateway")

MAX_PATH = 512
# Of all long answers that wait for their money at the same time.
MAX_WAITING_BYTES = 1 << 30
PAYMENT_RESPONSE = b"payment-response"
RETRY_SOON: Headers = [(b"retry-after", b"1")]
RETRY_LATER: Headers = [(b"retry-after", b"5")]


class Refused(Exception):
    """The call ends with a problem of node.problems.PROBLEMS; `extra` are its own members."""

    def __init__(
        self, code: str, headers: Headers | None = None, detail: str | None = None, **extra: Any
    ) -> None:
        super().__init__(code)
        self.code, self.headers = code, headers or []
        self.detail, self.extra = detail, extra


class ChannelRefusal(Exception):
    """A refusal to be answered with the channel's state: the corrective 402."""

    def __init__(self, cause: PaymentRefused, channel: Channel) -> None:
        super().__init__(cause.code)
        self.cause, self.channel = cause, channel


class Unsettled(Exception):
    """The money did not move (`receipt` says why); the answer is withheld."""

    def __init__(self, receipt: bytes, cause: SettlementFailed | SettlementUnknown) -> None:
        super().__init__(cause.code)
        self.receipt, self.cause = receipt, cause


class Room:
    """Where long answers wait for their money: so many bytes of files in all, and one of
    them whole in memory."""

    def __init__(self, limit: int = MAX_WAITING_BYTES) -> None:
        self._limit = limit
        self._whole = asyncio.Lock()
        self.taken = 0

    def take(self, size: int) -> None:
        """Raises Refused when there is no room for so much more."""
        if self.taken + size > self._limit:
            raise Refused("too_many_long_answers", RETRY_LATER)
        self.taken += size

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Held while an answer is whole in memory."""
        return self._whole


class Desk:
    """The tools of one gateway, shared by all its calls."""

    def __init__(
        self,
        seller: Seller,
        forwarder: Forwarder,
        streams: Streams,
        gate: SubscriberGate | None = None,
    ) -> None:
        self.seller = seller
        self.gate = gate  # of those who have a plan
        self.forwarder = forwarder
        self.streams = streams
        # Other processes may sell from the same books.
        self.presence = Presence(seller.store.engine)
        # Authorizations and payment identifiers being served; the database decides, this
        # only spares it the repeats of one moment.
        self.in_flight: set[str] = set()
        self.room = Room()
        self._background: set[asyncio.Task[Any]] = set()

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run on; the task is kept until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def stop(self) -> None:
        """Wait for what is still being booked."""
        if self._background:
            await asyncio.wait(self._background, timeout=10)

    def record(
        self,
        call: Call,
        match: Match,
        status: int,
        bytes_out: int,
        payer: str | None = None,
        scheme: str | None = None,
        amount: int = 0,
        error: str | None = None,
    ) -> CallRecord:
        """The call as a row."""
        record = CallRecord(
            id=call.id,
            side=Side.SERVED,
            at_ms=call.at_ms,
            listing_id=match.listing.id,
            method=call.method,
            path=match.rest[:MAX_PATH].decode("latin-1") or "/",
            status=status,
            latency_us=call.elapsed_us(),
            payer=payer,
            scheme=scheme,
            amount_atoms=amount,
            error=error,
            bytes_out=bytes_out,
            route="" if match.route is None else match.route.name_for(call.method),
        )
        call.booked = record
        if isinstance(call, SocketCall) and amount and match.route is not None:
            call.minute_atoms = match.route.minute_atoms
        return record

    def book(self, record: CallRecord) -> None:
        """Journal a call that moved no money, without making its caller wait."""
        self.in_background(self._book(record))

    async def _book(self, record: CallRecord) -> None:
        try:
            await self.seller.store.commit(Batch([record.write()], [record.increment()]))
        except FinanceError:
            log.exception("call %s could not be journaled", record.id)

    def book_failure(
        self,
        call: Call,
        match: Match,
        error: UpstreamError,
        payer: str | None = None,
        scheme: str | None = None,
    ) -> None:
        """An API that gives no answer has failed like one that says so."""
        if call.booked is None:
            status = PROBLEMS[error.code][0]
            self.book(self.record(call, match, status, call.sent, payer, scheme, error=error.code))

    async def pass_on(
        self,
        call: Call,
        match: Match,
        answer: Answer,
        payer: str | None = None,
        scheme: str | None = None,
    ) -> None:
        """Give an answer that costs nothing: a free one, an error, a redirect."""
        route = match.route
        assert route is not None
        headers = to_caller(answer.raw_headers, route.upstream, paid=route.offer is not None)
        size = len(answer.head)
        if answer.complete:
            await call.answer(answer.status, framed(call, answer, headers), answer.head)
        else:
            async with counted(self.streams, call, match, answer, payer):
                await self._stream(call, answer, headers)
            size = call.sent
        error = None if answer.status < 400 else "upstream_status"
        self.book(self.record(call, match, answer.status, size, payer, scheme, 0, error))

    async def _stream(self, call: Call, answer: Answer, headers: Headers) -> None:
        await call.start(answer.status, with_length(headers, answer.length))
        await call.send(answer.head, True)
        async for chunk in answer.rest():
            if call.is_gone():
                raise CallerGone
            await call.send(chunk, True)
        await call.send(b"", False)


def identified(match: Match, payment: Payment, kept: KeptAnswer, at: int) -> list[Write]:
    """The same answer under the client's payment identifier, if it gave one."""
    if payment.payment_identifier is None:
        return []
    key = identifier_answer_key(match.listing.id, payment.payment_identifier)
    return [keep(key, kept, at, once=True)]


def unsettled(network: str, payer: str, cause: SettlementFailed | SettlementUnknown) -> Unsettled:
    """The error for money that did not move, with the receipt that tells the client."""
    receipt = Receipt(
        success=False, transaction="", network=network, payer=payer, error_reason=cause.code
    )
    return Unsettled(encode_response(receipt), cause)


def framed(call: Call, answer: Answer, headers: Headers) -> Headers:
    """With the content-length of a complete body; of what GET would give, for HEAD."""
    if answer.status in (101, 204, 304):
        return headers
    length = answer.length if call.method == "HEAD" else len(answer.head)
    return with_length(headers, length)


def with_length(headers: Headers, length: int | None) -> Headers:
    """With a content-length if it is known; else the server sends chunks."""
    if length is None:
        return headers
    return [*headers, (b"content-length", b"%d" % length)]
