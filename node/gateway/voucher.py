"""A call paid by a voucher of an open channel: no chain, one durable commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from finance.errors import CumulativeMismatch, PaymentRefused, StoreConflict, StoreUnavailable
from finance.selling.admission import (
    Admission,
    AtRiskExceeded,
    admit_voucher,
    is_delivery,
    is_last_voucher,
)
from finance.selling.answers import (
    STREAMED,
    KeptAnswer,
    channel_answer_key,
    fingerprint,
    keep,
    read_answer,
)
from finance.selling.channels import (
    Channel,
    charge_writes,
    note_charge,
    stream_writes,
)
from finance.selling.long_answers import LongAnswer, stream_broken, stream_delivered
from finance.store import Batch, Write
from finance.x402 import codes, vouchers
from finance.x402.offers import Terms
from finance.x402.receipt import encode_response
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, Payment, Receipt, VoucherPayment
from finance.x402.values import ChannelState as WireState
from node.gateway.desk import (
    PAYMENT_RESPONSE,
    ChannelRefusal,
    Desk,
    framed,
    identified,
    with_length,
)
from node.gateway.forward import Answer, UpstreamError
from node.gateway.headers import to_caller
from node.gateway.match import Match
from node.gateway.request import Call, CallerGone
from node.gateway.stream_events import EVENTS_SECONDS, give_events
from node.gateway.stream_socket import SWITCHING
from node.problems import Headers

log = logging.getLogger("farebox.gateway")

Later = Coroutine[Any, Any, None]

# Between two tries to write how a long answer ended.
END_SECONDS = 0.5
# Whoever takes nothing of a long answer for so long makes it break off: the time-outs of APIs, and
# of what stands before them, are longer.
STALLED_SECONDS = 10.0


async def serve_voucher(
    desk: Desk, call: Call, match: Match, terms: Terms, payment: Payment, voucher: VoucherPayment
) -> Later | None:
    """Admit, forward, charge, answer; what is left to do once all of that is decided, if
    anything. Raises what the edge knows to translate."""
    channel, channels = await find_channel(desk, call, voucher, terms), desk.seller.channels
    if channels.shared:
        # Whoever signs for the channel, and nobody else, has other processes wait for it.
        vouchers.check_voucher_signature(voucher, terms)
    turn = await channels.take(channel)
    try:
        if _admit(desk, channel, voucher, terms) is Admission.REPLAY:
            channels.release(channel, turn)
            await _give_again(desk, call, channel, payment, voucher)
            return None
        if vouchers.needs_contract_check(channel.config):
            await desk.seller.checks.check(voucher, terms)
        return await _serve_reserved(desk, call, match, terms, payment, voucher, channel)
    except StoreConflict:
        # Another process charged this channel meanwhile; learn what it did.
        await channels.reload(channel.key)
        raise ChannelRefusal(CumulativeMismatch("The channel has moved on."), channel) from None
    except UpstreamError as error:
        desk.book_failure(call, match, error, channel.payer, BATCH_SETTLEMENT_SCHEME)
        raise
    finally:
        channels.release(channel, turn)


async def give_bought(
    desk: Desk, call: Call, terms: Terms, payment: Payment, voucher: VoucherPayment
) -> bool:
    """Give the answer once more that the channel's last voucher has bought, whatever the terms
    have become since; False for any other voucher. Raises ChannelBusy while it may be buying."""
    channels = desk.seller.channels
    channel = await channels.get(voucher.channel_id)
    if channel is None or channel.config != voucher.config:
        return False
    vouchers.check_voucher_signature(voucher, terms)
    turn = await channels.take(channel)
    bought = is_last_voucher(voucher, channel.books())
    channels.release(channel, turn)
    if bought:
        await _give_again(desk, call, channel, payment, voucher)
    return bought


async def find_channel(desk: Desk, call: Call, payment: VoucherPayment, terms: Terms) -> Channel:
    """The payment's channel, its configuration checked once and its mirror fresh."""
    channels = desk.seller.channels
    channel = channels.known(payment.channel_id)
    if channel is None:
        vouchers.check_config(payment.config, payment.channel_id, terms)
        vouchers.check_voucher_signature(payment, terms)
        channel = await channels.find(payment.config, payment.channel_id)
        if channel is None:
            raise PaymentRefused("There is no such channel.", codes.CHANNEL_NOT_FOUND)
    if channel.checked_for is not desk.seller.sale or payment.config != channel.config:
        vouchers.check_config(payment.config, payment.channel_id, terms)
        channel.checked_for = desk.seller.sale
    if not channels.is_fresh(channel, call.at):
        await channels.refresh(channel)
    return channel


def _admit(desk: Desk, channel: Channel, voucher: VoucherPayment, terms: Terms) -> Admission:
    try:
        admission = admit_voucher(voucher, terms, channel.books(), desk.seller.ceiling_atoms)
    except CumulativeMismatch as mismatch:
        # Only whoever signs for the channel is told its state.
        vouchers.check_voucher_signature(voucher, terms)
        raise ChannelRefusal(mismatch, channel) from mismatch
    except AtRiskExceeded:
        desk.seller.claim_soon(channel.key)
        raise
    if admission is Admission.NEW:
        vouchers.check_voucher_signature(voucher, terms)
    return admission


async def _give_again(
    desk: Desk, call: Call, channel: Channel, payment: Payment, voucher: VoucherPayment
) -> None:
    """The channel's last voucher once more: the same call gets its answer, no other does."""
    await call.digest_body()
    key = channel_answer_key(channel.key)
    kept = await asyncio.to_thread(read_answer, desk.seller.store.engine, key)
    asked = fingerprint(call.method, call.target, call.body_digest, payment.raw_digest)
    if kept is None or kept.fingerprint != asked:
        raise ChannelRefusal(CumulativeMismatch("This voucher has bought its call."), channel)
    call.id = kept.call_id  # it is the answer to that call
    await call.answer(kept.status, kept.headers, kept.body)


async def _serve_reserved(
    desk: Desk,
    call: Call,
    match: Match,
    terms: Terms,
    payment: Payment,
    voucher: VoucherPayment,
    channel: Channel,
) -> Later | None:
    """What is left to do once the channel is free for its next call, if anything."""
    answer, later = await desk.forwarder.fetch(call, match), None
    try:
        if answer.is_events:
            await answer.read_for(EVENTS_SECONDS, 0)
        if not is_delivery(answer.status):
            desk.seller.channels.release(channel)
            await desk.pass_on(call, match, answer, channel.payer, BATCH_SETTLEMENT_SCHEME)
        elif call.is_gone():
            raise CallerGone
        elif answer.complete:
            await _charge_whole(desk, call, match, terms, payment, voucher, channel, answer)
        elif answer.is_events:
            later = await _charge_events(
                desk, call, match, terms, payment, voucher, channel, answer
            )
        else:
            await _charge_stream(desk, call, match, terms, payment, voucher, channel, answer)
    finally:
        if later is None:
            answer.close()
    return later


async def _charge_whole(
    desk: Desk,
    call: Call,
    match: Match,
    terms: Terms,
    payment: Payment,
    voucher: VoucherPayment,
    channel: Channel,
    answer: Answer,
) -> None:
    """Charge, row and stored answer become durable together; then the answer leaves."""
    amount, body = terms.amount_atoms, answer.head
    headers = framed(call, answer, _paid_headers(match, terms, channel, answer))
    asked = fingerprint(call.method, call.target, call.body_digest, payment.raw_digest)
    kept = KeptAnswer(asked, call.id, answer.status, headers, body)
    record = desk.record(
        call, match, answer.status, len(body), channel.payer, BATCH_SETTLEMENT_SCHEME, amount
    )
    writes = charge_writes(
        channel, amount, voucher.max_claimable, voucher.signature, call.id, call.at
    )
    writes += (record.write(), *answer.writes)
    if answer.status != SWITCHING:  # a stream cannot be given again
        writes.append(keep(channel_answer_key(channel.key), kept, call.at))
    writes += identified(match, payment, kept, call.at)
    await desk.seller.store.commit(Batch(writes, [record.increment()]))
    note_charge(channel, amount, voucher.max_claimable, voucher.signature)
    desk.seller.channels.release(channel)
    if 2 * channel.at_risk >= desk.seller.ceiling_atoms:
        desk.seller.claim_soon(channel.key)  # well before vouchers must be refused
    await call.answer(answer.status, headers, body)


async def _charge_events(
    desk: Desk,
    call: Call,
    match: Match,
    terms: Terms,
    payment: Payment,
    voucher: VoucherPayment,
    channel: Channel,
    answer: Answer,
) -> Later:
    """Events go on for as long as they like: their opening is what is bought, and the channel
    does not wait for their end. What breaks off before its first part costs nothing."""
    amount = terms.amount_atoms
    headers = with_length(_paid_headers(match, terms, channel, answer), answer.length)
    record = desk.record(
        call, match, answer.status, 0, channel.payer, BATCH_SETTLEMENT_SCHEME, amount
    )
    writes = charge_writes(
        channel, amount, voucher.max_claimable, voucher.signature, call.id, call.at
    )
    writes += (record.write(), *_streamed(call, match, payment, headers))
    await desk.seller.store.commit(Batch(writes, [record.increment()]))
    note_charge(channel, amount, voucher.max_claimable, voucher.signature)
    return give_events(desk.streams, call, match, answer, headers, channel.payer)


async def _charge_stream(
    desk: Desk,
    call: Call,
    match: Match,
    terms: Terms,
    payment: Payment,
    voucher: VoucherPayment,
    channel: Channel,
    answer: Answer,
) -> None:
    """A long answer is charged before its first byte and taken back if it breaks off."""
    amount = terms.amount_atoms
    given = LongAnswer(desk.presence.number, channel.key, amount, call.id)
    headers = with_length(_paid_headers(match, terms, channel, answer), answer.length)
    charge = charge_writes(
        channel, amount, voucher.max_claimable, voucher.signature, call.id, call.at
    )
    writes = stream_writes(charge, amount, given.owner)
    await desk.seller.store.commit(Batch(writes + _streamed(call, match, payment, headers)))
    note_charge(channel, amount, voucher.max_claimable, voucher.signature)
    channel.streaming = amount
    try:
        async with _while_payer_stays(desk, channel):
            await send_all(call, answer, headers)
    except UpstreamError:
        await _write_end(desk, channel, Batch(stream_broken(given, call.at)))
        channel.charged -= amount
        raise
    channel.ending = asyncio.Event()
    record = desk.record(
        call, match, answer.status, call.sent, channel.payer, BATCH_SETTLEMENT_SCHEME, amount
    )
    delivered = [*stream_delivered(given), record.write()]
    await _write_end(desk, channel, Batch(delivered, [record.increment()]))
    if channel.withdraw_requested_at:
        desk.seller.claim_soon(channel.key)


@asynccontextmanager
async def _while_payer_stays(desk: Desk, channel: Channel) -> AsyncIterator[None]:
    """Ends what is given in here, which stays charged, when its payer takes its price back: who
    reads all but the end, and waits, would have it for nothing."""

    async def watch() -> None:
        await desk.seller.channels.payer_leaves(channel)
        limit.reschedule(0)

    limit = asyncio.timeout(None)
    try:
        async with limit:
            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        log.info("channel %s: a long answer was ended, its payer takes back its price", channel.key)


async def _write_end(desk: Desk, channel: Channel, end: Batch) -> None:
    """How a long answer ended. Until that is written nothing can be charged to its channel, so
    it is tried for as long as the database takes nothing; the channel is held meanwhile."""
    while True:
        try:
            await desk.seller.store.commit(end)
        except StoreUnavailable as error:
            log.warning("the end of a long answer cannot be written now: %s", error)
            await asyncio.sleep(END_SECONDS)
        else:
            channel.streaming = 0
            return


def _streamed(call: Call, match: Match, payment: Payment, headers: Headers) -> list[Write]:
    """The place of what is given while it comes, under the client's payment identifier."""
    asked = fingerprint(call.method, call.target, call.body_digest, payment.raw_digest)
    kept = KeptAnswer(asked, call.id, STREAMED, headers, b"")
    return identified(match, payment, kept, call.at)


async def send_all(call: Call, answer: Answer, headers: Headers) -> None:
    """A caller that stops reading has been served: it is charged, also when the upstream waits
    for it no longer. Raises UpstreamError where that broke off by itself."""
    await call.start(answer.status, headers)
    await call.send(answer.head, True)
    waited = 0.0
    try:
        async for chunk in answer.rest():
            if call.is_gone():
                return
            begun = time.monotonic()
            await call.send(chunk, True)
            waited = max(waited, time.monotonic() - begun)
    except UpstreamError:
        if waited < STALLED_SECONDS:
            raise
        log.info("call %s: a long answer broke off while its caller took nothing of it", call.id)
        return
    await call.send(b"", False)


def _paid_headers(match: Match, terms: Terms, channel: Channel, answer: Answer) -> Headers:
    assert match.route is not None
    headers = to_caller(answer.raw_headers, match.route.upstream, paid=True)
    headers.append((PAYMENT_RESPONSE, encode_response(_receipt(terms, channel))))
    return headers


def _receipt(terms: Terms, channel: Channel) -> Receipt:
    """What the voucher bought; `channel_state` with the charge in it."""
    state = WireState(
        channel.id,
        channel.balance,
        channel.total_claimed,
        channel.withdraw_requested_at,
        channel.refund_nonce,
        channel.charged + terms.amount_atoms,
    )
    return Receipt(
        success=True,
        transaction="",
        network=terms.network,
        payer=channel.payer,
        charged_amount=terms.amount_atoms,
        channel_state=state,
    )
