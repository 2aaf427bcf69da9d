"""A market of processes that tests may kill: a chain, a seller's node, a buyer's node.

Both nodes are `farebox up` in processes of their own, with their files in folders that
survive them; each reaches the chain through a relay that misbehaves on request. The
API for sale and the apps that buy live in the test's own process, where they count.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from catalog.drafts import Draft, slug_of
from catalog.editing import add_listing
from catalog.models import ListingOrigin
from finance.buying.channels import channel_config, seller_of
from finance.buying.signing import (
    deposit_payload,
    exact_payload,
    header,
    new_deposit,
    token_domain,
)
from finance.buying.terms import Terms, choose
from finance.money import Usdc
from finance.networks import Network
from finance.reconcile import Report
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.digest import channel_id
from finance.x402.receipt import decode_response
from finance.x402.text import checksum, parse_address, to_hex
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT, ChannelConfig
from finance.x402.vouchers import sign_voucher
from finance.x402.wire import PAYMENT_RESPONSE, PAYMENT_SIGNATURE, decode_required
from node.db.engine import open_engine, writer
from node.lock import prepare_data_dir
from node.usage.keys import create_key
from tests.chain_fixtures import ChainProcess
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.node_home import (
    NETWORK,
    PASSPHRASE,
    WAIT_SECONDS,
    NodeHome,
    free_port,
    fresh_database,
    until,
)
from tests.recovery.seller_world import usdc_of

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
PRICE = 1_000
LISTING = "Errands"
SLUG = slug_of(LISTING)
BUYER_ATOMS = 500_000_000
LONG_BYTES = 600_000  # too many to be kept, or held in buffers, while they are given
_LONG_PARTS, _LONG_SECONDS = 60, 1.8
_RETRY_SECONDS = 0.25
_CALL_SECONDS = aiohttp.ClientTimeout(total=40)


def right_answer(name: str) -> dict[str, str]:
    """What the API answers to an errand; nobody else can know it."""
    return {"errand": name, "proof": hashlib.sha256(name.encode()).hexdigest()}


class Api:
    """The API for sale. `served` counts deliveries by errand."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.delay_seconds = 0.0
        self.headers: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/answer/{name}", self._answer)
        app.router.add_get("/long/{name}", self._long)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.served[name] += 1
        await asyncio.sleep(self.delay_seconds)
        self.headers += [each for each in request.headers if each.lower().startswith("payment")]
        return web.json_response(right_answer(name))

    async def _long(self, request: web.Request) -> web.StreamResponse:
        """It takes its time, so that something can happen meanwhile."""
        answer = web.StreamResponse()
        answer.content_length = LONG_BYTES
        await answer.prepare(request)
        for _ in range(_LONG_PARTS):
            await answer.write(bytes(LONG_BYTES // _LONG_PARTS))
            await asyncio.sleep(_LONG_SECONDS / _LONG_PARTS)
        return answer


@dataclass(slots=True)
class Errand:
    """A call that must get its answer, however often it is asked for. `tries` counts what
    came instead of an answer."""

    name: str
    tries: Counter[str] = field(default_factory=Counter)
    cost_atoms: int | None = None


@dataclass(slots=True)
class Market:
    """All of it. `buy` goes through the buyer's node, `buy_exact` straight to the gateway."""

    chain: ChainProcess
    api: Api
    seller: NodeHome
    buyer: NodeHome
    secret: str
    session: aiohttp.ClientSession

    @property
    def network(self) -> Network:
        return self.seller.network

    @property
    def nodes(self) -> tuple[NodeHome, NodeHome]:
        return self.seller, self.buyer

    def usdc(self, node: NodeHome) -> int:
        return usdc_of(self.chain, node.address, self.chain.usdc)

    def at_proxy(self, path: str) -> str:
        return f"http://127.0.0.1:{self.buyer.console_port}/call/{SLUG}/{path}"

    async def ask(self, errand: Errand, seconds: float = 40) -> int:
        """One try through the proxy; its status, 0 when there is none."""
        url = self.at_proxy(f"answer/{errand.name}")
        headers = {"Authorization": f"Bearer {self.secret}", "Idempotency-Key": errand.name}
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self.session.get(url, headers=headers, timeout=timeout) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            errand.tries[type(error).__name__] += 1
            return 0
        if answer.status != 200:
            errand.tries[f"{answer.status} {_code(body)}"] += 1
            return answer.status
        assert json.loads(body) == right_answer(errand.name), (errand, body)
        errand.cost_atoms = int(Usdc.parse(answer.headers["Farebox-Cost"]))
        return 200

    async def buy(self, errand: Errand, seconds: float = WAIT_SECONDS) -> None:
        """Ask until there is an answer."""
        deadline = time.monotonic() + seconds
        while await self.ask(errand) != 200:
            assert time.monotonic() < deadline, f"no answer in {seconds} s: {errand}"
            await asyncio.sleep(_RETRY_SECONDS)

    async def buy_many(self, errands: list[Errand], at_once: int = 8) -> None:
        todo = iter(errands)

        async def worker() -> None:
            for errand in todo:
                await self.buy(errand)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())

    async def terms(self, errand: Errand, scheme: str) -> Terms:
        """What the gateway asks a foreign client for, once it answers."""

        async def offered() -> Terms | None:
            with suppress(aiohttp.ClientError, TimeoutError, KeyError):
                async with self.session.get(self._at_gateway(errand)) as unpaid:
                    required = decode_required(unpaid.headers["PAYMENT-REQUIRED"])
                    return choose(required, self.network, (scheme,))
            return None

        found = await until(f"an offer for {errand.name}", offered)
        assert isinstance(found, Terms)
        return found

    async def exact_payment(self, errand: Errand, signer: Signer) -> str:
        """A foreign client's PAYMENT-SIGNATURE for this errand."""
        terms = await self.terms(errand, EXACT)
        valid_before = int(time.time()) + terms.max_timeout_seconds
        payload, nonce = exact_payload(signer, terms, token_domain(self.network), valid_before)
        return header(terms, payload, f"foreign-{nonce.hex()}").decode()

    async def open_channel(self, errand: Errand, signer: Signer, atoms: int) -> ChannelConfig:
        """A foreign client's channel, its deposit paying for this errand."""
        payment, config = await self.deposit_payment(errand, signer, atoms)
        assert await self.present(errand, payment) == 200, errand
        return config

    async def deposit_payment(
        self, errand: Errand, signer: Signer, atoms: int
    ) -> tuple[str, ChannelConfig]:
        """A foreign client's deposit that opens a channel and pays for this errand."""
        terms = await self.terms(errand, BATCH_SETTLEMENT_SCHEME)
        address, chain_id = signer.address_bytes, self.network.chain_id
        config = channel_config(seller_of(terms, "foreign"), 0, address, address, self.network)
        key = channel_id(config, chain_id)
        valid_before = int(time.time()) + terms.max_timeout_seconds
        deposit = new_deposit(signer, config, key, atoms, valid_before, token_domain(self.network))
        signature = sign_voucher(signer.private, key, terms.amount_atoms, chain_id)
        payload = deposit_payload(config, key, terms.amount_atoms, signature, deposit)
        return header(terms, payload, f"foreign-{deposit.nonce.hex()}").decode(), config

    def _at_gateway(self, errand: Errand) -> str:
        return f"{self.seller.sold_at}/v1/{SLUG}/answer/{errand.name}"

    async def present(self, errand: Errand, payment: str) -> int:
        """One try at the gateway with a payment; its status, 0 when there is none."""
        headers = {PAYMENT_SIGNATURE: payment}
        url = self._at_gateway(errand)
        try:
            async with self.session.get(url, headers=headers, timeout=_CALL_SECONDS) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            errand.tries[type(error).__name__] += 1
            return 0
        if answer.status != 200:
            errand.tries[f"{answer.status} {_code(body)}"] += 1
            return answer.status
        assert json.loads(body) == right_answer(errand.name), (errand, body)
        receipt = decode_response(answer.headers[PAYMENT_RESPONSE])
        assert receipt.success and receipt.transaction
        errand.cost_atoms = PRICE
        return 200

    async def buy_exact(self, errand: Errand, signer: Signer) -> None:
        """Present one and the same payment until there is an answer."""
        payment = await self.exact_payment(errand, signer)

        async def answered() -> bool:
            return await self.present(errand, payment) == 200

        await until(f"an answer to {errand}", answered)

    async def all_settled(self) -> None:
        """Until neither node has anything open."""
        await until("the seller's payments are settled", self._nothing_open_at_seller)
        await until("the buyer's channels are synchronised", self._nothing_open_at_buyer)

    async def _nothing_open_at_seller(self) -> bool:
        payments = "SELECT COUNT(*) FROM onchain_payment WHERE state IN ('owed', 'sent')"
        sent = "SELECT COUNT(*) FROM chain_tx WHERE state IN ('signed', 'broadcast')"
        return not await self.seller.number(payments) and not await self.seller.number(sent)

    async def _nothing_open_at_buyer(self) -> bool:
        channels = "SELECT COUNT(*) FROM buyer_channel WHERE state = 'opening'"
        return not await self.buyer.number(channels)

    async def claim_all(self) -> None:
        """Ask for a claim until nothing charged is unclaimed."""
        owed = (
            "SELECT SUM(charged_atoms - streaming_atoms - total_claimed_atoms) FROM seller_channel"
        )
        if await self.seller.number(owed):
            self.seller.claim_now()

        async def claimed() -> bool:
            return await self.seller.number(owed) == 0

        await until("everything is claimed", claimed)

    async def reconcile(self) -> None:
        """The books of both nodes equal the chain; a moment may pass until they do."""
        for node in self.nodes:
            found: Report | None = None

            async def balanced(node: NodeHome = node) -> bool:
                nonlocal found
                found = await node.reconcile()
                return found.balanced

            try:
                await until("the books equal the chain", balanced, 20)
            except AssertionError:
                raise AssertionError((node.name, found)) from None


def _code(body: bytes) -> str:
    with suppress(ValueError, AttributeError):
        document = json.loads(body)
        return f"{document.get('code') or document.get('type')} {document.get('detail') or ''}"
    return body[:60].decode(errors="replace")


@asynccontextmanager
async def open_market(
    chain: ChainProcess, folder: Path, network: Network = NETWORK
) -> AsyncIterator[Market]:
    """Two new nodes on `chain`, running, the API listed on both, and a key for the app."""
    async with AsyncExitStack() as stack:
        api = Api()
        api_url = await stack.enter_async_context(api.listening())
        seller, buyer = [
            await new_home(name, chain, folder, stack, network=network)
            for name in ("seller", "buyer")
        ]
        list_api(seller, api_url, ListingOrigin.OWN)
        secret = list_for_buyer(buyer, seller)
        transfer(chain, Signer.from_hex(chain.keys[9]), buyer.address, BUYER_ATOMS)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        market = Market(chain, api, seller, buyer, secret, session)
        try:
            await asyncio.gather(seller.start(), buyer.start())
            yield market
        except BaseException:
            for node in market.nodes:
                print(node.log()[-20_000:])
            raise


def transfer(chain: ChainProcess, source: Signer, to: str, atoms: int) -> None:
    """USDC as anybody sends it: with an event, so that the books know where it came from."""
    data = calldata("transfer", ("address", "uint256"), parse_address(to), atoms)
    transact(chain, source, chain.usdc, data)


def transact(chain: ChainProcess, source: Signer, to: str, data: bytes) -> None:
    """A transaction of somebody else's, mined at once."""
    transaction = {
        "type": 2,
        "chainId": chain.chain_id,
        "nonce": int(chain.rpc("eth_getTransactionCount", source.address, "latest"), 16),
        "to": checksum(parse_address(to)),
        "value": 0,
        "data": to_hex(data),
        "gas": 1_000_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 10**9,
    }
    raw, tx_hash = source.sign_transaction(transaction)
    chain.rpc("eth_sendRawTransaction", to_hex(raw))
    chain.rpc("evm_mine")
    receipt = chain.rpc("eth_getTransactionReceipt", tx_hash)
    assert receipt is not None and receipt["status"] == "0x1", receipt


async def new_home(
    name: str, chain: ChainProcess, folder: Path, stack: AsyncExitStack, **where: Any
) -> NodeHome:
    """A node that was never started; `where` are its database, public address and network,
    if they are not the usual ones."""
    relay = await stack.enter_async_context(FaultyRpc(chain.rpc_url))
    data_dir = folder / name
    await asyncio.to_thread(prepare_data_dir, data_dir)
    keystore = Keystore(data_dir / "keys")
    await asyncio.to_thread(keystore.create, PASSPHRASE)
    keys = await asyncio.to_thread(keystore.unlock, PASSPHRASE)
    ports = free_port(), free_port()
    home = NodeHome(name, folder, relay, *ports, keys, **where)
    fresh_database(home)
    chain.rpc("anvil_setBalance", home.address, hex(10**20))
    stack.push_async_callback(home.stop)
    return home


def list_for_buyer(buyer: NodeHome, seller: NodeHome) -> str:
    """The seller's listing in the buyer's catalog; the secret of a new key."""
    list_api(buyer, f"{seller.sold_at}/v1/{SLUG}", ListingOrigin.REMOTE)
    engine = open_engine(buyer.database_url)
    try:
        return create_key(engine, f"app-{secrets.token_hex(4)}", int(time.time())).secret
    finally:
        engine.dispose()


def list_api(home: NodeHome, url: str, origin: ListingOrigin) -> None:
    engine = open_engine(home.database_url)
    try:
        draft = Draft(LISTING, SLUG, url, origin=origin, price=Usdc(PRICE))
        with writer(engine).begin() as connection:
            add_listing(connection, draft, lambda _: "", int(time.time()))
    finally:
        engine.dispose()
