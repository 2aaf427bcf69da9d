"""Everything a node is made of, built once from settings and keys. Nothing runs yet."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Engine

from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.networks import Network
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.claims import Claims
from finance.selling.mirror import Mirror
from finance.selling.refunds import Refunds
from finance.selling.settlement import Settlement
from finance.selling.tools import SellerTools
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Keys
from finance.x402.text import checksum, parse_address
from node.alerts.alerts import Alerts
from node.console.facts import NodeFacts
from node.controls import Controls, build_controls, build_private
from node.db.journal import Journal
from node.db.locks import locks_of
from node.egress import EgressPolicy
from node.gateway.app import Gateway
from node.gateway.match import Sale
from node.gateway.ports import Seller
from node.market.shop import Shop
from node.plans.clerk import Clerk
from node.plans.gate import SubscriberGate
from node.plans.settlement import TellingSettlement
from node.private import PrivateListener
from node.proxy.app import Proxy
from node.settings import Settings
from node.shop import build_shop
from node.subscriptions import build_subscriptions
from node.treasury.treasury import Treasury, build_treasury, build_watch
from node.usage.leases import open_leases
from node.usage.live import LiveUse, ReadLive
from node.usage.models import Side
from node.usage.quotas import Quotas
from node.usage.streams import Streams
from node.vault.build import VaultParts, build_vault


class Readiness:
    """Whether the gateway should be sent calls. `books_held`: they come from a backup, and the
    chain was not asked yet; until then nothing that is paid for is served."""

    def __init__(self) -> None:
        self.serving = False
        self.books_held = False

    def __call__(self) -> bool:
        return self.serving and not self.books_held


@dataclass(frozen=True, slots=True)
class Money:
    """The parts that move money on the chain."""

    network: Network
    journal: Journal
    rpc: Rpc
    sender: Sender
    mirror: Mirror
    channels: SellerChannels
    settlement: Settlement
    claims: Claims
    refunds: Refunds


@dataclass(frozen=True, slots=True)
class Parts:
    """A node. `gateway` and `private` are the apps of its two listeners."""

    settings: Settings
    money: Money
    gateway: Gateway
    proxy: Proxy
    streams: Streams
    private: PrivateListener
    controls: Controls
    treasury: Treasury
    shop: Shop
    backups: VaultParts
    ready: Readiness


def build_money(network: Network, keys: Keys, engine: Engine) -> Money:
    """Chain access and the seller's services, in the order in which they know each other."""
    journal = Journal(engine)
    rpc = Rpc(network.rpc_urls, network.chain_id)
    sender = Sender(rpc, keys.wallet, network, journal, GasCaps.default(network))
    mirror = Mirror(journal, rpc, network)
    channels = SellerChannels(journal, mirror, locks_of(engine))
    settlement = Settlement(journal, sender, rpc, channels, mirror, network)
    tools = SellerTools(journal, sender, rpc, keys.receiver, channels, mirror, network)
    return Money(
        network,
        journal,
        rpc,
        sender,
        mirror,
        channels,
        settlement,
        Claims(tools),
        Refunds(tools),
    )


def build_parts(settings: Settings, keys: Keys, engine: Engine) -> Parts:
    """All of a node; `settings` name the ports really bound."""
    network, ready = settings.chain, Readiness()
    money, alerts = build_money(network, keys, engine), Alerts(engine)
    watch = build_watch(money.journal, money.rpc, network, keys.wallet.address, alerts)
    egress = EgressPolicy(settings.allowed_hosts)
    quotas = Quotas(engine, open_leases(engine))
    subscribers = SubscriberGate(money.journal, quotas, Clerk(engine).issue)
    seller = Seller(
        sale=_sale(settings, network, keys),
        store=money.journal,
        channels=money.channels,
        checks=ChainChecks(money.rpc),
        settlement=TellingSettlement(money.settlement, subscribers.settled),
        refunds=money.refunds,
        egress=egress,
        unseal=keys.unseal,
        claim_soon=money.claims.claim_soon,
        paused=lambda: ready.books_held or watch.guard.paused(),
        closed=lambda: ready.books_held or watch.guard.paused_by_hand(),
        ready=ready,
    )
    streams = Streams(money.journal, quotas=quotas)
    proxy = Proxy(
        money.journal,
        keys,
        network,
        money.rpc,
        egress=egress,
        quotas=quotas,
        streams=streams,
    )
    gateway = Gateway(seller, streams=streams, subscribers=subscribers)
    shop = build_shop(settings, network, engine, alerts, egress, proxy, gateway)
    backups = build_vault(settings, keys, money.journal, money.rpc, money.claims, alerts)
    treasury = build_treasury(
        money.journal,
        money.rpc,
        money.sender,
        network,
        watch,
        money.claims,
        money.channels,
        money.refunds,
        proxy.buyer,
        Keystore(settings.keystore_dir),
        lambda: egress,
    )
    controls = build_controls(
        settings,
        _facts(settings, keys),
        keys,
        alerts,
        treasury,
        shop,
        backups,
        _live(proxy, streams),
        build_subscriptions(engine, keys, network, alerts, proxy),
    )
    return Parts(
        settings=settings,
        money=money,
        gateway=gateway,
        proxy=proxy,
        streams=streams,
        private=build_private(controls, proxy),  # type: ignore[arg-type]
        controls=controls,
        treasury=treasury,
        shop=shop,
        backups=backups,
        ready=ready,
    )


def _live(proxy: Proxy, streams: Streams) -> ReadLive:
    """What the proxy of this process counts of a key, on the event loop it shares with pages."""

    def read(key_id: str, now: int) -> LiveUse:
        held = streams.live(Side.BOUGHT).items()
        open_ = sum(count for (_, holder), count in held if holder == key_id)
        return LiveUse(proxy.gate.in_last_minute(key_id, now), open_)

    return read


def _sale(settings: Settings, network: Network, keys: Keys) -> Sale:
    return Sale(
        public_url=settings.gateway_url,
        pay_to=keys.wallet.address_bytes,
        asset=parse_address(network.usdc),
        chain_id=network.chain_id,
        token_name=network.usdc_name,
        token_version=network.usdc_version,
        receiver_authorizer=keys.receiver.address_bytes,
    )


def _facts(settings: Settings, keys: Keys) -> NodeFacts:
    return NodeFacts(
        network=settings.network,
        main_network=settings.network == "base",
        address=checksum(keys.wallet.address_bytes),
        gateway_url=settings.gateway_url,
        started_at=int(time.time()),
    )
