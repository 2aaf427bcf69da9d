"""The demo from its first line to its last."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine, func, select, true
from sqlmodel import col

from finance.models import ChainTx, TxState
from node.commands.output import print_json
from node.db.engine import open_engine, sqlite_url
from node.demo.faucet import usdc_balance
from node.demo.market import CONSOLE_USER, LISTING, Market, NodeHome, open_market
from node.demo.processes import PartFailed, run_command
from node.demo.report import ChainUse, Report, failed_checks, make_report, print_report
from node.demo.traffic import buy_exact, buy_through_proxy

EXACT_CALLS = 8
CLAIM_SECONDS = 60
_ON_CHAIN = (TxState.MINED, TxState.FINAL)
_OPEN = (TxState.INTENDED, TxState.SIGNED, TxState.BROADCAST)


class Demo:
    """One run; `stay` keeps the market open until Ctrl-C."""

    def __init__(self, calls: int, stay: bool, as_json: bool) -> None:
        self._calls = calls
        self._stay = stay
        self._json = as_json
        self._console = Console(stderr=True)

    async def run(self) -> int:
        """Exit code: 0 only if every check held."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with tempfile.TemporaryDirectory(prefix="farebox-demo-") as directory:
            async with AsyncExitStack() as stack:
                return await self._run(Path(directory), stack)

    async def _run(self, directory: Path, stack: AsyncExitStack) -> int:
        with self._console.status("Starting") as status:
            market = await open_market(directory, stack, self._say(status))
        if self._json:
            print_json(market.event())
        report = await self._trade(market)
        failed = failed_checks(report, self._calls, EXACT_CALLS)
        if self._json:
            print_json(report.event())
        print_report(self._console, report, failed)
        if self._stay:
            await self._stay_open(market)
        self._console.print("Stopping the market", style="dim")
        return 1 if failed else 0

    def _say(self, status: Any) -> Callable[[str], None]:
        def say(text: str) -> None:
            status.update(text)
            self._console.print(f"· {text}", style="dim", highlight=False)

        return say

    async def _trade(self, market: Market) -> Report:
        before = await usdc_balance(market.rpc, market.network, market.seller.address)
        with self._progress("Paid calls", self._calls) as step:
            calls = await buy_through_proxy(
                f"{market.proxy_url}/{LISTING}", market.secret, self._calls, step
            )
        with self._progress("Exact calls", EXACT_CALLS) as step:
            exact = await buy_exact(
                f"{market.seller.gateway_url}/v1/{LISTING}",
                market.network,
                market.funded_keys[1],
                EXACT_CALLS,
                step,
            )
        with self._console.status("Claiming and sweeping"):
            charged = calls.charged_atoms + exact.charged_atoms
            after = await self._claim(market, before + charged)
            claims, settlements = await asyncio.to_thread(_read_chain_use, market.seller)
        with self._console.status("Comparing both books with the chain"):
            differences = await _reconcile(market)
        return make_report(calls, exact, after - before, claims, settlements, differences)

    async def _claim(self, market: Market, expected: int) -> int:
        """Tell the seller to claim now; its USDC once it is there and its node has seen how it
        came, or when time is up."""
        assert market.seller.part is not None
        market.seller.part.process.send_signal(signal.SIGUSR1)
        deadline = asyncio.get_running_loop().time() + CLAIM_SECONDS
        while True:
            found = await usdc_balance(market.rpc, market.network, market.seller.address)
            arrived = found >= expected and not await asyncio.to_thread(_waits, market.seller)
            if arrived or asyncio.get_running_loop().time() > deadline:
                return found
            market.seller.part.require_alive()
            await asyncio.sleep(0.25)

    @contextmanager
    def _progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)

    async def _stay_open(self, market: Market) -> None:
        buyer, seller = market.buyer.console_url, market.seller.console_url
        self._console.print(
            f"\nThe market stays open until Ctrl-C:\n"
            f"  seller's console   {seller}/\n"
            f"  buyer's console    {buyer}/\n"
            f"  to sign in         {CONSOLE_USER} / {market.console_password}\n"
            f"  a paid call        curl -H 'Authorization: Bearer {market.secret}'"
            f" {market.proxy_url}/{LISTING}/forecast/quito\n"
            f"  its price          curl -i {market.example_url}",
            highlight=False,
            soft_wrap=True,
        )
        try:
            while True:
                for part in market.parts:
                    part.require_alive()
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            return


async def _reconcile(market: Market) -> list[Any]:
    """Differences of both nodes, found by the command an operator would use."""
    differences: list[Any] = []
    for home in (market.seller, market.buyer):
        found = await run_command(("reconcile", "--json"), home.environment, accept=(0, 1))
        differences += [{"node": home.name, **each} for each in found["differences"]]
    return differences


def _read_chain_use(home: NodeHome) -> tuple[ChainUse, ChainUse]:
    """What the seller's transactions cost: claims and sweeps, and everything else."""
    engine = open_engine(sqlite_url(home.data_dir / "farebox.db"))
    try:
        claims = _sum_gas(engine, col(ChainTx.purpose) == "claim")
        return claims, _sum_gas(engine, col(ChainTx.purpose) != "claim")
    finally:
        engine.dispose()


def _waits(home: NodeHome) -> bool:
    """Whether a node has a transaction the end of which it does not know yet."""
    engine = open_engine(sqlite_url(home.data_dir / "farebox.db"))
    try:
        return _sum_gas(engine, true(), _OPEN).transactions > 0
    finally:
        engine.dispose()


def _sum_gas(engine: Engine, which: Any, states: Sequence[TxState] = _ON_CHAIN) -> ChainUse:
    statement = select(func.count(), func.coalesce(func.sum(col(ChainTx.gas_used)), 0)).where(
        which, col(ChainTx.state).in_(states)
    )
    with engine.connect() as connection:
        transactions, gas_used = connection.execute(statement).one()
    return ChainUse(int(transactions), int(gas_used or 0))


def run_demo(calls: int, stay: bool, as_json: bool) -> int:
    """Run it; what goes wrong is a sentence of PartFailed."""
    try:
        return asyncio.run(Demo(calls, stay, as_json).run())
    except asyncio.CancelledError:
        return 130
    except OSError as error:
        raise PartFailed(f"The demo could not go on: {error}.") from error
