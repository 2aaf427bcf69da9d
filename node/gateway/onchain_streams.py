"""Streams paid on the chain, of events or as WebSockets: opened once, when their money has
arrived."""

from __future__ import annotations

from finance.selling.admission import is_delivery
from finance.selling.answers import KeptAnswer, opened
from finance.store import Batch
from node.gateway.desk import PAYMENT_RESPONSE, Desk, with_length
from node.gateway.forward import BUFFER_BYTES, Answer
from node.gateway.headers import to_caller
from node.gateway.purchase import Purchase, receipt_of
from node.gateway.request import CallerGone
from node.gateway.stream_events import EVENTS_SECONDS, give_events
from node.gateway.stream_socket import SWITCHING
from node.gateway.voucher import Later, send_all
from node.problems import Headers


def goes_on(answer: Answer) -> bool:
    """Whether it is a stream, and not stored before the money moves like any other answer."""
    return answer.status == SWITCHING or (answer.is_events and not answer.complete)


async def open_stream(
    desk: Desk, purchase: Purchase, answer: Answer, kept: KeptAnswer, tx_hash: str
) -> Later | None:
    """A stream that goes on: its opening is what was bought, and passes once it is paid for."""
    headers = await _opened(desk, purchase, kept, kept.headers, tx_hash)
    return await _give(desk, purchase, answer, headers)


async def open_late(desk: Desk, purchase: Purchase, kept: KeptAnswer, tx_hash: str) -> Later | None:
    """A stream whose money had not arrived when its first request ended: the upstream is asked
    once more, and until it delivers, the stream stays to be opened."""
    call, match = purchase.call, purchase.match
    payer, scheme = purchase.authorization.payer, purchase.scheme
    assert match.route is not None
    answer, later = await desk.forwarder.fetch(call, match), None
    try:
        if answer.is_events:
            await answer.read_for(EVENTS_SECONDS, BUFFER_BYTES)
        if not is_delivery(answer.status):
            await desk.pass_on(call, match, answer, payer, scheme)
            return None
        headers = to_caller(answer.raw_headers, match.route.upstream, paid=True)
        headers = await _opened(desk, purchase, kept, with_length(headers, answer.length), tx_hash)
        call.id = kept.call_id
        # In the books since its first request.
        desk.record(call, match, answer.status, 0, payer, scheme, purchase.amount_atoms)
        later = await _give(desk, purchase, answer, headers)
        return later
    finally:
        if later is None:
            answer.close()


async def _give(desk: Desk, purchase: Purchase, answer: Answer, headers: Headers) -> Later | None:
    call = purchase.call
    if answer.is_events:
        payer = purchase.authorization.payer
        return give_events(desk.streams, call, purchase.match, answer, headers, payer)
    if answer.status == SWITCHING:
        await call.answer(SWITCHING, headers, b"")
    else:
        await send_all(call, answer, headers)
    return None


async def _opened(
    desk: Desk, purchase: Purchase, kept: KeptAnswer, headers: Headers, tx_hash: str
) -> Headers:
    """The headers with the receipt of a stream that is written down as given, and so is given
    once. Raises CallerGone: whoever left can ask for it later."""
    if purchase.call.is_gone():
        raise CallerGone
    now_open = opened(purchase.authorization.key, kept.call_id)
    await desk.seller.store.commit(Batch([now_open]))
    return [*headers, (PAYMENT_RESPONSE, await receipt_of(desk, purchase, tx_hash))]
