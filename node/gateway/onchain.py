"""A call paid by an authorization that moves money on-chain: `exact`, or a deposit.

The answer is stored before the money moves and leaves after it has arrived. Whatever
happens in between, the same payment presented again finds the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from msgspec import structs

from finance.errors import (
    AuthorizationReused,
    CumulativeMismatch,
    SettlementFailed,
    SettlementUnknown,
    StoreConflict,
)
from finance.models import PaymentState
from finance.selling.admission import (
    AtRiskExceeded,
    Presented,
    check_at_risk,
    is_delivery,
    present_authorization,
)
from finance.selling.answers import UNOPENED, KeptAnswer, keep, read_answer
from finance.selling.channels import Channel, open_channel
from finance.selling.mirror import OnchainState
from finance.selling.reservations import (
    Known,
    authorization_of,
    find_known,
    owe,
    release,
    reserve,
)
from finance.store import Batch, Write
from finance.x402 import exact, vouchers
from finance.x402.offers import Terms
from finance.x402.values import (
    DepositPayment,
    ExactPayment,
    Payment,
)
from node.gateway.desk import (
    PAYMENT_RESPONSE,
    RETRY_SOON,
    ChannelRefusal,
    Desk,
    Refused,
    framed,
    identified,
    unsettled,
    with_length,
)
from node.gateway.forward import BUFFER_BYTES, Answer, UpstreamError
from node.gateway.headers import to_caller
from node.gateway.match import Match
from node.gateway.onchain_streams import goes_on, open_late, open_stream
from node.gateway.purchase import Purchase, receipt_of
from node.gateway.request import Call, CallerGone
from node.gateway.spool import Spool
from node.gateway.stream_events import EVENTS_SECONDS
from node.gateway.stream_socket import SocketCall, StreamOpened
from node.gateway.unpaid import undo_call
from node.gateway.voucher import Later
from node.problems import Headers
from node.usage.calls import CallRecord

# Of the call's time limit, what settling may count on even after a slow upstream.
LEAST_SETTLE_SECONDS = 5.0


async def serve_onchain(desk: Desk, call: Call, match: Match, payment: Payment) -> Later | None:
    """Check, reserve, forward, store, settle, answer; what is left to do once all of that is
    decided, if anything. Raises what the edge translates."""
    with Spool(desk.room) as spool:
        return await _serve(desk, call, match, payment, spool)


async def give_settled(desk: Desk, call: Call, match: Match, payment: Payment) -> bool:
    """Give the answer that an authorization has bought, or is buying, whatever the terms have
    become since; False for one that the books do not know, or that was released."""
    with Spool(desk.room) as spool:
        purchase = _purchase(call, match, payment, spool)
        with _alone(desk, purchase.authorization.key):
            known = await _find_taken(desk, purchase)
            if known is None:
                return False
            later = await _serve_known(desk, purchase, known)
    if later is not None:
        await later
    return True


async def _serve(
    desk: Desk, call: Call, match: Match, payment: Payment, spool: Spool
) -> Later | None:
    purchase = _purchase(call, match, payment, spool)
    try:
        with _alone(desk, purchase.authorization.key):
            known = await _find_taken(desk, purchase)
            if known is None:
                return await _serve_new(desk, purchase)
            return await _serve_known(desk, purchase, known)
    except UpstreamError as error:
        desk.book_failure(call, match, error, purchase.authorization.payer, purchase.scheme)
        raise


def _purchase(call: Call, match: Match, payment: Payment, spool: Spool) -> Purchase:
    assert isinstance(payment.payload, ExactPayment | DepositPayment)
    assert match.route is not None and match.route.offer is not None
    terms = match.route.offer.terms
    authorization, scheme = authorization_of(payment.payload, terms), payment.accepted.scheme
    return Purchase(call, match, payment, authorization, scheme, terms.amount_atoms, spool)


@contextmanager
def _alone(desk: Desk, key: str) -> Iterator[None]:
    """Raises Refused while another call of this process pays with this authorization."""
    if key in desk.in_flight:
        raise Refused("payment_in_flight", RETRY_SOON)
    desk.in_flight.add(key)
    try:
        yield
    finally:
        desk.in_flight.discard(key)


async def _find_taken(desk: Desk, purchase: Purchase) -> Known | None:
    """What the books say of the authorization; None if it is there to be reserved."""
    known = await asyncio.to_thread(find_known, desk.seller.store.engine, purchase.authorization)
    return None if known is None or known.state is PaymentState.RELEASED else known


async def _serve_known(desk: Desk, purchase: Purchase, known: Known) -> Later | None:
    """An authorization the books know: its own call gets its answer, no other does. It was good
    when it was taken: that it has expired since, or that the price is another, matters no more."""
    await purchase.call.digest_body()
    if known.state is PaymentState.RESERVED:
        raise Refused("payment_in_flight", RETRY_SOON)
    presented = present_authorization(known.state, purchase.asked(), known.fingerprint, known.error)
    tx_hash = known.tx_hash or ""
    if presented is Presented.WAIT:
        tx_hash = await _settle(desk, purchase, known.id)
    async with desk.room.alone():
        kept = await asyncio.to_thread(
            read_answer, desk.seller.store.engine, purchase.authorization.key
        )
        if kept is not None and len(kept.body) > BUFFER_BYTES:
            await purchase.spool.add(kept.body)
            kept = structs.replace(kept, body=b"")
    if kept is None:
        raise AuthorizationReused("This authorization has bought its answer.")
    purchase = replace(purchase, amount_atoms=known.amount_atoms)
    if kept.unopened:
        return await open_late(desk, purchase, kept, tx_hash)
    await give_kept(desk, purchase, kept, tx_hash)
    return None


async def _serve_new(desk: Desk, purchase: Purchase) -> Later | None:
    if isinstance(purchase.payload, ExactPayment):
        exact.check_authorization(purchase.payload, purchase.terms, purchase.call.at)
        await desk.seller.checks.check(purchase.payload, purchase.terms)
        return await _serve_reserved(desk, purchase)
    channel = await _take_channel(desk, purchase, purchase.payload)
    try:
        return await _serve_reserved(desk, replace(purchase, channel=channel))
    finally:
        desk.seller.channels.release(channel)


async def _take_channel(desk: Desk, purchase: Purchase, deposit: DepositPayment) -> Channel:
    """The deposit's channel, reserved for this call, its payment found good by the chain."""
    channels, call, terms = desk.seller.channels, purchase.call, purchase.terms
    channel = await channels.get(deposit.channel_id)
    try:
        _check_deposit(deposit, terms, call.at, channel)
    except ChannelRefusal:
        # Memory may be behind what another process has charged.
        if not channels.shared:
            raise
    state = await desk.seller.checks.check(deposit, terms)
    if channel is None and state is not None and state.balance:
        channel = await channels.find(deposit.config, deposit.channel_id)
    if channel is None:
        row = open_channel(deposit.channel_id, deposit.config, terms.chain_id, call.at)
        await desk.seller.store.commit(Batch([row]))
        channel = await channels.get(deposit.channel_id)
    elif state is not None and _differs(channel, state):
        await channels.refresh(channel)
    assert channel is not None
    turn = await channels.take(channel)
    try:
        # Once more: the books may have moved before the channel was ours.
        _check_deposit(deposit, terms, call.at, channel)
        check_at_risk(channel.books(), terms, desk.seller.ceiling_atoms)
    except BaseException as error:
        channels.release(channel, turn)
        if isinstance(error, AtRiskExceeded):
            desk.seller.claim_soon(channel.key)
        raise
    return channel


def _differs(channel: Channel, state: OnchainState) -> bool:
    """Whether the chain says something else than the mirror."""
    seen = channel.balance, channel.total_claimed, channel.withdraw_requested_at
    return seen != (state.balance, state.total_claimed, state.withdraw_requested_at)


def _check_deposit(
    deposit: DepositPayment, terms: Terms, now: int, channel: Channel | None
) -> None:
    charged, backing, claimed = 0, 0, 0
    if channel is not None:
        # What the payer is taking out may be gone when this call is charged.
        charged, backing, claimed = channel.charged, channel.books().backing, channel.total_claimed
    try:
        vouchers.check_deposit(deposit, terms, now, charged, backing, claimed)
    except CumulativeMismatch as mismatch:
        if channel is None:
            raise
        vouchers.check_voucher_signature(deposit, terms)
        raise ChannelRefusal(mismatch, channel) from mismatch


async def _serve_reserved(desk: Desk, purchase: Purchase) -> Later | None:
    """What is left to do once the channel is free for its next call, if anything. Events that
    end soon are an answer like any other, stored before the money moves."""
    call, store = purchase.call, desk.seller.store
    owner = desk.presence.number
    taken = reserve(
        purchase.authorization, purchase.payload, purchase.terms, call.id, call.at, owner
    )
    try:
        await store.commit(Batch([taken]))
    except StoreConflict:
        raise Refused("payment_in_flight", RETRY_SOON) from None
    owed, later = False, None
    try:
        answer = await desk.forwarder.fetch(call, purchase.match)
        try:
            if answer.is_events:
                await answer.read_for(EVENTS_SECONDS, BUFFER_BYTES)
            if not is_delivery(answer.status):
                await store.commit(Batch([release(call.id, call.at)]))
                owed = True  # nothing left to release
                payer, scheme = purchase.authorization.payer, purchase.scheme
                await desk.pass_on(call, purchase.match, answer, payer, scheme)
                return None
            if not (answer.complete or goes_on(answer)):
                await purchase.spool.fill(call, answer, desk.seller.spool_bytes)
            kept = await _owe(desk, purchase, answer)
            owed = True
            if goes_on(answer):
                tx_hash = await _settle(desk, purchase, call.id)
                later = await open_stream(desk, purchase, answer, kept, tx_hash)
                return later
        finally:
            if later is None:
                answer.close()
    finally:
        if not owed:
            await store.commit(Batch([release(call.id, call.at)]))
    tx_hash = await _settle(desk, purchase, call.id)
    await give_kept(desk, purchase, kept, tx_hash)
    return None


async def _owe(desk: Desk, purchase: Purchase, answer: Answer) -> KeptAnswer:
    """Store the answer and the debt together. Raises CallerGone while nothing is owed."""
    call, match = purchase.call, purchase.match
    assert match.route is not None
    if call.is_gone():
        raise CallerGone
    headers = to_caller(answer.raw_headers, match.route.upstream, paid=True)
    if goes_on(answer):
        headers = with_length(headers, answer.length)
        kept = KeptAnswer(purchase.asked(), call.id, UNOPENED, headers, b"")
    elif purchase.spool.used:
        headers = with_length(headers, purchase.spool.size)
        kept = KeptAnswer(purchase.asked(), call.id, answer.status, headers, b"")
    else:
        headers = framed(call, answer, headers)
        kept = KeptAnswer(purchase.asked(), call.id, answer.status, headers, answer.head)
    record = desk.record(
        call,
        match,
        answer.status,
        purchase.spool.size or len(answer.head),
        purchase.authorization.payer,
        purchase.scheme,
        purchase.amount_atoms,
    )
    if purchase.spool.used:
        async with desk.room.alone():
            whole = structs.replace(kept, body=await purchase.spool.content())
            await _store(desk, purchase, whole, record)
            del whole
    else:
        await _store(desk, purchase, kept, record, answer.writes)
    if purchase.channel is not None:
        # Cleared when the settlement reloads the channel.
        purchase.channel.settling = True
    return kept


async def _store(
    desk: Desk,
    purchase: Purchase,
    kept: KeptAnswer,
    record: CallRecord,
    also: Sequence[Write] = (),
) -> None:
    at = purchase.call.at
    writes: list[Write] = [
        owe(kept.call_id, kept.fingerprint, at),
        keep(purchase.authorization.key, kept, at),
        record.write(),
        *identified(purchase.match, purchase.payment, kept, at),
        *also,
    ]
    await desk.seller.store.commit(Batch(writes, [record.increment()]))


async def _settle(desk: Desk, purchase: Purchase, payment_id: str) -> str:
    """Wait for the money; the transaction's hash. Raises Unsettled."""
    limit = purchase.terms.max_timeout_seconds - purchase.call.elapsed_us() / 1e6
    try:
        settled = await desk.seller.settlement.settle(payment_id, max(limit, LEAST_SETTLE_SECONDS))
    except SettlementFailed as failure:
        await undo_call(desk.seller.store, payment_id, failure.code)
        raise unsettled(purchase.terms.network, purchase.authorization.payer, failure) from failure
    except SettlementUnknown as unknown:
        # Should it fail in the end, the gateway's upkeep undoes the call.
        raise unsettled(purchase.terms.network, purchase.authorization.payer, unknown) from unknown
    return settled.tx_hash


async def give_kept(desk: Desk, purchase: Purchase, kept: KeptAnswer, tx_hash: str) -> None:
    """The stored answer with the receipt of its settlement. Raises StreamOpened where it was
    the opening of a stream, which cannot be given again."""
    call = purchase.call
    headers: Headers = [
        *kept.headers,
        (PAYMENT_RESPONSE, await receipt_of(desk, purchase, tx_hash)),
    ]
    if kept.streamed and not isinstance(call, SocketCall):
        raise StreamOpened(headers)
    call.id = kept.call_id
    if purchase.spool.used:
        await purchase.spool.give(call, kept.status, headers)
    else:
        await call.answer(kept.status, headers, kept.body)
