"""Subscriptions by the clock: open orders, renewals, notices, ends, and looks at sellers."""

from __future__ import annotations

from node.jobs.runner import Job
from node.plans.buying.service import Subscriptions
from node.plans.buying.upkeep import Upkeep

EVERY_SECONDS = 10.0  # two short reads, when nothing is due


def renewals_job(subscriptions: Subscriptions) -> Job:
    """A run does what is due; the first one after a start takes up what a crash left open."""
    return Upkeep(subscriptions).run
