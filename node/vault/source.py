"""What of this node goes into a backup, and what the backup says of it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

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


def database_of(settings: Settings) -> Sqlite | Postgres:
    """Where the books are, as the worker needs it."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        return Sqlite(str(Path(url.database or "").absolute()))
    parameters = {name: str(value) for name, value in url.query.items()}
    named = {
        "host": url.host,
        "port": str(url.port) if url.port else None,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    return Postgres(parameters | {name: value for name, value in named.items() if value})


def files_of(settings: Settings) -> list[tuple[str, str]]:
    """Keystores (also those an import replaced) and the settings file."""
    keystores = sorted(settings.keystore_dir.glob("wallet*.json"))
    files = [(f"keys/{path.name}", str(path)) for path in keystores]
    toml = settings.data_dir / TOML
    return [*files, *([(TOML, str(toml))] if toml.exists() else [])]


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
    )


def owed_atoms(engine: Engine) -> int:
    """Charged, delivered, and not claimed on the chain: USDC atoms (blocking)."""
    with engine.connect() as connection:
        return sum(int(row[1]) for row in connection.execute(text(OWED_SQL)))


def software_version() -> str:
    try:
        return version("farebox")
    except PackageNotFoundError:
        return "unknown"
