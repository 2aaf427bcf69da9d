"""What backups need by the clock: the schedule, the rule for keeping, the weekly test
restore, and the warning that one is overdue. Every run is harmless twice."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from backups.errors import BackupBusy, BackupError, FolderUnusable, NoBackupKey
from backups.folder import is_there, remove
from backups.models import BackupState, CopyState
from backups.retention import superfluous
from backups.schedule import backup_due, test_due
from node.alerts.rules import Rule
from node.preferences import read_preference
from node.vault import records
from node.vault.checks import adopt, test_restore, verify
from node.vault.choices import BackupChoices
from node.vault.copies import Copies
from node.vault.records import BackupView
from node.vault.restored import mark_lost
from node.vault.service import LINK, Vault

SEND_AGAIN_SECONDS = 3600
_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after the backups of one node."""

    def __init__(self, vault: Vault, copies: Copies) -> None:
        self._vault = vault
        self._copies = copies
        self._sent_again_at = 0
        vault.after.append(self.send)
        vault.after.append(self.prune)

    async def run(self, now: int) -> None:
        """Everything that is due."""
        await self._mark_missing()
        if self._vault.working is not None:
            return
        with suppress(BackupBusy, NoBackupKey):
            await self._settle()
            await self._send_again(now)
            if await self._due(now):
                await self._back_up()
            elif (due := await self._due_test(now)) is not None:
                await self._test(due)

    async def warn(self, now: int) -> None:
        """Open the incident of one that is overdue, or end it."""
        alarm = self._vault.around.alarm
        if alarm is None:
            return
        found = await asyncio.to_thread(self._vault.overdue, now)
        if found.overdue:
            since = (
                f"The last backup is {found.days} days old."
                if found.ever
                else (f"This node has run for {found.days} days and was never backed up.")
            )
            await alarm.raise_(Rule.BACKUP_OVERDUE, "", since, LINK)
        else:
            await alarm.resolve(Rule.BACKUP_OVERDUE, "")

    async def send(self, backup: BackupView) -> None:
        """Copies of a new backup; what could not be sent is an incident."""
        why = ""
        if not await self._copies.send(backup):
            found = await asyncio.to_thread(records.read_backup, self._vault.engine, backup.id)
            why = " ".join(filter(None, (found.s3_error, found.mail_error)))
            why = f"A backup was written, but not copied elsewhere: {why}"
        await self._tell("copies", why)

    async def prune(self, _new: BackupView) -> None:
        """Let go what the rule does not keep; the last good one always stays."""
        engine, now = self._vault.engine, self._vault.now()
        choices = await asyncio.to_thread(read_preference, engine, BackupChoices)
        good = await asyncio.to_thread(records.good_backups, engine)
        gone = superfluous(records.kept_of(good), now, choices.keeping)
        for backup in good:
            if backup.id not in gone:
                continue
            # First said, then done: killed between the two, `_settle` does it.
            await asyncio.to_thread(
                records.change, engine, backup.id, state=BackupState.REMOVED, removed_at=now
            )
            with suppress(FolderUnusable):  # `_settle` tries again, and tells
                await asyncio.to_thread(remove, backup.path)
        why = await self._copies.prune(now, choices.keeping)
        await self._tell("bucket", why and f"Old copies stay in the storage: {why}")

    async def _settle(self) -> None:
        """What the node's sudden end left: files that were let go, and whole ones that the history
        does not know to be. And what is there again, which the rule must let go in its time."""
        engine = self._vault.engine
        choices = await asyncio.to_thread(read_preference, engine, BackupChoices)
        folder = self._vault.folder(choices)
        stays = ""
        for backup in await asyncio.to_thread(records.left_behind, engine, folder):
            try:
                await self._take_up(backup)
            except BackupBusy:
                raise
            except BackupError as error:
                # One that cannot be looked into must not keep the schedule from the next.
                _log.warning("backup %s: %s", backup.id, error)
                if backup.state is BackupState.REMOVED:
                    stays = f"An old backup cannot be removed: {error}"
        await self._tell("folder", stays)

    async def _take_up(self, backup: BackupView) -> None:
        match backup.state:
            case BackupState.REMOVED:
                await asyncio.to_thread(remove, backup.path)
            case BackupState.MISSING:
                await verify(self._vault, backup.id)
            case _:
                await adopt(self._vault, backup.id)

    async def _send_again(self, now: int) -> None:
        """The newest backup, once an hour, where its copy could not be put into the bucket."""
        if 0 <= now - self._sent_again_at < SEND_AGAIN_SECONDS:
            return
        newest = await self._newest()
        if newest is not None and newest.s3_state is CopyState.FAILED:
            self._sent_again_at = now
            if await self._copies.again(newest):
                await self._tell("copies", "")

    async def _tell(self, subject: str, why: str) -> None:
        """Open an incident, or end it where there is nothing to say."""
        alarm = self._vault.around.alarm
        if alarm is None:
            return
        if why:
            await alarm.raise_(Rule.BACKUP_FAILED, subject, why, LINK)
        else:
            await alarm.resolve(Rule.BACKUP_FAILED, subject)

    async def _back_up(self) -> None:
        try:
            await self._vault.back_up_now("scheduled")
        except (BackupBusy, NoBackupKey):
            raise
        except BackupError as error:
            # It is in the history and in an alarm, and tried again after a while.
            _log.warning("scheduled backup: %s", error)

    async def _due(self, now: int) -> bool:
        engine = self._vault.engine
        every = (await asyncio.to_thread(read_preference, engine, BackupChoices)).every_hours
        good = await asyncio.to_thread(records.last_good_at, engine, now)
        tried = await asyncio.to_thread(records.last_try_at, engine, now)
        return backup_due(now, every, good, tried)

    async def _due_test(self, now: int) -> BackupView | None:
        """The newest good one that is not being looked at for the first time."""
        engine = self._vault.engine
        if not test_due(now, await asyncio.to_thread(records.last_test_at, engine, now)):
            return None
        return await self._newest()

    async def _newest(self) -> BackupView | None:
        """Of the good ones whose files are here."""
        for backup in await asyncio.to_thread(records.good_backups, self._vault.engine):
            if await asyncio.to_thread(is_there, backup.path):
                return backup
        return None

    async def _test(self, backup: BackupView) -> None:
        why = (await test_restore(self._vault, backup.id)).test_error
        await self._tell("test", why and f"The weekly test restore failed: {why}")

    async def _mark_missing(self) -> None:
        engine, data_dir = self._vault.engine, self._vault.around.settings.data_dir
        for backup in await asyncio.to_thread(records.good_backups, engine):
            if not await asyncio.to_thread(is_there, backup.path):
                await asyncio.to_thread(mark_lost, engine, backup, data_dir)
