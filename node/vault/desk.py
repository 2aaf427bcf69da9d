"""Restoring in the wizard of a new node: a file arrives, is looked into, made into a data
directory beside this one, and takes its place when the node ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from backups.errors import BackupBusy, BackupError, BackupUnknown
from backups.folder import is_there, unusable
from backups.manifest import Manifest
from node.settings import Settings
from node.vault.restore import Staged, discard, look_inside, require_fit, stage

INCOMING = "incoming"
_CHUNK = 1 << 20


class Upload(Protocol):
    """A file as a browser sends it."""

    async def read(self, size: int = -1) -> bytes: ...


class RestoreDesk:
    """One restore at a time. `take` gets the finished directory and ends the node."""

    def __init__(self, settings: Settings, take: Callable[[Staged], None]) -> None:
        self._settings = settings
        self._take = take
        self._folder = settings.data_dir / INCOMING
        self._task: asyncio.Task[None] | None = None
        self._progress = ("", 0, 0)
        self._seen: dict[str, Manifest] = {}
        self.error = ""
        self.staged: Staged | None = None

    async def receive(self, upload: Upload) -> str:
        """Keep an uploaded file; its name for the next steps. Raises FolderUnusable."""
        try:
            await asyncio.to_thread(self._empty)
            name = secrets.token_hex(16)
            handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                while piece := await upload.read(_CHUNK):
                    await asyncio.to_thread(file.write, piece)
        except OSError as error:
            await asyncio.to_thread(self.clear)
            raise unusable(self._folder, error) from None
        return name

    def path_of(self, source: str) -> Path:
        """A file that was uploaded, by its name, or one on this machine, by its path."""
        if source.startswith("/"):
            return Path(source)
        if not source or not source.isalnum() or not is_there(self._folder / source):
            raise BackupUnknown("Choose a file, or type its whole path on this machine.")
        return self._folder / source

    async def look(self, source: str, password: str) -> Manifest:
        """What is inside, if it fits here. Raises BackupError; nothing is changed."""
        manifest = (await look_inside(self.path_of(source), password)).manifest
        await asyncio.to_thread(require_fit, manifest, self._settings)
        self._seen = {source: manifest}
        return manifest

    def seen(self, source: str) -> Manifest | None:
        """What the last look found, if it was at this one: a wrong password shows nothing."""
        return self._seen.get(source)

    async def begin(self, source: str, password: str) -> None:
        """Check all of it and make a data directory of it, in the background. Raises
        BackupError, BackupBusy while another is being made."""
        self._require_idle()
        manifest = await self.look(source, password)
        await asyncio.to_thread(self.forget)
        self._require_idle()  # looking takes a second, in which the form may be sent again
        self.error, self._progress = "", ("reading", 0, 0)
        work = self._stage(self.path_of(source), password, manifest)
        self._task = asyncio.get_running_loop().create_task(work)

    def _require_idle(self) -> None:
        if self.running:
            raise BackupBusy("A restore is being prepared already.")

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def progress(self) -> tuple[str, int, int]:
        """Stage, done, total (0: not known)."""
        return self._progress

    def forget(self) -> None:
        """Let go of a directory that was made and not taken (blocking)."""
        if self.staged is not None:
            discard(self.staged)
            self.staged = None

    def finish(self) -> None:
        """Have it take this node's place; the node ends. Raises BackupUnknown."""
        if self.staged is None:
            raise BackupUnknown("Nothing is ready to be restored. Choose a backup first.")
        self._take(self.staged)

    async def stop(self) -> None:
        """End what is being made, and let go of the file that was sent for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self.clear)

    def clear(self) -> None:
        """Remove what was sent (blocking)."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _stage(self, path: Path, password: str, manifest: Manifest) -> None:
        try:
            self.staged = await stage(path, password, manifest, self._settings, self._report)
        except BackupError as error:
            self.error = str(error)

    def _report(self, stage_name: str, done: int, total: int) -> None:
        self._progress = (stage_name, done, total)

    def _empty(self) -> None:
        self.clear()
        self._folder.mkdir(mode=0o700, parents=True)
