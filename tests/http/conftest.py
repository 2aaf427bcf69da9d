"""A real gateway over a real upstream, both under uvicorn on loopback, and a real payer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coincurve
import httpx
import msgspec
import pytest
import uvicorn
from sqlalchemy import text
from sqlmodel import SQLModel

import finance.models
import node.usage.models  # noqa: F401  (tables)
from catalog.listings import compile_listings
from catalog.models import Listing, RoutePrice
from finance.chain.addresses import USDC_ADDRESS
from finance.chain.rpc import Rpc
from finance.networks import NETWORKS
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.mirror import Mirror
from finance.store import Batch, Write
from finance.x402 import vouchers
from finance.x402.digest import address_of, channel_id
from finance.x402.values import ChannelConfig, PaymentRequired, VoucherPayment
from finance.x402.wire import decode_required, encode_payment
from node.db.engine import open_engine
from node.db.journal import Journal
from node.egress import EgressPolicy
from node.gateway.app import Gateway
from node.gateway.match import Sale
from node.gateway.ports import Seller
from tests.ports import free_port as free_port  # for those who start servers beside these
from tests.upstream import Upstream

NETWORK = NETWORKS["devnet"]
CHAIN_ID = NETWORK.chain_id
PRICE = 1_000
BALANCE = 1_000_000
SECRET = b"upstream-secret-0123456789"
SELLER = coincurve.PrivateKey(b"\x51" * 32)
AUTHORIZER = coincurve.PrivateKey(b"\x52" * 32)


_BOOKED = "SELECT COALESCE(SUM(amount), 0) FROM ledger_entry"


@contextlib.asynccontextmanager
async def serving(app: Any, port: int) -> AsyncIterator[None]:
    """`app` under a real uvicorn in this loop."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="critical",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


class NoMoney:
    """Stands where the chain's writers would: these tests move no money on-chain."""

    async def settle(self, payment_id: str, timeout: float) -> Any:
        raise AssertionError("nothing was to be settled")

    async def take_over(self, owners: Any) -> int:
        return 0

    async def refund(self, channel: Any, amount: int | None) -> Any:
        raise AssertionError("nothing was to be refunded")

    async def finish_abandoned(self) -> None:
        pass


@dataclass
class Payer:
    """Somebody with a channel: signs the vouchers it is told to."""

    key: coincurve.PrivateKey
    config: ChannelConfig
    id: bytes
    charged: int = 0

    @property
    def key_hex(self) -> str:
        return "0x" + self.id.hex()

    def voucher(self, required: PaymentRequired, due: int | None = None, **changes: Any) -> str:
        """A PAYMENT-SIGNATURE over what is due next (or over `due`)."""
        accepted = next(a for a in required.accepts if a.scheme == "batch-settlement")
        due = self.charged + int(accepted.amount) if due is None else due
        signature = vouchers.sign_voucher(self.key, self.id, due, CHAIN_ID)
        payload = VoucherPayment(self.config, self.id, due, signature)
        extensions = changes.pop("extensions", None)
        if changes:
            accepted = msgspec.structs.replace(accepted, **changes)
        return encode_payment(accepted, payload, required.resource, extensions).decode()


@dataclass
class Market:
    """The pieces of one test."""

    gateway: Gateway
    seller: Seller
    journal: Journal
    upstream: Upstream
    upstream_url: str
    url: str
    client: httpx.AsyncClient
    listings: list[Listing] = field(default_factory=list)
    prices: list[RoutePrice] = field(default_factory=list)
    paused: bool = False
    closed: bool = False
    owing: bool = False  # a payment is left on its way, as a crash would
    claims: list[str] = field(default_factory=list)

    def sell(self, slug: str = "api", base: str | None = None, **fields: Any) -> Listing:
        """Put a listing up for sale."""
        row = Listing(
            id=f"id-{slug}",
            slug=slug,
            name=f"The {slug}",
            base_url=base or self.upstream_url + "/base",
            **{"price_atoms": PRICE, **fields},
        )
        self.listings.append(row)
        self.reload()
        return row

    def price(self, method: str, path: str, atoms: int, slug: str = "api") -> None:
        self.prices.append(
            RoutePrice(listing_id=f"id-{slug}", method=method, path=path, price_atoms=atoms)
        )
        self.reload()

    def reload(self) -> None:
        self.gateway.reload(compile_listings(self.listings, self.prices))

    async def offer(self, path: str, method: str = "GET") -> PaymentRequired:
        """Ask without paying."""
        answer = await self.client.request(method, self.url + path)
        assert answer.status_code == 402, answer.text
        return decode_required(answer.headers["payment-required"])

    async def buy(
        self, payer: Payer, path: str, method: str = "GET", **options: Any
    ) -> httpx.Response:
        """Pay with the payer's next voucher, and remember the charge."""
        amount = options.pop("amount", None)
        changes = options.pop("changes", {})
        required = options.pop("required", None) or await self.offer(path, method)
        header = payer.voucher(required, amount, **changes)
        headers = {**options.pop("headers", {}), "PAYMENT-SIGNATURE": header}
        answer = await self.client.request(method, self.url + path, headers=headers, **options)
        if "payment-response" in answer.headers:
            payer.charged = await self.charged(payer)
        return answer

    async def payer(self, seed: int = 1, balance: int = BALANCE, **changes: Any) -> Payer:
        """A payer with an open channel, as a deposit would have left it in the books."""
        key = coincurve.PrivateKey(bytes([seed]) * 32)
        sale = self.seller.sale
        config = ChannelConfig(
            address_of(key),
            address_of(key),
            sale.pay_to,
            sale.receiver_authorizer,
            sale.asset,
            sale.withdraw_delay_seconds,
            bytes([seed]) * 32,
        )
        payer = Payer(key, config, channel_id(config, CHAIN_ID))
        row = {
            "channel_id": payer.key_hex,
            "chain_id": CHAIN_ID,
            "payer": "0x" + config.payer.hex(),
            "payer_authorizer": "0x" + config.payer_authorizer.hex(),
            "receiver": "0x" + config.receiver.hex(),
            "receiver_authorizer": "0x" + config.receiver_authorizer.hex(),
            "token": "0x" + config.token.hex(),
            "withdraw_delay": config.withdraw_delay,
            "salt": "0x" + config.salt.hex(),
            "state": "open",
            "balance_atoms": balance,
            "total_claimed_atoms": 0,
            "withdraw_requested_at": 0,
            "withdraw_amount_atoms": 0,
            "refund_nonce": 0,
            "synced_at": int(time.time()),
            "synced_block": 0,
            "charged_atoms": 0,
            "streaming_atoms": 0,
            "streaming_owner": 0,
            "signed_atoms": 0,
            "voucher_signature": "0x",
            "last_request_at": 0,
        } | changes
        insert = finance.models.SellerChannel.__table__.insert()  # type: ignore[attr-defined]
        await self.journal.commit(Batch([Write(insert, row)]))
        return payer

    def rows(self, sql: str, **params: Any) -> list[Any]:
        with self.journal.engine.connect() as connection:
            return list(connection.execute(text(sql), params).all())

    async def charged(self, payer: Payer) -> int:
        """What the books say the channel was charged."""
        sql = "SELECT charged_atoms FROM seller_channel WHERE channel_id = :id"
        return int(self.rows(sql, id=payer.key_hex)[0][0])

    async def settled(self) -> None:
        """Wait until everything that is booked in the background is booked."""
        await self.gateway._desk.stop()

    def assert_books_balance(self) -> None:
        """Ledger, channels, calls and rollups say the same (law 9)."""
        for channel, charged in self.rows("SELECT channel_id, charged_atoms FROM seller_channel"):
            sql = _BOOKED + " WHERE account = 'charged' AND channel_id = :id"
            booked = self.rows(sql, id=channel)[0][0]
            assert booked == charged, f"{channel}: ledger {booked}, charged {charged}"
        total = self.rows("SELECT COALESCE(SUM(amount_atoms), 0) FROM call")[0][0]
        rollup = self.rows("SELECT COALESCE(SUM(amount_atoms), 0) FROM call_rollup")[0][0]
        ledger = self.rows(_BOOKED + " WHERE account IN ('charged', 'exact')")[0][0]
        assert total == rollup == ledger


@contextlib.asynccontextmanager
async def open_market(journal: Journal, pay_to: bytes, authorizer: bytes, **parts: Any) -> Any:
    """A running gateway before a running upstream; `parts` are fields of Seller or Sale, but for
    `gateway`, which are the gateway's own."""
    of_gateway = parts.pop("gateway", {})
    port, upstream_port = free_port(), free_port()
    sale = Sale(
        public_url=f"http://127.0.0.1:{port}",
        pay_to=pay_to,
        asset=bytes.fromhex(USDC_ADDRESS[2:]),
        chain_id=CHAIN_ID,
        token_name=NETWORK.usdc_name,
        token_version=NETWORK.usdc_version,
        receiver_authorizer=authorizer,
        withdraw_delay_seconds=parts.pop("withdraw_delay_seconds", 86_400),
        max_timeout_seconds=parts.pop("max_timeout_seconds", 2),
    )
    market: Market
    claims: list[str] = []
    seller = Seller(
        sale=sale,
        store=journal,
        egress=EgressPolicy([f"127.0.0.1:{upstream_port}"]),
        unseal=bytes.fromhex,
        claim_soon=claims.append,
        paused=lambda: market.paused or market.closed,
        closed=lambda: market.closed,
        **{
            "ceiling_atoms": BALANCE,
            "max_body_bytes": 4 * 1024 * 1024,
            "spool_bytes": 1024 * 1024,
            **parts,
        },
    )
    gateway, upstream = Gateway(seller, **of_gateway), Upstream()
    await gateway.start()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(serving(upstream, upstream_port))
        await stack.enter_async_context(serving(gateway, port))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20, verify=False))
        market = Market(
            gateway,
            seller,
            journal,
            upstream,
            f"http://127.0.0.1:{upstream_port}",
            sale.public_url,
            client,
            claims=claims,
        )
        yield market
        await gateway.stop()
    if not market.owing:
        market.assert_books_balance()


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    """A gateway in front of an upstream. The chain is down: vouchers must not need it."""
    engine = open_engine(f"sqlite:///{tmp_path}/farebox.db")
    SQLModel.metadata.create_all(engine)
    journal = Journal(engine)
    rpc = Rpc(["http://127.0.0.1:9"], CHAIN_ID)
    money = NoMoney()
    parts = {
        "channels": SellerChannels(journal, Mirror(journal, rpc, NETWORK)),
        "checks": ChainChecks(rpc),
        "settlement": money,
        "refunds": money,
    }
    async with open_market(journal, address_of(SELLER), address_of(AUTHORIZER), **parts) as market:
        yield market
    journal.close()
    engine.dispose()
