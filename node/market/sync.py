"""Takes over what peers list: on a schedule, by button, one peer at a time.

A list is read to its end first and then compared with the catalog, in bites, so that
payments never wait long for the database. Nothing here can make a listing cost money:
what arrives is in demo mode until somebody switches it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from catalog.discovery import FoundListing, Payable, Reading, group
from catalog.errors import PeerUnknown
from catalog.models import ListingMode
from catalog.peers import PeerState, due_peers, note_failed, note_read, read_peer
from catalog.remote import (
    Plan,
    add_found,
    change_found,
    free_slug,
    plan,
    read_known,
    set_online,
    set_peer_offline,
    slugs,
)
from catalog.search_index import refresh_index
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.market.network import NetworkChoices
from node.market.peer_reader import PeerFailed, PeerReader
from node.preferences import read_preference
from node.usage.events import Severity, event

PAGE = "/settings/network"
_BITE = 50
_NOT_KEPT = "What it lists cannot be stored; the node's log says more."
_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How one sync went. `error` is a sentence, empty when the peer was read."""

    peer: str
    error: str = ""
    resources: int = 0
    listings: int = 0
    added: int = 0
    changed: int = 0
    offline: int = 0
    skipped: int = 0

    @property
    def sentence(self) -> str:
        """What happened, for the event log and the screen."""
        if self.error:
            return f"{self.peer} could not be synced: {self.error}"
        return (
            f"Synced {self.peer}: {self.listings} listings, {self.added} new,"
            f" {self.changed} changed, {self.offline} gone offline,"
            f" {self.skipped} resources left out."
        )


class Sync:
    """One per node. `own_url` is this node's gateway, whose listings are no news."""

    def __init__(
        self, engine: Engine, reader: PeerReader, payable: Payable, alarm: Alarm, own_url: str
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._payable = payable
        self._alarm = alarm
        self._own = _origin(own_url)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def sync_due(self, now: int) -> None:
        """Read every enabled peer whose time has come; one that fails delays no other."""
        for peer_id in await asyncio.to_thread(self._due, now):
            try:
                await self.sync(peer_id, now)
            except PeerUnknown:
                _log.info("peer %s was removed meanwhile", peer_id)

    async def sync(self, peer_id: str, now: int, by_hand: bool = False) -> SyncReport:
        """Read one peer now. Raises PeerUnknown."""
        async with self._locks[peer_id]:
            peer = await asyncio.to_thread(self._peer, peer_id)
            try:
                reading = await self._reader.read(peer.url, self._payable)
                report = await asyncio.to_thread(self._take_over, peer, reading, now)
            except PeerFailed as error:
                report = SyncReport(peer.name, str(error))
                await asyncio.to_thread(self._failed, peer, str(error), now)
            except IntegrityError:
                report = SyncReport(peer.name, "The catalog changed meanwhile; it is read again.")
                await asyncio.to_thread(self._failed, peer, report.error, now)
            except DBAPIError:
                _log.exception("what %s lists", peer.url)
                report = SyncReport(peer.name, _NOT_KEPT)
                await asyncio.to_thread(self._failed, peer, report.error, now)
            await self._tell(peer, report, now, by_hand)
            return report

    def _due(self, now: int) -> Sequence[str]:
        minutes = read_preference(self._engine, NetworkChoices).sync_minutes
        with self._engine.connect() as connection:
            return due_peers(connection, now - minutes * 60)

    def _peer(self, peer_id: str) -> PeerState:
        with self._engine.connect() as connection:
            return read_peer(connection, peer_id)

    def _failed(self, peer: PeerState, error: str, now: int) -> None:
        with writer(self._engine).begin() as connection:
            note_failed(connection, peer.id, error, now)
            set_peer_offline(connection, peer.id)

    def _take_over(self, peer: PeerState, reading: Reading, now: int) -> SyncReport:
        foreign = [each for each in reading.resources if each.origin != self._own]
        found, skipped = group(foreign)
        if own := len(reading.resources) - len(foreign):
            skipped["sold by this node itself"] += own
        with self._engine.connect() as connection:
            planned = plan(read_known(connection), found, peer.id, _origin(peer.url))
        self._apply(peer, planned, now, gone=planned.gone if reading.whole else ())
        left_out = reading.skipped + skipped + planned.skipped
        resources = len(reading.resources) + reading.skipped.total()
        with writer(self._engine).begin() as connection:
            note_read(connection, peer.id, resources, left_out, now)
        refresh_index(writer(self._engine))
        return SyncReport(
            peer=peer.name,
            resources=resources,
            listings=len(planned.new) + len(planned.back),
            added=len(planned.new),
            changed=len(planned.changed),
            offline=len(planned.gone) if reading.whole else 0,
            skipped=left_out.total(),
        )

    def _apply(self, peer: PeerState, planned: Plan, now: int, gone: Sequence[str]) -> None:
        for some in _bites(planned.new):
            self._add(peer, some, now)
        for changes in _bites(planned.changed):
            with writer(self._engine).begin() as connection:
                for listing_id, listing in changes:
                    network = self._payable.network
                    change_found(connection, listing_id, listing, network, peer.id, now)
        for ids, online in ((planned.back, True), (gone, False)):
            for bite in _bites(ids):
                with writer(self._engine).begin() as connection:
                    set_online(connection, bite, online, now)

    def _add(self, peer: PeerState, some: Sequence[FoundListing], now: int) -> None:
        with writer(self._engine).begin() as connection:
            read_peer(connection, peer.id)  # it may have been removed while it was read
            taken = slugs(connection)
            for listing in some:
                slug = free_slug(listing.name, taken)
                network = self._payable.network
                add_found(connection, listing, network, peer.id, slug, ListingMode.DEMO, now)

    async def _tell(self, peer: PeerState, report: SyncReport, now: int, by_hand: bool) -> None:
        """An incident while it cannot be read; lines of the event log when there is news."""
        asked = await asyncio.to_thread(self._is_asked, peer.id)
        if report.error and asked:
            await self._alarm.raise_(Rule.PEER_UNREACHABLE, peer.url, report.sentence, PAGE)
        else:
            await self._alarm.resolve(Rule.PEER_UNREACHABLE, peer.url)
        news = report.added or report.changed or report.offline
        if by_hand or news or report.error != peer.error:
            severity: Severity = "warning" if report.error else "info"
            await asyncio.to_thread(self._note, severity, report.sentence, now)

    def _is_asked(self, peer_id: str) -> bool:
        """Whether the schedule comes back to it: it may have been given up meanwhile."""
        try:
            return self._peer(peer_id).enabled
        except PeerUnknown:
            return False

    def _note(self, severity: Severity, sentence: str, now: int) -> None:
        with writer(self._engine).begin() as connection:
            event("catalog_sync", severity, sentence, now).make(connection)


def _bites(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), _BITE):
        yield rows[start : start + _BITE]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"
