"""A node's files to back up, made once and copied for whoever changes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.tasks import MadeKey
from tests.backups.home import Home, at, make_home, make_key


@pytest.fixture(scope="session")
def backup_key() -> MadeKey:
    """Under `PASSWORD`; deriving one takes a second or two."""
    return make_key()


@pytest.fixture(scope="session")
def pattern(tmp_path_factory: pytest.TempPathFactory, backup_key: MadeKey) -> Home:
    """Nobody changes this one. Its wallet takes seconds to make and to open."""
    made = make_home(tmp_path_factory.mktemp("pattern") / "node", backup_key)
    made.engine.dispose()
    return made


@pytest.fixture
def home(tmp_path: Path, pattern: Home) -> Iterator[Home]:
    shutil.copytree(pattern.settings.data_dir, tmp_path / "node")
    made = at(tmp_path / "node", pattern)
    yield made
    made.engine.dispose()
