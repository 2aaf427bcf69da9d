"""Looks at the APIs behind our listings."""

from __future__ import annotations

import time

from node.alerts.alerts import Alerts, Report
from node.alerts.rules import Rule
from node.jobs.runner import Job
from node.market.health import look_at_all
from node.market.publisher import Publisher

EVERY_SECONDS = 60.0


def health_job(publisher: Publisher, alerts: Alerts) -> Job:
    """A run asks each API; three failures in a row open an incident, a success ends it."""

    async def run() -> None:
        looked = await look_at_all(publisher, int(time.time()))
        down = {
            each.listing_id: Report(
                f"{each.name} does not answer as it should: {each.health.note}",
                f"/listings/{each.listing_id}",
            )
            for each in looked
            if each.health.down
        }
        await alerts.follow(Rule.UPSTREAM_DOWN, down)

    return run
