"""Settings > Network: the chain's addresses, peers, and what may be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from catalog.errors import CatalogError
from catalog.peers import PeerState
from node.accounts.access import Permission
from node.console.format import Moment, count, latency, moment
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.visit import Visit
from node.market import peers
from node.market.network import SYNC_MINUTES, NetworkChoices
from node.market.rpc_state import RpcState, look_at_rpc
from node.market.shop import Shop
from node.preferences import read_preference

PATH = "/settings/network"
_CSV: tuple[str, ...] = (
    "name",
    "url",
    "enabled",
    "listings",
    "online",
    "resources",
    "left_out",
    "asked_at",
)
_CSV += ("synced_at", "error")


@dataclass(frozen=True, slots=True)
class RpcLine:
    """One RPC address; `block` is empty while it does not answer."""

    name: str
    good: bool
    block: str
    latency: str
    error: str


@dataclass(frozen=True, slots=True)
class PeerLine:
    """One peer with how its last sync went."""

    id: str
    name: str
    url: str
    enabled: bool
    state: str
    tone: str
    asked: Moment | None
    error: str
    listings: str
    online: str
    left_out: str
    why: tuple[tuple[str, str], ...]
    catalog: str


@dataclass(frozen=True, slots=True)
class NetworkView:
    """What `settings/network.html` shows."""

    network: str
    chain_id: int
    usdc: str
    rpc: tuple[RpcLine, ...]
    gateway_url: str
    console_url: str
    data_dir: str
    peers: tuple[PeerLine, ...]
    intervals: tuple[tuple[str, str], ...]
    fixed_hosts: tuple[str, ...]
    peer_form: Form
    interval_form: Form
    hosts_form: Form


@dataclass(frozen=True, slots=True)
class RemoveView:
    """What `settings/peer_remove.html` shows."""

    id: str
    name: str
    url: str
    listings: str


def pages(shop: Shop) -> Pages:
    """`/settings/network` and its forms."""
    pages = Pages("settings", "network")

    @pages.get(PATH, Permission.CONFIGURE)
    async def show(visit: Visit) -> Response:
        return await _page(shop, visit)

    _peers(pages, shop)
    _removal(pages, shop)
    _choices(pages, shop)
    return pages


def _peers(pages: Pages, shop: Shop) -> None:
    engine = shop.engine

    @pages.get(f"{PATH}/peers.csv", Permission.CONFIGURE)
    async def export(visit: Visit) -> Response:
        found = await asyncio.to_thread(peers.list_peers, engine)
        return visit.csv("peers.csv", _CSV, (_csv_line(peer) for peer in found))

    @pages.post(f"{PATH}/peers", Permission.CONFIGURE)
    async def add(visit: Visit) -> Response:
        form = Form(dict(visit.form))
        values = (form.value("url"), form.value("name"), visit.now)
        try:
            peer = await asyncio.to_thread(peers.add, engine, visit.actor, *values)
        except CatalogError as error:
            return await _page(shop, visit, peer_form=form.refused(error))
        return await _synced(shop, visit, peer.id)

    @pages.post(f"{PATH}/peers/{{peer_id}}/sync", Permission.CONFIGURE)
    async def sync(visit: Visit) -> Response:
        return await _synced(shop, visit, visit.path["peer_id"])

    @pages.post(f"{PATH}/peers/{{peer_id}}/enabled", Permission.CONFIGURE)
    async def enable(visit: Visit) -> Response:
        wanted, peer_id = visit.form.get("enabled") == "on", visit.path["peer_id"]
        peer = await asyncio.to_thread(
            peers.enable, engine, visit.actor, peer_id, wanted, visit.now
        )
        if not wanted:
            await peers.settle(shop.alarm, peer)
        word = "is read on schedule again" if wanted else "is not read any more"
        return visit.redirect(f"{PATH}#peers", f"{peer.name} {word}.")


def _removal(pages: Pages, shop: Shop) -> None:
    engine = shop.engine

    @pages.get(f"{PATH}/peers/{{peer_id}}/remove", Permission.CONFIGURE)
    async def confirm(visit: Visit) -> Response:
        peer = await asyncio.to_thread(peers.get_peer, engine, visit.path["peer_id"])
        view = RemoveView(peer.id, peer.name, peer.url, count(peer.listings))
        return visit.page("settings/peer_remove.html", view, f"Remove {peer.name}")

    @pages.post(f"{PATH}/peers/{{peer_id}}/remove", Permission.CONFIGURE)
    async def remove(visit: Visit) -> Response:
        keep, peer_id = visit.form.get("keep") == "on", visit.path["peer_id"]
        peer = await asyncio.to_thread(peers.remove, engine, visit.actor, peer_id, keep, visit.now)
        await peers.settle(shop.alarm, peer)
        await shop.reload()
        return visit.redirect(f"{PATH}#peers", f"{peer.name} is no peer any more.")


def _choices(pages: Pages, shop: Shop) -> None:
    engine = shop.engine

    @pages.post(f"{PATH}/interval", Permission.CONFIGURE)
    async def interval(visit: Visit) -> Response:
        form = Form(dict(visit.form))
        try:
            minutes = _minutes(form.value("sync_minutes"))
            await asyncio.to_thread(peers.set_interval, engine, visit.actor, minutes, visit.now)
        except (CatalogError, FieldError) as error:
            return await _page(shop, visit, interval_form=form.refused(error))
        return visit.redirect(f"{PATH}#peers", "Saved.")

    @pages.post(f"{PATH}/hosts", Permission.CONFIGURE)
    async def hosts(visit: Visit) -> Response:
        form = Form(dict(visit.form))
        values = (visit.actor, form.value("hosts"), visit.now)
        try:
            allowed = await asyncio.to_thread(peers.set_hosts, engine, *values)
        except CatalogError as error:
            return await _page(shop, visit, hosts_form=form.refused(error))
        shop.egress.allow_also(allowed)
        return visit.redirect(f"{PATH}#hosts", "Saved. It holds at once.")


async def _synced(shop: Shop, visit: Visit, peer_id: str) -> Response:
    report = await shop.sync.sync(peer_id, visit.now, by_hand=True)
    await shop.reload()
    return visit.redirect(f"{PATH}#peers", report.sentence, "bad" if report.error else "good")


async def _page(
    shop: Shop,
    visit: Visit,
    peer_form: Form | None = None,
    interval_form: Form | None = None,
    hosts_form: Form | None = None,
) -> Response:
    choices, found, states = await asyncio.gather(
        asyncio.to_thread(read_preference, shop.engine, NetworkChoices),
        asyncio.to_thread(peers.list_peers, shop.engine),
        look_at_rpc(shop.network),
    )
    forms = (peer_form, interval_form, hosts_form)
    view = NetworkView(
        network=shop.network.name,
        chain_id=shop.network.chain_id,
        usdc=shop.network.usdc,
        rpc=tuple(_rpc(state) for state in states),
        gateway_url=shop.settings.gateway_url,
        console_url=shop.settings.console_url,
        data_dir=str(shop.settings.data_dir / "farebox.toml"),
        peers=tuple(_peer(visit, peer) for peer in found),
        intervals=tuple((str(each), _every(each)) for each in SYNC_MINUTES),
        fixed_hosts=tuple(shop.settings.allowed_hosts),
        peer_form=peer_form or Form(),
        interval_form=interval_form or Form({"sync_minutes": str(choices.sync_minutes)}),
        hosts_form=hosts_form or Form({"hosts": "\n".join(choices.extra_hosts)}),
    )
    status = 422 if any(form is not None for form in forms) else 200
    return visit.page("settings/network.html", view, "Network", status)


def _minutes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise FieldError("sync_minutes", "Choose one of the list.")
    return int(text)


def _every(minutes: int) -> str:
    if minutes < 60:
        return f"every {minutes} minutes"
    return "every hour" if minutes == 60 else f"every {minutes // 60} hours"


def _rpc(state: RpcState) -> RpcLine:
    block = "" if state.block is None else count(state.block)
    return RpcLine(state.name, not state.error, block, latency(state.latency_us), state.error)


def _peer(visit: Visit, peer: PeerState) -> PeerLine:
    state, tone = _state(peer)
    return PeerLine(
        id=peer.id,
        name=peer.name,
        url=peer.url,
        enabled=peer.enabled,
        state=state,
        tone=tone,
        asked=moment(peer.asked_at, visit.now, visit.zone) if peer.asked_at else None,
        error=peer.error,
        listings=count(peer.listings),
        online=count(peer.online),
        left_out=count(peer.skipped),
        why=tuple((count(number), reason) for reason, number in peer.skipped_why),
        catalog=f"/catalog?peer={peer.id}",
    )


def _state(peer: PeerState) -> tuple[str, str]:
    if peer.error:
        return "Unreachable", "bad"
    if not peer.enabled:
        return "Off", "plain"
    return ("Synced", "good") if peer.synced_at else ("Not read yet", "plain")


def _csv_line(peer: PeerState) -> Sequence[object]:
    counts = (peer.listings, peer.online, peer.resources, peer.skipped)
    times = (peer.asked_at or "", peer.synced_at or "")
    return (peer.name, peer.url, peer.enabled, *counts, *times, peer.error)
