"""How a plan is asked for and bought: below its listing, by the proxy's own way of paying."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from yarl import URL

from catalog.addresses import as_called
from finance.errors import PaymentMalformed
from finance.x402.values import EXACT
from finance.x402.wire import PAYMENT_REQUIRED_HEADER, decode_required
from node.lines.pool import Answer as Received
from node.plans.buying.ports import Asked, Place, PlacedOrder, Told
from node.problems import Headers, read_problem
from node.proxy.answer import Answer
from node.proxy.body import Body, read_body
from node.proxy.call import Request
from node.proxy.errors import ProxyError, SellerFailed, rendered
from node.proxy.minutes import ROUTE
from node.proxy.plans import KEY_HEADER, Ordered
from node.proxy.seller import SellerClient, read_up_to
from node.proxy.sources import Source
from node.proxy.tryout import KEY, whole_body
from node.usage.calls import new_call_id

ASK_SECONDS: Final = 10.0
_MAX_BYTES: Final = 1 << 20
_JSON: Final = (b"content-type", b"application/json")
_ACCEPT: Final = (b"accept", b"application/json")
_log = logging.getLogger(__name__)

Guarded = Callable[..., Awaitable[Answer]]
Failed = Callable[[Request, ProxyError], Awaitable[None]]


async def ask(client: SellerClient, asked: Asked) -> Told:
    """The seller's answer to a request without payment."""
    url = URL(as_called(asked.place.base).rstrip("/") + asked.path, encoded=True)
    headers: Headers = [_ACCEPT]
    if asked.secret is not None:
        headers.append((KEY_HEADER, asked.secret))
    body = None
    try:
        async with asyncio.timeout(ASK_SECONDS):
            client.check(url)
            if asked.body:
                headers.append(_JSON)
                body = await _body(asked.body)
            answer = await client.send(asked.method, url, headers, body)
            price = _price(answer)
            try:
                content, whole = await read_up_to(answer, _MAX_BYTES)
            finally:
                answer.close()
        if not whole:
            raise SellerFailed("seller_failed", "The seller's answer is too long.")
        return _told(answer.status, content, price)
    except TimeoutError:
        return Told(504, code="seller_timeout", detail="The seller did not answer in time.")
    except ProxyError as error:
        return _failed(error)
    finally:
        if body is not None:
            body.close()


async def place(guarded: Guarded, failed: Failed, order: PlacedOrder) -> Told:
    """Buy it. The same order again asks for the same answer, and is paid for once."""
    call_id = new_call_id(time.time_ns() // 1_000_000)
    headers = [_ACCEPT, _JSON, (b"idempotency-key", order.order_id.encode())]
    body = await _body(order.body)
    source, path = _source(order.place), order.path.removeprefix("/")
    request = Request(call_id, KEY.id, source, "POST", path, source.url(path, ""), headers, body)
    request.order = Ordered(order.most_atoms, order.secret, order.guard)
    request.route = ROUTE
    try:
        answer = await guarded(KEY, request)
        content, _ = await whole_body(answer, _MAX_BYTES)
        return _told(answer.status, content)
    except ProxyError as error:
        await failed(request, error)
        return _failed(error)
    except Exception:
        _log.exception("order %s failed here", order.order_id)
        return _failed(ProxyError("internal_error", "The node's log says more."))
    finally:
        body.close()


def _source(place: Place) -> Source:
    return Source(place.listing_id, place.slug, place.base, str(URL(place.base).origin()), False)


async def _body(content: bytes) -> Body:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    return await read_body([(b"content-length", b"%d" % len(content))], receive)


def _price(answer: Received) -> int | None:
    header = answer.header(PAYMENT_REQUIRED_HEADER) if answer.status == 402 else None
    try:
        accepts = decode_required(header).accepts if header else ()
        return next((each.amount_atoms for each in accepts if each.scheme == EXACT), None)
    except (PaymentMalformed, ValueError):
        return None


def _told(status: int, content: bytes, price: int | None = None) -> Told:
    if status < 400:
        return Told(status, content)
    code, detail = read_problem(content)
    return Told(status, content, code or f"seller_answered_{status}", detail, price)


def _failed(error: ProxyError) -> Told:
    status, content, _ = rendered(error, None)
    return Told(
        status, content, error.code, error.detail or read_problem(content)[1], answered=False
    )
