"""The market's parts, started in order: chain, API, seller, buyer, money, listing, key."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from finance.chain.rpc import Rpc
from finance.money import Usdc, Wei
from finance.networks import NETWORKS, Network
from node.accounts.access import Role
from node.accounts.audit import COMMAND
from node.accounts.passwords import hash_password
from node.accounts.users import NewUser, create_first_admin
from node.db.engine import open_engine, sqlite_url
from node.demo import weather
from node.demo.faucet import Faucet
from node.demo.processes import START_SECONDS, Part, PartFailed, run_command, start_part
from node.lock import running_node

Say = Callable[[str], None]

GAS = Wei.parse("10")
BUYER_USDC = Usdc.parse("500")
LISTING = "weather"
BLOCK_SECONDS = 1
CONSOLE_USER = "demo"


@dataclass(frozen=True, slots=True)
class NodeHome:
    """One node of the market: its directory, environment and, once up, addresses."""

    name: str
    data_dir: Path
    environment: dict[str, str]
    address: str = ""
    part: Part | None = None
    gateway_url: str = ""
    console_url: str = ""


@dataclass(frozen=True, slots=True)
class Market:
    """All of it, running."""

    network: Network
    rpc: Rpc
    rpc_url: str
    funded_keys: tuple[str, ...]
    seller: NodeHome
    buyer: NodeHome
    secret: str
    console_password: str
    parts: tuple[Part, ...]

    @property
    def proxy_url(self) -> str:
        return f"{self.buyer.console_url}/call"

    @property
    def example_url(self) -> str:
        return f"{self.seller.gateway_url}/v1/{LISTING}/forecast/{weather.CITIES[4]}"

    @property
    def _sign_in(self) -> dict[str, str]:
        return {"console_user": CONSOLE_USER, "console_password": self.console_password}

    def event(self) -> dict[str, Any]:
        """The `ready` event."""
        return {
            "event": "ready",
            "rpc_url": self.rpc_url,
            "chain_id": self.network.chain_id,
            "usdc": self.network.usdc,
            "seller": {
                "gateway_url": self.seller.gateway_url,
                "console_url": self.seller.console_url,
                "address": self.seller.address,
                **self._sign_in,
            },
            "buyer": {
                "console_url": self.buyer.console_url,
                "proxy_url": self.proxy_url,
                "secret": self.secret,
                "address": self.buyer.address,
                **self._sign_in,
            },
            "example_url": self.example_url,
            "funded_keys": list(self.funded_keys),
        }


async def open_market(
    directory: Path, stack: AsyncExitStack, say: Say, block_seconds: int = BLOCK_SECONDS
) -> Market:
    """Start everything; `stack` ends it again, in the opposite order."""
    say("Starting the development chain (compiling its contracts the first time)")
    chain = await _start(
        "devchain",
        ("devchain", "--json", "--port", "0", "--block-seconds", str(block_seconds)),
        directory,
        stack,
    )
    ready = await chain.ready_line()
    network = replace(
        NETWORKS["devnet"], chain_id=ready["chain_id"], block_seconds=float(block_seconds)
    )
    rpc = await stack.enter_async_context(Rpc([ready["rpc_url"]], network.chain_id))
    say("Starting the API that is for sale")
    api = await _start("upstream", ("upstream",), directory, stack)
    api_url = (await api.ready_line())["url"]
    say("Making two wallets")
    seller, buyer = await asyncio.gather(
        *(_make_home(name, directory, ready["rpc_url"]) for name in ("seller", "buyer"))
    )
    say("Sending gas to both and USDC to the buyer")
    faucet = Faucet(rpc, network, ready["keys"][0])
    await faucet.send_eth(seller.address, GAS)
    await faucet.send_eth(buyer.address, GAS)
    await faucet.send_usdc(buyer.address, BUYER_USDC)
    say("Starting the seller's and the buyer's node")
    password = secrets.token_urlsafe(12)
    await asyncio.gather(
        *(asyncio.to_thread(_add_admin, home, password) for home in (seller, buyer))
    )
    seller, buyer = await asyncio.gather(*(_start_node(home, stack) for home in (seller, buyer)))
    say("Registering the API and making a key")
    await _sell(seller, directory, api_url)
    await _list_for_buyer(buyer, seller)
    key = await run_command(("key", "create", "demo", "--json"), buyer.environment)
    parts = (chain, api, *(home.part for home in (seller, buyer) if home.part))
    market = Market(
        network,
        rpc,
        ready["rpc_url"],
        tuple(ready["keys"]),
        seller,
        buyer,
        key["secret"],
        password,
        parts,
    )
    await _wait_for_sale(market)
    return market


async def _start(
    name: str,
    arguments: tuple[str, ...],
    directory: Path,
    stack: AsyncExitStack,
    environment: dict[str, str] | None = None,
) -> Part:
    part = await start_part(name, arguments, directory, environment or {})
    stack.push_async_callback(part.stop)
    return part


async def _make_home(name: str, directory: Path, rpc_url: str) -> NodeHome:
    data_dir = directory / name
    passphrase_file = directory / f"{name}.passphrase"
    passphrase_file.touch(mode=0o600)
    passphrase_file.write_text(secrets.token_urlsafe(24))
    environment = {
        "FAREBOX_DATA_DIR": str(data_dir),
        "FAREBOX_NETWORK": "devnet",
        "FAREBOX_RPC_URLS": rpc_url,
        "FAREBOX_PASSPHRASE_FILE": str(passphrase_file),
        "FAREBOX_GATEWAY_BIND": "127.0.0.1:0",
        "FAREBOX_CONSOLE_BIND": "127.0.0.1:0",
        "FAREBOX_ALLOWED_HOSTS": "127.0.0.1",
    }
    made = await run_command(("init", "--network", "devnet", "--json"), environment)
    return NodeHome(name, data_dir, environment, made["address"])


def _add_admin(home: NodeHome, password: str) -> None:
    """Somebody who can sign in to the node's console, as the setup wizard would make them."""
    engine = open_engine(sqlite_url(home.data_dir / "farebox.db"))
    try:
        admin = NewUser(CONSOLE_USER, "", Role.ADMIN, hash_password(password), False)
        create_first_admin(engine, admin, COMMAND, int(time.time()))
    finally:
        engine.dispose()


async def _start_node(home: NodeHome, stack: AsyncExitStack) -> NodeHome:
    """Start `farebox up` and wait until it says where it listens and is ready."""
    part = await _start(home.name, ("up",), home.data_dir.parent, stack, home.environment)
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            part.require_alive()
            facts = await asyncio.to_thread(running_node, home.data_dir)
            if "gateway_url" in facts and await _is_ready(session, facts["gateway_url"]):
                urls = {name: facts[name] for name in ("gateway_url", "console_url")}
                return replace(home, part=part, **urls)
            await asyncio.sleep(0.1)
    raise PartFailed(f"The {home.name}'s node did not become ready:\n{part.tail()}")


async def _is_ready(session: aiohttp.ClientSession, gateway_url: str) -> bool:
    try:
        async with session.get(f"{gateway_url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _sell(seller: NodeHome, directory: Path, api_url: str) -> None:
    spec = directory / "weather.json"
    spec.write_text(json.dumps(weather.openapi()))
    routes = [part for price in weather.ROUTE_PRICES for part in ("--route", price)]
    await run_command(
        (
            *("listing", "add", "Weather", "--upstream", api_url, "--price", weather.PRICE),
            *routes,
            *("--spec", str(spec), "--description", "Made-up weather, the same for everybody."),
            "--json",
        ),
        seller.environment,
    )


async def _list_for_buyer(buyer: NodeHome, seller: NodeHome) -> None:
    url = f"{seller.gateway_url}/v1/{LISTING}"
    await run_command(("listing", "add", "Weather", "--buy", url, "--json"), buyer.environment)


async def _wait_for_sale(market: Market) -> None:
    """Until both nodes have noticed the new listing and the new key."""
    headers = {"Authorization": f"Bearer {market.secret}"}
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            async with session.get(market.example_url) as sold:
                selling = sold.status == 402
            url = f"{market.proxy_url}/{LISTING}/cities"
            async with session.get(url, headers=headers) as bought:
                buying = bought.status == 200
            if selling and buying:
                return
            await asyncio.sleep(0.1)
    raise PartFailed(
        f"The listing is not for sale ({sold.status}) or the key not known ({bought.status})."
    )
