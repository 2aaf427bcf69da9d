"""Starts the worker process for one piece of work and waits for its result."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import TypeVar

import msgspec

from backups.archive import Progress
from backups.errors import WorkerDied, error_of
from backups.tasks import Request
from backups.worker import Line

_MOST_LINE_BYTES = 8 << 20
_KEEP = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV")

R = TypeVar("R")


async def run_task(request: Request, kind: type[R], progress: Progress | None = None) -> R:
    """Have `request` done; `kind` is what it results in. Cancelled, it ends the work.

    Raises BackupError.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "backups.worker",
        stdin=PIPE,
        stdout=PIPE,
        stderr=None,
        env=_environment(),
        limit=_MOST_LINE_BYTES,
    )
    try:
        return await _converse(process, request, kind, progress)
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())


async def _converse(
    process: Process, request: Request, kind: type[R], progress: Progress | None
) -> R:
    assert process.stdin is not None and process.stdout is not None
    # Left open: the worker ends when it closes.
    process.stdin.write(msgspec.json.encode(request) + b"\n")
    async for text in process.stdout:
        line = msgspec.json.decode(text, type=Line)
        if line.code:
            raise error_of(line.code, line.message)
        if bytes(line.result):
            return msgspec.json.decode(line.result, type=kind)
        if progress is not None:
            progress(line.stage, line.done, line.total)
    raise WorkerDied(
        "The process that worked on the backup ended before it was done. Nothing was changed;"
        " try again."
    )


def _environment() -> dict[str, str]:
    """Without the operator's secrets; with the packages where this process has them."""
    root = str(Path(__file__).parent.parent)
    kept = {name: os.environ[name] for name in _KEEP if name in os.environ}
    return kept | {"PYTHONPATH": root, "PYTHONSAFEPATH": "1"}
