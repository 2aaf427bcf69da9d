"""What a node sets for its whole process, before anything else runs in it."""

from __future__ import annotations

import gc
import logging
import resource
import sys

RECURSION = 1_000  # as Python has it
OPEN_FILES = 65_536


def prepare() -> None:
    """Logging, and what the process may use."""
    _configure_logging()
    _limit_recursion()
    _allow_connections()


def _configure_logging() -> None:
    """One line each on stderr; libraries only when something is wrong."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in ("httpx", "httpcore", "uvicorn", "apscheduler", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _limit_recursion() -> None:
    """Libraries of the chain raise it so far that a document of brackets would end the process."""
    sys.setrecursionlimit(RECURSION)


def _allow_connections() -> None:
    """Each call has two connections, and a service is often given 1,024 files unless it asks."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if allowed != resource.RLIM_INFINITY and allowed < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, most))


def spare_the_collector() -> None:
    """Modules and parts live as long as the node: no collection need look at them again, and
    calls leave so little garbage in cycles that fewer collections do."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
