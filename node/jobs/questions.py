"""Tells of what customers ask, until it is answered."""

from __future__ import annotations

import asyncio

from node.alerts.alerts import Alerts
from node.alerts.rules import Rule
from node.jobs.runner import Job, Jobs
from node.plans.questions import read_questions

EVERY_SECONDS = 10.0


def add_all(jobs: Jobs, alerts: Alerts) -> None:
    jobs.every(EVERY_SECONDS, "questions", questions_job(alerts))


def questions_job(alerts: Alerts) -> Job:
    """A run opens an incident for each open request, once, and ends those of answered ones."""

    async def run() -> None:
        found = await asyncio.to_thread(read_questions, alerts.engine)
        for each in found.new:
            await alerts.raise_(Rule.CUSTOMER_ASKED, each.subject, each.message, each.link)
        for subject in found.over:
            await alerts.resolve(Rule.CUSTOMER_ASKED, subject)

    return run
