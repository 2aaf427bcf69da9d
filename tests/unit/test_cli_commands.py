"""The list of commands is quick to show, and says what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node.commands.lazy import COMMANDS, load

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
