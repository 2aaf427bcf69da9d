"""The market's parts as child processes that never outlive the demo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import NodeError

START_SECONDS = 120
STOP_SECONDS = 30
LOG_LINES = 15


class PartFailed(NodeError):
    """A part of the market ended, or did not start in time."""

    code = "part_failed"


@dataclass(frozen=True, slots=True)
class Part:
    """One running process; `log` is where its standard error goes."""

    name: str
    process: Process
    log: Path

    def require_alive(self) -> None:
        if self.process.returncode is not None:
            raise PartFailed(f"{self.name} ended ({self.process.returncode}):\n{self.tail()}")

    def tail(self) -> str:
        """The last lines it wrote."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    async def ready_line(self) -> dict[str, Any]:
        """The line of JSON it prints once it listens."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise PartFailed(f"{self.name} did not start in time:\n{self.tail()}") from None
        if not line:
            await self.process.wait()
            self.require_alive()
        ready: dict[str, Any] = json.loads(line)
        return ready

    async def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def start_part(
    name: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> Part:
    """Start one part in a session of its own, so that Ctrl-C reaches only the demo."""
    log = directory / f"{name}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "node.demo.child",
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env=_clean_environment(environment),
            start_new_session=True,
        )
    return Part(name, process, log)


async def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], *, accept: Sequence[int] = (0,)
) -> Any:
    """Run `farebox … --json` and return what it printed; it ends with whoever waits for it.
    Raises PartFailed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "node.cli",
        *arguments,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=_clean_environment(environment),
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:  # the demo ends before it
            process.kill()
            await process.wait()
    if process.returncode not in accept:
        raise PartFailed(f"farebox {' '.join(arguments)} failed:\n{errors.decode().strip()}")
    return json.loads(out)


def _clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its own node's settings."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return {**outer, **environment}
