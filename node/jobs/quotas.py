"""Tells once what happens to the month's quotas, and what keys do that they did not before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from node.alerts.alerts import Alerts, Report
from node.alerts.incidents import open_ids
from node.alerts.rules import Rule
from node.jobs.runner import Job, Jobs
from node.usage.quota_watch import (
    Crossing,
    KeyReport,
    read_crossings,
    read_quiet_and_jumped,
    remember,
)

QUOTA_EVERY_SECONDS = 5.0
KEYS_EVERY_SECONDS = 300.0
LINK = "/developers"
_RULES = (Rule.QUOTA_NEAR, Rule.QUOTA_FULL, Rule.QUOTA_SUSTAINED)


def add_all(jobs: Jobs, alerts: Alerts) -> None:
    """Both, each at its own pace."""
    jobs.every(QUOTA_EVERY_SECONDS, "quotas", quota_job(alerts))
    jobs.every(KEYS_EVERY_SECONDS, "keys", keys_job(alerts))


def quota_job(alerts: Alerts, clock: Callable[[], float] = time.time) -> Job:
    """A run tells what was crossed and was not told this month, and ends what is over."""
    engine = alerts.engine

    async def run() -> None:
        now = int(clock())
        crossed = await asyncio.to_thread(read_crossings, engine, now)
        for each in crossed:
            if not each.told:
                # First told, then remembered: a crash between them repeats a report that
                # changes nothing.
                await alerts.raise_(Rule(each.rule), each.subject, each.message, LINK)
                await asyncio.to_thread(remember, engine, each, now)
        for rule, subject in await asyncio.to_thread(_over, engine, crossed):
            await alerts.resolve(rule, subject)

    return run


def keys_job(alerts: Alerts, clock: Callable[[], float] = time.time) -> Job:
    """A run opens and ends the incidents of keys that went quiet or jumped."""

    async def run() -> None:
        now = int(clock())
        quiet, jumped = await asyncio.to_thread(read_quiet_and_jumped, alerts.engine, now)
        await alerts.follow(Rule.KEY_QUIET, _reports(quiet))
        await alerts.follow(Rule.KEY_JUMPED, _reports(jumped))

    return run


def _over(engine: Engine, crossed: Sequence[Crossing]) -> list[tuple[Rule, str]]:
    """Open incidents of quotas that are lifted, or of months that have ended (blocking)."""
    holding = {(each.rule, each.subject) for each in crossed}
    with engine.connect() as connection:
        opened = [(rule, subject) for rule in _RULES for subject in open_ids(connection, rule)]
    return [each for each in opened if (each[0].value, each[1]) not in holding]


def _reports(found: Sequence[KeyReport]) -> dict[str, Report]:
    return {each.key_id: Report(each.message, f"{LINK}/keys/{each.key_id}") for each in found}
