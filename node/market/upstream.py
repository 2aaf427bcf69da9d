"""Asking the API behind a listing once, as the gateway would: its health, and samples.

The address was typed in by somebody, so it goes through the egress guard; redirects are
not followed, what is read is limited, and no error repeats what was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp
from yarl import URL

from catalog.addresses import as_called
from catalog.errors import UpstreamFailed
from catalog.models import Listing, ListingDraft
from catalog.samples import MAX_BODY_BYTES, SampleRequest, blotted, kept_headers, secrets_of
from node.egress import EgressPolicy, EgressRefused, open_session

CONNECT_SECONDS = 5
ANSWER_SECONDS = 15
_AGENT = "Farebox"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where an API is, and what it wants from us."""

    base_url: str
    kind: str = "none"
    name: str = ""
    secret: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, row: Listing | ListingDraft, unseal: Callable[[str], bytes]) -> Upstream:
        """Raises WalletError when the credential was sealed under another wallet."""
        secret = unseal(row.credential_secret) if row.credential_secret else b""
        return cls(row.base_url.rstrip("/"), row.credential_kind, row.credential_name, secret)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return secrets_of(self.kind, self.secret)

    def url(self, target: str) -> URL:
        """The address of a path below the base, with the credential if it goes there."""
        if self.kind == "query":
            written = f"{quote(self.name, safe='')}={quote(self.secret, safe='')}"
            target += ("&" if "?" in target else "?") + written
        return URL(as_called(self.base_url) + target, encoded=True)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer without the credential. `latency_us` until its head was there."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    latency_us: int


async def ask(
    egress: EgressPolicy, upstream: Upstream, request: SampleRequest, *, whole: bool
) -> Fetched:
    """One request. Only when `whole` is the body read and must be within 256 KiB.

    Raises UpstreamFailed, its sentence says what to mend.
    """
    url = upstream.url(request.target)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
    try:
        egress.check_url(url)
        async with open_session(egress, timeout=timeout) as session:
            begun = time.perf_counter()
            data = request.body.encode() or None
            async with session.request(
                request.method,
                url,
                headers=_headers(upstream, request),
                data=data,
                allow_redirects=False,
            ) as answer:
                latency_us = int((time.perf_counter() - begun) * 1_000_000)
                body = await _read(answer) if whole else b""
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UpstreamFailed(f"{_where(url)} {_reason(error)}") from None
    headers = kept_headers(answer.headers.items(), upstream.secrets)
    return Fetched(answer.status, headers, blotted(body, upstream.secrets), latency_us)


def require_success(fetched: Fetched, request: SampleRequest) -> None:
    """Raises UpstreamFailed unless the answer is one that may stand for others."""
    status, what = fetched.status, f"{request.method} {request.target}"
    if 200 <= status < 300:
        return
    if status in (401, 403):
        hint = "its credential is missing or wrong; give it under Credential."
    elif status in (400, 404, 422):
        hint = "mend the example values, or choose another operation."
    elif 300 <= status < 400:
        hint = "it leads elsewhere; register the address it leads to."
    else:
        hint = "try again once it works."
    raise UpstreamFailed(f"{what} answered {status}: {hint}")


def _headers(upstream: Upstream, request: SampleRequest) -> dict[str, str]:
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": _AGENT}
    headers |= dict(request.headers)
    if request.content_type:
        headers["Content-Type"] = request.content_type
    if upstream.kind == "header":
        ours = upstream.name.lower()
        headers = {name: value for name, value in headers.items() if name.lower() != ours}
        headers[upstream.name] = upstream.secret.decode("latin-1")
    return headers


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    if answer.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        # A credential could hide in it from being blotted out.
        raise ValueError("compresses its answers although it was asked not to; switch that off.")
    chunks, size = [], 0
    async for chunk in answer.content.iter_chunked(65536):
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ValueError("gave more than 256 KiB; choose an example with a shorter answer.")
        chunks.append(chunk)
    return b"".join(chunks)


def _where(url: URL) -> str:
    return f"{url.host}:{url.port}" if url.host else "The address"


def _reason(error: BaseException) -> str:
    """In our own words: the library's repeat address and headers, and so the credential."""
    match error:
        case EgressRefused() | aiohttp.ClientConnectorError(os_error=EgressRefused()):
            return "is a private address; allow its host in Settings > Network first."
        case aiohttp.ClientConnectorCertificateError():
            return "has a certificate that is not valid for it."
        case aiohttp.ClientConnectorDNSError():
            return "is a name that leads nowhere; check the spelling."
        case aiohttp.ClientConnectorError():
            return "cannot be connected to; is the API running?"
        case TimeoutError() | asyncio.TimeoutError():
            return f"gave no answer in {ANSWER_SECONDS} seconds."
        case ValueError() if not isinstance(error, aiohttp.ClientError):
            return str(error) if str(error).endswith(".") else "is no address that can be called."
        case _:
            return "broke the connection off."
