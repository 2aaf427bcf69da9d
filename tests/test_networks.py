"""Two nodes trade on every network we know, before a chain with that network's id and USDC.

The contracts of the payment channels stand at the same addresses everywhere; USDC has an
address of its own on each network, and on Base Sepolia another name, which every signature
of a transfer depends on.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finance.buying.signing import exact_payload, header, token_domain
from finance.buying.terms import choose
from finance.chain.contracts import compile_vyper, runtime_code, usdc_storage
from finance.chain.devchain.accounts import USDC_ATOMS
from finance.chain.rpc import Rpc
from finance.money import Usdc, Wei
from finance.networks import NETWORKS, Network
from finance.wallet.signer import Signer
from finance.x402.values import EXACT
from finance.x402.wire import PAYMENT_SIGNATURE, decode_required
from node.demo.faucet import Faucet, usdc_balance
from node.demo.processes import Part, run_command, start_part
from tests.chain_fixtures import DevchainProcess
from tests.ports import free_port
from tests.recovery.market_world import Api, right_answer
from tests.recovery.node_home import until

_CONTRACTS = Path(__file__).parent.parent / "finance" / "chain" / "contracts"
BUYER_ATOMS = 1_000_000
PRICE = 1_000
CALLS = 5


def place_usdc(chain: DevchainProcess, network: Network, folder: Path) -> None:
    """USDC as the network has it; the chain's first account holds all of it."""
    code = runtime_code().get(network.usdc)
    if code is None:
        source = folder / "usdc.vy"
        words = (_CONTRACTS / "usdc.vy").read_text()
        source.write_text(words.replace('"USD Coin"', f'"{network.usdc_name}"'))
        code = compile_vyper(source)
        chain.rpc("anvil_setCode", network.usdc, "0x" + code.hex())
    for slot, word in usdc_storage({chain.addresses[0]: USDC_ATOMS}).items():
        chain.rpc("anvil_setStorageAt", network.usdc, f"0x{slot:064x}", f"0x{word:064x}")


class Node:
    """One node, set up and asked by the commands of the README."""

    def __init__(self, name: str, folder: Path, network: Network, rpc_url: str) -> None:
        self.name, self.folder = name, folder
        self.gateway, self.console = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.environment = {
            "FAREBOX_DATA_DIR": str(folder / name),
            "FAREBOX_NETWORK": network.name,
            "FAREBOX_RPC_URLS": rpc_url,
            "FAREBOX_PASSPHRASE": "only for tests",
            "FAREBOX_GATEWAY_BIND": self.gateway,
            "FAREBOX_CONSOLE_BIND": self.console,
            "FAREBOX_ALLOWED_HOSTS": "127.0.0.1",
        }
        self.part: Part

    async def run(self, *arguments: str) -> Any:
        return await run_command((*arguments, "--json"), self.environment)

    async def up(self, stack: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        self.part = await start_part(self.name, ("up",), self.folder, self.environment)
        stack.push_async_callback(self.part.stop)

        async def ready() -> bool:
            self.part.require_alive()
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://{self.gateway}/readyz") as answer:
                    return answer.status == 200
            return False

        await until(f"{self.name} is ready", ready)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "base-sepolia"])
async def test_two_nodes_trade_on_it(tmp_path: Path, name: str) -> None:
    network = NETWORKS[name]
    async with AsyncExitStack() as stack:
        chain = stack.enter_context(DevchainProcess(0.5, network.chain_id))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        api = await stack.enter_async_context(Api().listening())
        seller, buyer = (Node(each, tmp_path, network, chain.rpc_url) for each in ("s", "b"))
        earner, payer = [(await node.run("init"))["address"] for node in (seller, buyer)]
        foreign = Signer.random()
        place_usdc(chain, network, tmp_path)
        rpc = await stack.enter_async_context(Rpc([chain.rpc_url], network.chain_id))
        faucet = Faucet(rpc, network, chain.keys[0])
        await faucet.send_eth(earner, Wei(10**16))
        await faucet.send_usdc(payer, Usdc(BUYER_ATOMS))
        await faucet.send_usdc(foreign.address, Usdc(PRICE))

        sold = await seller.run("listing", "add", "Errands", "--upstream", api, "--price", "0.001")
        await seller.up(stack, session)
        await buyer.run("listing", "add", "Errands", "--buy", sold["url"])
        secret = (await buyer.run("key", "create", "app"))["secret"]
        await buyer.up(stack, session)

        for number in range(CALLS):
            url = f"http://{buyer.console}/call/errands/answer/{number}"
            async with session.get(url, headers={"Authorization": f"Bearer {secret}"}) as answer:
                assert answer.status == 200, await answer.text()
                assert await answer.json() == right_answer(str(number))
                assert answer.headers["Farebox-Scheme"] == "batch-settlement"
                assert Usdc.parse(answer.headers["Farebox-Cost"]) == PRICE

        url = f"{sold['url']}answer/foreign"
        async with session.get(url) as unpaid:
            required = decode_required(unpaid.headers["PAYMENT-REQUIRED"])
        terms = choose(required, network, (EXACT,))
        assert required.accepts[0].network == network.caip2
        payload, nonce = exact_payload(foreign, terms, token_domain(network), int(time.time()) + 60)
        paid = {PAYMENT_SIGNATURE: header(terms, payload, f"foreign-{nonce.hex()}").decode()}
        async with session.get(url, headers=paid) as answer:
            assert answer.status == 200, await answer.text()

        await seller.part.stop()  # it claims what it is owed
        assert await usdc_balance(rpc, network, earner) == (CALLS + 1) * PRICE
        assert await usdc_balance(rpc, network, foreign.address) == 0
        for node in (seller, buyer):
            found = await run_command(("reconcile", "--json"), node.environment, accept=(0, 1))
            assert found["balanced"], found
