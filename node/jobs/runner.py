"""Starts jobs by the clock and records how they ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.exc import OperationalError

from finance.errors import ChainError
from finance.store import Batch, Store
from node.alerts.rules import Alarm, Rule
from node.jobs.lease import Leases
from node.usage.events import event

Job = Callable[[], Awaitable[None]]
WELL_SECONDS = 60.0

_LOG = logging.getLogger(__name__)


class Jobs:
    """The node's jobs. Add them, then start; twice at once is one run."""

    def __init__(self, store: Store, alarm: Alarm) -> None:
        self._store = store
        self._leases = Leases(store.engine)
        self._alarm = alarm
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._failing: set[str] = set()  # those that wait for the chain, as the log says
        # Those whose last run, in this process, succeeded, and when their incident was ended.
        self._well: dict[str, float] = {}

    def every(self, seconds: float, name: str, job: Job) -> None:
        """Run `job` now and then every `seconds`; a run that is late is not made up for."""
        self._scheduler.add_job(
            self.run,
            "interval",
            (name, job),
            seconds=seconds,
            id=name,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )

    def start(self) -> None:
        """Needs the running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Start no more; a run that is under way is ended, and not waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        self._leases.close()

    async def run(self, name: str, job: Job) -> None:
        """One run under its lease. A failure is recorded once, until the job succeeds; while the
        database is away, in the log alone. To be ended by `stop` is none, as which the scheduler
        would log it."""
        held = ExitStack()
        try:
            if await asyncio.to_thread(held.enter_context, self._leases.lease(name)):
                await self._run(name, job)
        except OperationalError as error:
            _LOG.warning("job %s cannot be run now: %s", name, error)
        except asyncio.CancelledError:
            if self._scheduler.running:
                raise
        finally:
            await asyncio.to_thread(held.close)

    async def _run(self, name: str, job: Job) -> None:
        try:
            await job()
        except ChainError as error:
            # No endpoint, or gas too dear: the next run finds the same work.
            await self._record(name, str(error))
        except Exception as error:
            _LOG.exception("job %s", name)
            await self._report(name, error)
        else:
            await self._succeeded(name)

    async def _report(self, name: str, error: Exception) -> None:
        """What nobody expected is worth a notification. Its text, which could hold rows of
        the database, stays in the node's log."""
        self._well.pop(name, None)
        message = f"Job {name} failed ({type(error).__name__}); the node's log says more."
        await self._alarm.raise_(Rule.JOB_FAILING, name, message, "/notifications")

    async def _succeeded(self, name: str) -> None:
        self._failing.discard(name)
        now = time.monotonic()
        # Again and again: it may be of another process that ran the job last, and is gone.
        if now - self._well.get(name, -WELL_SECONDS) >= WELL_SECONDS:
            await self._alarm.resolve(Rule.JOB_FAILING, name)
            self._well[name] = now

    async def _record(self, name: str, why: str) -> None:
        """Waiting for the chain is a line of the log; how long the chain may be silent and
        money may be stuck, other rules say."""
        _LOG.warning("job %s failed: %s", name, why)
        if name in self._failing:
            return
        self._failing.add(name)
        line = event("job_failed", "warning", f"Job {name} failed: {why}", int(time.time()))
        await self._store.commit(Batch([line]))
