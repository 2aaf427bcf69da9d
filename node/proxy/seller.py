"""The line to sellers: one pool of kept-alive connections, no redirects, no surprises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from node.egress import EgressPolicy, EgressRefused, open_session
from node.proxy.body import Body
from node.proxy.errors import RequestRefused, SellerFailed, SellerSilent

# A PAYMENT-REQUIRED with a discovery schema in it is long.
_MAX_HEADER_BYTES = 1 << 17
_NO_DEFAULTS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class NotSent(SellerSilent):
    """The connection never stood: the request, and the signature in it, did not leave."""


@dataclass(slots=True)
class _Way:
    """How far one request got; a kept-alive connection that breaks is tried again on a new one."""

    left: bool = False


async def _note_left(_session: aiohttp.ClientSession, context: Any, _head: Any) -> None:
    context.trace_request_ctx.left = True


class SellerClient:
    """HTTP to sellers. Start it in the running loop."""

    def __init__(
        self, egress: EgressPolicy, connect_seconds: float = 10.0, answer_seconds: float = 120.0
    ) -> None:
        self._egress = egress
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_seconds, sock_read=answer_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_left)
        self._session = open_session(
            self._egress,
            trace_configs=[trace],
            timeout=self._timeout,
            skip_auto_headers=_NO_DEFAULTS,
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check(self, url: URL) -> None:
        """Refuse an address that must not be called."""
        try:
            self._egress.check_url(url)
        except EgressRefused as error:
            raise RequestRefused("address_refused", str(error)) from error

    async def send(
        self, method: str, url: URL, headers: list[tuple[str, str]], body: Body | None
    ) -> aiohttp.ClientResponse:
        """The answer's head; its body is still to be read, or closed.

        Raises NotSent (nothing left), SellerSilent (no answer in time), SellerFailed
        (connection lost); after the latter two the request may have been served.
        """
        assert self._session is not None, "the client is not started"
        way = _Way()
        options: dict[str, Any] = {"trace_request_ctx": way}
        if body is not None and (content := body.content()) is not None:
            options["data"] = content
            if not isinstance(content, bytes):
                headers = [*headers, ("content-length", str(body.length))]
        try:
            return await self._session.request(
                method, url, headers=headers, allow_redirects=False, **options
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if isinstance(error.__cause__, EgressRefused):
                raise RequestRefused("address_refused", str(error.__cause__)) from error
            if way.left:
                # aiohttp's second try failed to connect; the first one may have been served.
                raise SellerFailed("seller_failed", f"{url.host} broke off.") from error
            raise NotSent("seller_unreachable", f"{url.host} cannot be reached.") from error
        except aiohttp.InvalidURL as error:
            sentence = f"{url.host} is not a way to write a host."
            raise RequestRefused("address_refused", sentence) from error
        except TimeoutError as error:
            raise SellerSilent("seller_timeout", f"{url.host} did not answer in time.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SellerFailed("seller_failed", f"{url.host} broke off: {error!r:.200}") from error


async def read_up_to(answer: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """(bytes so far, whether that is all); raise SellerFailed when it breaks off."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in answer.content.iter_any():
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                return b"".join(parts), False
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SellerFailed("seller_failed", "The seller's answer broke off.") from error
    return b"".join(parts), True


async def rest_of(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What has not been read yet."""
    async for chunk in answer.content.iter_any():
        yield chunk
