"""One bought call: look, pay, send, check, book, answer.

Every step that could cost money is on disk before it leaves this node, and every answer
that was paid for is booked before the app sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from yarl import URL

from finance.buying.buyer import Buyer
from finance.buying.limits import SpendingRefused
from finance.buying.lost import ANSWER_LOST, charged_before, found, read_purchase
from finance.buying.purchase import Order, Payment, Verdict
from finance.buying.recovery import settle_exact
from finance.buying.terms import Terms, choose
from finance.errors import FinanceError
from finance.models import ChannelState, Purchase, PurchaseState
from finance.store import Batch
from finance.x402 import codes
from finance.x402.values import EXACT, PaymentRequired
from finance.x402.wire import PAYMENT_RESPONSE_HEADER, PAYMENT_SIGNATURE_HEADER
from node.lines.pool import Answer as Received
from node.lines.websocket import Handshake
from node.plans.buying.keys import HeldKey
from node.proxy.answer import Answer, answer_of, ours, read_start
from node.proxy.body import Body
from node.proxy.errors import ProxyError, RequestRefused, SellerFailed, translated
from node.proxy.headers import here, to_buyer, to_seller
from node.proxy.minutes import sold_by_minute
from node.proxy.plans import KEY_HEADER, SCHEME, Ordered, PlanKeys
from node.proxy.refusal import (
    answer_lost,
    broken_off,
    charge_unknown,
    offer_in,
    payment_refused,
    refusal_in,
)
from node.proxy.rows import answered, counted_by, kept_of, record_of
from node.proxy.seller import NotSent, SellerClient
from node.proxy.sources import Source
from node.proxy.terms_cache import TermsCache
from node.usage.quotas import Reservation

# First terms, then a price change, then a corrected channel: more is a seller playing games.
MAX_PAYMENTS = 3


@dataclass(slots=True)
class Request:
    """What the app asked for; `path` is below the listing, percent-encoded. `held`: its part
    of the month's quota, None for a key without one."""

    call_id: str
    key_id: str
    source: Source
    method: str
    path: str
    url: URL
    headers: list[tuple[bytes, bytes]]
    body: Body | None
    fingerprint: str = ""
    idempotency_key: str | None = None
    held: Reservation | None = None
    handshake: Handshake | None = None  # it asks for a WebSocket
    plan: HeldKey | None = None  # shown before anything is paid
    order: Ordered | None = None  # it buys a plan
    agreed: Ordered | None = None  # above its price nothing is signed
    route: str = ""  # as it is counted, e.g. GET /forecast/{city}
    recorded: bool = False  # in the journal, though it failed
    at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    started: float = field(default_factory=time.perf_counter)


class Calls:
    """Makes calls. One per node."""

    def __init__(
        self, buyer: Buyer, seller: SellerClient, terms: TermsCache, plans: PlanKeys
    ) -> None:
        self._buyer = buyer
        self._seller = seller
        self._terms = terms
        self._plans = plans

    async def buy(self, request: Request, earlier: Purchase | None = None) -> Answer:
        """The seller's answer, paid if need be; raise ProxyError.

        `earlier` is the purchase of the same Idempotency-Key that has no answer yet: its
        signature is sent again before another one is made.
        """
        if earlier is not None and (replayed := await self._replayed(request, earlier)) is not None:
            return replayed
        if request.plan is not None:
            covered = await self._plans.cover(request, request.plan, self._show_key)
            if covered is not None:
                return await self._free(request, covered.answer, SCHEME, covered.start)
        # What a plan costs changes by the day: its price is asked for anew.
        terms = self._terms.get(request) if request.order is None else None
        fresh = terms is None
        if terms is None:
            answer = await self._send(request, None)
            if answer.status != 402:
                return await self._free(request, answer)
            terms = self._read_terms(request, offer_in(answer))
        return await self._paid(request, terms, fresh, earlier)

    async def _paid(
        self, request: Request, terms: Terms, fresh: bool, earlier: Purchase | None
    ) -> Answer:
        reason, refused = "", list[Payment]()
        for attempt in range(1, MAX_PAYMENTS + 1):
            if (agreed := request.order or request.agreed) is not None:
                agreed.check(terms.amount_atoms)
            order = _order(request, attempt, earlier, refused)
            payment = await self._pay(order, terms, reason)
            answer = await self._deliver(request, payment)
            if answer.status != 402:
                return await self._finish(request, payment, answer)
            required, reason, settling = refusal_in(answer)
            mended = await self._buyer.books.refused(payment, required, reason)
            refused.append(payment)
            tried = [each.order.purchase_id for each in refused]
            if earlier and await charged_before(self._buyer.store, earlier, tried):
                raise answer_lost()
            if settling and payment.channel is None:
                break  # another authorization could be charged beside this one
            # A seller that could not move the money says so, and offers nothing anew.
            newer = self._read_terms(request, required) if required.accepts else terms
            changed = _essence(newer) != _essence(terms) or (not fresh and newer != terms)
            # An order is never signed twice: the first signature may still be charged. Nor is
            # a seller paid again whose answer did not add up.
            stopped = payment.channel is not None and payment.channel.state == ChannelState.STOPPED
            if request.order is not None or stopped or not (mended or changed):
                break
            terms, fresh = newer, True
        raise payment_refused(reason)

    async def _pay(self, order: Order, terms: Terms, reason: str) -> Payment:
        """Sign for the call, after a refusal for that `reason`. Where the limits allow no further
        channel beside one that is busy, that one is waited for."""
        try:
            return await self._buyer.pay(order, terms)
        except SpendingRefused:
            if reason != codes.CHANNEL_BUSY or (busy := order.refused[-1].channel) is None:
                raise
        await asyncio.sleep(self._buyer.policy.elsewhere_seconds)
        return await self._buyer.pay(replace(order, channel_id=busy.id_hex), terms)

    async def _replayed(self, request: Request, earlier: Purchase) -> Answer | None:
        """What an earlier signature buys, or has bought; None if it certainly was not charged
        and a new payment may be made."""
        if earlier.state in _MAY_BE_CHARGED:
            payment = await self._reopen(request, earlier)
            if payment is not None:
                return await self._again(request, payment)
            # Another call's proof has decided it, perhaps after it was read.
            earlier = await self._row(earlier.call_id)
        channel = self._buyer.pools.find(earlier.channel_id)
        usable = channel is not None and channel.usable
        if earlier.state in _MAY_BE_CHARGED and not usable:
            raise charge_unknown()
        decided = channel is not None and channel.charged >= earlier.cumulative_atoms
        if earlier.state == PurchaseState.PAID or (usable and decided):
            return await self._shown_again(request, earlier)
        return None

    async def _again(self, request: Request, payment: Payment) -> Answer | None:
        """Send an open purchase's signature once more; None as in `_replayed`."""
        answer = await self._deliver(request, payment)
        if answer.status != 402:
            return await self._finish(request, payment, answer)
        required, reason, _ = refusal_in(answer)
        await self._buyer.books.refused(payment, required, reason)
        if reason == codes.CHANNEL_BUSY:
            # Perhaps with this very call: it must not be paid anew beside it.
            raise payment_refused(reason)
        if payment.channel is None:
            await settle_exact(self._buyer, purchase_id=payment.order.purchase_id)
        row = await self._row(payment.order.purchase_id)
        if row.state == PurchaseState.PAID:
            raise answer_lost()
        if row.state in _MAY_BE_CHARGED:
            raise payment_refused(reason) if payment.channel is None else charge_unknown()
        return None

    async def _shown_again(self, request: Request, earlier: Purchase) -> Answer | None:
        """Show a signature that can be charged no more: a seller that keeps answers gives the
        one it bought, with its receipt. None if it bought none."""
        answer = await self._send(request, earlier.payment_header.encode())
        if answer.status >= 400:
            answer.close()
            if earlier.state == PurchaseState.PAID:
                raise answer_lost()
            if answer.status == 402:
                return None
            raise SellerFailed("seller_failed", f"The seller answered {answer.status}.")
        if earlier.state != PurchaseState.PAID and answer.header(PAYMENT_RESPONSE_HEADER) is None:
            return await self._free(request, answer)  # it asks for no payment any more
        atoms = earlier.amount_atoms
        try:
            start, complete = await read_start(answer, keep=True)
        except SellerFailed as error:
            raise broken_off(atoms) from error
        headers = to_buyer(answer.raw_headers, paid=True) + ours(request, atoms, earlier.scheme)
        known = earlier.state == PurchaseState.PAID  # and so the call it was signed for says
        record = answered(request, answer, earlier.scheme, 0 if known else atoms, len(start))
        store, late = self._buyer.store, self._buyer.proved_late
        books = await found(earlier, store.engine, late, int(time.time()))
        writes = [record.write(), *books.writes]
        if complete:
            writes.append(kept_of(request, answer.status, headers, start))
        await store.commit(Batch(writes, [*counted_by(request, record), *books.increments]))
        return answer_of(answer, headers, start, complete)

    async def _row(self, purchase_id: str) -> Purchase:
        """A purchase as it stands in the books."""
        row = await asyncio.to_thread(read_purchase, self._buyer.store.engine, purchase_id)
        assert row is not None
        return row

    async def _reopen(self, request: Request, earlier: Purchase) -> Payment | None:
        order = replace(_order(request, 1), purchase_id=earlier.call_id)
        signed = earlier.payment_header.encode()
        payment = Payment(order, earlier.scheme, earlier.amount_atoms, signed, sent_before=True)
        if earlier.channel_id is None:
            self._buyer.books.running.add(earlier.call_id)
            return payment
        channel = await self._buyer.pools.reserve(earlier.channel_id)
        if channel is None:
            return None
        if channel.charged != earlier.cumulative_atoms - earlier.amount_atoms:
            # The channel has moved on: a proof has decided this voucher.
            self._buyer.pools.release(channel)
            return None
        payment.channel, payment.cumulative = channel, earlier.cumulative_atoms
        payment.deposit = channel.deposit if earlier.deposit_atoms else None
        for each in channel.unresolved:
            if each.call_id == earlier.call_id:
                payment.reservation = each.reservation
        return payment

    # Sending

    async def _deliver(self, request: Request, payment: Payment) -> Received:
        """Send with a payment; whatever goes wrong is booked before it is told."""
        try:
            return await self._send(request, payment.header)
        except (NotSent, RequestRefused) as error:
            verdict = Verdict(PurchaseState.FAILED, error=error.code, never_sent=True)
            await self._buyer.books.book(payment, verdict)
            raise
        except ProxyError as error:
            await self._buyer.books.book(payment, Verdict(PurchaseState.UNKNOWN, error=error.code))
            raise
        except BaseException:
            verdict = Verdict(PurchaseState.UNKNOWN, error="interrupted")
            await self._buyer.books.book(payment, verdict)
            raise

    async def _show_key(self, request: Request, secret: bytes) -> Received:
        return await self._send(request, None, secret)

    async def _send(
        self, request: Request, header: bytes | None, secret: bytes | None = None
    ) -> Received:
        headers = to_seller(request.headers)
        if request.order is not None:
            secret = request.order.secret
        if secret is not None:
            headers.append((KEY_HEADER, secret))
        if header is not None:
            headers.append((PAYMENT_SIGNATURE_HEADER, header))
        answer = await self._seller.send(
            request.method, request.url, headers, request.body, request.handshake
        )
        source = request.source
        answer.raw_headers = here(answer.raw_headers, request.url, source.address, source.slug)
        return answer

    def _read_terms(self, request: Request, required: PaymentRequired) -> Terms:
        """The terms to take from an offer, remembered; raise PaymentImpossible."""
        try:
            prefer = self._buyer.policy.prefer if request.order is None else (EXACT,)
            terms = choose(required, self._buyer.network, prefer)
        except FinanceError as error:
            self._terms.drop(request)
            raise translated(error) from error
        if request.order is None:
            self._terms.put(request, terms)
        return terms

    # Answering

    async def _free(
        self,
        request: Request,
        answer: Received,
        scheme: str | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """An answer that costs nothing; `body` is all of it where it was read already. By a
        plan it is kept under its Idempotency-Key like a paid one: it has used the quota."""
        once = scheme is not None and request.idempotency_key is not None
        keep = once and answer.length is not None and answer.status < 400
        start, complete = (body or b"", True)
        if body is None:
            start, complete = await read_start(answer, keep=keep)
        headers = to_buyer(answer.raw_headers, paid=scheme is not None)
        headers += ours(request, 0, scheme)
        record = answered(request, answer, scheme, 0, len(start))
        writes = [record.write()]
        if keep and complete:
            writes.append(kept_of(request, answer.status, headers, start))
        await self._buyer.store.commit(Batch(writes, counted_by(request, record)))
        return answer_of(answer, headers, start, complete)

    async def _finish(self, request: Request, payment: Payment, answer: Received) -> Answer:
        """Book what the answer proves, then hand it on."""
        keep = request.idempotency_key is not None
        verdict = self._buyer.books.judge(
            payment, answer.status, answer.header(PAYMENT_RESPONSE_HEADER)
        )
        try:
            start, complete = await read_start(answer, keep=keep)
        except BaseException as error:
            # The receipt came before the body broke: what was charged is booked all the same,
            # and its answer can still be asked for.
            if verdict.state != PurchaseState.PAID:
                await self._buyer.books.book(payment, verdict)
                raise
            await self._book_lost(request, payment, verdict)
            if isinstance(error, SellerFailed):
                raise broken_off(verdict.charged_atoms) from error
            raise
        cost = verdict.charged_atoms
        if verdict.state == PurchaseState.UNKNOWN and answer.status < 400:
            cost = payment.amount_atoms
        headers = to_buyer(answer.raw_headers, paid=True)
        headers += ours(request, cost, payment.scheme)
        record = answered(request, answer, payment.scheme, verdict.charged_atoms, len(start))
        writes = [record.write()]
        if keep and complete and (verdict.state == PurchaseState.PAID or answer.status < 400):
            writes.append(kept_of(request, answer.status, headers, start))
        await self._buyer.books.book(payment, verdict, writes, counted_by(request, record))
        result = answer_of(answer, headers, start, complete)
        result.minutes = sold_by_minute(answer, payment.terms, cost)
        if result.minutes is None and answer.header(b"farebox-stream") is not None:
            self._terms.drop(request)  # they are not what they were
        return result

    async def _book_lost(self, request: Request, payment: Payment, verdict: Verdict) -> None:
        """A call that was charged, and whose answer did not come whole."""
        cost = verdict.charged_atoms
        error = broken_off(cost).code
        record = record_of(request, 502, payment.scheme, amount_atoms=cost, error=error)
        lost = replace(verdict, error=ANSWER_LOST)
        await self._buyer.books.book(payment, lost, [record.write()], [record.increment()])
        request.recorded = True


_MAY_BE_CHARGED = (PurchaseState.INTENT, PurchaseState.UNKNOWN)


def _order(
    request: Request,
    attempt: int,
    earlier: Purchase | None = None,
    refused: Sequence[Payment] = (),
) -> Order:
    purchase_id = request.call_id if attempt == 1 else f"{request.call_id}-{attempt}"
    return Order(
        request.call_id,
        request.key_id,
        request.source.listing_id,
        str(request.url),
        request.source.origin,
        request.fingerprint,
        purchase_id,
        request.idempotency_key,
        None if request.order is None else request.order.guard,
        None if earlier is None else earlier.channel_id,
        tuple(refused),
        None if earlier is None else earlier.call_id,
        request.method,
        "/" + request.path,
        request.route,
    )


def _essence(terms: Terms) -> Terms:
    """The terms without the seller's texts."""
    return replace(terms, envelope=b"", with_id=False)
