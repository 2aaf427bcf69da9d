"""Joins the market's services with the proxy and the gateway that carry their calls."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from sqlalchemy import Engine
from starlette.types import ASGIApp

from catalog.discovery import Payable
from catalog.errors import AddressInvalid
from catalog.samples import SampleRequest
from finance.errors import FinanceError
from finance.networks import Network
from node.alerts.rules import Alarm
from node.egress import EgressPolicy
from node.market.paste import Asked, Paste
from node.market.peer_reader import PeerReader
from node.market.shop import Shop
from node.market.sync import Sync
from node.market.try_it import Outcome, TryIt
from node.proxy.app import Proxy
from node.proxy.errors import ProxyError
from node.proxy.tryout import SHOWN_BYTES, Trial, Tried
from node.settings import Settings


def build_shop(
    settings: Settings,
    network: Network,
    engine: Engine,
    alarm: Alarm,
    egress: EgressPolicy,
    proxy: Proxy,
    gateway: ASGIApp,
) -> Shop:
    """Nothing runs yet. `egress` is the one policy of proxy and gateway."""
    payable = Payable(network.caip2, network.usdc)
    reader = PeerReader(lambda: egress)
    return Shop(
        engine,
        settings,
        network,
        egress,
        alarm,
        Sync(engine, reader, payable, alarm, settings.gateway_url),
        Paste(engine, _Probes(proxy), reader, payable, proxy.reload),
        TryIt(engine, _Buys(proxy), _Shows(gateway)),
        proxy.reload,
    )


@dataclass(frozen=True, slots=True)
class _Probes:
    """The proxy's probe with its refusals as sentences beside the address."""

    proxy: Proxy

    async def __call__(self, url: str) -> Asked:
        try:
            return await self.proxy.probe(url)
        except ProxyError as error:
            raise AddressInvalid(error.detail or str(error)) from error
        except FinanceError as error:
            raise AddressInvalid(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Buys:
    """Calls of bought listings, through the proxy."""

    proxy: Proxy

    async def __call__(self, slug: str, request: SampleRequest, demo: bool) -> Outcome:
        trial = Trial(
            slug,
            request.method,
            request.target,
            _headers(request),
            request.body.encode(),
            demo,
        )
        return await self.proxy.try_out(trial)


@dataclass(frozen=True, slots=True)
class _Shows:
    """Recorded answers of this node's own listings, as its gateway gives them."""

    gateway: ASGIApp

    async def __call__(self, slug: str, request: SampleRequest, demo: bool) -> Outcome:
        transport = httpx.ASGITransport(app=self.gateway)
        headers = {**dict(_headers(request)), "farebox-demo": "1"}
        url = f"http://gateway.internal/v1/{slug}{request.target}"
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.request(
                request.method, url, headers=headers, content=request.body.encode() or None
            )
        given = tuple((name.lower(), value) for name, value in answer.headers.items())
        latency = int(answer.elapsed.total_seconds() * 1_000_000)
        body, whole = answer.content[:SHOWN_BYTES], len(answer.content) <= SHOWN_BYTES
        call_id = answer.headers.get("farebox-call-id", "")
        return Tried(call_id, answer.status_code, given, body, whole, latency)


def _headers(request: SampleRequest) -> tuple[tuple[str, str], ...]:
    kind = (("content-type", request.content_type),) if request.content_type else ()
    return (("accept", "application/json, */*;q=0.5"), *request.headers, *kind)
