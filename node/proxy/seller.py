"""The line to sellers: one pool of kept-alive connections, no redirects, no surprises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from yarl import URL

from node.egress import EgressPolicy, EgressRefused
from node.lines.errors import LineError, NotConnected, Silent
from node.lines.pool import Answer, Lines, Origin, Request
from node.lines.websocket import Handshake
from node.problems import Headers
from node.proxy.body import Body
from node.proxy.errors import RequestRefused, SellerFailed, SellerSilent

# A PAYMENT-REQUIRED with a discovery schema in it is long.
_MAX_HEAD_BYTES = 1 << 18
# What has not come whole by then is passed on as it comes: a seller that gives it drop by drop
# would hold its channel, and the money in there, for as long as it likes.
START_SECONDS = 150.0


class NotSent(SellerSilent):
    """The connection never stood: the request, and the signature in it, did not leave."""


class SellerClient:
    """HTTP to sellers. Start it in the running loop."""

    def __init__(
        self, egress: EgressPolicy, connect_seconds: float = 10.0, answer_seconds: float = 120.0
    ) -> None:
        self._egress = egress
        self._seconds = connect_seconds, answer_seconds
        self._lines: Lines | None = None

    async def start(self) -> None:
        self._lines = Lines(self._egress, *self._seconds, _MAX_HEAD_BYTES)

    async def stop(self) -> None:
        if self._lines is not None:
            await self._lines.close()
            self._lines = None

    def check(self, url: URL) -> None:
        """Refuse an address that must not be called."""
        try:
            self._egress.check_url(url)
        except EgressRefused as error:
            raise RequestRefused("address_refused", str(error)) from error

    async def send(
        self,
        method: str,
        url: URL,
        headers: Headers,
        body: Body | None,
        handshake: Handshake | None = None,
    ) -> Answer:
        """The answer's head; its body is still to be read, or closed. With a `handshake` it is
        101 if the seller agrees to a WebSocket.

        Raises NotSent (nothing left), SellerSilent (no answer in time), SellerFailed
        (connection lost); after the latter two the request may have been served.
        """
        assert self._lines is not None, "the client is not started"
        origin, request = _asked(method, url, headers, body)
        if handshake is not None:
            asked = [*request.headers, *handshake.headers()]
            request = request._replace(headers=asked, switches=True)
        try:
            return await self._lines.request(origin, request)
        except EgressRefused as error:
            raise RequestRefused("address_refused", str(error)) from error
        except NotConnected as error:
            raise NotSent("seller_unreachable", f"{url.host} cannot be reached.") from error
        except Silent as error:
            raise SellerSilent("seller_timeout", f"{url.host} did not answer in time.") from error
        except ValueError as error:
            raise RequestRefused("address_refused", f"It cannot be asked for: {error}.") from error
        except OSError as error:
            raise SellerFailed("seller_failed", f"{url.host} broke off: {error!r:.200}") from error


def _asked(method: str, url: URL, headers: Headers, body: Body | None) -> tuple[Origin, Request]:
    if url.scheme not in ("http", "https") or not url.raw_host or not url.port:
        raise RequestRefused("address_refused", "Only http and https addresses can be called.")
    origin = Origin(url.scheme == "https", url.raw_host, url.port)
    host = url.raw_authority.rpartition("@")[2].encode()
    content = body.content() if body is not None else None
    length = body.length if body is not None else None
    target = url.raw_path_qs.encode()
    return origin, Request(method, target, [(b"Host", host), *headers], content, length)


async def read_up_to(answer: Answer, most: int) -> tuple[bytes, bool]:
    """(bytes so far, whether that is all); raise SellerFailed when it breaks off."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(START_SECONDS):
            while chunk := await answer.read():
                parts.append(chunk)
                size += len(chunk)
                if size > most:
                    return b"".join(parts), False
    except TimeoutError:
        return b"".join(parts), False
    except LineError as error:
        answer.close()
        raise SellerFailed("seller_failed", "The seller's answer broke off.") from error
    answer.close()
    return b"".join(parts), True


async def rest_of(answer: Answer) -> AsyncIterator[bytes]:
    """What has not been read yet. Raises LineError."""
    while chunk := await answer.read():
        yield chunk
