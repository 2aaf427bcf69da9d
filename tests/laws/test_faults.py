"""Every promise notices the build that breaks it.

Each broken build runs the one test that must fail there, in a process of its own, two
at a time. It has to fail in the test itself, by an assertion: a build that cannot even
set up its test, or stumbles elsewhere, proves nothing. Nor does one in which something
is called with arguments that it does not take: the product has moved on, and the fault
no longer fits it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.chain_fixtures import ChainProcess
from tests.laws.faults import Fault, load_faults
from tests.laws.worlds import CHAIN_URL

_ROOT = Path(__file__).parents[2]
_AT_ONCE = 2
# Whether raised in the test or logged by what it runs.
_STUMBLED = re.compile(
    r"^(?:E +)?(?:TypeError|AttributeError|NameError|UnboundLocalError):.*", re.M
)
FAULTS = load_faults()


class Builder:
    """One process, which forks a broken build for each fault."""

    def __init__(self, chain_url: str, folder: Path) -> None:
        self.folder = folder
        # Plugins that happen to be installed take longer to load than a test to run.
        environment = {CHAIN_URL: chain_url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.laws.broken_builds", str(folder)],
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, fault: Fault) -> str:
        """What is wrong with how the build fails; nothing when it fails as promised."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{fault.name}\n")
        self.process.stdin.flush()
        code = self.process.stdout.readline().strip()
        wrong = f"pytest ended with {code}" if code != "1" else self._misfit(fault)
        words = (self.folder / f"{fault.name}.log").read_text()
        if not wrong and (stumbled := _STUMBLED.search(words)):
            wrong = f"the fault does not fit the product any more: {stumbled[0]}"
        return wrong and f"{wrong}\n{words[-3000:]}"

    def stop(self) -> None:
        self.process.communicate(timeout=10)

    def _misfit(self, fault: Fault) -> str:
        failures = [
            (case.get("name"), failure.get("message") or "")
            for case in ET.parse(self.folder / f"{fault.name}.xml").iter("testcase")
            for failure in case.iter("failure")
        ]
        names = {str(name).partition("[")[0] for name, _ in failures}
        if names != {fault.test}:
            return f"{fault.test} should have failed, and nothing else; failed: {failures}"
        promised = ("AssertionError", "assert ", "Failed: DID NOT RAISE")
        if not all(message.startswith(promised) for _, message in failures):
            return "the promise was not reached"
        return ""


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, chain: ChainProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """The selected broken builds, running."""
    folder = tmp_path_factory.mktemp("faults")
    free: SimpleQueue[Builder] = SimpleQueue()
    builders = [Builder(chain.rpc_url, folder) for _ in range(_AT_ONCE)]
    for builder in builders:
        free.put(builder)

    def run(fault: Fault) -> str:
        builder = free.get()
        try:
            return builder.run(fault)
        finally:
            free.put(builder)

    specs = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params.get("name") for spec in specs if spec is not None}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        chosen = [fault for name, fault in FAULTS.items() if name in wanted]
        yield {fault.name: pool.submit(run, fault) for fault in chosen}
        pool.shutdown(cancel_futures=True)
    for builder in builders:
        builder.stop()


@pytest.mark.parametrize("name", FAULTS)
def test_broken_build_fails_its_promise(name: str, runs: dict[str, Future[str]]) -> None:
    assert runs[name].result() == "", FAULTS[name].breaks


@pytest.mark.parametrize("law", range(1, 12))
def test_each_law_has_a_broken_build(law: int) -> None:
    assert any(fault.law == law for fault in FAULTS.values())
