"""Which of the worker's pieces of work yield to everything else on the machine."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import msgspec

from backups.client import run_task
from backups.errors import PasswordWrong
from backups.tasks import Check, Look, MadeKey, MakeKey, Outcome, Request
from tests.backups.home import PASSWORD, Home
from tests.backups.processes import children_at_work


async def _priorities(request: Request, kind: type[object]) -> set[int]:
    """Of the worker while it does a piece of work, above our own."""
    task, seen = asyncio.create_task(run_task(request, kind)), set[int]()
    while not task.done():
        await asyncio.sleep(0.01)
        for pid in children_at_work():
            with suppress(ProcessLookupError):
                seen.add(os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0))
    with suppress(PasswordWrong):
        await task
    return seen


async def test_the_worker_is_the_last_to_get_processor_and_disk(home: Home) -> None:
    assert 19 in await _priorities(home.create(), Outcome)


async def test_the_worker_yields_to_nobody_where_somebody_waits(home: Home) -> None:
    """A form on a busy machine was answered after a minute, or never."""
    assert await _priorities(MakeKey(PASSWORD), MadeKey) == {0}
    first = home.create("setup.farebox")
    facts = msgspec.structs.replace(first.facts, reason="setup")
    assert await _priorities(msgspec.structs.replace(first, facts=facts), Outcome) == {0}
    path = str(home.folder / "setup.farebox")
    assert await _priorities(Look(path=path, password=PASSWORD), Outcome) == {0}
    # One derivation is made at a time: whoever yields while it makes one holds up all others.
    check = Check(path=path, work=str(home.folder), password="another password, wrong")
    assert await _priorities(check, Outcome) == {0}
