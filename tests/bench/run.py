"""`make bench`: the paid path against the official SDK's, all in one run on one machine.

Figures are ratios. The load comes from a process of its own and is signed beforehand
where a server is measured; CPU is the operating system's count for the measured process.
Prints a table to standard error and JSON to standard output; exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from operator import sub, truediv
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import delete, insert, text

from finance.buying.limits import EVERY
from finance.buying.models import SpendLimit
from node.db.engine import open_engine, writer
from node.demo.market import Market, open_market
from node.demo.processes import run_command
from tests.bench.gating import MOST, NO_GOAL, compared
from tests.bench.processes import (
    CountingRelay,
    Run,
    line_of,
    measured,
    start,
    wait_for_port,
)
from tests.ports import free_port

LOAD, OFFICIAL_CLIENT = "tests.bench.load", "tests.bench.official_client"
GATING, GATING_SECONDS = "tests.bench.gating", 1_800
CONNECTIONS = 8
PAIRS, PAIR_CALLS = 30, 40
ROUNDS = 5


@dataclass(frozen=True)
class Goal:
    """One figure and what it must be."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def held(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Bench:
    """A market with the API of the benchmarks for sale at both sellers."""

    market: Market
    upstream: str
    sold_url: str
    free_url: str
    calls: int

    @property
    def seller_pid(self) -> int:
        assert self.market.seller.part is not None
        return self.market.seller.part.process.pid

    @property
    def buyer_pid(self) -> int:
        assert self.market.buyer.part is not None
        return self.market.buyer.part.process.pid


async def open_bench(
    stack: AsyncExitStack, calls: int, say: Callable[[str], None], block_seconds: int = 1
) -> Bench:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-")))
    port = free_port()
    await start(stack, "tests.bench.upstream", str(port))
    await wait_for_port(port)
    upstream = f"http://127.0.0.1:{port}"
    market = await open_market(directory, stack, say, block_seconds)
    add = ("listing", "add", "Bench", "--upstream", upstream, "--price", "0.001")
    await run_command((*add, "--route", "GET /free=0", "--json"), market.seller.environment)
    url = f"{market.seller.gateway_url}/v1/bench"
    await asyncio.sleep(2)  # the node looks for changed listings every second
    return Bench(market, upstream, f"{url}/paid", f"{url}/free", calls)


async def load(
    bench: Bench, mode: str, url: str, pid: int, key: int, calls: int, **more: Any
) -> Run:
    options = {"url": url, "mode": mode, "key": bench.market.funded_keys[key], "calls": calls}
    options |= {"connections": CONNECTIONS, **more}
    flat = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return await measured(LOAD, pid, *flat)


async def official_seller(bench: Bench, stack: AsyncExitStack, key: int) -> tuple[str, int]:
    """(URL, pid) of the official FastAPI seller on the market's chain."""
    port = free_port()
    process = await start(
        stack,
        "tests.bench.official_seller",
        *("--port", str(port), "--rpc", bench.market.rpc_url, "--upstream", bench.upstream),
        *("--key", bench.market.funded_keys[key]),
    )
    await line_of(process)
    await wait_for_port(port)
    return f"http://127.0.0.1:{port}/paid/paid", process.pid


async def selling(bench: Bench) -> tuple[list[Goal], dict[str, Any]]:
    """(a) against the official middleware, (b) against our own free calls, by turns."""
    official, free, paid = list[Run](), list[Run](), list[Run]()
    calls, few = bench.calls // ROUNDS, max(bench.calls // ROUNDS // 4, 10)
    async with AsyncExitStack() as stack:
        url, pid = await official_seller(bench, stack, 2)
        await load(bench, "free", bench.free_url, bench.seller_pid, 4, 100)  # warm up
        for _ in range(ROUNDS):
            official.append(await load(bench, "voucher", url, pid, 3, few))
            free.append(await load(bench, "free", bench.free_url, bench.seller_pid, 4, calls))
            paid.append(await load(bench, "voucher", bench.sold_url, bench.seller_pid, 4, calls))
    goals = [
        Goal("a: CPU of official per CPU of ours", _ratio("cpu_ms_per_call", official, paid), 8),
        Goal("a: median latency, ours per official", _ratio("p50_ms", paid, official), 1, False),
        Goal("b: throughput, paid per free", _ratio("per_second", paid, free), 0.6),
        Goal("b: median of paid above free, ms", _median(sub, "p50_ms", paid, free), 1, False),
    ]
    return goals, _figures(official=official, free=free, paid=paid)


def _median(of: Callable[[float, float], float], figure: str, *sides: list[Run]) -> float:
    """Over the rounds: what a machine does to both sides of one leaves no trace."""
    pairs = zip(*sides, strict=True)
    return median(of(getattr(one, figure), getattr(other, figure)) for one, other in pairs)


def _ratio(figure: str, *sides: list[Run]) -> float:
    return _median(truediv, figure, *sides)


def _figures(**sides: list[Run]) -> dict[str, Any]:
    return {name: [asdict(run) for run in runs] for name, runs in sides.items()}


async def buying(bench: Bench) -> tuple[list[Goal], dict[str, Any]]:
    """(c) our proxy against the official httpx client, buying the same at our gateway, by
    turns; the channels of both are opened and filled before."""
    market = bench.market
    async with AsyncExitStack() as stack:
        relay = CountingRelay(int(market.seller.gateway_url.rpartition(":")[2]))
        await relay.start(stack)
        await _buy_list(market, "bench", bench.sold_url.removesuffix("/paid"))
        await _buy_list(market, "counted", f"http://127.0.0.1:{relay.port}/v1/bench")
        _raise_limits(bench)
        await asyncio.sleep(2)
        await _through_proxy(bench, "counted", 10)
        before = relay.requests
        counted = await _through_proxy(bench, "counted", 25)
        round_trips = (relay.requests - before) / counted.calls
    # A top-up doubles a channel: what comes after it costs none for as many calls again.
    await _through_proxy(bench, "bench", 2 * bench.calls + 20)
    official, proxied = list[Run](), list[Run]()
    for number in range(ROUNDS):
        key, calls = market.funded_keys[3 + number], str(max(bench.calls // ROUNDS, 10))
        official.append(
            await measured(
                OFFICIAL_CLIENT, None, "--url", bench.sold_url, "--key", key, "--calls", calls
            )
        )
        proxied.append(await _through_proxy(bench, "bench", bench.calls // ROUNDS))
    goals = [
        Goal("c: CPU of official per CPU of ours", _ratio("cpu_ms_per_call", official, proxied), 5),
        Goal("c: requests to the seller per call", round_trips, 1.05, False),
    ]
    return goals, _figures(official=official, proxy=proxied)


async def _buy_list(market: Market, name: str, url: str) -> None:
    await run_command(("listing", "add", name, "--buy", url, "--json"), market.buyer.environment)


async def _through_proxy(bench: Bench, listing: str, calls: int, secret: str = "") -> Run:
    url = f"{bench.market.proxy_url}/{listing}/paid"
    more = {"bearer": secret or bench.market.secret}
    return await load(bench, "bearer", url, bench.buyer_pid, 0, calls, **more)


async def gas(bench: Bench) -> tuple[list[Goal], dict[str, Any]]:
    """(d) gas of claims, sweeps and exact settlements, on a seller of its own."""
    pid = bench.seller_pid
    for _ in range(2):  # the first one also pays for the wallet's first balance
        await load(bench, "exact", bench.sold_url, pid, 6, 1, connections=1)
    single = _last_gas(bench, "settle")
    await load(bench, "exact", bench.sold_url, pid, 6, 1, connections=20)
    batch = _last_gas(bench, "settle")
    await _claim(bench)
    await load(bench, "voucher", bench.sold_url, pid, 7, 99, connections=10)
    claim = await _claim(bench)
    await load(bench, "voucher", bench.sold_url, pid, 8, 1, connections=100)
    hundred = await _claim(bench)
    per_payment = batch["gas"] / batch["payments"] / single["gas"]
    goals = [
        Goal(
            "d: gas per call, 1,000 calls on 10 channels",
            sum(c["gas"] for c in claim) / 1000,
            400,
            False,
        ),
        Goal("d: gas per exact payment, batch per single", per_payment, 0.7, False),
        Goal("d: claims of 100 channels that went through", float(bool(hundred)), 1, True),
    ]
    return goals, {"claim": claim, "claim_100": hundred, "single": single, "batch": batch}


async def _claim(bench: Bench) -> list[dict[str, int]]:
    """Tell the seller to claim; the claim transactions that followed."""
    seen = len(_claims(bench))
    bench.market.seller.part.process.send_signal(signal.SIGUSR1)  # type: ignore[union-attr]
    for _ in range(600):
        await asyncio.sleep(0.1)
        if not _open_claims(bench) and not _owed(bench):
            break
    return _claims(bench)[seen:]


def _rows(bench: Bench, query: str) -> list[Any]:
    engine = open_engine(f"sqlite:///{bench.market.seller.data_dir / 'farebox.db'}")
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(query)))
    finally:
        engine.dispose()


def _claims(bench: Bench) -> list[dict[str, int]]:
    query = (
        "SELECT gas_used FROM chain_tx WHERE purpose = 'claim' AND state IN ('mined', 'final')"
        " ORDER BY id"
    )
    return [{"gas": row[0]} for row in _rows(bench, query)]


def _open_claims(bench: Bench) -> bool:
    query = (
        "SELECT 1 FROM chain_tx WHERE purpose = 'claim'"
        " AND state IN ('intended', 'signed', 'broadcast')"
    )
    return bool(_rows(bench, query))


def _owed(bench: Bench) -> bool:
    return bool(
        _rows(bench, "SELECT 1 FROM seller_channel WHERE charged_atoms > total_claimed_atoms")
    )


def _last_gas(bench: Bench, purpose: str) -> dict[str, int]:
    query = (
        "SELECT t.gas_used, count(p.id) FROM chain_tx t JOIN onchain_payment p ON p.tx_id = t.id"
        f" WHERE t.purpose = '{purpose}' GROUP BY t.id ORDER BY count(p.id) DESC, t.id DESC LIMIT 1"
    )
    used, payments = _rows(bench, query)[0]
    return {"gas": used, "payments": payments}


async def exact(bench: Bench) -> tuple[list[Goal], dict[str, Any]]:
    """(e) `exact` on a chain with 2-second blocks, 32 callers at once."""
    ours = await load(bench, "exact", bench.sold_url, bench.seller_pid, 6, 6, connections=32)
    async with AsyncExitStack() as stack:
        url, pid = await official_seller(bench, stack, 2)
        official = await load(bench, "exact", url, pid, 3, 3, connections=1)
    goals = [Goal("e: exact answers a second, 32 callers", ours.per_second, 12, True)]
    return goals, {"ours": asdict(ours), "official": asdict(official)}


async def gated(bench: Bench) -> tuple[list[Goal], dict[str, Any]]:
    """(f) what quota and rate limit cost a bought call: an integrator's key beside an internal
    one, in short rounds that alternate."""
    market = bench.market
    await _buy_list(market, "bench", bench.sold_url.removesuffix("/paid"))
    make = ("key", "create", "integrator", "--integrator", "--per-minute", "1000000", "--json")
    made = await run_command(make, market.buyer.environment)
    tiers = ("usage", "tiers", "--calls", "pro", "--pro-calls", str(10**9), "--json")
    await run_command(tiers, market.buyer.environment)
    _raise_limits(bench)
    await asyncio.sleep(2)
    secrets = {"internal": market.secret, "integrator": made["secret"]}
    cost: dict[str, list[float]] = {name: [] for name in secrets}
    for number in range(PAIRS + 1):
        for name in sorted(secrets, reverse=bool(number % 2)):
            run = await _through_proxy(bench, "bench", PAIR_CALLS, secrets[name])
            if number:  # the first pair opens the channels
                cost[name].append(run.cpu_ms_per_call * 1000)
    found = compared(cost["integrator"], cost["internal"])
    return [_gate_goal("proxy: bought and gated per bought", found)], found


def _raise_limits(bench: Bench) -> None:
    """Of a day, so far that no call of a benchmark meets them; the node looks every second."""
    url = f"sqlite:///{bench.market.buyer.data_dir / 'farebox.db'}"
    rows = [
        {"scope": scope, "subject": EVERY, "limit_atoms": 10**9}
        for scope in ("listing", "key", "day")
    ]
    engine = open_engine(url)
    try:
        with writer(engine).begin() as connection:
            connection.execute(delete(SpendLimit))
            connection.execute(insert(SpendLimit), rows)
    finally:
        engine.dispose()


def _gate_goal(name: str, found: dict[str, float]) -> Goal:
    return Goal(
        f"f: CPU, {name} ({found['low']:.2f}-{found['high']:.2f})", found["ratio"], MOST, False
    )


async def gating(rounds: int) -> tuple[list[Goal], dict[str, Any]]:
    """(f) what quotas and rate limits cost, among few and among many keys; without a market."""
    async with AsyncExitStack() as stack:
        process = await start(stack, GATING, "--rounds", str(rounds))
        report: dict[str, Any] = json.loads(await line_of(process, GATING_SECONDS))
    goals = [_gate_goal(name, each) for name, each in report.items() if name not in NO_GOAL]
    return goals, report


Part = Callable[[Bench], Awaitable[tuple[list[Goal], dict[str, Any]]]]
IN_MARKET: dict[str, tuple[Part, int]] = {
    "selling": (selling, 1),
    "buying": (buying, 1),
    "gas": (gas, 1),
    "exact": (exact, 2),
    "gated": (gated, 1),
}
PARTS = (*IN_MARKET, "gating")


async def in_market(
    name: str, calls: int, say: Callable[[str], None]
) -> tuple[list[Goal], dict[str, Any]]:
    part, block_seconds = IN_MARKET[name]
    async with AsyncExitStack() as stack:
        bench = await open_bench(stack, calls, say, block_seconds)
        say(name)
        return await part(bench)


async def run(names: list[str], calls: int, rounds: int) -> int:
    console = Console(stderr=True)
    goals: list[Goal] = []
    figures: dict[str, Any] = {}
    for name in names:
        with console.status(name) as status:
            measuring = (
                gating(rounds) if name == "gating" else in_market(name, calls, status.update)
            )
            found, figures[name] = await measuring
            goals += found
    report = {"goals": [{**asdict(goal), "held": goal.held} for goal in goals], "runs": figures}
    sys.stdout.write(json.dumps(report) + "\n")
    console.print(_table(goals))
    return 0 if all(goal.held for goal in goals) else 1


def _table(goals: list[Goal]) -> Table:
    table = Table("figure", "value", "goal", "")
    for goal in goals:
        bound = f"{'≥' if goal.at_least else '≤'} {goal.bound:g}"
        table.add_row(goal.name, f"{goal.value:.3g}", bound, "✓" if goal.held else "missed")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--calls", type=int, default=400, help="per connection, eight of them")
    parser.add_argument("--rounds", type=int, default=100, help="of gating")
    options = parser.parse_args()
    sys.exit(asyncio.run(run(options.parts or list(PARTS), options.calls, options.rounds)))


if __name__ == "__main__":
    main()
