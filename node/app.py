"""A running node: settings in, two ASGI apps and the background services out.

Started in the order of `Node.run`, ended in the opposite one: stop accepting, let calls
in flight end, claim what is owed (law 8), then put the books away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from catalog.editing import read_listings, read_samples
from catalog.listings import PricedListing, compile_listings
from catalog.models import ListingOrigin
from finance.buying.channels import Channel
from finance.chain.watcher import SeenEvent, Watcher
from finance.errors import FinanceError
from finance.selling.channel_watch import ChannelWatch
from finance.selling.claim_policy import Reason
from finance.store import Batch
from finance.wallet.signer import Keys
from node.accounts.setup import issue_code
from node.chaincheck import require_chain
from node.changes import follow_changes
from node.db.engine import open_engine
from node.jobs import alerts as alert_jobs
from node.jobs import (
    backup,
    claim,
    forget,
    health,
    mirror,
    questions,
    quotas,
    renewals,
    sync,
    thresholds,
    totals,
    withdrawals,
    withdrawn,
)
from node.jobs.runner import Jobs
from node.lock import DataDirLock, hold_data_dir, hold_database
from node.parts import Parts, build_parts
from node.process import prepare, spare_the_collector
from node.server import Server, bind, make_server
from node.settings import Bind, Settings
from node.treasury.claim_lines import book_claim
from node.usage.events import Severity, event
from node.usage.set_aside import show_calls_of
from node.vault.before import upgrade_with_backup
from node.vault.restore import Staged, swap
from node.vault.restored import mark_stale

DRAIN_SECONDS = 20
CLAIM_SECONDS = 60
LOOK_SECONDS = 5
RESTORED_SECONDS = 60
BOOKS_HELD = (
    "These books come from a backup, and the chain does not answer: nothing paid is served until"
    " it was asked about the channels. Check the RPC address in Settings > Network."
)

_log = logging.getLogger("farebox")


def run(settings: Settings, keys: Keys) -> None:
    """Run a node until SIGINT or SIGTERM. Raises NodeError before anything is served."""
    prepare()
    held = hold_data_dir(settings.data_dir)
    with held as lock, hold_database(settings.database, settings.data_dir):
        engine = open_engine(settings.database)
        try:
            upgrade_with_backup(engine, settings, keys)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                staged = runner.run(_run(settings, keys, engine, lock))
        finally:
            engine.dispose()
        if staged is not None:
            _swap_in(staged, settings)


def _swap_in(staged: Staged, settings: Settings) -> None:
    """The wizard's restore takes effect once nothing has the old directory open."""
    kept = swap(staged, settings)
    _log.warning(
        "restored from a backup; the old data directory is kept in %s. Start the node again, with"
        " the passphrase of the restored wallet: farebox up",
        kept or "no place: it was empty",
    )


async def _run(settings: Settings, keys: Keys, engine: Engine, lock: DataDirLock) -> Staged | None:
    """Returns a data directory that is to take this one's place, if a restore left one."""
    await require_chain(settings.chain)
    show_calls_of(engine, settings.chain, int(time.time()))
    with (
        bind(settings.gateway, "FAREBOX_GATEWAY_BIND") as gateway_socket,
        bind(settings.console, "FAREBOX_CONSOLE_BIND") as console_socket,
    ):
        settings = settings.model_copy(
            update={
                "gateway_bind": _bound(settings.gateway, gateway_socket),
                "console_bind": _bound(settings.console, console_socket),
            }
        )
        parts = build_parts(settings, keys, engine)
        node = Node(parts, keys, lock)
        spare_the_collector()
        await node.run(gateway_socket, console_socket)
        return parts.backups.pending.staged


def _bound(asked: Bind, listener: socket.socket) -> str:
    return str(Bind(asked.host, listener.getsockname()[1]))


class Node:
    """The parts while they run."""

    def __init__(self, parts: Parts, keys: Keys, lock: DataDirLock) -> None:
        self._parts = parts
        self._lock = lock
        self._stop = asyncio.Event()
        self._restored = False
        self._tasks: set[asyncio.Task[None]] = set()
        money = parts.money
        self._payers = ChannelWatch(money.mirror, money.claims, money.settlement, money.refunds)
        self._watcher = Watcher(
            money.rpc,
            money.journal,
            money.network,
            keys.wallet.address,
            self._seen,
            self._reorganised,
        )

    async def _seen(self, event: SeenEvent) -> None:
        self._parts.proxy.notice((event,))
        if self._restored and event.name == "Claimed":
            # Perhaps by a voucher of the time that the backup does not know.
            claimed = [c for c in self._paying_channels() if c.id_hex == event.channel_id]
            if mark_stale(claimed):
                self._parts.proxy.look_soon()
        await self._payers.handle(event)
        await self._parts.treasury.purse.notice(event)

    async def _reorganised(self, gone: Sequence[SeenEvent]) -> None:
        self._parts.proxy.notice(gone)
        await self._payers.reorganised(gone)
        await self._parts.gateway.take_over_plans()

    async def run(self, gateway_socket: socket.socket, console_socket: socket.socket) -> None:
        """Serve until asked to stop."""
        self._follow_signals()
        backups = self._parts.backups
        backups.pending.ask = self._stop.set
        await asyncio.to_thread(backups.prepare, int(time.time()))
        async with AsyncExitStack() as stack:
            await self._start_money(stack)
            await self._start_apps(stack)
            stack.push_async_callback(self._end_tasks)
            self._start_background()
            self._start_jobs(stack)
            stack.push_async_callback(self._claim_what_is_owed)
            proxies = self._parts.settings.trusted_proxies
            servers = (
                (make_server(self._parts.gateway, DRAIN_SECONDS, proxies), gateway_socket),
                (make_server(self._parts.private, DRAIN_SECONDS, proxies), console_socket),
            )
            await self._serve(servers)

    async def _start_money(self, stack: AsyncExitStack) -> None:
        money = self._parts.money
        stack.callback(money.journal.close)
        stack.push_async_callback(money.rpc.close)
        await self._start(stack, money.sender.start, money.sender.stop)
        await self._start(stack, money.settlement.start, money.settlement.stop)
        await self._start(stack, money.refunds.start, money.refunds.stop)
        stack.push_async_callback(self._payers.stop)
        await self._start(stack, self._watcher.start, self._watcher.stop)
        stack.push_async_callback(money.claims.stop)
        await self._look_at_channels()

    async def _look_at_channels(self) -> None:
        """What the chain knows better than older books, before a voucher is admitted.

        Without an endpoint the books must do: vouchers need none. Only books that come from a
        backup are not believed before the chain was asked: then nothing paid is served yet.
        """
        restored = (await asyncio.to_thread(self._parts.backups.after.read)).unchecked
        self._parts.ready.books_held = restored
        if await self._looked(LOOK_SECONDS):
            self._parts.ready.books_held = False
        elif restored:
            await self._note("restored_waits", "error", BOOKS_HELD)

    async def _looked(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._parts.money.mirror.refresh(int(time.time()), max_age_seconds=0)
        except (FinanceError, SQLAlchemyError, TimeoutError) as error:
            _log.warning("channels could not be held against the chain: %r", error)
            return False
        return True

    async def _look_until_answered(self) -> None:
        """Restored books are served from as soon as the chain answers."""
        while True:
            if await self._looked(RESTORED_SECONDS):
                break
            await asyncio.sleep(LOOK_SECONDS)
        self._parts.ready.books_held = False
        await self._note("restored_serves", "info", "The chain was asked; paid serving goes on.")

    async def _start_apps(self, stack: AsyncExitStack) -> None:
        gateway, proxy = self._parts.gateway, self._parts.proxy
        streams = self._parts.streams
        stack.push_async_callback(proxy.gate.quotas.stop)
        await self._start(stack, streams.start, streams.stop)
        await self._start(stack, gateway.start, gateway.stop)
        await self._start(stack, proxy.start, proxy.stop)
        treasury = self._parts.treasury
        await self._start(stack, treasury.start, treasury.stop)
        fact = await asyncio.to_thread(self._parts.backups.after.read)
        self._restored = bool(fact.restored_at)
        if fact.unchecked:
            mark_stale(self._paying_channels())
            proxy.look_soon()
        await self._take_over_changes()

    def _paying_channels(self) -> list[Channel]:
        """Every channel this node pays through."""
        pools = self._parts.proxy.buyer.pools.sellers.values()
        return [channel for pool in pools for channel in pool.channels]

    async def _start(
        self,
        stack: AsyncExitStack,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        await start()
        stack.push_async_callback(stop)

    def _start_background(self) -> None:
        engine = self._parts.money.journal.engine
        self._background("changes", follow_changes(engine, self._take_over_changes))
        purse = self._parts.treasury.purse
        self._background("balances", purse.follow(lambda: self._watcher.last_block))
        if self._parts.ready.books_held:
            self._background("restored", self._look_until_answered())
        self._background("deliveries", self._parts.controls.courier.follow())

    def _start_jobs(self, stack: AsyncExitStack) -> None:
        money = self._parts.money
        alerts = self._parts.controls.alerts
        jobs = Jobs(money.journal, alerts)
        claims, store = money.claims, money.journal
        jobs.every(mirror.EVERY_SECONDS, "mirror", mirror.mirror_job(money.mirror))
        jobs.every(
            withdrawals.EVERY_SECONDS, "withdrawals", withdrawals.withdrawal_job(claims, store)
        )
        jobs.every(claim.EVERY_SECONDS, "claim", claim.claim_job(claims, store))
        jobs.every(totals.EVERY_SECONDS, "totals", totals.totals_job(store.engine))
        jobs.every(forget.EVERY_SECONDS, "forget", forget.forget_job(store.engine))
        alert_jobs.add_all(jobs, alerts, money.rpc)
        quotas.add_all(jobs, alerts)
        questions.add_all(jobs, alerts)
        treasury = self._parts.treasury
        looks = thresholds.threshold_job(treasury.guard)
        jobs.every(thresholds.EVERY_SECONDS, "thresholds", looks)
        ended = withdrawn.withdrawn_job(treasury.withdrawals, store)
        jobs.every(withdrawn.EVERY_SECONDS, "withdrawn", ended)
        looked = health.health_job(self._parts.controls.publisher, alerts)
        jobs.every(health.EVERY_SECONDS, "health", looked)
        jobs.every(sync.EVERY_SECONDS, "sync", sync.sync_job(self._parts.shop.sync))
        bought = renewals.renewals_job(self._parts.controls.subscriptions)
        jobs.every(renewals.EVERY_SECONDS, "renewals", bought)
        backups = self._parts.backups
        backup.add_all(jobs, backups.upkeep)
        jobs.every(backup.WALLET_SECONDS, "wallet", backup.wallet_job(backups.after))
        held = self._parts.ready
        checked = backup.restored_job(backups.after, self._paying_channels, lambda: held.books_held)
        jobs.every(backup.RESTORED_SECONDS, "restored", checked)
        jobs.start()
        stack.callback(jobs.stop)
        stack.push_async_callback(backups.stop)

    def _background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s ended, the node stops", task.get_name(), exc_info=error)
            self._stop.set()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_over_changes(self) -> None:
        """Listings, prices, keys and limits as the database has them now."""
        engine = self._parts.money.journal.engine
        self._parts.gateway.reload(await asyncio.to_thread(_own_listings, engine))
        await self._parts.gateway.take_over_plans()
        await self._parts.proxy.reload()
        await self._parts.treasury.reload()
        await self._parts.shop.take_over()

    async def _serve(self, servers: tuple[tuple[Server, socket.socket], ...]) -> None:
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers
        ]
        stop = asyncio.create_task(self._stop.wait())
        await self._announce()
        try:
            await asyncio.wait((*tasks, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            self._parts.ready.serving = False
            # While their connections still stand, so that both sides are told.
            await self._parts.streams.close_all()
            for server, _ in servers:
                server.stop_accepting()
            await asyncio.gather(*tasks)

    async def _announce(self) -> None:
        settings = self._parts.settings
        facts = ("network", "gateway_url", "console_url", "gateway_here", "console_here")
        self._lock.describe(
            {"pid": os.getpid(), **{name: getattr(settings, name) for name in facts}}
        )
        self._parts.ready.serving = True
        _log.info("gateway %s, console %s", settings.gateway_url, settings.console_url)
        await self._invite_to_setup()
        await self._note("node_started", "info", "The node started.")

    async def _invite_to_setup(self) -> None:
        """While nobody can sign in: the address that makes the admin, also from elsewhere."""
        engine = self._parts.money.journal.engine
        code = await asyncio.to_thread(issue_code, engine, int(time.time()))
        if code is not None:
            _log.warning("Setup: %s/setup?code=%s", self._parts.settings.console_url, code)

    async def _claim_what_is_owed(self) -> None:
        """Before shutdown, within bounded time; what is not claimed now is at the next start."""
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                await self._claim()
        except TimeoutError:
            _log.warning("the last claim is not confirmed yet; it is followed at the next start")
        await self._note("node_stopped", "info", "The node stopped.")

    async def _claim(self) -> None:
        money = self._parts.money
        try:
            await book_claim(money.journal, await money.claims.claim(Reason.REQUESTED))
        except (FinanceError, SQLAlchemyError) as error:
            _log.warning("what is owed cannot be claimed now: %s", error)

    async def _note(self, type_: str, severity: Severity, message: str) -> None:
        line = event(type_, severity, message, int(time.time()))
        try:
            await self._parts.money.journal.commit(Batch([line]))
        except FinanceError as error:
            _log.warning("%s could not be noted: %s", type_, error)

    def _follow_signals(self) -> None:
        """SIGINT and SIGTERM stop the node; SIGUSR1 claims and sweeps what is owed now."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._background("claim", self._claim()))


def _own_listings(engine: Engine) -> tuple[PricedListing, ...]:
    """What this node sells, compiled; blocking, for large specifications a while."""
    own = read_listings(engine, ListingOrigin.OWN)
    prices = [price for _, routes in own for price in routes]
    return compile_listings([listing for listing, _ in own], prices, read_samples(engine))
