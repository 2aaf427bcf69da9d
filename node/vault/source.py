"""What of this node goes into a backup, and what the backup says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from backups.manifest import Setting
from backups.postgres import variables
from backups.tasks import Facts, Postgres, Sqlite
from finance.wallet.keystore import Keystore
from node.settings import Settings

REVISION_SQL = "SELECT version_num FROM alembic_version"
OWED_SQL = (
    "SELECT channel_id, charged_atoms - streaming_atoms - total_claimed_atoms"
    " FROM seller_channel WHERE charged_atoms - streaming_atoms > total_claimed_atoms"
    " ORDER BY 2 DESC, 1"
)
TOML = "farebox.toml"
_PREFIX = "FAREBOX_"
# Of settings that are not secret; of every other one only the name is told.
_SHOWN: dict[str, Callable[[Settings], str]] = {
    "network": lambda settings: settings.network,
    "chain_id": lambda settings: str(settings.chain.chain_id),
    "rpc_urls": lambda settings: ",".join(_without_secrets(url) for url in settings.rpc_urls),
    "public_url": lambda settings: settings.public_url,
    "console_public_url": lambda settings: settings.console_public_url,
    "gateway_bind": lambda settings: settings.gateway_bind,
    "console_bind": lambda settings: settings.console_bind,
    "allowed_hosts": lambda settings: ",".join(settings.allowed_hosts),
    "database_url": lambda settings: make_url(settings.database).get_backend_name(),
}


def database_of(settings: Settings) -> Sqlite | Postgres:
    """Where the books are, as the worker needs it, which has nothing of this environment."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        return Sqlite(str(Path(url.database or "").absolute()))
    around = {name: os.environ.get(variable, "") for name, variable in variables().items()}
    _, given = url.get_dialect()().create_connect_args(url)
    named = around | {name: str(value) for name, value in given.items()}
    return Postgres({name: value for name, value in named.items() if value})


def files_of(settings: Settings) -> list[tuple[str, str]]:
    """Keystores (also those an import replaced) and the settings file."""
    keystores = sorted(settings.keystore_dir.glob("wallet*.json"))
    files = [(f"keys/{path.name}", str(path)) for path in keystores]
    toml = settings.data_dir / TOML
    return [*files, *([(TOML, str(toml))] if toml.exists() else [])]


def wallets_of(settings: Settings) -> set[str]:
    """Addresses of every wallet here, also of those an import replaced; lower case."""
    found = set()
    for path in settings.keystore_dir.glob("wallet*.json"):
        try:
            address = str(json.loads(path.read_bytes())["address"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.add(f"0x{address.lower().removeprefix('0x')}")
    return found


def facts_of(
    settings: Settings,
    backup_id: str,
    reason: str,
    now: int,
    height: int | None,
    nonce: int | None,
) -> Facts:
    """What the manifest says of the node."""
    chain = settings.chain
    return Facts(
        id=backup_id,
        created_at=now,
        reason=reason,
        software=software_version(),
        network=chain.name,
        chain_id=chain.chain_id,
        wallet=Keystore(settings.keystore_dir).address(),
        block_height=height,
        wallet_nonce=nonce,
        revision_sql=REVISION_SQL,
        owed_sql=OWED_SQL,
        outside=outside_of(settings, os.environ),
    )


def outside_of(settings: Settings, environment: Mapping[str, str]) -> list[Setting]:
    """The settings that `environment` has and no file of a backup: what a restore must be told.
    Values only of those that are not secret; of RPC addresses scheme, host and port."""
    given = {name.upper() for name, value in environment.items() if value}
    there = [name for name in type(settings).model_fields if f"{_PREFIX}{name.upper()}" in given]
    return [Setting(f"{_PREFIX}{name.upper()}", _shown(name, settings)) for name in there]


def _shown(name: str, settings: Settings) -> str:
    return _SHOWN[name](settings) if name in _SHOWN else ""


def told(setting: Setting) -> str:
    """A setting as a line for the operator."""
    return f"{setting.name}={setting.value}" if setting.value else setting.name


def _without_secrets(url: str) -> str:
    """Scheme, host and port: keys of RPC providers stand in paths, queries and user names."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"


def owed_atoms(engine: Engine) -> int:
    """Charged, delivered, and not claimed on the chain: USDC atoms (blocking)."""
    with engine.connect() as connection:
        return sum(int(row[1]) for row in connection.execute(text(OWED_SQL)))


def software_version() -> str:
    try:
        return version("farebox")
    except PackageNotFoundError:
        return "unknown"
