"""Starts jobs by the clock and records how they ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from finance.errors import ChainError
from finance.store import Batch, Store
from node.jobs.lease import lease
from node.usage.events import event

Job = Callable[[], Awaitable[None]]

_LOG = logging.getLogger(__name__)


class Jobs:
    """The node's jobs. Add them, then start; twice at once is one run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scheduler = AsyncIOScheduler()
        self._failing: set[str] = set()

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
            next_run_time=datetime.now().astimezone(),
        )

    def start(self) -> None:
        """Needs the running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Start no more; a run that is under way is not waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def run(self, name: str, job: Job) -> None:
        """One run under its lease. A failure is recorded once, until the job succeeds."""
        with ExitStack() as held:
            if not await asyncio.to_thread(held.enter_context, lease(self._store.engine, name)):
                return
            try:
                await job()
            except ChainError as error:
                # No endpoint, or gas too dear: the next run finds the same work.
                await self._record(name, str(error))
            except Exception as error:
                _LOG.exception("job %s", name)
                await self._record(name, f"{type(error).__name__}: {error}")
            else:
                self._failing.discard(name)

    async def _record(self, name: str, why: str) -> None:
        _LOG.warning("job %s failed: %s", name, why)
        if name in self._failing:
            return
        self._failing.add(name)
        line = event("job_failed", "warning", f"Job {name} failed: {why}", int(time.time()))
        await self._store.commit(Batch([line]))
