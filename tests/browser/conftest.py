"""What the tests of pages share: one browser for a file, a console for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine

from tests.console_world import Console, open_browser, serve_console


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    """Of a node that has seen nothing; without a chain."""
    with serve_console(migrated_engine, tmp_path) as console:
        yield console
