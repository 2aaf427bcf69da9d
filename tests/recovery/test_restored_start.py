"""A restored node whose chain is silent: its books are not believed, and it says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import insert

from catalog.models import ListingOrigin
from finance.models import ChannelState, SellerChannel
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine, writer
from node.preferences import change_preference, read_preference
from node.vault.restored import Restored
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault
from tests.recovery.market_world import SLUG, list_api, new_home
from tests.recovery.node_home import NETWORK, NodeHome, until


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


async def test_restored_books_sell_nothing_until_the_chain_was_asked(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        home = await new_home("seller", chain, tmp_path, stack)
        list_api(home, "http://127.0.0.1:9", ListingOrigin.OWN)
        _mark_restored(home)
        home.relay.faults["*"] = Fault.DROP
        await home.start(wait=False)
        status, body = await until("it answers", lambda: _paid_call(home))
        assert status == 503 and "node_paused" in body
        assert (await _get(f"{home.gateway_url}/readyz"))[0] == 503
        said = "SELECT message FROM event WHERE type = 'restored_waits'"
        assert "nothing paid is served" in (await home.rows(said))[0][0]
        assert _restored(home).unchecked, "not before the chain was asked"
        home.relay.faults.clear()
        await home.ready()
        assert (await _paid_call(home))[0] == 402, "it sells again, without a restart"
        await until("its books are checked", lambda: _checked(home))


def _mark_restored(home: NodeHome) -> None:
    engine = open_engine(f"sqlite:///{home.data_dir / 'farebox.db'}")
    now = int(time.time())
    change_preference(engine, Restored("a backup", now - 60, now), SYSTEM, now)
    with writer(engine).begin() as connection:
        connection.execute(insert(SellerChannel), _channel(home, now))
    engine.dispose()


def _channel(home: NodeHome, now: int) -> dict[str, object]:
    """One that is sold through, as the backup knew it."""
    row: dict[str, object] = {
        "channel_id": "0x" + "0c" * 32,
        "payer": "0x" + "01" * 20,
        "payer_authorizer": "0x" + "02" * 20,
        "receiver": home.address,
        "receiver_authorizer": home.keys.receiver.address,
        "token": NETWORK.usdc,
        "salt": "0x" + "00" * 32,
        "state": ChannelState.OPEN,
        "voucher_signature": "0x",
    }
    atoms = {"balance_atoms": 1_000_000, "charged_atoms": 5_000, "signed_atoms": 5_000}
    row |= {"chain_id": NETWORK.chain_id, "withdraw_delay": 86_400, "last_request_at": now}
    return row | atoms


def _restored(home: NodeHome) -> Restored:
    engine = open_engine(f"sqlite:///{home.data_dir / 'farebox.db'}")
    try:
        return read_preference(engine, Restored)
    finally:
        engine.dispose()


async def _checked(home: NodeHome) -> bool:
    return not _restored(home).unchecked


async def _paid_call(home: NodeHome) -> tuple[int, str]:
    return await _get(f"{home.gateway_url}/v1/{SLUG}/answer/one")


async def _get(url: str) -> tuple[int, str]:
    """Status and body; nothing while nobody answers."""
    with suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()
    return ()  # type: ignore[return-value]
