"""`farebox backup`: password, create, verify, restore, list."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import Engine

from backups.archive import Progress
from backups.client import run_task
from backups.errors import BackupDamaged, CheckFailed, NotABackup, PasswordWrong
from backups.manifest import Manifest
from backups.tasks import Check, Outcome
from finance.chain.rpc import Rpc
from finance.money import Usdc
from finance.selling.claim_policy import ClaimPolicy
from node.accounts.audit import COMMAND
from node.commands.frame import open_database, read_settings, require_wallet, unlock
from node.commands.output import Json, format_time, show_facts, show_rows, wants_json
from node.errors import AlreadyRunning, PassphraseMissing
from node.lock import hold_data_dir, running_node
from node.settings import Settings
from node.vault import records
from node.vault.restore import (
    OLD_NODE,
    look_inside,
    require_fit,
    stage,
    swap,
    sweep_staged,
)
from node.vault.restored import VALID_AGAIN
from node.vault.service import CLAIM_SECONDS, Surroundings, Vault
from node.vault.source import owed_atoms, told

app = typer.Typer(help="Backups: one encrypted file each.", no_args_is_help=True)

PasswordFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the backup password; asked for on a terminal without it.",
        envvar="FAREBOX_BACKUP_PASSWORD_FILE",
    ),
]


@app.command("password")
def set_password(
    context: typer.Context, password_file: PasswordFile = None, as_json: Json = False
) -> None:
    """Choose the password of new backups. Older ones go on needing theirs."""
    settings = read_settings(context)
    vault = _vault(settings, open_database(settings))
    password = _new_password(password_file)
    asyncio.run(vault.set_password(password, COMMAND, int(time.time())))
    old = [each for each in records.good_backups(vault.engine) if not each.current_password]
    show_facts({"password": "set", "backups_that_need_an_older_one": len(old)}, as_json)


@app.command()
def create(context: typer.Context, as_json: Json = False) -> None:
    """Write a backup now, open it again and check it. A running node goes on serving."""
    settings = read_settings(context)
    engine = open_database(settings)
    vault = _vault(settings, engine)
    records.current_key(engine)  # before anything is claimed
    _have_claimed(settings, engine)
    view = asyncio.run(_with_chain(vault, settings))
    manifest = view.manifest
    facts = {
        "file": str(view.path),
        "state": view.state.value,
        "bytes": view.size_bytes,
        "seconds": round(view.took_ms / 1000, 1),
        "block_height": manifest.block_height if manifest else None,
        "open_usdc": str(Usdc(manifest.owed_atoms)) if manifest else None,
        "remark": view.remark or None,
    }
    show_facts(facts, as_json, hint="Keep a copy on another machine.")


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """The history, the newest first."""
    settings = read_settings(context)
    require_wallet(settings)
    rows = [
        {
            "file": str(each.path),
            "state": each.state.value,
            "made": format_time(each.started_at),
            "reason": each.reason,
            "bytes": each.size_bytes,
            "seconds": round(each.took_ms / 1000, 1),
            "password": "current" if each.current_password else "older",
            "error": each.error or each.test_error or None,
        }
        for each in records.list_backups(open_database(settings), limit=500)[0]
    ]
    show_rows("Backups", rows, as_json, "No backups yet. Make one with: farebox backup create")


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A backup.")],
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Open a backup with its password and check every byte of it. Exit code 1: not good."""
    settings = read_settings(context)
    place = settings.data_dir if settings.data_dir.is_dir() else Path(tempfile.gettempdir())
    request = Check(path=str(file), work=str(place), password=_password(password_file))
    try:
        with _progress(as_json) as show:
            outcome = asyncio.run(run_task(request, Outcome, show))
    except (BackupDamaged, CheckFailed, NotABackup, PasswordWrong) as error:
        show_facts({"file": str(file), "good": False, "error": str(error)}, as_json)
        raise typer.Exit(1) from None
    show_facts({"file": str(file), "good": True, **_about(outcome.manifest)}, as_json)


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A backup.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after showing it.")] = False,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Make the data directory anew from a backup; the old one is kept beside it."""
    settings = read_settings(context)
    if running_node(settings.data_dir):
        raise AlreadyRunning("The node is running on this data directory. Stop it first.")
    password = _password(password_file)
    found = asyncio.run(look_inside(file, password)).manifest
    require_fit(found, settings)
    if not yes:
        _agree(found, settings)
    with hold_data_dir(settings.data_dir):
        sweep_staged(settings.data_dir)
        with _progress(as_json) as show:
            staged = asyncio.run(stage(file, password, found, settings, show))
        kept = swap(staged, settings)
    facts = {
        "restored": str(settings.data_dir),
        "kept": str(kept) if kept else None,
        **_about(found),
    }
    show_facts(facts, as_json, hint=_what_next(found))


def _vault(settings: Settings, engine: Engine) -> Vault:
    return Vault(Surroundings(settings, engine, unlock(settings)))


async def _with_chain(vault: Vault, settings: Settings) -> records.BackupView:
    """With the chain's height in the manifest, when an endpoint answers."""
    around = vault.around
    async with Rpc(settings.chain.rpc_urls, settings.chain.chain_id) as rpc:
        beside = Surroundings(around.settings, around.engine, around.keys, rpc)
        return await Vault(beside).back_up_now("command", COMMAND)


def _have_claimed(settings: Settings, engine: Engine) -> None:
    """Have the running node claim first; without one the manifest names what is open."""
    node = running_node(settings.data_dir)
    process = node.get("pid") if "gateway_here" in node else None  # the signal would end its start
    dust = ClaimPolicy().dust_atoms
    if not isinstance(process, int) or owed_atoms(engine) <= dust:
        return
    os.kill(process, signal.SIGUSR1)
    deadline = time.monotonic() + CLAIM_SECONDS
    while time.monotonic() < deadline and owed_atoms(engine) > dust:
        time.sleep(0.25)


def _about(manifest: Manifest) -> dict[str, Any]:
    counts = manifest.counts
    return {
        "made": format_time(manifest.created_at),
        "network": f"{manifest.network} (chain {manifest.chain_id})",
        "wallet": manifest.wallet,
        "version": manifest.software,
        "schema": manifest.schema_revision,
        "database": manifest.database,
        "block_height": manifest.block_height,
        "listings": counts.get("listing", 0),
        "keys": counts.get("consumer_key", 0),
        "channels": counts.get("seller_channel", 0) + counts.get("buyer_channel", 0),
        "calls": counts.get("call", 0),
        "open_usdc": str(Usdc(manifest.owed_atoms)),
        "set_outside": [told(each) for each in manifest.outside],
    }


def _agree(manifest: Manifest, settings: Settings) -> None:
    """Show what is inside and ask. Without a terminal, --yes says it."""
    if not sys.stdin.isatty():
        raise PassphraseMissing(
            "Nothing was changed: say --yes, or run this on a terminal to be asked."
        )
    console = Console(stderr=True, highlight=False)
    for name, value in _about(manifest).items():
        console.print(f"{name.replace('_', ' ').capitalize():<14} {value}", markup=False)
    console.print(f"\n{OLD_NODE}", markup=False)
    typer.confirm(f"Restore this into {settings.data_dir}?", abort=True, err=True)


def _what_next(manifest: Manifest) -> str:
    start = "Start this one with the wallet's passphrase of the old: farebox up"
    lines = [OLD_NODE, start, VALID_AGAIN]
    if manifest.owed_atoms:
        lines.append(
            f"{Usdc(manifest.owed_atoms)} USDC was owed when the backup was made; it is claimed"
            " at the next claim, unless the old node did."
        )
    if manifest.outside:
        lines.append(
            "The old node had these settings from its environment; no file holds them:"
            f" {'; '.join(map(told, manifest.outside))}"
        )
    return "\n".join(lines)


def _password(file: Path | None, prompt: str = "Backup password: ") -> str:
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PassphraseMissing(f"The password file {file} cannot be read: {error}.") from None
    if not sys.stdin.isatty():
        raise PassphraseMissing(
            "No backup password was given. Name a file that only you can read with"
            " --password-file, or run this on a terminal to be asked."
        )
    return getpass.getpass(prompt)


def _new_password(file: Path | None) -> str:
    given = _password(file, "Choose a backup password: ")
    if file is None and getpass.getpass("The same again: ") != given:
        raise PassphraseMissing("The two passwords differ; nothing was changed.")
    return given


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress | None]:
    """A line that follows the work, on a terminal, and is gone when it ends."""
    if wants_json(as_json) or not sys.stderr.isatty():
        yield None
        return

    def show(stage_name: str, done: int, total: int) -> None:
        share = f" {100 * done // total} %" if total else ""
        sys.stderr.write(f"\r\x1b[K{stage_name}{share}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
