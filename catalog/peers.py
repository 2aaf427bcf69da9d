"""Peers as rows: who is asked for listings, and how it went."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import Connection, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from catalog.addresses import callable_parts
from catalog.discovered import Peer, RemoteListing
from catalog.discovery import clean
from catalog.errors import PeerExists, PeerInvalid, PeerUnknown

LIST_PATH = "/discovery/resources"
MAX_PEERS = 100
_NAME_CHARACTERS = 80
_URL_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer and how its last sync went. Times in Unix seconds; `error` empty: well."""

    id: str
    name: str
    url: str
    enabled: bool
    asked_at: int | None
    synced_at: int | None
    error: str
    resources: int
    skipped: int
    skipped_why: tuple[tuple[str, int], ...]
    listings: int = 0
    online: int = 0


def list_url(text: str) -> str:
    """Where a peer's list is, from whatever address of it was typed in. Raises PeerInvalid."""
    text = text.strip()
    parts = callable_parts(text if "://" in text else f"https://{text}")
    if parts is None or len(text) > _URL_CHARACTERS or not text.isprintable() or " " in text:
        raise PeerInvalid("url", "Give the peer's http or https address.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise PeerInvalid("url", "The address may not have a password, query or fragment.")
    path = parts.path.rstrip("/")
    path = path if path.endswith(LIST_PATH) else path + LIST_PATH
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def add_peer(connection: Connection, url: str, name: str, now: int) -> PeerState:
    """Raises PeerInvalid, PeerExists (the transaction is then of no more use)."""
    address = list_url(url)
    named = clean(name, _NAME_CHARACTERS) or urlsplit(address).netloc[:_NAME_CHARACTERS]
    if (connection.scalar(select(func.count()).select_from(Peer)) or 0) >= MAX_PEERS:
        raise PeerInvalid("url", f"A node has at most {MAX_PEERS} peers. Remove one first.")
    peer_id = f"peer_{secrets.token_hex(6)}"
    row = {"id": peer_id, "name": named, "url": address, "enabled": True, "created_at": now}
    empty = {"error": "", "resources": 0, "skipped": 0, "skipped_why": "{}"}
    try:
        connection.execute(insert(Peer), {**row, **empty})
    except IntegrityError as error:
        raise PeerExists("This peer is in the list already.") from error
    return PeerState(peer_id, named, address, True, None, None, "", 0, 0, ())


def remove_peer(connection: Connection, peer_id: str) -> PeerState:
    """Forget a peer; what becomes of its listings is the caller's. Raises PeerUnknown."""
    peer = read_peer(connection, peer_id)
    connection.execute(delete(Peer).where(col(Peer.id) == peer_id))
    return peer


def set_enabled(connection: Connection, peer_id: str, enabled: bool) -> PeerState:
    """Whether the schedule reads it; as it was before. Raises PeerUnknown."""
    peer = read_peer(connection, peer_id)
    connection.execute(update(Peer).where(col(Peer.id) == peer_id).values(enabled=enabled))
    return peer


def read_peer(connection: Connection, peer_id: str) -> PeerState:
    """Raises PeerUnknown."""
    found = [peer for peer in read_peers(connection) if peer.id == peer_id]
    if not found:
        raise PeerUnknown("There is no such peer. It may have been removed.")
    return found[0]


def read_peers(connection: Connection) -> tuple[PeerState, ...]:
    """All of them with their listings counted, by name."""
    counted = (
        select(
            col(RemoteListing.peer_id).label("peer_id"),
            func.count().label("listings"),
            func.sum(case((col(RemoteListing.online), 1), else_=0)).label("online"),
        )
        .group_by(col(RemoteListing.peer_id))
        .subquery()
    )
    statement = (
        select(Peer, counted.c.listings, counted.c.online)
        .outerjoin(counted, counted.c.peer_id == col(Peer.id))
        .order_by(func.lower(col(Peer.name)), col(Peer.id))
    )
    return tuple(_state(dict(row)) for row in connection.execute(statement).mappings())


def note_read(
    connection: Connection, peer_id: str, resources: int, skipped: Counter[str], now: int
) -> None:
    """It was read to the end."""
    values = {
        "asked_at": now,
        "synced_at": now,
        "error": "",
        "resources": resources,
        "skipped": skipped.total(),
        "skipped_why": json.dumps(dict(skipped)),
    }
    connection.execute(update(Peer).where(col(Peer.id) == peer_id).values(**values))


def note_failed(connection: Connection, peer_id: str, error: str, now: int) -> None:
    """It could not be read; `error` is a sentence."""
    changed = update(Peer).where(col(Peer.id) == peer_id)
    connection.execute(changed.values(asked_at=now, error=error))


def due_peers(connection: Connection, before: int) -> Sequence[str]:
    """Ids of enabled peers that were not asked since `before`, longest first."""
    asked = col(Peer.asked_at)
    statement = (
        select(col(Peer.id))
        .where(col(Peer.enabled), asked.is_(None) | (asked <= before))
        .order_by(func.coalesce(asked, 0), col(Peer.id))
    )
    return connection.scalars(statement).all()


def _state(row: dict[str, object]) -> PeerState:
    why = json.loads(str(row["skipped_why"]) or "{}")
    names = ("id", "name", "url", "enabled", "asked_at", "synced_at", "error", "resources")
    counts = {name: row[name] or 0 for name in ("skipped", "listings", "online")}
    fields: dict[str, object] = {name: row[name] for name in names} | counts
    return PeerState(**fields, skipped_why=tuple(sorted(why.items())))  # type: ignore[arg-type]
