"""Processes of the benchmarks: started, told to go, measured, ended."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any


def cpu_seconds(pid: int) -> float:
    """User and system CPU of a process so far, all its threads: clock_getcpuclockid(3), which
    counts nanoseconds where /proc counts hundredths."""
    return time.clock_gettime(~pid << 3 | 2)


async def start(stack: AsyncExitStack, module: str, *arguments: str) -> Process:
    """`python -m module …`, ended with the stack."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE
    )
    stack.push_async_callback(_end, process)
    return process


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


async def line_of(process: Process, seconds: float = 120) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), seconds)
    if not line:
        raise RuntimeError(f"a benchmark process ended early ({await process.wait()})")
    return line.decode().strip()


async def wait_for_port(port: int, seconds: float = 30) -> None:
    for _ in range(int(seconds * 20)):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"nothing listens on port {port}")


@dataclass(frozen=True)
class Run:
    """One load run: what the client saw, and the measured process's CPU meanwhile."""

    calls: int
    failed: int
    seconds: float
    p50_ms: float
    cpu_ms_per_call: float

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


async def measured(module: str, pid: int | None, *arguments: str) -> Run:
    """Run a load client; `pid` is the process whose CPU counts (None: the client's own)."""
    async with AsyncExitStack() as stack:
        client = await start(stack, module, *arguments)
        await line_of(client)
        assert client.stdin is not None
        measured_pid = pid or client.pid
        before = cpu_seconds(measured_pid)
        client.stdin.write(b"go\n")
        await client.stdin.drain()
        report: dict[str, Any] = json.loads(await line_of(client, 600))
        cpu = cpu_seconds(measured_pid) - before
    if report["failed"] or not report["calls"]:
        raise RuntimeError(f"a benchmark's calls failed: {report}")
    return Run(
        report["calls"],
        report["failed"],
        report["seconds"],
        report["p50_ms"],
        cpu / report["calls"] * 1000,
    )


class CountingRelay:
    """A TCP relay that counts the GET requests passing through it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.requests = 0
        self.port = 0

    async def start(self, stack: AsyncExitStack) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        stack.callback(server.close)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pump(reader, up_writer, True), self._pump(up_reader, writer))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                self.requests += count and data.startswith(b"GET ")
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
