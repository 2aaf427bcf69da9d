"""Runs the tests of broken builds: `python -m tests.laws.broken_builds FOLDER`.

Reads names of faults from stdin, one a line, and runs each one's test in a fork of
this process, which has loaded the product once: loading it takes longer than most of
the tests. Prints pytest's exit code for each; its report and its words are in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from node.process import spare_the_collector
from tests.laws.faults import Fault, load_faults

SECONDS = 300


def main(folder: Path) -> None:
    import tests.laws.worlds
    import tests.laws.x402_seller  # noqa: F401  (loads the product)

    faults = load_faults()
    spare_the_collector()  # once, not in every fork
    for line in sys.stdin:
        print(_run(faults[line.strip()], folder), flush=True)


def _run(fault: Fault, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)  # ends what hangs
        with (folder / f"{fault.name}.log").open("wb") as words:
            os.dup2(words.fileno(), 1)
            os.dup2(words.fileno(), 2)
        os._exit(pytest.main(_arguments(fault, folder)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _arguments(fault: Fault, folder: Path) -> list[str]:
    return [
        fault.node_id,
        f"--fault={fault.name}",
        "-q",
        "--tb=native",  # the others read and parse every source in it
        f"--junitxml={folder / fault.name}.xml",
        f"--basetemp={folder / fault.name}",
        "-p",
        "pytest_asyncio.plugin",
        "-p",
        "no:cacheprovider",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
