"""A node after a restore: what it must ask the chain before it believes its books, and
whether somebody else uses its wallet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace
from sqlalchemy import Connection, Engine, text

from backups.folder import own_tag, tag_of
from backups.models import BackupState
from finance.store import Batch, Store
from node.accounts.audit import SYSTEM
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.db.locks import number_in_turn
from node.preferences import Preference, read_preference, store_preference
from node.usage.events import Severity, event
from node.vault import records
from node.vault.records import BackupView

LINK = "/settings/backup"
VALID_AGAIN = (
    "Everybody has to sign in again. Users, keys and tokens are as they were when the backup was"
    " made: what was disabled or revoked since is valid again until it is once more."
)
_KNOWN_NONCE = text(
    "SELECT COALESCE(MAX(nonce) + 1, 0) FROM chain_tx"
    " WHERE chain_id = :chain_id AND sender = :sender AND nonce IS NOT NULL"
)
_OWN_SINCE = text(
    "SELECT COUNT(DISTINCT nonce) FROM chain_tx"
    " WHERE chain_id = :chain_id AND sender = :sender AND nonce >= :since AND nonce < :before"
)


class Restored(Preference, frozen=True, tag="restored"):
    """The last restore; times in Unix seconds. `restored_at` 0: never restored.

    `wallet`: whose books these are; `wallet_nonce`: its transactions when the backup was made
    (None: not known);
    `nonce_then`: on the chain `chain_id` at the first look after the restore (-1: not looked yet);
    `checked_at`: when every open channel had been held against the chain, 0: not yet;
    `elsewhere`: transactions seen later that this node did not send.
    """

    backup_id: str = ""
    backup_at: int = 0
    restored_at: int = 0
    wallet: str = ""
    wallet_nonce: int | None = None
    lost_atoms: int = 0
    nonce_then: int = -1
    chain_id: int = 0
    checked_at: int = 0
    elsewhere: int = 0

    @property
    def unchecked(self) -> bool:
        return bool(self.restored_at and not self.checked_at)


class Stale(Protocol):
    """A channel we pay through, as far as a restore concerns it."""

    stale: bool
    verified: bool
    stored: bool

    @property
    def usable(self) -> bool: ...


def mark_stale(channels: Iterable[Stale]) -> int:
    """Have each channel asked about on the chain before anything is signed on it again."""
    marked = 0
    for channel in channels:
        if channel.usable and channel.stored:
            channel.stale, channel.verified = True, False
            marked += 1
    return marked


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Transactions of our wallet that this node's books do not know: `before` made before the
    restore, `since` made after it."""

    before: int
    since: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What the books know of the wallet's transactions: the `next_nonce` by the highest of ours,
    and how many of those `since` the first look after the restore are ours."""

    next_nonce: int
    since: int


def judge_nonce(fact: Restored, on_chain: int, ours: Sent) -> tuple[Restored, Elsewhere]:
    """What the wallet's nonce on the chain means, and what to remember of it. Pure.

    After the first look ours are counted, not compared: one that was sent after somebody else's
    would hide that."""
    if fact.nonce_then < 0:
        missed = max(0, on_chain - max(ours.next_nonce, fact.wallet_nonce or 0))
        return replace(fact, nonce_then=on_chain), Elsewhere(missed, 0)
    since = max(0, on_chain - fact.nonce_then - ours.since)
    return replace(fact, elsewhere=max(fact.elsewhere, since)), Elsewhere(0, since)


def mark_lost(engine: Engine, backup: BackupView, data_dir: Path) -> None:
    """The file of a backup is not there: no fault where it was made before a restore, for then it
    stayed on the other machine. Nor where another of the processes that share a database has made
    it: whether that one's machine has the file, it sees itself (blocking)."""
    if engine.dialect.name != "sqlite" and tag_of(backup.name) != own_tag(data_dir):
        return
    if backup.started_at < read_preference(engine, Restored).restored_at:
        records.change(engine, backup.id, state=BackupState.ELSEWHERE, error="")
    else:
        records.change(engine, backup.id, state=BackupState.MISSING, error="Its file is gone.")


class AfterRestore:
    """Looks at the chain for a node that was restored; does nothing for any other."""

    def __init__(
        self,
        store: Store,
        sender: str,
        chain_id: int,
        nonce: Callable[[str], Awaitable[int]],
        alarm: Alarm | None,
    ) -> None:
        self._store = store
        self._sender = sender
        self._chain_id = chain_id
        self._nonce = nonce
        self._alarm = alarm

    def read(self) -> Restored:
        """(blocking)"""
        return read_preference(self._store.engine, Restored)

    def checked(self, now: int) -> None:
        """Every channel has been held against the chain (blocking)."""
        with self._changing() as (connection, fact):
            if fact.unchecked:
                store_preference(connection, replace(fact, checked_at=now), SYSTEM, now)

    def look(self, on_chain: int, now: int) -> Elsewhere:
        """Compare and remember (blocking)."""
        with self._changing() as (connection, fact):
            ours = self._sent(connection, fact.nonce_then, on_chain)
            changed, found = judge_nonce(fact, on_chain, ours)
            store_preference(connection, replace(changed, chain_id=self._chain_id), SYSTEM, now)
            return found

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, Restored]]:
        """Both jobs, also of other processes, read, change and write one preference."""
        with writer(self._store.engine).begin() as connection:
            number_in_turn(connection)
            yield connection, read_preference(connection, Restored)

    async def watch_wallet(self, now: int) -> None:
        """Say so when the wallet is used elsewhere after a restore. Raises ChainError."""
        fact = await asyncio.to_thread(self.read)
        if not fact.restored_at:
            return
        if not self._concerns(fact):
            if self._alarm is not None:
                await self._alarm.resolve(Rule.WALLET_ELSEWHERE, "")
            return
        on_chain = await self._nonce(self._sender)
        found = await asyncio.to_thread(self.look, on_chain, now)
        if found.before:
            await self._note("wallet_ahead", "warning", before_sentence(found.before), now)
        if found.since > fact.elsewhere:
            sentence = since_sentence(found.since)
            await self._note("wallet_elsewhere", "error", sentence, now)
            if self._alarm is not None:
                await self._alarm.raise_(Rule.WALLET_ELSEWHERE, "", sentence, LINK)

    def _concerns(self, fact: Restored) -> bool:
        """Whether this is still the wallet that was restored, on the chain it was looked at."""
        same = fact.wallet.lower() in ("", self._sender.lower())
        return same and fact.chain_id in (0, self._chain_id)

    def _sent(self, connection: Connection, since: int, before: int) -> Sent:
        own = {"chain_id": self._chain_id, "sender": self._sender}
        known = connection.scalar(_KNOWN_NONCE, own)
        bounds = {**own, "since": since, "before": before}
        return Sent(int(known or 0), int(connection.scalar(_OWN_SINCE, bounds) or 0))

    async def _note(self, type_: str, severity: Severity, message: str, now: int) -> None:
        await self._store.commit(Batch([event(type_, severity, message, now)]))


def before_sentence(count: int) -> str:
    return (
        f"The chain has {count} transactions of this wallet that the restored backup does not"
        " know. They were sent after it was made; balances and channels were read from the chain."
    )


def since_sentence(count: int) -> str:
    return (
        f"Somebody else uses this node's wallet: {count} transactions since the restore are not"
        " its own. If the old node still runs, stop it now; if it does not, move the money to a"
        " new wallet."
    )
