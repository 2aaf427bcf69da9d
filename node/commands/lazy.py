"""Commands that are imported when they are run: the money's libraries take seconds to load.

What `farebox --help` says of each stands here, so that it need not be asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


class Place(NamedTuple):
    """Where a command is, and what it does: the first sentence of its own help."""

    module: str
    name: str
    help: str


COMMANDS = {
    "init": Place(
        "node.commands.node",
        "init",
        "Make the data directory, its wallet, its database and farebox.toml.",
    ),
    "up": Place(
        "node.commands.node", "up", "Run the node until it is stopped (Ctrl-C or SIGTERM)."
    ),
    "status": Place(
        "node.commands.node",
        "status",
        "Whether a node is running here, and where. Exit code 0 when it is ready, else 1.",
    ),
    "call": Place(
        "node.commands.call",
        "call",
        "Call a listing and pay for it. Exit code 1 when the answer is an error (400 and above).",
    ),
    "reconcile": Place(
        "node.commands.reconcile",
        "reconcile",
        "Compare every balance, channel and transfer with the chain, also while the node runs.",
    ),
    "devchain": Place(
        "node.commands.node",
        "devchain",
        "A real EVM chain on this machine, with the contracts in place and funded accounts.",
    ),
    "demo": Place(
        "node.commands.demo",
        "demo",
        "Start a chain, an API, a seller and a buyer; make paid calls; compare the books.",
    ),
    "wallet": Place("node.commands.wallet", "app", "The node's wallet."),
    "listing": Place("node.commands.listing", "app", "APIs this node sells or buys."),
    "key": Place("node.commands.key", "app", "Secrets for the apps that buy through this node."),
    "plan": Place("node.commands.plan", "app", "Plans: offered by this node, and bought by it."),
    "usage": Place("node.commands.usage", "app", "What integrators use, and what they may."),
    "user": Place("node.commands.user", "app", "Who may sign in to the console."),
    "db": Place("node.commands.node", "database", "The node's database."),
    "backup": Place("node.commands.backup", "app", "Backups: one encrypted file each."),
}


def load(name: str) -> Any:
    """The command, or group of commands, of that name."""
    place = COMMANDS[name]
    found = getattr(import_module(place.module), place.name)
    if isinstance(found, typer.Typer):
        # Also with a single command in it a group is called by both names.
        command: Any = get_group(found)
    else:
        alone = typer.Typer(pretty_exceptions_enable=False)
        alone.command(name)(found)
        command = get_command(alone)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """Lists all commands, loads the one that is run."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        place = COMMANDS.get(cmd_name)
        return place and TyperCommand(cmd_name, help=place.help)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)
