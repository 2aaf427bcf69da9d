"""Peers, how often they are read, and the private hosts that may be reached."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from pydantic import BaseModel, Field

from catalog.peers import PeerState
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints
from node.market import peers
from node.market.network import NetworkChoices
from node.market.rpc_state import look_at_rpc
from node.market.shop import Shop
from node.preferences import read_preference

_Host = Annotated[str, Field(max_length=260, pattern=r"^[^\x00]*$")]


class LeftOut(BaseModel):
    reason: str
    resources: int


class PeerOut(BaseModel):
    """A peer; times in Unix seconds, null: never. `error` is empty when the last sync went
    well. `online` counts those of its listings that it still lists."""

    id: str
    name: str
    url: str
    enabled: bool
    asked_at: int | None
    synced_at: int | None
    error: str
    resources: int
    listings: int
    online: int
    left_out: list[LeftOut]


class PeerIn(Sent):
    """`url` of a node's gateway, or of a discovery endpoint."""

    url: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
    name: ShortText = ""


class EnabledIn(Sent):
    enabled: bool


class SyncOut(BaseModel):
    """How a sync went. `error` is a sentence, empty when the peer was read."""

    peer: str
    error: str
    resources: int
    listings: int
    added: int
    changed: int
    offline: int
    left_out: int


class RpcOut(BaseModel):
    """An RPC address, by its host. `block` is null while it does not answer."""

    name: str
    block: int | None
    latency_us: int
    error: str


class NetworkOut(BaseModel):
    """`configured_hosts` and addresses come from the configuration and need a restart."""

    network: str
    chain_id: int
    usdc: str
    rpc: list[RpcOut]
    gateway_url: str
    configured_hosts: list[str]
    extra_hosts: list[str]
    sync_minutes: int


class NetworkIn(Sent):
    """`sync_minutes` is one of 15, 30, 60, 180, 360, 720 and 1440."""

    sync_minutes: int
    extra_hosts: Annotated[list[_Host], Field(max_length=100)]


class PeersApi:
    """The handlers that need the market."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    async def list(self, page: PageNumber = 1) -> Listed[PeerOut]:
        found = await asyncio.to_thread(peers.list_peers, self.shop.engine)
        return listed([_peer(each) for each in found], page)

    async def one(self, peer_id: Id) -> PeerOut:
        return _peer(await asyncio.to_thread(peers.get_peer, self.shop.engine, peer_id))

    async def add(self, body: PeerIn, identity: Caller) -> PeerOut:
        values = (Actor.of(identity), body.url, body.name, _now())
        return _peer(await asyncio.to_thread(peers.add, self.shop.engine, *values))

    async def enable(self, peer_id: Id, body: EnabledIn, identity: Caller) -> PeerOut:
        values = (Actor.of(identity), peer_id, body.enabled, _now())
        peer = await asyncio.to_thread(peers.enable, self.shop.engine, *values)
        if not body.enabled:
            await peers.settle(self.shop.alarm, peer)
        return _peer(peer)

    async def sync(self, peer_id: Id) -> SyncOut:
        report = await self.shop.sync.sync(peer_id, _now(), by_hand=True)
        await self.shop.reload()
        return SyncOut(
            peer=report.peer,
            error=report.error,
            resources=report.resources,
            listings=report.listings,
            added=report.added,
            changed=report.changed,
            offline=report.offline,
            left_out=report.skipped,
        )

    async def remove(self, peer_id: Id, identity: Caller, keep_listings: bool = True) -> None:
        values = (Actor.of(identity), peer_id, keep_listings, _now())
        peer = await asyncio.to_thread(peers.remove, self.shop.engine, *values)
        await peers.settle(self.shop.alarm, peer)
        await self.shop.reload()

    async def network(self) -> NetworkOut:
        shop = self.shop
        choices, states = await asyncio.gather(
            asyncio.to_thread(read_preference, shop.engine, NetworkChoices),
            look_at_rpc(shop.network),
        )
        rpc = [
            RpcOut(name=each.name, block=each.block, latency_us=each.latency_us, error=each.error)
            for each in states
        ]
        return NetworkOut(
            network=shop.network.name,
            chain_id=shop.network.chain_id,
            usdc=shop.network.usdc,
            rpc=rpc,
            gateway_url=shop.settings.gateway_url,
            configured_hosts=[*shop.settings.allowed_hosts],
            extra_hosts=[*choices.extra_hosts],
            sync_minutes=choices.sync_minutes,
        )

    async def change_network(self, body: NetworkIn, identity: Caller) -> NetworkOut:
        actor, engine = Actor.of(identity), self.shop.engine
        hosts = "\n".join(body.extra_hosts)
        await asyncio.to_thread(peers.set_network, engine, actor, body.sync_minutes, hosts, _now())
        await self.shop.take_over()
        return await self.network()


def endpoints(shop: Shop) -> Endpoints:
    """`/api/peers`."""
    api, routes, configure = (
        PeersApi(shop),
        Endpoints(prefix="/peers", tags=["peers"]),
        Permission.CONFIGURE,
    )
    routes.get("", configure, summary="All peers")(api.list)
    routes.post("", configure, status_code=201, summary="Add a peer")(api.add)
    routes.get("/{peer_id}", configure, summary="One peer")(api.one)
    routes.patch("/{peer_id}", configure, summary="Switch a peer on or off")(api.enable)
    routes.delete("/{peer_id}", configure, summary="Remove a peer")(api.remove)
    routes.post("/{peer_id}/sync", configure, summary="Read a peer now")(api.sync)
    return routes


def network_endpoints(shop: Shop) -> Endpoints:
    """`/api/network`."""
    api, routes, configure = (
        PeersApi(shop),
        Endpoints(prefix="/network", tags=["peers"]),
        Permission.CONFIGURE,
    )
    routes.get("", configure, summary="The chain, and what may be reached")(api.network)
    routes.put("", configure, summary="Change the schedule and allowed hosts")(api.change_network)
    return routes


def _now() -> int:
    return int(time.time())


def _peer(peer: PeerState) -> PeerOut:
    return PeerOut(
        id=peer.id,
        name=peer.name,
        url=peer.url,
        enabled=peer.enabled,
        asked_at=peer.asked_at,
        synced_at=peer.synced_at,
        error=peer.error,
        resources=peer.resources,
        listings=peer.listings,
        online=peer.online,
        left_out=[LeftOut(reason=why, resources=number) for why, number in peer.skipped_why],
    )
