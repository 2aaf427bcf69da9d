"""What quotas and rate limits cost: the CPU of a gated call per one that nothing watches.

    python -m tests.bench.gating [--rounds 100] [--calls 160]

At the gateway a subscriber's calls beside those of one whose plan has neither quota nor rate; at
a node with ten keys and ten subscribers, and at one with 10,000 of each. At the proxy an
integrator's calls beside an internal key's, of something that costs nothing: what the gate costs
a bought call is measured in the market (see run.py). CPU is
user and system time of the process that serves them, so that it holds on a busy machine: rounds
are short and alternate, each is compared with the one beside it, and what counts is the median
of all pairs, told with the interval in which it lies with 95 % certainty. Prints JSON; exit
code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from math import sqrt
from statistics import median
from typing import Any

import msgspec

from node.process import spare_the_collector
from tests.bench.gating_world import Lane, open_world
from tests.bench.processes import line_of, start, wait_for_port
from tests.ports import free_port

AT_ONCE = 8
NO_GOAL = (
    "gateway: served by a plan per booked by customer",
    "gateway: served by a plan per free",
    "proxy: gated per ungated, 10 keys",
    "proxy: gated per ungated, 10,000 keys",
)
MOST = 1.05
FEW, MANY = 10, 10_000
# (side, what nothing watches, what the gate watches)
SIDES = (("proxy", "internal", "integrator"), ("gateway", "unlimited", "subscriber"))
Lanes = Mapping[tuple[str, int], Lane]
Cost = dict[tuple[str, int], list[float]]


class Told(msgspec.Struct, frozen=True):
    """A line for the callers."""

    lane: Lane
    calls: int


async def measure(lanes: Lanes, callers: Process, rounds: int, calls: int) -> Cost:
    """Microseconds of CPU per call, by lane and number of keys, one per round. In each round what
    is compared follows on each other; every second one goes the other way round."""
    found: Cost = defaultdict(list)
    order = [
        lane
        for _, base, gated in SIDES
        for lane in ((base, FEW), (gated, FEW), (gated, MANY), (base, MANY))
    ]
    order += [("booked", FEW), ("free", FEW)]
    for number in range(rounds + 1):
        for name in order if number % 2 else reversed(order):
            before = time.process_time()
            await _tell(callers, Told(lanes[name], calls))
            spent = (time.process_time() - before) / calls * 1e6
            if number:  # the first one warms up
                found[name].append(spent)
    return found


def compared(gated: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The median ratio of the pairs, and what lies beside it."""
    ratios = sorted(one / other for one, other in zip(gated, base, strict=True))
    more = median(one - other for one, other in zip(gated, base, strict=True))
    # So many pairs below and above the median are chance (binomial, 95 %).
    rank = max(0, int((len(ratios) - 1.96 * sqrt(len(ratios))) / 2))
    return {
        "ratio": round(median(ratios), 4),
        "low": round(ratios[rank], 4),
        "high": round(ratios[-1 - rank], 4),
        "base_us": round(median(base), 1),
        "more_us": round(more, 1),
        "pairs": len(ratios),
    }


def report_of(cost: Cost) -> dict[str, dict[str, float]]:
    """By side: the gate among few and among many keys, and many against few. The last two are
    for those who ask what a subscriber's call costs beside a free one."""
    report = {}
    for side, base, gated in SIDES:
        for keys in (FEW, MANY):
            pair = cost[gated, keys], cost[base, keys]
            report[f"{side}: gated per ungated, {keys:,} keys"] = compared(*pair)
        pair = cost[gated, MANY], cost[gated, FEW]
        report[f"{side}: {MANY:,} keys per {FEW}"] = compared(*pair)
    for name, base in zip(NO_GOAL, ("booked", "free"), strict=False):
        report[name] = compared(cost["subscriber", FEW], cost[base, FEW])
    return report


async def _tell(callers: Process, told: Told) -> None:
    assert callers.stdin is not None
    callers.stdin.write(msgspec.json.encode(told) + b"\n")
    await line_of(callers)


class Callers:
    """The other process: for each line so many calls, over connections that stay."""

    def __init__(self) -> None:
        self._lines: dict[int, list[Any]] = {}

    async def run(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            await self._call(msgspec.json.decode(line, type=Told))
            sys.stdout.write("done\n")
            sys.stdout.flush()

    async def _call(self, told: Told) -> None:
        lane, port = told.lane, told.lane.port
        if port not in self._lines:
            opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE))
            self._lines[port] = [await each for each in opening]
        head = f"GET {lane.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        asked = [f"{head}{line}\r\n\r\n".encode() for line in lane.headers]
        share = told.calls // AT_ONCE
        await asyncio.gather(
            *(_calls(*line, asked, first, share) for first, line in enumerate(self._lines[port]))
        )


async def _calls(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    asked: Sequence[bytes],
    first: int,
    count: int,
) -> None:
    for number in range(first, first + count):
        writer.write(asked[number % len(asked)])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))


async def run(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    async with AsyncExitStack() as stack:
        port = free_port()
        await start(stack, "tests.bench.upstream", str(port))
        await wait_for_port(port)
        lanes = {
            (name, keys): lane
            for keys in (FEW, MANY)
            for name, lane in (
                await open_world(stack, f"http://127.0.0.1:{port}", keys, FEW)
            ).items()
        }
        callers = await start(stack, "tests.bench.gating", "--call")
        spare_the_collector()  # as a node does
        return report_of(await measure(lanes, callers, rounds, calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--calls", type=int, default=160, help="per round")
    parser.add_argument("--call", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.call:
        return asyncio.run(Callers().run())
    report = asyncio.run(run(chosen.rounds, chosen.calls))
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(
        0
        if all(each["ratio"] <= MOST for name, each in report.items() if name not in NO_GOAL)
        else 1
    )


if __name__ == "__main__":
    main()
