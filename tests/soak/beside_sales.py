"""What paid calls lose while a backup of a large database is written on the same machine.

    python -m tests.soak.beside_sales --rows 1000000 --rounds 10

A market with a real chain, the seller's journal filled first. Whole paid calls, signed
beforehand, go on all the time; backups follow each other, and every few seconds their process
is halted or let go on: so both are measured in turn, at every stage of a backup, on a machine
that may have more to do than this.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from backups.client import run_task
from backups.header import BackupKey
from backups.tasks import MadeKey, MakeKey
from finance.wallet.keystore import Keystore
from node.accounts.access import Identity, Role
from node.accounts.audit import COMMAND
from node.accounts.tokens import create_token
from node.accounts.users import list_users
from node.db.engine import open_engine
from node.demo.market import NodeHome
from node.demo.processes import start_part
from node.lock import running_node
from node.vault import records
from node.vault.choices import BackupChoices, change_choices
from tests.backups.processes import children_at_work
from tests.bench.load import Connection, Target, prepare
from tests.bench.processes import cpu_seconds
from tests.bench.run import Bench, open_bench
from tests.recovery.node_home import until
from tests.soak.generate_calls import Month, generate

PASSWORD = "correct horse battery staple"
PAYER = 4  # of the chain's funded accounts
CONNECTIONS = 32  # a channel each, so that none has too much unclaimed
MOST_A_SECOND = 125  # on each connection
WINDOW_SECONDS = 2.5
SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class Window:
    """Some seconds of paid calls, and the seller's CPU for each, in milliseconds."""

    per_second: float
    cpu_ms: float


@dataclass(frozen=True)
class Round:
    """Two windows, one after the other: backups halted, and at work."""

    alone: Window
    beside: Window

    @property
    def share(self) -> float:
        """Throughput that is left."""
        return self.beside.per_second / self.alone.per_second


@dataclass(frozen=True)
class Measured:
    """All rounds, and how many backups were finished meanwhile."""

    rounds: list[Round]
    backups: int

    @property
    def share(self) -> float:
        """The median round's."""
        return statistics.median(each.share for each in self.rounds)

    def __str__(self) -> str:
        shares = sorted(each.share for each in self.rounds)
        alone, beside = ([getattr(r, name) for r in self.rounds] for name in ("alone", "beside"))
        return (
            f"{_median(alone, 'per_second'):.0f} -> {_median(beside, 'per_second'):.0f} calls/s,"
            f" CPU {_median(alone, 'cpu_ms'):.2f} -> {_median(beside, 'cpu_ms'):.2f} ms a call,"
            f" median share {self.share:.2f} of {len(shares)} rounds"
            f" ({shares[0]:.2f} to {shares[-1]:.2f}), {self.backups} backups finished"
        )


def _median(windows: list[Window], name: str) -> float:
    return statistics.median(getattr(each, name) for each in windows)


async def measure(rows: int, rounds: int) -> Measured:
    """`rounds` of paid calls beside the backups of a journal of `rows`."""
    async with AsyncExitStack() as stack:
        bench = await open_bench(stack, 0, lambda _: None)
        bench, token = await _with_history(bench, rows, stack)
        sales = await stack.enter_async_context(_sales(bench, rounds))
        backups = await stack.enter_async_context(_backups(bench, token))
        while not sales[0]:  # their deposits come first
            await asyncio.sleep(0.1)
        found = []
        for _ in range(rounds):
            backups.halt()
            alone = await _window(bench, sales)
            backups.go_on()
            found.append(Round(alone, await _window(bench, sales)))
        return Measured(found, backups.finished)


async def _window(bench: Bench, sales: list[int]) -> Window:
    await asyncio.sleep(SETTLE_SECONDS)
    sold, cpu, began = sales[0], cpu_seconds(bench.seller_pid), time.monotonic()
    await asyncio.sleep(WINDOW_SECONDS)
    sold, seconds = sales[0] - sold, time.monotonic() - began
    assert sold, "no call was answered, or too few were prepared"
    return Window(sold / seconds, (cpu_seconds(bench.seller_pid) - cpu) / sold * 1000)


@asynccontextmanager
async def _sales(bench: Bench, rounds: int) -> AsyncIterator[list[int]]:
    """Paid calls, as many as can be; how many were answered so far."""
    calls = int(rounds * 2 * (WINDOW_SECONDS + SETTLE_SECONDS) * MOST_A_SECOND)
    target, sold = Target.parse(bench.sold_url), [0]
    options = argparse.Namespace(
        mode="voucher",
        key=bench.market.funded_keys[PAYER],
        connections=CONNECTIONS,
        calls=calls,
    )

    async def send(requests: list[bytes]) -> None:
        connection = await Connection.open(target.host, target.port)
        for request in requests:
            answer = await connection.send(request)
            assert answer.status == 200, (answer.status, answer.headers, answer.body)
            sold[0] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(lane)) for lane in await prepare(options, target)]
        yield sold
        assert not all(task.done() for task in tasks), "too few calls were prepared"
        for task in tasks:
            task.cancel()


async def _with_history(bench: Bench, rows: int, stack: AsyncExitStack) -> tuple[Bench, str]:
    """The seller with a month's calls in its journal, under another port afterwards, and a token
    of its admin."""
    home = bench.market.seller
    assert home.part is not None
    await home.part.stop()
    engine = open_engine(f"sqlite:///{home.data_dir / 'farebox.db'}")
    try:
        with engine.begin() as connection:  # the few of the opening are counted again
            connection.exec_driver_sql("DELETE FROM call")
            connection.exec_driver_sql("DELETE FROM call_rollup")
        await asyncio.to_thread(generate, engine, Month(rows, int(time.time()) - 3600), True)
    finally:
        engine.dispose()
    token = await _let_back_up(home)
    home = await _start(home, stack)
    sold = f"{home.gateway_url}/v1/bench/paid"
    return replace(bench, market=replace(bench.market, seller=home), sold_url=sold), token


async def _start(home: NodeHome, stack: AsyncExitStack) -> NodeHome:
    part = await start_part(home.name, ("up",), home.data_dir.parent, home.environment)
    stack.push_async_callback(part.stop)

    async def facts() -> dict[str, Any]:
        part.require_alive()
        found = await asyncio.to_thread(running_node, home.data_dir)
        return found if "gateway_url" in found else {}

    found = await until("the seller is up", facts, 120)
    urls = {name: found[name] for name in ("gateway_url", "console_url")}
    return replace(home, part=part, **urls)


class Backups:
    """One after the other, written by the seller's node as its own schedule has them written: by
    its child, in its session, for within one session only does a process yield to another."""

    def __init__(self, bench: Bench, token: str) -> None:
        self._pid, self._token = bench.seller_pid, token
        self._url = f"{bench.market.seller.console_url}/api/backups"
        self._going = asyncio.Event()
        self.finished = 0

    def halt(self) -> None:
        self._going.clear()
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        self._going.set()

    async def write(self) -> None:
        """Until it is cancelled."""
        headers = {"authorization": f"Bearer {self._token}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as client:
            while True:
                await self._going.wait()
                begun = (await client.post(self._url)).raise_for_status().json()
                while True:
                    await asyncio.sleep(0.5)
                    found = (await client.get(f"{self._url}/{begun['id']}")).json()
                    if found["state"] != "running":
                        break
                assert found["state"] == "good", found
                self.finished += 1

    def _signal(self, number: signal.Signals) -> None:
        for pid in children_at_work(self._pid):
            os.kill(pid, number)


@asynccontextmanager
async def _backups(bench: Bench, token: str) -> AsyncIterator[Backups]:
    backups = Backups(bench, token)
    task = asyncio.create_task(backups.write())
    try:
        yield backups
        if task.done():
            await task
    finally:
        backups.go_on()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _let_back_up(home: NodeHome) -> str:
    """Give a node that does not run a backup password, no schedule, and a token of its admin."""
    made = await run_task(MakeKey(PASSWORD), MadeKey)
    passphrase = Path(home.environment["FAREBOX_PASSPHRASE_FILE"]).read_text()
    keys = await asyncio.to_thread(Keystore(home.data_dir / "keys").unlock, passphrase)
    engine, now = open_engine(f"sqlite:///{home.data_dir / 'farebox.db'}"), int(time.time())
    try:
        sealed = keys.seal(made.identity.encode())
        key = BackupKey(made.recipient, made.key_block)
        records.store_key(engine, key, sealed, COMMAND, now)
        change_choices(engine, BackupChoices(every_hours=0), COMMAND, now)
        admin = list_users(engine)[0]
        maker = Identity(admin.id, admin.name, Role.ADMIN, "127.0.0.1")
        return create_token(engine, maker, "backups", Role.ADMIN, now).secret
    finally:
        engine.dispose()


def main() -> None:
    """The command in this file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    print(asyncio.run(measure(chosen.rows, chosen.rounds)))


if __name__ == "__main__":
    main()
