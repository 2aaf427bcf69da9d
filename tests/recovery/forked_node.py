"""`farebox up` in a fork of a process that has loaded the product once: loading it takes several
times as long as starting a node. What tests do to the process is done to a process of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from node.cli import main as farebox
from node.demo.processes import LOG_LINES

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["node.app", "node.commands.node", __name__])
_STOP_SECONDS = 30
_LOOK_SECONDS = 0.02


class ForkedNode:
    """One node as a process; what it writes goes to `log`."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        outer = {
            name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")
        }
        arguments = (str(log), {**outer, **environment})
        self._process = _FORKS.Process(target=_up, args=arguments, daemon=True)
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs, -N when signal N ended it."""
        return self._process.exitcode

    def require_alive(self) -> None:
        assert self.exit_code is None, f"the node ended ({self.exit_code}):\n{self.tail()}"

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


def _up(log: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    words, nothing = (
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        os.open(os.devnull, os.O_RDWR),
    )
    for number, target in ((0, nothing), (1, nothing), (2, words)):
        os.dup2(target, number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = ["farebox", "up"]
    farebox()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
