"""Backups of a running node: what owns them, and what pages, jobs and commands ask of it.

One piece of work at a time. The work itself is done by a process of its own
(backups.worker); here are its beginning, its end, and what is told of it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from backups.client import run_task
from backups.errors import BackupBusy, BackupError, BackupUnknown
from backups.folder import file_name, own_tag
from backups.header import BackupKey
from backups.keyring import check_password
from backups.models import BackupState
from backups.schedule import Overdue
from backups.tasks import Create, MadeKey, MakeKey, Outcome
from finance.chain.rpc import Rpc
from finance.errors import FinanceError, WalletError
from finance.money import Usdc
from finance.selling.claims import Claims
from finance.wallet.signer import Keys
from node.accounts.audit import SYSTEM, Actor
from node.alerts.rules import Alarm, Rule
from node.preferences import read_preference
from node.settings import Settings
from node.vault import records
from node.vault.choices import BackupChoices
from node.vault.records import BackupView
from node.vault.source import database_of, facts_of, files_of, owed_atoms
from node.vault.standing import backup_overdue

CLAIM_SECONDS = 60.0
_CHAIN_SECONDS = 5.0
LINK = "/settings/backup"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Working:
    """What is being done now: `what` is create, verify or test; `stage` with bytes or pages
    `done` of `total` (0: not known)."""

    what: str
    backup_id: str
    since: int
    stage: str = "starting"
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The node around its backups. Without `claims` what is owed stays open, without `rpc`
    the chain's height is not noted, without `alarm` nobody is told."""

    settings: Settings
    engine: Engine
    keys: Keys
    rpc: Rpc | None = None
    claims: Claims | None = None
    alarm: Alarm | None = None


class Vault:
    """The backups of one node."""

    def __init__(self, around: Surroundings, clock: Callable[[], float] = time.time) -> None:
        self.around = around
        self.engine = around.engine
        self._clock = clock
        self.working: Working | None = None
        self.after: list[Callable[[BackupView], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # The password

    async def set_password(self, password: str, actor: Actor, now: int) -> None:
        """Encrypt new backups to a new key under `password`; older files keep theirs.
        Raises ChoiceInvalid."""
        check_password(password)
        made = await run_task(MakeKey(password), MadeKey)
        sealed = self.around.keys.seal(made.identity.encode())
        key = BackupKey(made.recipient, made.key_block)
        await asyncio.to_thread(records.store_key, self.engine, key, sealed, actor, now)

    def identity_of(self, recipient: str) -> str:
        """The identity of a key of ours (blocking). Raises BackupUnknown."""
        for stored in records.read_keys(self.engine):
            if stored.key.recipient == recipient:
                with suppress(WalletError):  # sealed in a data directory that is lost
                    return self.around.keys.unseal(stored.identity_sealed).decode()
        raise BackupUnknown("The key of this backup is not known here. Give its password.")

    # Writing

    async def back_up_now(self, reason: str, actor: Actor = SYSTEM) -> BackupView:
        """Write a backup and wait until it is checked. Raises BackupError; what was there
        before is untouched then."""
        backup_id = await self._begin(reason, actor)
        await self._create(backup_id, reason)
        return await asyncio.to_thread(records.read_backup, self.engine, backup_id)

    async def start(self, reason: str, actor: Actor) -> str:
        """Begin a backup and return its id; its row and `working` tell how it goes on.
        Raises BackupBusy, NoBackupKey, FolderUnusable."""
        backup_id = await self._begin(reason, actor)
        self.background(self._create(backup_id, reason))
        return backup_id

    async def stop(self) -> None:
        """End what is being done; a half backup has no name."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def at_work(self, what: str, backup_id: str) -> AsyncIterator[None]:
        """Be the one piece of work for the block. Raises BackupBusy."""
        self.require_idle()
        self.working = Working(what, backup_id, self.now())
        try:
            yield
        finally:
            self.working = None

    def background(self, work: Coroutine[Any, Any, object]) -> None:
        """Have it done without waiting; what fails is in its row and in the log."""
        task = asyncio.get_running_loop().create_task(_unheard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, reason: str, actor: Actor) -> str:
        self.require_idle()
        now, backup_id = self.now(), secrets.token_hex(16)
        self.working = Working("create", backup_id, now)
        try:
            stored = await asyncio.to_thread(records.current_key, self.engine)
            choices = await asyncio.to_thread(read_preference, self.engine, BackupChoices)
            tag = await asyncio.to_thread(own_tag, self.around.settings.data_dir)
            row = {
                "id": backup_id,
                "name": file_name(now, reason, tag),
                "folder": str(self.folder(choices)),
                "reason": reason,
                "recipient": stored.key.recipient,
                "started_at": now,
            }
            await asyncio.to_thread(records.begin, self.engine, row, actor, now)
        except BaseException:
            self.working = None
            raise
        return backup_id

    async def _create(self, backup_id: str, reason: str) -> None:
        began = time.monotonic()
        try:
            remark = await self._claim()
            outcome = await self._write(backup_id, reason)
        except BaseException as error:
            await asyncio.shield(self._failed(backup_id, error, began))
            raise
        finally:
            self.working = None
        await self._succeeded(backup_id, outcome, remark, began)

    async def _write(self, backup_id: str, reason: str) -> Outcome:
        settings = self.around.settings
        height, nonce = await self._chain()
        view = await asyncio.to_thread(records.read_backup, self.engine, backup_id)
        stored = await asyncio.to_thread(records.current_key, self.engine)
        # Another one, where the password was changed while what is owed was claimed.
        recipient = stored.key.recipient
        await asyncio.to_thread(records.change, self.engine, backup_id, recipient=recipient)
        identity = self.around.keys.unseal(stored.identity_sealed).decode()
        facts = facts_of(settings, backup_id, reason, view.started_at, height, nonce)
        request = Create(
            folder=str(view.path.parent),
            name=view.name,
            recipient=recipient,
            key_block=stored.key.key_block,
            identity=identity,
            database=database_of(settings),
            files=files_of(settings),
            facts=facts,
        )
        return await run_task(request, Outcome, self.report)

    async def _succeeded(self, backup_id: str, outcome: Outcome, remark: str, began: float) -> None:
        now, owed = self.now(), outcome.manifest.owed_atoms
        if owed and not remark:
            remark = f"{Usdc(owed)} USDC was owed and not claimed yet when it was taken."
        values = {
            "state": BackupState.GOOD,
            "finished_at": now,
            "verified_at": now,
            "took_ms": int((time.monotonic() - began) * 1000),
            "size_bytes": outcome.size,
            "sha256": outcome.sha256,
            "manifest": records.manifest_text(outcome.manifest),
            "error": "",  # of a node that started beside it and took it for left half done
            "remark": " ".join(filter(None, (remark, outcome.remark))),
        }
        await asyncio.to_thread(records.change, self.engine, backup_id, **values)
        if self.around.alarm is not None:
            await self.around.alarm.resolve(Rule.BACKUP_FAILED, "")
            await self.around.alarm.resolve(Rule.BACKUP_OVERDUE, "")
        view = await asyncio.to_thread(records.read_backup, self.engine, backup_id)
        for follow in self.after:
            await follow(view)

    async def _failed(self, backup_id: str, error: BaseException, began: float) -> None:
        match error:
            case BackupError() | FinanceError():
                why = str(error)
            case asyncio.CancelledError():
                why = "The node was stopped while the backup was being written."
            case _:
                _log.error("backup %s", backup_id, exc_info=error)
                why = f"It ended with {type(error).__name__}; the node's log says more."
        values = {
            "state": BackupState.FAILED,
            "finished_at": self.now(),
            "took_ms": int((time.monotonic() - began) * 1000),
            "error": why,
        }
        await asyncio.to_thread(records.change, self.engine, backup_id, **values)
        if self.around.alarm is not None and not isinstance(error, asyncio.CancelledError):
            message = f"A backup failed: {why}"
            await self.around.alarm.raise_(Rule.BACKUP_FAILED, "", message, LINK)

    async def _claim(self) -> str:
        """Claim what is owed above dust; what was not done, as a sentence."""
        claims = self.around.claims
        if claims is None:
            return ""
        if await asyncio.to_thread(owed_atoms, self.engine) <= claims.policy.dust_atoms:
            return ""
        self.report("claiming", 0, 0)
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                await claims.claim_all()
        except (FinanceError, TimeoutError) as error:
            why = str(error) or "the chain did not confirm it in time"
            left = Usdc(await asyncio.to_thread(owed_atoms, self.engine))
            return f"What is owed could not be claimed first ({why}); {left} USDC was open."
        return ""

    async def _chain(self) -> tuple[int | None, int | None]:
        """Block height and the wallet's nonce; None for both without an endpoint."""
        if self.around.rpc is None:
            return None, None
        try:
            async with asyncio.timeout(_CHAIN_SECONDS):
                height = await self.around.rpc.block_number()
                return height, await self.around.rpc.nonce(self.around.keys.wallet.address)
        except (FinanceError, TimeoutError):
            return None, None

    # Telling

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def require_idle(self) -> None:
        """Raises BackupBusy while something is being done."""
        if self.working is not None:
            raise BackupBusy("Another backup or check is running. Wait until it has ended.")

    def report(self, stage: str, done: int, total: int) -> None:
        """How far the work is."""
        if (working := self.working) is not None:
            self.working = Working(
                working.what, working.backup_id, working.since, stage, done, total
            )

    def folder(self, choices: BackupChoices) -> Path:
        """Where new backups go."""
        return Path(choices.folder) if choices.folder else self.around.settings.data_dir / "backups"

    def overdue(self, now: int) -> Overdue:
        """Whether the operator must be warned (blocking)."""
        return backup_overdue(self.engine, now)


async def _unheard(work: Coroutine[Any, Any, object]) -> None:
    """What fails is in its row and in the alarm; nobody waits for it."""
    try:
        await work
    except (BackupError, FinanceError) as error:
        _log.warning("backup: %s", error)
