"""What a node sets for its whole process, before anything else runs in it."""

from __future__ import annotations

import gc
import logging
import sys

RECURSION = 1_000  # as Python has it


def configure_logging() -> None:
    """One line each on stderr; libraries only when something is wrong."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in ("httpx", "httpcore", "uvicorn", "apscheduler", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def limit_recursion() -> None:
    """Libraries of the chain raise it so far that a document of brackets would end the process."""
    sys.setrecursionlimit(RECURSION)


def spare_the_collector() -> None:
    """Modules and parts live as long as the node: no collection need look at them again, and
    calls leave so little garbage in cycles that fewer collections do."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
