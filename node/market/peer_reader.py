"""Reads a peer's list over HTTP, as far as it deserves: bounded pages, sizes and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from catalog.discovery import Payable, Reading
from node.egress import EgressPolicy, EgressRefused, open_session
from node.market.plain_json import NotJson, decode


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may cost us."""

    page_bytes: int = 4 * 1024 * 1024
    page_items: int = 100  # asked for; a page of more is read all the same
    pages: int = 200
    whole_bytes: int = 64 * 1024 * 1024  # of all pages: what comes of them is held at once
    resources: int = 20_000
    answer_seconds: float = 15.0
    whole_seconds: float = 120.0


# Enough to find one service among what its own node lists.
GLANCE: Final = Bounds(pages=5, resources=1_000, answer_seconds=5.0, whole_seconds=10.0)
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


class PeerFailed(Exception):
    """The peer could not be read; the text is a sentence for the operator."""


class PeerReader:
    """Reads lists. `egress` gives the policy that holds now."""

    def __init__(self, egress: Callable[[], EgressPolicy], bounds: Bounds | None = None) -> None:
        self._egress = egress
        self._bounds = bounds or Bounds()

    async def read(self, url: str, payable: Payable, bounds: Bounds | None = None) -> Reading:
        """Everything on all pages; raises PeerFailed."""
        most = bounds or self._bounds
        policy = self._egress()
        timeout = aiohttp.ClientTimeout(
            total=most.answer_seconds, sock_connect=min(10.0, most.answer_seconds)
        )
        try:
            async with (
                asyncio.timeout(most.whole_seconds),
                open_session(policy, timeout=timeout, headers=_HEADERS) as session,
            ):
                return await self._pages(_Line(session, policy, URL(url), most), payable)
        except TimeoutError as error:
            raise PeerFailed("It did not answer in time.") from error

    async def _pages(self, line: _Line, payable: Payable) -> Reading:
        reading, offset, read = Reading(), 0, 0
        for _ in range(line.most.pages):
            body = await line.page(offset)
            items, total = await asyncio.to_thread(_decode, body)
            fresh = await asyncio.to_thread(reading.take, items, payable)
            offset += len(items)
            # A list without an end repeats itself, or is cut off below.
            if not fresh or (total is not None and offset >= total):
                return reading
            read += len(body)
            if len(reading.seen) >= line.most.resources or read >= line.most.whole_bytes:
                break
        reading.whole = False
        return reading


@dataclass(frozen=True, slots=True)
class _Line:
    """The way to one peer."""

    session: aiohttp.ClientSession
    policy: EgressPolicy
    url: URL
    most: Bounds

    async def page(self, offset: int) -> bytes:
        """What is listed from `offset` on."""
        url = self.url.with_query(limit=str(self.most.page_items), offset=str(offset))
        try:
            self.policy.check_url(url)
            async with self.session.get(url, allow_redirects=False) as answer:
                return await self._body(answer)
        except EgressRefused as error:
            raise PeerFailed(_refused(str(error))) from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.__cause__, EgressRefused):
                raise PeerFailed(_refused(str(error.__cause__))) from error
            raise PeerFailed(f"{self.url.host} cannot be reached.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise PeerFailed(f"{self.url.host} broke off.") from error

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        if 300 <= answer.status < 400:
            raise PeerFailed("It redirects elsewhere; add the address it redirects to.")
        if answer.status != 200:
            raise PeerFailed(f"It answered with HTTP status {answer.status}.")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise PeerFailed("It answered compressed, which was not asked for.")
        parts, size = [], 0
        async for part in answer.content.iter_any():
            size += len(part)
            if size > self.most.page_bytes:
                raise PeerFailed(f"A page is larger than {self.most.page_bytes:,} bytes.")
            parts.append(part)
        return b"".join(parts)


def _decode(body: bytes) -> tuple[list[Any], int | None]:
    """(items, how many there are in all if it says so)."""
    try:
        document = decode(body)
    except NotJson as error:
        raise PeerFailed("It answered with something that is not JSON.") from error
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise PeerFailed('It answered without a list of "items": it is no discovery endpoint.')
    pagination = document.get("pagination")
    total = pagination.get("total") if isinstance(pagination, dict) else None
    return items, total if type(total) is int and total >= 0 else None


def _refused(reason: str) -> str:
    return f"{reason} If it is yours, allow its host under Settings > Network."
