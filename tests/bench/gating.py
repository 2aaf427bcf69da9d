"""What meters, quotas and rate limits cost: the proxy's CPU for a gated call per an internal one.

    python -m tests.bench.gating [--calls 1000] [--rounds 7]

The calls are free, so that nothing else that a paid call costs hides the difference. Rounds
alternate, medians are compared; then the same among 10,000 keys. Prints JSON; exit code 1
if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
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
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.models import ConsumerKey
from node.usage.tiers import Tier, UsageTiers, change_tiers
from tests.bench.processes import free_port, start, wait_for_port

AT_ONCE = 8
MOST = 1.05
MANY = 10_000


class Bench:
    """A proxy with one free listing and a key of each kind."""

    def __init__(self, engine: Engine, proxy: Proxy, tokens: dict[str, str], calls: int) -> None:
        self.engine, self.proxy, self.tokens, self.calls = engine, proxy, tokens, calls

    async def compare(self, rounds: int) -> dict[str, float]:
        """Median microseconds of CPU per call, by kind of key."""
        found: dict[str, list[float]] = {name: [] for name in self.tokens}
        for number in range(rounds + 1):
            for name, token in self.tokens.items():
                before = time.process_time()
                await asyncio.gather(*(self._some(token) for _ in range(AT_ONCE)))
                spent = (time.process_time() - before) / self.calls * 1e6
                if number:  # the first one warms up
                    found[name].append(spent)
        return {name: round(median(each), 1) for name, each in found.items()}

    async def _some(self, token: str) -> None:
        for _ in range(self.calls // AT_ONCE):
            await self._call(token)

    async def _call(self, token: str) -> None:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/call/bench/free",
            "raw_path": b"/call/bench/free",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer " + token.encode())],
        }
        await self.proxy(scope, receive, send)
        assert status == 200, status

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
    async with AsyncExitStack() as stack:
        bench = await open_bench(stack, calls)
        few = await bench.compare(rounds)
        await bench.add_keys(MANY)
        many = await bench.compare(rounds)
    return {
        "cpu_us_per_call": {"few_keys": few, "many_keys": many},
        "gated_per_internal": round(few["gated"] / few["internal"], 3),
        "gated_per_internal_many_keys": round(many["gated"] / many["internal"], 3),
        "many_keys_per_few": round(many["gated"] / few["gated"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    report = asyncio.run(run(chosen.calls, chosen.rounds))
    sys.stdout.write(json.dumps(report) + "\n")
    ratios = [value for name, value in report.items() if name != "cpu_us_per_call"]
    sys.exit(0 if max(ratios) <= MOST else 1)


if __name__ == "__main__":
    main()
