"""The service behind the `Alarm` protocol: incidents in, notifications and deliveries out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from node.accounts.audit import Actor
from node.alerts import handling, reading
from node.alerts.choices import AlertRules
from node.alerts.incidents import end_incidents, incident_row, open_id, open_ids, open_incident
from node.alerts.rules import Rule
from node.db.engine import writer
from node.preferences import read_preference

UNREAD_SECONDS = 5.0  # how long other processes' changes may go unseen

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a watcher found out about one subject."""

    message: str
    link: str


class Alerts:
    """Implements `Alarm`. One per process; all of them may share a database."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.wake = asyncio.Event()  # set when there is something to deliver
        self._clock = clock
        self._unread: tuple[float, int] | None = None

    async def raise_(self, rule: Rule, subject: str, message: str, link: str) -> None:
        """Open an incident once. A small write: call it from jobs, not from the paid path."""
        report = Report(message, link)
        await self._quietly(lambda: self._raise(rule, subject, report))

    async def resolve(self, rule: Rule, subject: str) -> None:
        """End it; one read when it is not open."""
        await self._quietly(lambda: self._resolve(rule, subject))

    async def follow(self, rule: Rule, found: Mapping[str, Report]) -> None:
        """Make the open incidents of `rule` those in `found` (subject -> report): for
        watchers that look at everything each time."""
        await self._quietly(lambda: self._follow(rule, found))

    async def _quietly(self, work: Callable[[], bool]) -> None:
        """An alarm must not break what it watches, and its callers report again: a database
        that is away is logged. `work` says whether anything changed."""
        try:
            if await asyncio.to_thread(work):
                self._changed()
        except SQLAlchemyError as error:
            _log.error("a notification cannot be stored now: %s", type(error).__name__)

    async def acknowledge(self, ids: Iterable[int], actor: Actor) -> int:
        """Mark new ones as seen; how many were."""
        done = await asyncio.to_thread(handling.acknowledge, self.engine, ids, actor, self._now())
        self._changed()
        return done

    async def acknowledge_all(self, rule: Rule | None, actor: Actor) -> int:
        """All that are new, or those of one rule; how many were."""
        ids = await asyncio.to_thread(reading.new_ids, self.engine, rule)
        return await self.acknowledge(ids, actor)

    async def resolve_by_hand(self, ids: Iterable[int], actor: Actor) -> int:
        """End open ones; what still holds is reported anew by whoever watches it."""
        done = await asyncio.to_thread(
            handling.resolve_by_hand, self.engine, ids, actor, self._now()
        )
        self._changed()
        return done

    def unread(self) -> int:
        """How many notifications are new: from memory, else one count by index (blocking)."""
        now = time.monotonic()
        if self._unread is None or now - self._unread[0] > UNREAD_SECONDS:
            self._unread = (now, reading.count_new(self.engine))
        return self._unread[1]

    def _changed(self) -> None:
        self._unread = None
        self.wake.set()

    def _now(self) -> int:
        return int(self._clock())

    def _raise(self, rule: Rule, subject: str, report: Report) -> bool:
        row = incident_row(subject, report.message, report.link)
        with writer(self.engine).begin() as connection:
            rules = read_preference(connection, AlertRules)
            return open_incident(connection, rules, row, rule, self._now())

    def _resolve(self, rule: Rule, subject: str) -> bool:
        stored = incident_row(subject, "", "/")["subject"]
        with self.engine.connect() as connection:
            found = open_id(connection, rule, stored)
        return found is not None and self._end([found])

    def _end(self, ids: Iterable[int]) -> bool:
        with writer(self.engine).begin() as connection:
            notify = read_preference(connection, AlertRules).notify_resolved
            return bool(end_incidents(connection, ids, notify, "", self._now()))

    def _follow(self, rule: Rule, found: Mapping[str, Report]) -> bool:
        with self.engine.connect() as connection:
            opened = open_ids(connection, rule)
        stored = {incident_row(each, "", "/")["subject"] for each in found}
        over = [id_ for subject, id_ in opened.items() if subject not in stored]
        told = [self._raise(rule, subject, report) for subject, report in found.items()]
        return any(told) | (bool(over) and self._end(over))
