"""Looks for what is worth a notification and is said by nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from sqlalchemy import Engine

from finance.chain.rpc import Rpc
from finance.errors import ChainError
from node.alerts.alerts import Alerts, Report
from node.alerts.detect import error_spikes, settlement_troubles
from node.alerts.rules import Rule
from node.jobs.runner import Job, Jobs

SPIKE_EVERY_SECONDS = 15.0
SETTLEMENT_EVERY_SECONDS = 30.0
RPC_EVERY_SECONDS = 15.0
RPC_PATIENCE_SECONDS = 60.0

Find = Callable[[Engine, int], Mapping[str, Report]]


def add_all(jobs: Jobs, alerts: Alerts, rpc: Rpc) -> None:
    """All of them, each at its own pace."""
    jobs.every(SPIKE_EVERY_SECONDS, "error spike", spike_job(alerts))
    jobs.every(SETTLEMENT_EVERY_SECONDS, "settlement", settlement_job(alerts))
    jobs.every(RPC_EVERY_SECONDS, "chain", rpc_job(alerts, rpc))


def spike_job(alerts: Alerts, clock: Callable[[], float] = time.time) -> Job:
    """A run opens and ends the incidents of calls that fail."""
    return _watch(alerts, Rule.ERROR_SPIKE, error_spikes, clock)


def settlement_job(alerts: Alerts, clock: Callable[[], float] = time.time) -> Job:
    """A run opens and ends the incidents of money that does not get on."""
    return _watch(alerts, Rule.SETTLEMENT_FAILING, settlement_troubles, clock)


def _watch(alerts: Alerts, rule: Rule, find: Find, clock: Callable[[], float]) -> Job:
    async def run() -> None:
        found = await asyncio.to_thread(find, alerts.engine, int(clock()))
        await alerts.follow(rule, found)

    return run


def rpc_job(alerts: Alerts, rpc: Rpc, patience_seconds: float = RPC_PATIENCE_SECONDS) -> Job:
    """A run asks the chain for its height; silence is told once it has lasted."""
    silent_since: float | None = None

    async def run() -> None:
        nonlocal silent_since
        try:
            await rpc.block_number()
        except ChainError as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since >= patience_seconds:
                message = f"No RPC address answers: {error}"
                await alerts.raise_(Rule.RPC_UNREACHABLE, "", message, "/settings/network")
        else:
            silent_since = None
            await alerts.resolve(Rule.RPC_UNREACHABLE, "")

    return run
