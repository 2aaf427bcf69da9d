"""Says in the event log how withdrawals ended."""

from __future__ import annotations

import time

from finance.errors import StoreConflict
from finance.money import Usdc, Wei
from finance.operations import Token
from finance.store import Batch, Store, Write
from finance.withdrawal import Stage
from finance.withdrawal_ends import told
from finance.withdrawals import Withdrawals, WithdrawalView
from node.jobs.runner import Job
from node.usage.events import event

EVERY_SECONDS = 5.0


def withdrawn_job(withdrawals: Withdrawals, store: Store) -> Job:
    """A run writes one line per withdrawal that has ended, once."""

    async def run() -> None:
        await withdrawals.give_up_stuck()
        for view in await withdrawals.ended_untold():
            try:
                await store.commit(Batch([_line(view), told(view.id)]))
            except StoreConflict:
                continue  # told by another process

    return run


def _line(view: WithdrawalView) -> Write:
    kind = Usdc if view.token is Token.USDC else Wei
    what = f"{kind(view.amount)} {view.token} to {view.destination}"
    now = int(time.time())
    if view.stage is Stage.FAILED:
        return event("withdrawal_failed", "error", f"Withdrawing {what}: {view.error}", now)
    return event("withdrawn", "info", f"Withdrew {what}.", now)
