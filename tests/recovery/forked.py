"""Processes of tests, forked from one that has loaded the product: loading it takes several times
as long as starting a node. What a test does to one is done to a process of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from node.cli import main as farebox
from node.demo.processes import LOG_LINES

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["node.app", "node.commands.node", "tests.recovery.seller_process"])
_STOP_SECONDS = 30
_LOOK_SECONDS = 0.02


class Forked:
    """A process that runs `target`, a function of a module, and writes to `log`."""

    def __init__(self, log: Path, target: Callable[..., None], *arguments: Any) -> None:
        self.log = log
        self._process = _FORKS.Process(target=_run, args=(log, target, arguments), daemon=True)
        self._process.start()

    @classmethod
    def up(cls, log: Path, environment: Mapping[str, str]) -> Self:
        """`farebox up` with these settings and no others."""
        return cls(log, _up, dict(environment))

    @property
    def exit_code(self) -> int | None:
        """None while it runs, -N when signal N ended it."""
        return self._process.exitcode

    def require_alive(self) -> None:
        assert self.exit_code is None, f"it ended ({self.exit_code}):\n{self.tail()}"

    def tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def wait(self) -> None:
        while self.exit_code is None:
            await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()


def _run(log: Path, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, place in ((0, nothing), (1, nothing), (2, words)):
        os.dup2(place, number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target(*arguments)


def _up(environment: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("FAREBOX_")]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["farebox", "up"]
    farebox()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
