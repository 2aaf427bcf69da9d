"""A busy year in one backup: in minutes, in little memory, while paid calls go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest

from backups.client import run_task
from backups.tasks import MadeKey, MakeKey, Outcome
from tests.backups.home import PASSWORD, make_home
from tests.backups.processes import children_at_work
from tests.soak.beside_sales import measure
from tests.soak.generate_calls import Month, generate

CALLS = int(os.environ.get("FAREBOX_SOAK_CALLS", "10000000"))
MOST_SECONDS = 180
MOST_MIB = 200
LEAST_SHARE = 0.8
ROOM_GIB = 25
SOLD_BESIDE = 1_000_000  # rows of the journal that is backed up meanwhile
ROUNDS = 12

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(os.environ.get("FAREBOX_SOAK") != "1", reason="only in `make soak`"),
]


async def test_ten_million_calls_are_backed_up_in_three_minutes(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < ROOM_GIB << 30:
        pytest.skip(f"less than {ROOM_GIB} GiB are free")
    key = await run_task(MakeKey(PASSWORD), MadeKey)
    home = await asyncio.to_thread(make_home, tmp_path / "node", key)
    await asyncio.to_thread(generate, home.engine, Month(CALLS, int(time.time())), True)
    began, work = time.monotonic(), asyncio.create_task(run_task(home.create(), Outcome))
    peak = asyncio.create_task(_peak_mib(work))
    outcome = await work
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s, {outcome.size >> 20} MiB, worker {await peak:.0f} MiB")
    assert outcome.manifest.counts["call"] >= CALLS
    assert seconds < MOST_SECONDS
    assert await peak < MOST_MIB


async def test_paid_calls_keep_four_fifths_of_their_throughput_beside_a_backup() -> None:
    """Whole calls, bought with vouchers at a real gateway, in turn with and without a backup of
    its node at work."""
    found = await measure(min(CALLS, SOLD_BESIDE), ROUNDS)
    print(found)
    assert found.share >= LEAST_SHARE


async def _peak_mib(work: asyncio.Task[Outcome]) -> float:
    """The most memory the worker held: its pages, not those of the files it maps."""
    peak = 0.0
    while not work.done():
        for pid in children_at_work():
            peak = max(peak, _resident_mib(pid))
        await asyncio.sleep(0.1)
    return peak


def _resident_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line for line in lines if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) / 1024 if found else 0.0
