"""Another wallet takes the place of an unused one: by page, by API, over a restart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest_asyncio

from finance.wallet.keystore import Keystore
from node.lock import prepare_data_dir
from tests.chain_fixtures import DevchainProcess
from tests.console_world import PASSWORD
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.node_home import PASSPHRASE, NodeHome, free_port, fresh_database, until
from tests.treasury.market_console import cookie_of, program

ITS_PHRASE = "of the old machine"
PATH = "/finance/wallet/import"


@pytest_asyncio.fixture
async def node(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[NodeHome]:
    """A node that has a wallet, and nothing in it."""
    async with FaultyRpc(chain.rpc_url) as relay:
        await asyncio.to_thread(prepare_data_dir, tmp_path / "node")
        keystore = Keystore(tmp_path / "node" / "keys")
        await asyncio.to_thread(keystore.create, PASSPHRASE)
        keys = await asyncio.to_thread(keystore.unlock, PASSPHRASE)
        home = NodeHome("node", tmp_path, relay, free_port(), free_port(), keys)
        fresh_database(home)
        await home.start()
        yield home
        await home.stop()


def exported(folder: Path) -> tuple[str, str]:
    """(address, keystore) of a wallet made elsewhere."""
    other = Keystore(folder)
    other.create(ITS_PHRASE)
    return other.address(), other.export(ITS_PHRASE)


async def _send(browser: aiohttp.ClientSession, keystore: str, **fields: str) -> tuple[int, str]:
    async with browser.get("/finance/wallet") as page:
        csrf = re.findall(r'name="csrf" value="([^"]+)"', await page.text())[0]
    form = aiohttp.FormData({"csrf": csrf, **fields})
    form.add_field("file", keystore.encode(), filename="wallet.json")
    async with browser.post(PATH, data=form, allow_redirects=False) as answer:
        return answer.status, await answer.text()


async def _address(node: NodeHome) -> str:
    async with program(node) as api, api.get("/api/finance") as answer:
        return str((await answer.json())["address"]).lower()


async def test_a_wallet_moves_in_from_the_page_and_is_used_from_the_next_start_on(
    chain: DevchainProcess, node: NodeHome, tmp_path: Path
) -> None:
    first = node.address.lower()
    by_api, its_file = await asyncio.to_thread(exported, tmp_path / "b")
    by_page, other_file = await asyncio.to_thread(exported, tmp_path / "c")
    wish = {"keystore": its_file, "its_passphrase": ITS_PHRASE, "passphrase": PASSPHRASE}
    wish["password"] = PASSWORD
    async with program(node) as api, asyncio.timeout(30):
        while (await (await api.get("/api/finance")).json())["usdc_atoms"] is None:
            await asyncio.sleep(0.1)  # it has to be seen to be empty
        async with api.post(f"/api{PATH}", json=wish) as answer:
            assert answer.status == 200, await answer.text()
            assert (await answer.json())["address"].lower() == by_api.lower()
    session = cookie_of(node)
    base = f"http://127.0.0.1:{node.console_port}"
    right = {
        "its_passphrase": ITS_PHRASE,
        "own_passphrase": PASSPHRASE,
        "import_password": PASSWORD,
    }
    async with aiohttp.ClientSession(base, cookies={session["name"]: session["value"]}) as browser:
        for field in right:
            status, page = await _send(browser, other_file, **{**right, field: "wrong"})
            assert status == 422 and re.search(f'id="e-{field}"', page), (field, page)
        assert (await _send(browser, "{}", **right))[0] == 422
        assert (await _send(browser, other_file, **right))[0] == 303
    assert await _address(node) == first
    await node.stop()
    chain.rpc("anvil_setBalance", by_page, hex(10**18))
    await node.start()
    assert await _address(node) == by_page.lower()

    async def known() -> bool:
        async with program(node) as api, api.get("/api/finance") as answer:
            return bool((await answer.json())["eth_wei"] == str(10**18))

    await until("the new wallet's money is seen", known)
    async with program(node) as api, api.post(f"/api{PATH}", json=wish) as answer:
        assert answer.status == 409
        assert "There is money in the wallet" in (await answer.json())["detail"]
    actions = await node.rows("SELECT action FROM audit_entry WHERE action = 'wallet.import'")
    assert len(actions) == 2
