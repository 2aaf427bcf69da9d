"""Every promise notices the build that breaks it.

Each broken build runs the one test that must fail there, in a process of its own, two
at a time. It has to fail in the test itself, by an assertion: a build that cannot even
set up its test, or stumbles elsewhere, proves nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chain_fixtures import ChainProcess
from tests.laws.faults import Fault, load_faults
from tests.laws.worlds import CHAIN_URL

_ROOT = Path(__file__).parents[2]
_AT_ONCE = 2
_SECONDS = 120
FAULTS = load_faults()


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, chain: ChainProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """The selected broken builds, running."""
    folder = tmp_path_factory.mktemp("faults")
    wanted = {
        item.callspec.params.get("name")
        for item in request.session.items
        if hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            name: pool.submit(_run, fault, chain.rpc_url, folder / f"{name}.xml")
            for name, fault in FAULTS.items()
            if name in wanted
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", FAULTS)
def test_broken_build_fails_its_promise(name: str, runs: dict[str, Future[str]]) -> None:
    assert runs[name].result() == "", FAULTS[name].breaks


@pytest.mark.parametrize("law", range(1, 12))
def test_each_law_has_a_broken_build(law: int) -> None:
    assert any(fault.law == law for fault in FAULTS.values())


def _run(fault: Fault, chain_url: str, report: Path) -> str:
    """What is wrong with how the build fails; nothing when it fails as promised."""
    command = [sys.executable, "-m", "pytest", fault.node_id, "--fault", fault.name, "-q"]
    command += ["-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", f"--basetemp={report.with_suffix('')}"]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        # Plugins that happen to be installed take longer to load than the test to run.
        env={**os.environ, CHAIN_URL: chain_url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 1:
        return f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}"
    wrong = _misfit(fault, report)
    return wrong and f"{wrong}:\n{done.stdout[-3000:]}"


def _misfit(fault: Fault, report: Path) -> str:
    failures = [
        (case.get("name"), failure.get("message") or "")
        for case in ET.parse(report).iter("testcase")
        for failure in case.iter("failure")
    ]
    if [name for name, _ in failures] != [fault.test]:
        return f"{fault.test} should have failed, and nothing else; failed: {failures}"
    message = failures[0][1]
    if not message.startswith(("AssertionError", "assert ", "Failed: DID NOT RAISE")):
        return "the promise was not reached"
    return ""
