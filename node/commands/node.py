"""`farebox init`, `up`, `status`, `db upgrade`, `devchain`."""

from __future__ import annotations

import asyncio
import gc
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from finance.errors import WalletError
from finance.wallet.keystore import Keystore
from node.commands.frame import (
    new_passphrase,
    open_database,
    read_settings,
    require_wallet,
    unlock,
)
from node.commands.output import Json, format_time, show_facts, write_new
from node.db.engine import open_engine
from node.errors import DataDirUnusable, SettingsInvalid
from node.lock import prepare_data_dir, running_node
from node.settings import Settings, load_settings

database = typer.Typer(help="The node's database.", no_args_is_help=True)


class NetworkName(StrEnum):
    DEVNET = "devnet"
    BASE_SEPOLIA = "base-sepolia"
    BASE = "base"


def init(
    context: typer.Context,
    network: Annotated[NetworkName | None, typer.Option(help="Which chain.")] = None,
    as_json: Json = False,
) -> None:
    """Make the data directory, its wallet, its database and farebox.toml."""
    settings = read_settings(context)
    keystore = Keystore(settings.keystore_dir)
    if keystore.exists():
        raise WalletError(
            f"{settings.data_dir} has a wallet already ({keystore.address()}); nothing was changed."
        )
    if network and "network" in settings.model_fields_set and network != settings.network:
        raise SettingsInvalid(
            f"FAREBOX_NETWORK or farebox.toml says {settings.network}, not {network}; change that"
            " first. Nothing was made."
        )
    prepare_data_dir(settings.data_dir)
    _write_toml(settings.data_dir / "farebox.toml", network or NetworkName(settings.network))
    settings = load_settings(settings.data_dir)
    keystore.create(new_passphrase(settings))
    open_database(settings).dispose()
    facts = {
        "address": keystore.address(),
        "network": settings.network,
        "data_dir": str(settings.data_dir),
    }
    show_facts(facts, as_json, hint=_next_steps(settings, keystore.address()))


def up(context: typer.Context) -> None:
    """Run the node until it is stopped (Ctrl-C or SIGTERM)."""
    gc.disable()  # none of what is loaded goes away again; on again before it serves
    from node.app import run

    settings = read_settings(context)
    keys = unlock(settings)
    run(settings, keys)


def status(context: typer.Context, as_json: Json = False) -> None:
    """Whether a node is running here, and where. Exit code 0 when it is ready, else 1."""
    settings = read_settings(context)
    address = require_wallet(settings).address()
    node = running_node(settings.data_dir)
    health = _health(node["gateway_here"]) if node.get("gateway_here") else None
    facts: dict[str, Any] = {
        "running": bool(node),
        "ready": health == "ready",
        "health": health or ("starting" if node else "stopped"),
        "network": settings.network,
        "address": address,
        "gateway_url": node.get("gateway_url"),
        "console_url": node.get("console_url"),
        "pid": node.get("pid"),
        "data_dir": str(settings.data_dir),
        **_backups(settings),
    }
    show_facts(facts, as_json)
    if not facts["ready"]:
        raise typer.Exit(1)


@database.command()
def upgrade(
    context: typer.Context,
    without_backup: Annotated[
        bool, typer.Option("--without-backup", help="Where none can be made before it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the database to this version's schema (`up` does it too), after a backup."""
    from node.db.migrations import upgrade as upgrade_schema
    from node.vault.before import needs_backup, upgrade_with_backup

    settings = read_settings(context)
    prepare_data_dir(settings.data_dir)
    engine = open_engine(settings.database)
    try:
        if not without_backup and needs_backup(engine):
            upgrade_with_backup(engine, settings, unlock(settings))
        else:
            upgrade_schema(engine)
    finally:
        engine.dispose()
    show_facts({"database": "up to date"}, as_json)


def devchain(
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8545,
    chain_id: Annotated[int, typer.Option(min=1, max=2**53)] = 31337,
    block_seconds: Annotated[
        float | None,
        typer.Option(min=0.02, help="Seconds per block; without it, one per transaction."),
    ] = None,
    accounts: Annotated[int, typer.Option(min=1, max=1000, help="How many funded accounts.")] = 10,
    as_json: Json = False,
) -> None:
    """A real EVM chain on this machine, with the contracts in place and funded accounts."""
    try:
        from finance.chain.devchain import serve
    except ModuleNotFoundError as error:
        raise DataDirUnusable(
            f"The development chain needs {error.name}: pip install 'farebox[devchain]'."
        ) from error
    serve(host, port, chain_id, block_seconds, accounts, as_json)


def _write_toml(path: Path, network: NetworkName) -> None:
    """A first settings file; one that is there already stays as it is."""
    try:
        write_new(
            path,
            "# Settings of this node; every one can also be set as FAREBOX_… in the"
            f' environment.\nnetwork = "{network}"\n',
        )
    except FileExistsError:
        return
    except OSError as error:
        raise DataDirUnusable(f"{path} cannot be written: {error.strerror}.") from error


def _next_steps(settings: Settings, address: str) -> str:
    return "\n".join(
        (
            f"Next: send a little ETH (gas) and, to buy, USDC on {settings.network} to {address},",
            "then sell an API:   farebox listing add NAME --upstream URL --price 0.001",
            "or buy from one:    farebox listing add NAME --buy URL && farebox key create NAME",
            "and run the node:   farebox up",
        )
    )


def _backups(settings: Settings) -> dict[str, Any]:
    """When the last good backup was made, and whether it is too long ago."""
    from node.vault.records import last_good_at
    from node.vault.standing import backup_overdue

    engine, now = open_engine(settings.database), int(time.time())
    try:
        last = last_good_at(engine, now)
        found = backup_overdue(engine, now)
    except SQLAlchemyError:
        return {"last_backup": None, "backup_overdue": None}
    finally:
        engine.dispose()
    return {
        "last_backup": format_time(last) if last else None,
        "backup_overdue": found.overdue,
        "days_without_backup": found.days,
    }


def _health(gateway_here: str) -> str:
    """`ready`, or what keeps the node from it."""
    return asyncio.run(_ask_ready(gateway_here))


async def _ask_ready(gateway_here: str) -> str:
    import httpx

    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(f"{gateway_here}/readyz")
    except httpx.HTTPError:
        return "the gateway does not answer"
    return "ready" if answer.status_code == 200 else answer.text.strip()[:200]
