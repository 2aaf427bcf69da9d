"""`farebox user`: who may sign in to the console; also while no admin can."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from node.accounts import users
from node.accounts.access import Role
from node.accounts.audit import COMMAND
from node.accounts.passwords import hash_password, temporary_password
from node.accounts.users import NewUser, UserView
from node.commands.frame import open_database, read_settings, require_node
from node.commands.output import Json, format_time, show_facts, show_rows

app = typer.Typer(help="Who may sign in to the console.", no_args_is_help=True)
_HINT = "Keep the password now; it is not shown again, and must be changed at the first sign-in."
Name = Annotated[str, typer.Argument(help="The name they sign in with.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.ADMIN,
    email: Annotated[str, typer.Option(help="Where warnings go.")] = "",
    as_json: Json = False,
) -> None:
    """Add somebody, with a temporary password."""
    settings = read_settings(context)
    require_node(settings)
    password = temporary_password()
    new = NewUser(name, email, role, hash_password(password))
    user = users.create_user(open_database(settings), new, COMMAND, int(time.time()))
    facts = {"id": user.id, "name": user.name, "role": user.role.value, "password": password}
    show_facts(facts, as_json, hint=_HINT)


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Everybody who may sign in."""
    settings = read_settings(context)
    require_node(settings)
    now = int(time.time())
    rows = [_row(user, now) for user in users.list_users(open_database(settings))]
    show_rows("Users", rows, as_json, "No users yet. Add the admin with: farebox user create NAME")


@app.command("reset-password")
def reset_password(
    context: typer.Context,
    name: Name,
    without_factor: Annotated[
        bool, typer.Option("--without-factor", help="Also turn the second factor off.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a temporary password; sessions end, a lock too."""
    settings = read_settings(context)
    require_node(settings)
    engine, now, password = open_database(settings), int(time.time()), temporary_password()
    user = users.find_user(engine, name)
    users.reset_password(
        engine, user.id, hash_password(password), COMMAND, now, without_factor=without_factor
    )
    show_facts({"name": user.name, "password": password}, as_json, hint=_HINT)


@app.command()
def unlock(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Let somebody sign in again after too many wrong passwords."""
    settings = read_settings(context)
    require_node(settings)
    engine = open_database(settings)
    user = users.find_user(engine, name)
    users.unlock_user(engine, user.id, COMMAND, int(time.time()))
    show_facts({"name": user.name, "unlocked": True}, as_json)


def _row(user: UserView, now: int) -> dict[str, object]:
    seen = user.last_sign_in_at
    return {
        "name": user.name,
        "email": user.email or None,
        "role": user.role.value,
        "second_factor": user.second_factor,
        "locked": user.locked(now),
        "disabled": user.disabled,
        "temporary_password": user.temporary_password,
        "last_sign_in": format_time(seen) if seen else None,
    }
