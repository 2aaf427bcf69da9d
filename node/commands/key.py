"""`farebox key`: the bearer secrets of the buyer's apps."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

import typer

from node.commands.frame import database_of, open_database, read_settings, require_node
from node.commands.output import Json, format_time, show_facts, show_rows
from node.lock import running_node
from node.settings import Settings
from node.usage.key_choices import KeyChoices
from node.usage.keys import (
    KeyView,
    NewKey,
    change_key,
    create_key,
    find_key,
    list_keys,
    read_key,
    revoke_key,
    rotate_key,
)

app = typer.Typer(help="Secrets for the apps that buy through this node.", no_args_is_help=True)
Key = Annotated[str, typer.Argument(help="Id or name.")]
Email = Annotated[str | None, typer.Option(help="Of whoever owns it.")]
Integrator = Annotated[
    bool | None,
    typer.Option("--integrator/--internal", help="A third party: metered, within the quota."),
]
Listings = Annotated[
    list[str] | None,
    typer.Option("--listing", help="Id of a listing it may call; several times for more."),
]
PerMinute = Annotated[int | None, typer.Option(help="Calls in any 60 seconds; 0 for no limit.")]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which app it is for.")],
    email: Email = None,
    integrator: Integrator = None,
    listing: Listings = None,
    per_minute: PerMinute = None,
    as_json: Json = False,
) -> None:
    """Make a secret. It is shown once."""
    settings = read_settings(context)
    require_node(settings)
    choices = _chosen(KeyChoices(name), email, integrator, listing, per_minute)
    key = create_key(open_database(settings), choices, int(time.time()))
    _show_secret(settings, key, as_json)


@app.command()
def change(
    context: typer.Context,
    key: Key,
    name: Annotated[str | None, typer.Option(help="Which app it is for.")] = None,
    email: Email = None,
    integrator: Integrator = None,
    listing: Listings = None,
    every_listing: Annotated[
        bool, typer.Option("--every-listing", help="It may call all of them.")
    ] = False,
    per_minute: PerMinute = None,
    as_json: Json = False,
) -> None:
    """Change what a key may; what is not named stays."""
    engine = database_of(context)
    found = find_key(engine, key)
    listings = [] if every_listing else listing
    choices = _chosen(found.choices, email, integrator, listings, per_minute)
    change_key(engine, found.id, replace(choices, name=name or found.name), int(time.time()))
    show_facts(_row(read_key(engine, found.id)), as_json)


@app.command()
def rotate(
    context: typer.Context,
    key: Key,
    grace_seconds: Annotated[int, typer.Option(help="How long the old secret goes on.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a new secret for a key. It is shown once."""
    settings = read_settings(context)
    require_node(settings)
    engine = open_database(settings)
    made = rotate_key(engine, find_key(engine, key).id, grace_seconds, int(time.time()))
    _show_secret(settings, made, as_json)


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    rows = [_row(key) for key in list_keys(database_of(context))]
    show_rows("Keys", rows, as_json, "No keys yet. Make one with: farebox key create NAME")


@app.command()
def revoke(
    context: typer.Context,
    key: Key,
    as_json: Json = False,
) -> None:
    """Revoke a key at once (a running node notices within a second or two)."""
    revoked = revoke_key(database_of(context), key, int(time.time()))
    show_facts({"revoked": revoked}, as_json)
    if not revoked:
        raise typer.Exit(1)


def _chosen(
    before: KeyChoices,
    email: str | None,
    integrator: bool | None,
    listings: list[str] | None,
    per_minute: int | None,
) -> KeyChoices:
    """What is None stays; 0 calls a minute take the limit away."""
    return replace(
        before,
        owner_email=before.owner_email if email is None else email,
        integrator=before.integrator if integrator is None else integrator,
        scopes=before.scopes if listings is None else tuple(listings),
        per_minute=before.per_minute if per_minute is None else per_minute or None,
    )


def _row(key: KeyView) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "email": key.owner_email,
        "integrator": key.integrator,
        "listings": list(key.scopes),
        "per_minute": key.per_minute,
        "created": format_time(key.created_at),
        "last_seen": format_time(key.last_used_at) if key.last_used_at else None,
        "revoked": format_time(key.revoked_at) if key.revoked_at else None,
    }


def _show_secret(settings: Settings, key: NewKey, as_json: bool) -> None:
    console = running_node(settings.data_dir).get("console_url", settings.console_url)
    show_facts(
        {"id": key.id, "name": key.name, "secret": key.secret, "base_url": f"{console}/call"},
        as_json,
        hint="Keep the secret now; it is not shown again.",
    )
