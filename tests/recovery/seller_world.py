"""A seller's money on a real chain: database, journal, sender, settlement, and payers.

Nothing here is faked but the clock, which the development chain lets us move.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any, Protocol, Self

import coincurve
import msgspec
from sqlalchemy import func, insert, select, text

from finance.chain.addresses import USDC_ADDRESS
from finance.chain.contracts import usdc_balance_slot
from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.chain.watcher import Watcher
from finance.ledger import Account
from finance.models import ChannelState, OnchainPayment, PaymentKind, PaymentState, SellerChannel
from finance.networks import NETWORKS
from finance.selling.channel_watch import ChannelWatch
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.claims import Claims
from finance.selling.mirror import Mirror
from finance.selling.refunds import Refunds
from finance.selling.settlement import Settlement
from finance.selling.tools import SellerTools
from finance.store import Batch, Write
from finance.wallet.signer import Signer
from finance.x402 import digest, vouchers
from finance.x402.exact import sign_authorization
from finance.x402.offers import Terms
from finance.x402.text import checksum, parse_address, to_hex
from finance.x402.values import (
    ChannelConfig,
    DepositPayment,
    ExactPayment,
    TransferAuthorization,
)
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from tests.chain_fixtures import rpc

NETWORK = NETWORKS["devnet"]
USDC = USDC_ADDRESS.lower()
PRICE = 1_000
DELAY = 900

PAYMENT = OnchainPayment.__table__  # type: ignore[attr-defined]
CHANNEL = SellerChannel.__table__  # type: ignore[attr-defined]
_INSERT_PAYMENT, _INSERT_CHANNEL = insert(PAYMENT), insert(CHANNEL)


class Chain:
    """A chain somebody else runs, by its URL."""

    def __init__(self, rpc_url: str) -> None:
        self.rpc_url = rpc_url

    def rpc(self, method: str, *params: Any) -> Any:
        return rpc(self.rpc_url, method, *params)


class AnyChain(Protocol):
    """A chain of the tests: a process of ours, or known by its URL."""

    rpc_url: str

    def rpc(self, method: str, *params: Any) -> Any: ...


class Payer:
    """Somebody with USDC and a key."""

    def __init__(self, chain: AnyChain, atoms: int = 1_000_000) -> None:
        self.key = coincurve.PrivateKey()
        self.address = digest.address_of(self.key)
        self.hex = to_hex(self.address)
        give_usdc(chain, self.hex, atoms)


def give_usdc(chain: AnyChain, address: str, atoms: int) -> None:
    chain.rpc("anvil_setStorageAt", USDC, hex(usdc_balance_slot(address)), f"0x{atoms:064x}")


def usdc_of(chain: AnyChain, address: str, token: str = USDC) -> int:
    data = "0x70a08231" + address[2:].rjust(64, "0")
    return int(chain.rpc("eth_call", {"to": token, "data": data}, "latest"), 16)


def chain_now(chain: AnyChain) -> int:
    return int(chain.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)


class World:
    """One seller node's finance on `chain`; everything in `folder` survives a restart."""

    def __init__(
        self,
        chain: AnyChain,
        folder: Path,
        wallet: Signer | None = None,
        receiver: Signer | None = None,
        rpc_url: str | None = None,
        journal: type[Journal] = Journal,
    ) -> None:
        self.chain = chain
        self.folder = folder
        self.wallet = wallet or Signer.random()
        self.receiver = receiver or Signer.random()
        self.rpc_url = rpc_url or chain.rpc_url
        self.journal = journal
        chain.rpc("anvil_setBalance", self.wallet.address, hex(10**20))

    async def __aenter__(self) -> Self:
        self.engine = open_engine(f"sqlite:///{self.folder / 'farebox.db'}")
        upgrade(self.engine)
        self.store = self.journal(self.engine)
        self.rpc = Rpc([self.rpc_url], NETWORK.chain_id)
        caps = GasCaps.default(NETWORK)
        self.sender = Sender(self.rpc, self.wallet, NETWORK, self.store, caps)
        self.mirror = Mirror(self.store, self.rpc, NETWORK)
        self.channels = SellerChannels(self.store, self.mirror)
        self.checks = ChainChecks(self.rpc)
        tools = SellerTools(
            self.store,
            self.sender,
            self.rpc,
            self.receiver,
            self.channels,
            self.mirror,
            NETWORK,
        )
        self.claims, self.refunds = Claims(tools), Refunds(tools)
        self.settlement = Settlement(
            self.store, self.sender, self.rpc, self.channels, self.mirror, NETWORK
        )
        self._watch = ChannelWatch(self.mirror, self.claims, self.settlement, self.refunds)
        handlers = self._watch.handle, self._watch.reorganised
        # Looks once a test starts it, or asks for what has come.
        self.watcher = Watcher(self.rpc, self.store, NETWORK, self.wallet.address, *handlers)
        await self.sender.start()
        await self.settlement.start()
        await self.refunds.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.watcher.stop()
        await self._watch.stop()
        await self.settlement.stop()
        await self.claims.stop()
        await self.refunds.stop()
        await self.sender.stop()
        await self.rpc.close()
        self.store.close()
        self.engine.dispose()

    @property
    def terms(self) -> Terms:
        return Terms(
            "listing",
            "GET /",
            "GET",
            "http://seller.example/v1/x",
            PRICE,
            self.wallet.address_bytes,
            bytes.fromhex(USDC[2:]),
            NETWORK.chain_id,
            self.receiver.address_bytes,
            "USD Coin",
            "2",
            withdraw_delay_seconds=DELAY,
        )

    def exact(self, payer: Payer, value: int = PRICE, valid_for: int = 600) -> ExactPayment:
        authorization = TransferAuthorization(
            payer.address,
            self.wallet.address_bytes,
            value,
            0,
            max(chain_now(self.chain), int(time.time())) + valid_for,
            secrets.token_bytes(32),
        )
        return sign_authorization(payer.key, authorization, self.terms.token_domain)

    def config(self, payer: Payer) -> ChannelConfig:
        return ChannelConfig(
            payer.address,
            payer.address,
            self.wallet.address_bytes,
            self.receiver.address_bytes,
            bytes.fromhex(USDC[2:]),
            DELAY,
            secrets.token_bytes(32),
        )

    def deposit(
        self, payer: Payer, amount: int, config: ChannelConfig | None = None, charged: int = 0
    ) -> DepositPayment:
        config = config or self.config(payer)
        channel_id = digest.channel_id(config, NETWORK.chain_id)
        cumulative = charged + PRICE
        signature = vouchers.sign_voucher(payer.key, channel_id, cumulative, NETWORK.chain_id)
        payment = DepositPayment(
            config,
            channel_id,
            cumulative,
            signature,
            amount,
            0,
            max(chain_now(self.chain), int(time.time())) + 600,
            int.from_bytes(secrets.token_bytes(32), "big"),
            b"",
        )
        return vouchers.sign_deposit(payer.key, payment, self.terms.token_domain)

    async def owe(
        self, payment: ExactPayment | DepositPayment, payment_id: str | None = None
    ) -> str:
        """Store a payment as the gateway does once its answer is stored; its id."""
        payment_id = payment_id or secrets.token_hex(8)
        exact = isinstance(payment, ExactPayment)
        writes = [] if isinstance(payment, ExactPayment) else self._channel_writes(payment)
        terms = payment.authorization if isinstance(payment, ExactPayment) else None
        terms = terms or vouchers.deposit_authorization(payment)  # type: ignore[arg-type]
        row: dict[str, Any] = {
            "id": payment_id,
            "kind": PaymentKind.EXACT if exact else PaymentKind.DEPOSIT,
            "state": PaymentState.OWED,
            "chain_id": NETWORK.chain_id,
            "token": USDC,
            "payer": to_hex(terms.from_address),
            "nonce": to_hex(terms.nonce),
            "pay_to": to_hex(terms.to),
            "value_atoms": terms.value,
            "charge_atoms": PRICE,
            "valid_after": terms.valid_after,
            "valid_before": terms.valid_before,
            "signature": to_hex(payment.signature),
            "channel_id": None,
            "deposit_salt": None,
            "voucher_atoms": 0,
            "voucher_signature": None,
            "fingerprint": "f",
            "owner": 0,
            "listing_id": "listing",
            "route": "GET /",
            "created_at": int(time.time()),
            "updated_at": int(time.time()),
        }
        if isinstance(payment, DepositPayment):
            row |= {
                "signature": to_hex(payment.deposit_signature),
                "channel_id": to_hex(payment.channel_id),
                "deposit_salt": hex(payment.deposit_salt),
                "voucher_atoms": payment.max_claimable,
                "voucher_signature": to_hex(payment.signature),
            }
        await self.store.commit(Batch([*writes, Write(_INSERT_PAYMENT, row)]))
        return payment_id

    def _channel_writes(self, payment: DepositPayment) -> list[Write]:
        key = to_hex(payment.channel_id)
        if self.row(CHANNEL, CHANNEL.c.channel_id == key) is not None:
            return []
        return [Write(_INSERT_CHANNEL, channel_row(key, payment.config))]

    async def open_channel(self, payer: Payer, amount: int) -> DepositPayment:
        """A channel with `amount` in it, of which one call is charged."""
        payment = self.deposit(payer, amount)
        await self.settlement.settle(await self.owe(payment), 120)
        return payment

    async def charge(self, payer: Payer, channel_id: bytes, cumulative: int) -> None:
        """Charge a voucher over `cumulative`, as the gateway does call by call."""
        key = to_hex(channel_id)
        signature = vouchers.sign_voucher(payer.key, channel_id, cumulative, NETWORK.chain_id)
        statement = text(
            "UPDATE seller_channel SET charged_atoms = :to, signed_atoms = :to,"
            " voucher_signature = :signature WHERE channel_id = :id"
        )
        values = {"to": cumulative, "signature": to_hex(signature), "id": key}
        await self.store.commit(Batch([Write(statement, values)]))
        await self.channels.reload(key)

    # What is looked at

    def row(self, table: Any, condition: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(select(table).where(condition)).one_or_none()

    def payment(self, payment_id: str) -> Any:
        return self.row(PAYMENT, PAYMENT.c.id == payment_id)

    def channel(self, channel_id: bytes | str) -> Any:
        key = channel_id if isinstance(channel_id, str) else to_hex(channel_id)
        return self.row(CHANNEL, CHANNEL.c.channel_id == key)

    def booked(self, account: Account) -> int:
        with self.engine.connect() as connection:
            statement = text("SELECT COALESCE(SUM(amount), 0) FROM ledger_entry WHERE account = :a")
            return int(connection.execute(statement, {"a": account.value}).scalar_one())

    def transactions(self, purpose: str = "settle") -> list[Any]:
        with self.engine.connect() as connection:
            statement = text("SELECT * FROM chain_tx WHERE purpose = :p ORDER BY id")
            return list(connection.execute(statement, {"p": purpose}))

    def count(self, state: PaymentState) -> int:
        query = select(func.count()).where(PAYMENT.c.state == state)
        with self.engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    def assert_books_balance(self) -> None:
        """Exact payments booked equal the money that came in; charges equal the channels."""
        with self.engine.connect() as connection:
            charged = connection.scalar(select(func.coalesce(func.sum(CHANNEL.c.charged_atoms), 0)))
        exact = select(func.coalesce(func.sum(PAYMENT.c.value_atoms), 0)).where(
            PAYMENT.c.state == PaymentState.CONFIRMED, PAYMENT.c.kind == PaymentKind.EXACT
        )
        with self.engine.connect() as connection:
            assert self.booked(Account.EXACT) == connection.scalar(exact)
        assert charged is not None


def channel_row(key: str, config: ChannelConfig) -> dict[str, Any]:
    """An opening channel, as the gateway inserts it with its first deposit."""
    names = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "salt")
    values = msgspec.structs.asdict(config)
    return {
        "channel_id": key,
        "chain_id": NETWORK.chain_id,
        **{name: to_hex(values[name]) for name in names},
        "withdraw_delay": config.withdraw_delay,
        "state": ChannelState.OPENING,
        "balance_atoms": 0,
        "total_claimed_atoms": 0,
        "withdraw_requested_at": 0,
        "withdraw_amount_atoms": 0,
        "refund_nonce": 0,
        "synced_at": 0,
        "synced_block": 0,
        "charged_atoms": 0,
        "streaming_atoms": 0,
        "streaming_owner": 0,
        "signed_atoms": 0,
        "voucher_signature": "0x",
        "last_request_at": 0,
    }


def send_as(chain: AnyChain, signer: Signer, to: str, data: bytes) -> str:
    """A transaction of somebody else's, mined at once; its hash."""
    chain.rpc("anvil_setBalance", signer.address, hex(10**20))
    transaction = {
        "type": 2,
        "chainId": NETWORK.chain_id,
        "nonce": int(chain.rpc("eth_getTransactionCount", signer.address, "pending"), 16),
        "to": checksum(parse_address(to)),
        "value": 0,
        "data": to_hex(data),
        "gas": 5_000_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 10**9,
    }
    raw, tx_hash = signer.sign_transaction(transaction)
    chain.rpc("eth_sendRawTransaction", to_hex(raw))
    receipt = chain.rpc("eth_getTransactionReceipt", tx_hash)
    assert receipt is not None and receipt["status"] == "0x1", receipt
    return tx_hash
