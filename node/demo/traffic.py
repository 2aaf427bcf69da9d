"""The buyers: an app behind the buyer's node, and a foreign client that pays `exact`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from finance.buying.signing import exact_payload, header, token_domain
from finance.buying.terms import choose
from finance.errors import FinanceError
from finance.money import Usdc
from finance.networks import Network
from finance.wallet.signer import Signer
from finance.x402.receipt import decode_response
from finance.x402.values import EXACT
from finance.x402.wire import decode_required
from node.demo import weather

IN_FLIGHT = 8
CALL_SECONDS = 120


@dataclass(slots=True)
class Tally:
    """What a run of calls came to; latencies in seconds."""

    paid: int = 0
    charged_atoms: int = 0
    wrong: int = 0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return len(self.failures) + self.wrong


@dataclass(frozen=True, slots=True)
class Errand:
    """One call to make and the answer it must give."""

    path: str
    expected: dict[str, Any]


def errands(count: int) -> Iterator[Errand]:
    """`count` calls over all cities; every tenth asks for a week of history."""
    for number in range(count):
        city = weather.CITIES[number % len(weather.CITIES)]
        if number % 10 == 9:
            yield Errand(f"history/{city}?days=7", weather.history(city, 7))
        else:
            day = number % 14
            yield Errand(f"forecast/{city}?day={day}", weather.forecast(city, day))


async def buy_through_proxy(
    proxy_url: str, secret: str, count: int, progress: Callable[[], None]
) -> Tally:
    """Make `count` calls as an app would, eight at a time, and check every answer."""
    tally = Tally()
    todo = errands(count)
    headers = {"Authorization": f"Bearer {secret}"}
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    started = time.perf_counter()
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def worker() -> None:
            for errand in todo:
                await _buy_one(session, f"{proxy_url}/{errand.path}", errand, tally)
                progress()

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    tally.seconds = time.perf_counter() - started
    return tally


async def _buy_one(session: aiohttp.ClientSession, url: str, errand: Errand, tally: Tally) -> None:
    started = time.perf_counter()
    try:
        async with session.get(url) as answer:
            body = await answer.read()
            cost = int(Usdc.parse(answer.headers.get("Farebox-Cost", "0")))
            status = answer.status
            right = status == 200 and await answer.json() == errand.expected
    except (aiohttp.ClientError, TimeoutError, FinanceError) as error:
        tally.failures.append(f"{errand.path}: {error!r}")
        return
    tally.latencies.append(time.perf_counter() - started)
    tally.charged_atoms += cost
    tally.paid += cost > 0
    if status != 200:
        tally.failures.append(f"{errand.path}: {status} {body[:200].decode(errors='replace')}")
    elif not right or not cost:
        tally.wrong += 1


async def buy_exact(
    gateway_url: str, network: Network, key_hex: str, count: int, progress: Callable[[], None]
) -> Tally:
    """Buy `count` calls at once from the public gateway, each with one on-chain transfer."""
    tally = Tally()
    signer = Signer.from_hex(key_hex)
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    started = time.perf_counter()
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def buy(errand: Errand) -> None:
            try:
                await _buy_exact(session, f"{gateway_url}/{errand.path}", network, signer, tally)
            except (aiohttp.ClientError, TimeoutError, FinanceError, KeyError) as error:
                tally.failures.append(f"exact {errand.path}: {error!r}")
            progress()

        await asyncio.gather(*(buy(errand) for errand in errands(count)))
    tally.seconds = time.perf_counter() - started
    return tally


async def _buy_exact(
    session: aiohttp.ClientSession, url: str, network: Network, signer: Signer, tally: Tally
) -> None:
    started = time.perf_counter()
    async with session.get(url) as unpaid:
        required = decode_required(unpaid.headers["PAYMENT-REQUIRED"])
    terms = choose(required, network, (EXACT,))
    valid_before = int(time.time()) + terms.max_timeout_seconds
    payload, nonce = exact_payload(signer, terms, token_domain(network), valid_before)
    payment = header(terms, payload, f"demo-{nonce.hex()}").decode()
    async with session.get(url, headers={"PAYMENT-SIGNATURE": payment}) as answer:
        body = await answer.read()
        if answer.status != 200:
            tally.failures.append(f"exact {url}: {answer.status} {body[:200]!r}")
            return
        receipt = decode_response(answer.headers["PAYMENT-RESPONSE"])
    tally.latencies.append(time.perf_counter() - started)
    if not receipt.success or not receipt.transaction:
        tally.wrong += 1
        return
    tally.paid += 1
    tally.charged_atoms += terms.amount_atoms
