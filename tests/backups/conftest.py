"""A node's files to back up, made once where nobody changes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.tasks import MadeKey
from tests.backups.home import Home, make_home, make_key


@pytest.fixture(scope="session")
def backup_key() -> MadeKey:
    """Under `PASSWORD`; deriving one takes a second or two."""
    return make_key()


@pytest.fixture
def home(tmp_path: Path, backup_key: MadeKey) -> Iterator[Home]:
    made = make_home(tmp_path / "node", backup_key)
    yield made
    made.engine.dispose()
