"""`farebox key`: the bearer secrets of the buyer's apps."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from node.commands.frame import open_database, read_settings, require_wallet
from node.commands.output import Json, format_time, show_facts, show_rows
from node.lock import running_node
from node.usage.keys import create_key, list_keys, revoke_key

app = typer.Typer(help="Secrets for the apps that buy through this node.", no_args_is_help=True)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which app it is for.")],
    as_json: Json = False,
) -> None:
    """Make a secret. It is shown once."""
    settings = read_settings(context)
    require_wallet(settings)
    key = create_key(open_database(settings), name, int(time.time()))
    console = running_node(settings.data_dir).get("console_url", settings.console_url)
    show_facts(
        {"id": key.id, "name": key.name, "secret": key.secret, "base_url": f"{console}/call"},
        as_json,
        hint="Keep the secret now; it is not shown again.",
    )


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    settings = read_settings(context)
    require_wallet(settings)
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "created": format_time(key.created_at),
            "revoked": format_time(key.revoked_at) if key.revoked_at else None,
        }
        for key in list_keys(open_database(settings))
    ]
    show_rows("Keys", rows, as_json, "No keys yet. Make one with: farebox key create NAME")


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Id or name.")],
    as_json: Json = False,
) -> None:
    """Revoke a key at once (a running node notices within a second or two)."""
    settings = read_settings(context)
    require_wallet(settings)
    revoked = revoke_key(open_database(settings), key, int(time.time()))
    show_facts({"revoked": revoked}, as_json)
    if not revoked:
        raise typer.Exit(1)
