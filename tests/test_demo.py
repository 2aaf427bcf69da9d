"""The demo keeps what it promises: a market that works, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.demo.processes import run_command
from tests.ports import free_port

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
CALLS = 2000 if SOAK else 120
SECONDS = 300


def start_demo(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "node.cli", "demo", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=(directory / "stderr").open("w"),
        text=True,
        env={**os.environ, "TMPDIR": str(directory)},
    )


def next_event(demo: subprocess.Popen[str], directory: Path) -> dict[str, Any]:
    assert demo.stdout is not None
    line = demo.stdout.readline()
    assert line, (directory / "stderr").read_text()
    event: dict[str, Any] = json.loads(line)
    return event


def parts_of(directory: Path) -> list[int]:
    """Processes of the market that lives in this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_until_gone(directory: Path) -> None:
    deadline = time.monotonic() + 60
    while parts := parts_of(directory):
        assert time.monotonic() < deadline, parts
        time.sleep(0.2)


@pytest.mark.slow
def test_every_call_is_right_and_every_atom_in_its_place(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--exit", "--calls", str(CALLS))
    out, _ = demo.communicate(timeout=SECONDS)
    ready, report = (json.loads(line) for line in out.splitlines())
    assert demo.returncode == 0, (tmp_path / "stderr").read_text()
    assert ready["event"] == "ready" and report["event"] == "report"
    assert (report["calls_paid"], report["calls_failed"]) == (CALLS, 0)
    assert report["charged_atoms"] == report["earned_atoms"] > CALLS * 1000
    assert report["transactions"] <= 3
    assert report["differences"] == []
    wait_until_gone(tmp_path)
    assert list(tmp_path.glob("farebox-demo-*")) == []


@pytest.mark.slow
def test_market_can_be_used_until_ctrl_c(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--calls", "10")
    ready = next_event(demo, tmp_path)
    assert next_event(demo, tmp_path)["calls_failed"] == 0
    assert httpx.get(ready["example_url"]).status_code == 402
    bought = httpx.get(
        f"{ready['buyer']['proxy_url']}/weather/forecast/quito",
        headers={"Authorization": f"Bearer {ready['buyer']['secret']}"},
        timeout=60,
    )
    assert bought.json()["city"] == "quito" and bought.headers["farebox-cost"] == "0.001"
    with httpx.Client(base_url=ready["seller"]["console_url"], follow_redirects=True) as browser:
        fields = {
            "name": ready["seller"]["console_user"],
            "password": ready["seller"]["console_password"],
        }
        browser.post("/sign-in", data=fields)
        assert "Calls Served (24h)" in browser.get("/?side=seller").text
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=60) == 0
    wait_until_gone(tmp_path)


@pytest.mark.slow
def test_killed_demo_takes_its_market_with_it(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--calls", "10")
    next_event(demo, tmp_path)
    assert len(parts_of(tmp_path)) >= 5
    demo.kill()
    demo.wait()
    wait_until_gone(tmp_path)


async def test_a_command_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    endless = run_command(("devchain", "--port", str(free_port())), {"TMPDIR": str(tmp_path)})
    waiting = asyncio.create_task(endless)
    async with asyncio.timeout(30):
        while not parts_of(tmp_path):
            await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert parts_of(tmp_path) == []
