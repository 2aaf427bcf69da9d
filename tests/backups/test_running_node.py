"""A running node warns of a backup that is overdue, and makes one by its schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from backups.header import BackupKey
from node.accounts.access import Role
from node.accounts.audit import SYSTEM
from node.accounts.sessions import Client, begin_session, cookie_name
from node.db.engine import writer
from node.demo.processes import run_command, start_part
from node.preferences import change_preference
from node.settings import Settings
from node.vault import records
from node.vault.choices import BackupChoices, FirstStart
from node.vault.restore import look_inside, stage, swap
from node.vault.standing import backup_overdue
from tests.backups.home import PASSPHRASE, PASSWORD, Home, at
from tests.console_world import make_users
from tests.recovery.node_home import free_port, until

DAY = 86_400


async def test_overdue_opens_after_the_chosen_days_and_ends_with_the_next_good_backup(
    home: Home,
) -> None:
    """First without a backup password, four days after its first start; then with one."""
    now = int(time.time())
    change_preference(home.engine, FirstStart(at=now - 4 * DAY - 60), SYSTEM, now)
    choices = BackupChoices(every_hours=1, overdue_days=3)
    change_preference(home.engine, choices, SYSTEM, now)
    cookie = _session(home)
    async with _running(home) as (environment, console):
        opened = await until("the incident opens", lambda: _open_incidents(home))
        assert opened == ["This node has run for 4 days and was never backed up."]
        assert "BACKUP OVERDUE — 4 days without any backup." in await _page(console, cookie)
        status = await run_command(("status", "--json"), environment)
        assert status["backup_overdue"] and status["days_without_backup"] == 4
        assert status["last_backup"] is None and not _backups(home)
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, now)
    async with _running(home) as (environment, console):
        await until("a scheduled backup is good", lambda: _good(home))
        assert [each.reason for each in _backups(home)] == ["scheduled"]
        await until("the incident is over", lambda: _none_open(home))
        assert "BACKUP OVERDUE" not in await _page(console, cookie)
        status = await run_command(("status", "--json"), environment)
        assert not status["backup_overdue"] and status["last_backup"]


@asynccontextmanager
async def _running(home: Home) -> AsyncIterator[tuple[dict[str, str], str]]:
    """`farebox up` on the home's files, without a chain; its environment and console."""
    gateway, console = free_port(), free_port()
    environment = {
        "FAREBOX_DATA_DIR": str(home.settings.data_dir),
        "FAREBOX_NETWORK": "devnet",
        "FAREBOX_RPC_URLS": "http://127.0.0.1:9",
        "FAREBOX_PASSPHRASE": PASSPHRASE,
        "FAREBOX_GATEWAY_BIND": f"127.0.0.1:{gateway}",
        "FAREBOX_CONSOLE_BIND": f"127.0.0.1:{console}",
    }
    part = await start_part("up", ("up",), home.settings.data_dir.parent, environment)

    async def ready() -> bool:
        part.require_alive()
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{gateway}/readyz")).is_success
        return False

    try:
        await until("the node is ready", ready, 90)
        yield environment, f"http://127.0.0.1:{console}"
    finally:
        await part.stop()


def _session(home: Home) -> str:
    admin = make_users(home.engine)[Role.ADMIN]
    with writer(home.engine).begin() as connection:
        client = Client("127.0.0.1", "test")
        return begin_session(connection, admin, client, int(time.time())).token


async def _page(console: str, cookie: str) -> str:
    cookies = {cookie_name(urlsplit(console).port): cookie}
    async with httpx.AsyncClient(cookies=cookies, trust_env=False, timeout=30) as client:
        answer = await client.get(f"{console}/")
    assert answer.status_code == 200
    return answer.text


def _backups(home: Home) -> list[records.BackupView]:
    return records.list_backups(home.engine)[0]


async def _good(home: Home) -> bool:
    return bool(records.good_backups(home.engine))


async def _open_incidents(home: Home) -> list[Any]:
    query = "SELECT message FROM notification WHERE rule = 'backup_overdue' AND resolved_at IS NULL"
    with home.engine.connect() as connection:
        return list(connection.exec_driver_sql(query).scalars())


async def _none_open(home: Home) -> bool:
    return not await _open_incidents(home)


def test_a_restored_node_is_not_warned_that_it_was_never_backed_up(
    home: Home, tmp_path: Path
) -> None:
    """Its files stayed on the other machine; the one it comes from is a day old."""
    now = int(time.time())
    change_preference(home.engine, FirstStart(at=now - 100 * DAY), SYSTEM, now)
    file = home.back_up()
    settings = Settings(data_dir=tmp_path / "new", network="devnet")
    manifest = asyncio.run(look_inside(file, PASSWORD)).manifest
    swap(asyncio.run(stage(file, PASSWORD, manifest, settings)), settings)
    restored = at(settings.data_dir, home)
    made = manifest.created_at
    assert not backup_overdue(restored.engine, made + 29 * DAY).overdue
    late = backup_overdue(restored.engine, made + 31 * DAY)
    assert (late.overdue, late.days, late.ever) == (True, 31, True)
    restored.engine.dispose()
