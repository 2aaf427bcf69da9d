"""The list of commands is quick to show, and says what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node.commands.lazy import COMMANDS, load
from node.db.migrations import head_revision
from node.db.revisions import newest_revision

_ROOT = Path(__file__).parents[2]
_SHOW = "import sys; sys.argv = ['farebox', '--help']\n"
_SHOW += "import node.cli\ntry:\n    node.cli.main()\nexcept SystemExit: pass\n"
_SHOW += "print([name for name in ('web3', 'sqlalchemy', 'alembic') if name in sys.modules])"


def test_help_lists_every_command_and_loads_none_of_the_moneys_libraries() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert all(f" {name} " in shown.stdout for name in COMMANDS)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_list_says_of_a_command_is_what_it_says_of_itself(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name].help


@pytest.mark.parametrize("module", ["key", "listing", "node"])
def test_commands_that_only_look_load_neither_alembic_nor_the_chains_libraries(module: str) -> None:
    show = f"import sys, node.commands.{module}\nprint([name for name in"
    show += " ('alembic', 'web3', 'eth_account', 'boto3', 'aiohttp') if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", show], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_the_newest_schema_is_known_without_alembic() -> None:
    assert newest_revision() == head_revision()
