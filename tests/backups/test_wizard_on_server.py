"""A new node whose database is on a PostgreSQL server becomes one that was backed up there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from sqlalchemy import text

from node.db.engine import open_engine
from node.demo.processes import Part, run_command, start_part
from tests.backups.home import LIMIT, PASSPHRASE, PASSWORD, Home, limits, on_server
from tests.postgres_server import PostgresServer
from tests.recovery.node_home import free_port, until

NEW_PASSPHRASE = "the passphrase of a new wallet"


async def test_the_wizard_restores_into_the_server_of_the_new_node(
    home: Home, tmp_path: Path, postgres: PostgresServer
) -> None:
    source = on_server(tmp_path / "source", home, postgres.new_database())
    file = await asyncio.to_thread(_back_up, source)
    url = postgres.new_database()
    environment = _environment(tmp_path / "new", url)
    await run_command(("init", "--network", "devnet", "--json"), environment)
    async with _running(environment) as (part, console):
        guest = httpx.AsyncClient(base_url=console, trust_env=False, timeout=60)
        guest.headers["origin"] = console
        async with guest:
            await _refused_while_it_is_used(guest, file, url)
            shown = await _look(guest, file)
            assert shown.status_code == 200 and "postgres, schema" in shown.text
            source_fields = {"source": str(file), "password": PASSWORD}
            begun = await guest.post("/setup/restore/begin", data=source_fields)
            assert begun.status_code == 303, begun.text

            async def ready() -> bool:
                return "Finish and stop" in (await guest.get("/setup/restore")).text

            await until("it is ready", ready, 90)
            assert _rows(url, "spend_limit") == 0, "nothing is changed before it is said"
            assert "The node stops now" in (await guest.post("/setup/restore/finish")).text
        await asyncio.wait_for(part.process.wait(), 60)
        assert "restored from a backup" in part.log.read_text(), part.tail()
    environment["FAREBOX_PASSPHRASE"] = PASSPHRASE
    async with _running(environment):
        status = await run_command(("status", "--json"), environment, accept=(0, 1))
        assert status["address"].lower() == home.keys.wallet.address
        engine = open_engine(url)
        assert limits(engine) == 40 * LIMIT
        engine.dispose()
        assert _rows(url, "preference", "name = 'restored'") == 1
    assert list((tmp_path / "new").glob("*.pgdump")) == [], "the dump is not kept in clear"


async def _refused_while_it_is_used(guest: httpx.AsyncClient, file: Path, url: str) -> None:
    _change(url, "INSERT INTO ledger_entry (key, account, amount, at) VALUES ('k', 'spent', -1, 1)")
    used = await _look(guest, file)
    assert used.status_code == 422
    assert "is not empty. Make a new one" in used.text
    _change(url, "DELETE FROM ledger_entry")


async def _look(guest: httpx.AsyncClient, file: Path) -> httpx.Response:
    fields = {"path": str(file), "password": PASSWORD}
    return await guest.post("/setup/restore", data=fields)


def _back_up(source: Home) -> Path:
    try:
        return source.back_up()
    finally:
        source.engine.dispose()


def _change(url: str, statement: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _rows(url: str, table: str, condition: str = "true") -> int:
    engine = open_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(text(f"SELECT COUNT(*) FROM {table} WHERE {condition}"))
    engine.dispose()
    return int(found or 0)


def _environment(data_dir: Path, url: str) -> dict[str, str]:
    return {
        "FAREBOX_DATA_DIR": str(data_dir),
        "FAREBOX_DATABASE_URL": url,
        "FAREBOX_NETWORK": "devnet",
        "FAREBOX_RPC_URLS": "http://127.0.0.1:9",
        "FAREBOX_PASSPHRASE": NEW_PASSPHRASE,
        "FAREBOX_GATEWAY_BIND": f"127.0.0.1:{free_port()}",
        "FAREBOX_CONSOLE_BIND": f"127.0.0.1:{free_port()}",
    }


@asynccontextmanager
async def _running(environment: dict[str, str]) -> AsyncIterator[tuple[Part, str]]:
    """`farebox up` until the end of the block; its console."""
    data_dir, console = Path(environment["FAREBOX_DATA_DIR"]), environment["FAREBOX_CONSOLE_BIND"]
    part = await start_part(f"up-{time.monotonic_ns()}", ("up",), data_dir.parent, environment)

    async def answers() -> bool:
        part.require_alive()
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://{console}/sign-in")).status_code < 500
        return False

    try:
        await until("the console answers", answers, 90)
        yield part, f"http://{console}"
    finally:
        await part.stop()
