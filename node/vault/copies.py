"""Copies of a good backup elsewhere: S3-compatible storage and mail.

The local file is good whatever becomes of them; a failure stands in the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import BackupError
from backups.folder import unusable
from backups.models import BackupState, CopyState
from backups.retention import Keeping
from backups.tasks import Done, Prune, Pruned, Upload
from finance.errors import WalletError
from node.preferences import read_preference
from node.vault import records
from node.vault.choices import BackupChoices, S3Choices
from node.vault.records import BackupView

_NOT_THERE = "It is not in the storage any more: somebody else has removed it."


@dataclass(frozen=True, slots=True)
class Parcel:
    """A backup as mail: subject, text, and the file."""

    subject: str
    text: str
    name: str
    content: bytes


class Post(Protocol):
    """Sends a parcel to whoever Settings > Email names; a sentence when it could not."""

    async def __call__(self, parcel: Parcel) -> str: ...


class Copies:
    """Sends copies, and has the rule hold for those in the bucket."""

    def __init__(
        self, engine: Engine, unseal: Callable[[str], bytes], post: Post | None = None
    ) -> None:
        self._engine = engine
        self._unseal = unseal
        self._post = post

    async def send(self, backup: BackupView) -> bool:
        """To each place the operator chose; whether all of them have it."""
        return all([await self._upload(backup), await self._mail(backup)])

    async def prune(self, now: int, keeping: Keeping) -> str:
        """Have the bucket keep what the rule keeps, whatever became of the files here; why it
        could not, as a sentence."""
        choices = await asyncio.to_thread(read_preference, self._engine, S3Choices)
        if not choices.bucket:
            return ""
        rows = await asyncio.to_thread(records.copied, self._engine)
        keys = await asyncio.to_thread(records.read_keys, self._engine)
        times = {
            state: {each.s3_key: each.started_at for each in rows if each.s3_state is state}
            for state in (CopyState.SENT, CopyState.FAILED)
        }
        try:
            request = Prune(
                bucket=self._bucket(choices),
                prefix=choices.prefix,
                keeping=keeping,
                now=now,
                good=times[CopyState.SENT],
                unsure=times[CopyState.FAILED],
                recipients=[each.key.recipient for each in keys],
            )
            found = await run_task(request, Pruned)
        except (BackupError, WalletError) as error:
            return str(error)
        for each in rows:
            if each.s3_key in found.missing and each.state is BackupState.GOOD:
                await self._note(each, s3_state=CopyState.FAILED, s3_error=_NOT_THERE)
            elif each.s3_key in found.keys or each.s3_key in found.missing:
                await self._note(each, s3_state=CopyState.REMOVED, s3_error="")
        return ""

    async def again(self, backup: BackupView) -> bool:
        """Put a copy into the bucket that could not be put there before; whether it is there."""
        return await self._upload(backup)

    async def _upload(self, backup: BackupView) -> bool:
        choices = await asyncio.to_thread(read_preference, self._engine, S3Choices)
        if not choices.bucket:
            return True
        key, path = f"{choices.prefix}{backup.name}", str(backup.path)
        await self._note(backup, s3_state=CopyState.SENDING, s3_key=key)
        try:
            bucket = self._bucket(choices)
            await run_task(Upload(bucket=bucket, key=key, path=path, sha256=backup.sha256), Done)
        except (BackupError, WalletError) as error:
            await self._note(backup, s3_state=CopyState.FAILED, s3_error=str(error))
            return False
        await self._note(backup, s3_state=CopyState.SENT, s3_error="")
        return True

    async def _mail(self, backup: BackupView) -> bool:
        choices = await asyncio.to_thread(read_preference, self._engine, BackupChoices)
        if not choices.mail or self._post is None:
            return True
        if backup.size_bytes > choices.mail_most_mb * 1_000_000:
            why = f"It is larger than {choices.mail_most_mb} MB and was not mailed."
            await self._note(backup, mail_state=CopyState.SKIPPED, mail_error=why)
            return True
        await self._note(backup, mail_state=CopyState.SENDING)
        if why := await self._deliver(backup, self._post):
            await self._note(backup, mail_state=CopyState.FAILED, mail_error=why)
            return False
        await self._note(backup, mail_state=CopyState.SENT, mail_error="")
        return True

    async def _deliver(self, backup: BackupView, post: Post) -> str:
        """Why it could not be mailed, as a sentence."""
        try:
            content = await asyncio.to_thread(backup.path.read_bytes)
        except OSError as error:
            return str(unusable(backup.path, error))
        text = (
            "The attached file is an encrypted backup of your Farebox node, opened again and"
            " checked after it was written. It opens with the backup password:\n\n"
            f"    farebox backup restore {backup.name}\n\nSHA-256: {backup.sha256}\n"
        )
        return await post(Parcel(f"Backup {backup.name}", text, backup.name, content))

    def _bucket(self, choices: S3Choices) -> Bucket:
        return Bucket(
            endpoint_url=choices.endpoint_url,
            region=choices.region,
            name=choices.bucket,
            access_key_id=choices.access_key_id,
            secret_key=self._unseal(choices.secret_key_sealed).decode(),
        )

    async def _note(self, backup: BackupView, **values: Any) -> None:
        await asyncio.to_thread(records.change, self._engine, backup.id, **values)
