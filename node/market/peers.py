"""Peers and network choices as operators change them, with their trail."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from sqlalchemy import Engine, select, update
from sqlmodel import col

from catalog.discovered import RemoteListing
from catalog.peers import PeerState, add_peer, read_peer, read_peers, remove_peer, set_enabled
from catalog.remote import remove_remote
from catalog.search_index import refresh_index
from node.accounts.audit import Actor, record
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.market.network import SYNC_MINUTES, HostsInvalid, NetworkChoices, parse_hosts
from node.preferences import read_preference, store_preference

_BITE = 200


def list_peers(engine: Engine) -> tuple[PeerState, ...]:
    """All of them with their last sync, by name (blocking)."""
    with engine.connect() as connection:
        return read_peers(connection)


def get_peer(engine: Engine, peer_id: str) -> PeerState:
    """Raises PeerUnknown (blocking)."""
    with engine.connect() as connection:
        return read_peer(connection, peer_id)


def add(engine: Engine, actor: Actor, url: str, name: str, now: int) -> PeerState:
    """Raises PeerInvalid, PeerExists (blocking). It is read by the next sync."""
    with writer(engine).begin() as connection:
        peer = add_peer(connection, url, name, now)
        record(connection, actor, "peer.add", peer.id, now, None, _shown(peer))
    return peer


def enable(engine: Engine, actor: Actor, peer_id: str, enabled: bool, now: int) -> PeerState:
    """Whether the schedule reads it. Raises PeerUnknown (blocking)."""
    with writer(engine).begin() as connection:
        before = set_enabled(connection, peer_id, enabled)
        after = replace(before, enabled=enabled)
        if before != after:
            record(connection, actor, "peer.change", peer_id, now, _shown(before), _shown(after))
    return after


def remove(engine: Engine, actor: Actor, peer_id: str, keep: bool, now: int) -> PeerState:
    """Forget a peer. `keep`: its listings stay, as if they had been added by address; else
    they leave the catalog. Raises PeerUnknown (blocking)."""
    with writer(engine).begin() as connection:
        peer = remove_peer(connection, peer_id)
        if keep:
            theirs = col(RemoteListing.peer_id) == peer_id
            connection.execute(update(RemoteListing).where(theirs).values(peer_id=None))
        before = {**_shown(peer), "listings": peer.listings, "listings_kept": keep}
        record(connection, actor, "peer.remove", peer_id, now, before)
    while not keep and _remove_some(engine, peer_id):
        pass
    refresh_index(writer(engine))
    return peer


async def settle(alarm: Alarm, peer: PeerState) -> None:
    """A peer that is gone or not asked any more cannot be unreachable."""
    await alarm.resolve(Rule.PEER_UNREACHABLE, peer.url)


def _remove_some(engine: Engine, peer_id: str) -> int:
    """In bites: whoever writes payments waits for each only."""
    theirs = col(RemoteListing.peer_id) == peer_id
    with writer(engine).begin() as connection:
        ids = connection.scalars(select(col(RemoteListing.listing_id)).where(theirs).limit(_BITE))
        found = list(ids)
        remove_remote(connection, found)
    return len(found)


def set_interval(engine: Engine, actor: Actor, minutes: int, now: int) -> None:
    """How often peers are read. Raises HostsInvalid for what is not offered (blocking)."""
    _change(engine, actor, now, sync_minutes=_offered(minutes))


def set_hosts(engine: Engine, actor: Actor, text: str, now: int) -> tuple[str, ...]:
    """Private hosts that may be reached besides the configured. Raises HostsInvalid (blocking)."""
    hosts = parse_hosts(text)
    _change(engine, actor, now, extra_hosts=hosts)
    return hosts


def set_network(engine: Engine, actor: Actor, minutes: int, hosts: str, now: int) -> None:
    """Both at once. Raises HostsInvalid (blocking)."""
    offered, allowed = _offered(minutes), parse_hosts(hosts)
    _change(engine, actor, now, sync_minutes=offered, extra_hosts=allowed)


def _offered(minutes: int) -> int:
    if minutes not in SYNC_MINUTES:
        offer = ", ".join(str(each) for each in SYNC_MINUTES)
        raise HostsInvalid("sync_minutes", f"Choose one of {offer} minutes.")
    return minutes


def _change(engine: Engine, actor: Actor, now: int, **changes: object) -> None:
    with writer(engine).begin() as connection:
        choices = read_preference(connection, NetworkChoices)
        store_preference(connection, msgspec.structs.replace(choices, **changes), actor, now)


def _shown(peer: PeerState) -> dict[str, object]:
    return {"name": peer.name, "url": peer.url, "enabled": peer.enabled}
