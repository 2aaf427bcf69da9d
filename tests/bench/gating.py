"""What meters, quotas and rate limits cost: the proxy's CPU for a gated call per an internal one.

    python -m tests.bench.gating [--calls 1000] [--rounds 7]

The calls are free, so that nothing else that a paid call costs hides the difference. Rounds
alternate, medians are compared; then the same among 10,000 keys. Prints JSON; exit code 1
if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import secrets
import sys
import tempfile
import time
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Engine, insert

from catalog.models import Listing, ListingOrigin
from finance.chain.rpc import Rpc
from finance.networks import NETWORKS
from finance.wallet.signer import Keys, Signer
from node.accounts.audit import COMMAND
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.proxy.app import Proxy
from node.server import bind, make_server
from node.settings import Bind
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.models import ConsumerKey
from node.usage.tiers import Tier, UsageTiers, change_tiers
from tests.bench.processes import free_port, line_of, start, wait_for_port

AT_ONCE = 8
MOST = 1.05
MANY = 10_000


class Bench:
    """A proxy on a port, with one free listing and a key of each kind; its callers are a
    process of their own."""

    def __init__(self, engine: Engine, proxy: Proxy, tokens: dict[str, str], calls: int) -> None:
        self.engine, self.proxy, self.tokens, self.calls = engine, proxy, tokens, calls

    async def compare(self, callers: Process, rounds: int) -> dict[str, float]:
        """Median microseconds of CPU per call, by kind of key, and the median of each round's
        `ratio`, for a busy machine is as busy for both; who comes first takes turns."""
        found: dict[str, list[float]] = {name: [] for name in self.tokens}
        for number in range(rounds + 1):
            for name in sorted(self.tokens, reverse=number % 2 == 0):
                before = time.process_time()
                await _tell(callers, f"{self.tokens[name]} {self.calls}")
                spent = (time.process_time() - before) / self.calls * 1e6
                if number:  # the first one warms up
                    found[name].append(spent)
        pairs = zip(found["gated"], found["internal"], strict=True)
        ratio = round(median(gated / internal for gated, internal in pairs), 3)
        return {**{name: round(median(each), 1) for name, each in found.items()}, "ratio": ratio}

    async def add_keys(self, count: int) -> None:
        """Integrators that the proxy has to know, too."""
        rows = [
            {"id": f"k{n}", "name": "k", "secret_hash": f"{n:064x}", "integrator": True}
            for n in range(count)
        ]
        with writer(self.engine).begin() as connection:
            connection.execute(insert(ConsumerKey), rows)
        await self.proxy.reload()


async def open_bench(stack: AsyncExitStack, calls: int) -> Bench:
    port = free_port()
    await start(stack, "tests.bench.upstream", str(port))
    await wait_for_port(port)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-"))
    engine = open_engine(f"sqlite:///{Path(directory) / 'farebox.db'}")
    stack.callback(engine.dispose)
    tokens = _fill(engine, f"http://127.0.0.1:{port}")
    journal = Journal(engine)
    stack.callback(journal.close)
    network = NETWORKS["devnet"]
    rpc = await stack.enter_async_context(Rpc(["http://127.0.0.1:9"], network.chain_id))
    keys = Keys(Signer.random(), Signer.random(), Signer.random(), secrets.token_bytes(32))
    proxy = Proxy(journal, keys, network, rpc, egress=EgressPolicy(["127.0.0.1"]))
    await proxy.start()
    stack.push_async_callback(proxy.stop)
    return Bench(engine, proxy, tokens, calls)


async def _listen(stack: AsyncExitStack, proxy: Proxy) -> int:
    """Serve it as a node does; the port."""
    listener = stack.enter_context(bind(Bind("127.0.0.1", 0), ""))
    server = make_server(proxy, 1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def stop() -> None:
        server.stop_accepting()
        await serving

    stack.push_async_callback(stop)
    while not server.started:
        await asyncio.sleep(0.01)
    port: int = listener.getsockname()[1]
    return port


async def _tell(callers: Process, line: str) -> None:
    assert callers.stdin is not None
    callers.stdin.write(line.encode() + b"\n")
    await line_of(callers)


async def call_as_told(port: int) -> None:
    """The callers: for each line `token calls` so many calls, over connections that stay."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE)]
    while told := (await reader.readline()).split():
        head = b"GET /call/bench/free HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n"
        request, count = head % told[0] + b"\r\n", int(told[1]) // AT_ONCE
        await asyncio.gather(*(_call(*line, request, count) for line in lines))
        sys.stdout.write("done\n")
        sys.stdout.flush()


async def _call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, count: int
) -> None:
    for _ in range(count):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))


def _fill(engine: Engine, upstream: str) -> dict[str, str]:
    """One listing and both keys; their tokens."""
    upgrade(engine)
    now = int(time.time())
    change_tiers(engine, UsageTiers(calls=Tier.PRO, pro_calls=10**9), COMMAND, now)
    row = {"id": "l1", "slug": "bench", "name": "Bench", "base_url": upstream}
    with writer(engine).begin() as connection:
        connection.execute(insert(Listing).values(row | {"origin": ListingOrigin.REMOTE}))
    gated = KeyChoices("gated", integrator=True, per_minute=1_000_000)
    return {
        "internal": create_key(engine, "internal", now).secret,
        "gated": create_key(engine, gated, now).secret,
    }


async def run(calls: int, rounds: int) -> dict[str, Any]:
    gc.freeze()  # as the node does
    gc.set_threshold(20_000, 20, 20)
    async with AsyncExitStack() as stack:
        bench = await open_bench(stack, calls)
        port = await _listen(stack, bench.proxy)
        callers = await start(stack, "tests.bench.gating", "--callers-of", str(port))
        few = await bench.compare(callers, rounds)
        await bench.add_keys(MANY)
        many = await bench.compare(callers, rounds)
    return {
        "cpu_us_per_call": {"few_keys": few, "many_keys": many},
        "gated_per_internal": few["ratio"],
        "gated_per_internal_many_keys": many["ratio"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--callers-of", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.callers_of:
        return asyncio.run(call_as_told(chosen.callers_of))
    report = asyncio.run(run(chosen.calls, chosen.rounds))
    sys.stdout.write(json.dumps(report) + "\n")
    ratios = [value for name, value in report.items() if name != "cpu_us_per_call"]
    sys.exit(0 if max(ratios) <= MOST else 1)


if __name__ == "__main__":
    main()
