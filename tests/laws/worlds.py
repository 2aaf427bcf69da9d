"""What the promises are tested in: a seller with a chain, a second process, a witness."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import httpx

from catalog.listings import compile_listings
from catalog.models import Listing
from finance.chain.devchain.accounts import derive_accounts
from finance.chain.rpc import Rpc
from finance.chain.watcher import SeenEvent, Watcher
from finance.networks import NETWORKS
from finance.reconcile import Report, reconcile
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.mirror import Mirror
from finance.x402.digest import address_of
from finance.x402.values import DepositPayment, ExactPayment, PaymentRequired, VoucherPayment
from finance.x402.wire import decode_required, encode_payment
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.locks import locks_of
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.gateway.app import Gateway
from node.gateway.match import Sale
from node.gateway.ports import Seller
from tests.chain_fixtures import ChainProcess
from tests.http.conftest import (
    AUTHORIZER,
    SELLER,
    Market,
    NoMoney,
    free_port,
    open_market,
    serving,
)
from tests.recovery.seller_world import DELAY, PRICE, Payer, World
from tests.upstream import Upstream

NETWORK = NETWORKS["devnet"]
CHAIN_URL = "FAREBOX_LAWS_CHAIN"
NOWHERE = "http://127.0.0.1:9"
CHARGED = "SELECT SUM(amount) FROM ledger_entry WHERE account = 'charged'"


class RunningChain(ChainProcess):
    """A development chain that somebody else has started, and will end."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__([], NETWORK.chain_id)
        accounts = derive_accounts(10)
        self.rpc_url = rpc_url
        self.keys = [account.key_hex for account in accounts]
        self.addresses = [account.address for account in accounts]


class UnreachableChain(ChainProcess):
    """No chain at all, for what must work, or must be refused, without one."""

    def __init__(self) -> None:
        super().__init__([], NETWORK.chain_id)
        self.rpc_url = NOWHERE
        self.keys = [coincurve.PrivateKey().to_hex() for _ in range(2)]


class Shop:
    """A seller: `world` is its money, `url` its gateway, `upstream` the API behind it."""

    def __init__(
        self, world: World, upstream: Upstream, upstream_port: int, client: httpx.AsyncClient
    ) -> None:
        self.world, self.upstream, self.client = world, upstream, client
        self._upstream_port, self._open = upstream_port, list[Gateway]()
        base = f"http://127.0.0.1:{upstream_port}/base"
        self.listing = Listing(
            id="id-api", slug="api", name="The api", base_url=base, price_atoms=PRICE
        )
        self.max_timeout_seconds, self.ceiling_atoms = 30, 1_000_000
        self.watcher = Watcher(world.rpc, world.store, NETWORK, world.wallet.address, self._handle)

    async def _handle(self, event: SeenEvent) -> None:
        """The node's own handler reacts to payers; these tests do so themselves."""

    def gateway(self, port: int) -> Gateway:
        """A gateway over the shop's books, reachable at `port`."""
        world = self.world
        sale = Sale(
            public_url=f"http://127.0.0.1:{port}",
            pay_to=world.wallet.address_bytes,
            asset=bytes.fromhex(NETWORK.usdc[2:]),
            chain_id=NETWORK.chain_id,
            token_name=NETWORK.usdc_name,
            token_version=NETWORK.usdc_version,
            receiver_authorizer=world.receiver.address_bytes,
            withdraw_delay_seconds=DELAY,
            max_timeout_seconds=self.max_timeout_seconds,
        )
        seller = Seller(
            sale=sale,
            store=world.store,
            channels=world.channels,
            checks=world.checks,
            settlement=world.settlement,
            refunds=world.refunds,
            egress=EgressPolicy([f"127.0.0.1:{self._upstream_port}"]),
            unseal=bytes.fromhex,
            claim_soon=world.claims.claim_soon,
            ceiling_atoms=self.ceiling_atoms,
        )
        return Gateway(seller, compile_listings([self.listing], []))

    def reprice(self, atoms: int) -> None:
        """Every open gateway sells at this price from now on."""
        self.listing.price_atoms = atoms
        for gateway in self._open:
            gateway.reload(compile_listings([self.listing], []))

    @asynccontextmanager
    async def open_gateway(self, wrap: Callable[[Any], Any] | None = None) -> AsyncIterator[str]:
        """One gateway that serves; its URL. `wrap` stands between it and the network."""
        port = free_port()
        gateway = self.gateway(port)
        self._open.append(gateway)
        await gateway.start()
        async with serving(wrap(gateway) if wrap else gateway, port):
            yield f"http://127.0.0.1:{port}"
        await gateway.stop()
        self._open.remove(gateway)

    async def offer(self, url: str, path: str = "/v1/api/echo") -> PaymentRequired:
        answer = await self.client.get(url + path)
        return decode_required(answer.headers["payment-required"])

    async def header(
        self,
        url: str,
        payment: ExactPayment | DepositPayment | VoucherPayment,
        path: str = "/v1/api/echo",
    ) -> dict[str, str]:
        """The request header that pays with `payment`."""
        required = await self.offer(url, path)
        scheme = "exact" if isinstance(payment, ExactPayment) else "batch-settlement"
        accepted = next(each for each in required.accepts if each.scheme == scheme)
        paid = encode_payment(accepted, payment, required.resource)
        return {"PAYMENT-SIGNATURE": paid.decode()}

    def payer(self, atoms: int = 1_000_000) -> Payer:
        return Payer(self.world.chain, atoms)

    async def reconcile(self) -> Report:
        """The shop's books against the chain."""
        world = self.world
        return await reconcile(world.store, world.rpc, world.wallet.address, NETWORK, self.watcher)

    async def assert_books_balance(self) -> None:
        self.world.assert_books_balance()
        report = await self.reconcile()
        assert report.balanced, report.differences


@asynccontextmanager
async def open_shop(
    chain: ChainProcess, folder: Path, rpc_url: str | None = None
) -> AsyncIterator[Shop]:
    upstream, port = Upstream(), free_port()
    async with (
        World(chain, folder, rpc_url=rpc_url) as world,
        serving(upstream, port),
        httpx.AsyncClient(timeout=60, verify=False) as client,
    ):
        shop = Shop(world, upstream, port, client)
        await shop.watcher.catch_up()
        yield shop


@asynccontextmanager
async def shared_market(url: str) -> AsyncIterator[Market]:
    """A market on a database that other processes sell from too; its chain is down."""
    engine = open_engine(url)
    upgrade(engine)
    journal, rpc = Journal(engine), Rpc([NOWHERE], NETWORK.chain_id)
    channels = SellerChannels(journal, Mirror(journal, rpc, NETWORK), locks_of(engine))
    money = NoMoney()
    parts = {
        "channels": channels,
        "checks": ChainChecks(rpc),
        "settlement": money,
        "refunds": money,
    }
    async with open_market(journal, address_of(SELLER), address_of(AUTHORIZER), **parts) as market:
        yield market
    journal.close()
    engine.dispose()


@asynccontextmanager
async def second_process(market: Market) -> AsyncIterator[str]:
    """What a second process on the market's database would be: nothing in memory is shared."""
    engine = open_engine(str(market.journal.engine.url))
    journal = Journal(engine)
    mirror = Mirror(journal, Rpc([NOWHERE], NETWORK.chain_id), NETWORK)
    channels = SellerChannels(journal, mirror, locks_of(engine))
    seller = replace(market.seller, store=journal, channels=channels)
    gateway = Gateway(seller, compile_listings(market.listings, market.prices))
    port = free_port()
    async with serving(gateway, port):
        yield f"http://127.0.0.1:{port}"
    await gateway.stop()
    journal.close()
    engine.dispose()


class Witness:
    """Between a gateway and the network: what was on disk when a paid answer began to leave.

    `look` is called with no regard for anything in memory; `seen` keeps its answers.
    """

    def __init__(self, app: Any, look: Callable[[], Any]) -> None:
        self._app, self._look = app, look
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def witnessed(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self.seen.append(self._look())
            await send(message)

        await self._app(scope, receive, witnessed)


async def at_first_byte(market: Market, path: str, look: Callable[[], Any]) -> list[Any]:
    """What `look` finds when the answer to a paid call begins to leave."""
    market.sell()
    payer = await market.payer()
    header = payer.voucher(await market.offer(path))
    witness, port = Witness(market.gateway, look), free_port()
    async with serving(witness, port):
        url = f"http://127.0.0.1:{port}{path}"
        answer = await market.client.get(url, headers={"PAYMENT-SIGNATURE": header})
    assert answer.status_code == 200
    return witness.seen


def on_disk(database: str | Path | None, sql: str) -> Any:
    """The first value of a query, read by a connection that has just been opened."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        row = connection.execute(sql).fetchone()
    connection.close()
    return row and row[0]
