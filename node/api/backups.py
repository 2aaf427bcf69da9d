"""Backups: begin, follow, check, fetch, and what is chosen about them."""

from __future__ import annotations

import asyncio
import time

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from backups.errors import BackupUnknown
from backups.folder import is_there
from backups.models import BackupState, CopyState
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import PAGE_SIZE, Id, Listed, PageNumber, Sent, ShortText
from node.api.routing import Caller, Endpoints
from node.vault import records
from node.vault.checks import test_restore, verify
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.overview import Overview, read_overview
from node.vault.records import BackupView
from node.vault.service import Vault


class InsideOut(BaseModel):
    """What a backup says of itself. `owed_atoms`: USDC atoms charged and not claimed then;
    `outside`: settings from the environment then, with values where they are not secret."""

    network: str
    chain_id: int
    wallet: str
    block_height: int | None
    schema_revision: str
    software: str
    database: str
    counts: dict[str, int]
    owed_atoms: int
    owed_channels: int
    outside: dict[str, str]


class BackupOut(BaseModel):
    """One backup; times in Unix seconds."""

    id: str
    name: str
    path: str
    reason: str
    state: BackupState
    current_password: bool
    started_at: int
    finished_at: int | None
    took_ms: int
    size_bytes: int
    sha256: str
    error: str
    remark: str
    verified_at: int | None
    tested_at: int | None
    test_error: str
    s3_state: CopyState
    s3_key: str
    s3_error: str
    mail_state: CopyState
    mail_error: str
    inside: InsideOut | None


class WorkingOut(BaseModel):
    """What is being done; `total` 0: nobody knows how much there is."""

    what: str
    backup_id: str
    since: int
    stage: str
    done: int
    total: int


class BackupStatusOut(BaseModel):
    """How backups stand; times in Unix seconds."""

    password_set: bool
    working: WorkingOut | None
    last_good_id: str | None
    last_good_at: int | None
    next_at: int | None
    overdue: bool
    days_without: int
    ever: bool
    good_count: int
    good_bytes: int
    need_older_password: list[str]
    restored_at: int | None
    wallet_elsewhere: int


class ChoicesIo(Sent):
    """When, where, how long. `folder` empty: `backups` in the data directory."""

    every_hours: int
    folder: ShortText = ""
    overdue_days: int = 30
    keep_all_hours: int = 24
    keep_days: int = 7
    keep_weeks: int = 4
    keep_months: int = 12
    mail: bool = False
    mail_most_mb: int = 10


class S3Out(BaseModel):
    """Where copies go; the secret key is never given back."""

    endpoint_url: str
    region: str
    bucket: str
    prefix: str
    access_key_id: str
    secret_key_set: bool


class S3In(Sent):
    """Without a bucket nothing is copied. `secret_key` null keeps the one that is stored."""

    endpoint_url: ShortText = ""
    region: ShortText = "us-east-1"
    bucket: ShortText = ""
    prefix: ShortText = ""
    access_key_id: ShortText = ""
    secret_key: ShortText | None = None


class BackupPasswordIn(Sent):
    """The password of new backups; existing files go on needing theirs."""

    password: ShortText


def endpoints(vault: Vault) -> Endpoints:
    """`/api/backups` and what is below it."""
    api = Endpoints(prefix="/backups", tags=["backups"])
    _begin(api, vault)
    _choose(api, vault)
    _files(api, vault)
    return api


async def _one(vault: Vault, backup_id: str) -> BackupOut:
    return _backup(await asyncio.to_thread(records.read_backup, vault.engine, backup_id))


def _begin(api: Endpoints, vault: Vault) -> None:
    engine, may = vault.engine, Permission.BACK_UP

    @api.get("", may)
    async def list_backups(page: PageNumber = 1) -> Listed[BackupOut]:
        offset = (page - 1) * PAGE_SIZE
        rows, total = await asyncio.to_thread(records.list_backups, engine, offset, PAGE_SIZE)
        pages = max(1, -(-total // PAGE_SIZE))
        items = [_backup(row) for row in rows]
        return Listed(items=items, total=total, page=page, pages=pages)

    @api.post("", may, status_code=202)
    async def back_up(identity: Caller) -> BackupOut:
        return await _one(vault, await vault.start("manual", Actor.of(identity)))

    @api.get("/status", may)
    async def status() -> BackupStatusOut:
        return _status(await asyncio.to_thread(read_overview, vault, int(time.time())))


def _choose(api: Endpoints, vault: Vault) -> None:
    engine, may = vault.engine, Permission.BACK_UP

    @api.get("/choices", may)
    async def read_choices() -> ChoicesIo:
        found = await asyncio.to_thread(read_overview, vault, int(time.time()))
        return _choices(found.choices)

    @api.put("/choices", may)
    async def choose(body: ChoicesIo, identity: Caller) -> ChoicesIo:
        choices, now = BackupChoices(**body.model_dump()), int(time.time())
        await asyncio.to_thread(change_choices, engine, choices, Actor.of(identity), now)
        return _choices(choices)

    @api.get("/s3", may)
    async def read_s3() -> S3Out:
        return _s3((await asyncio.to_thread(read_overview, vault, int(time.time()))).s3)

    @api.put("/s3", may)
    async def choose_s3(body: S3In, identity: Caller) -> S3Out:
        now = int(time.time())
        before = (await asyncio.to_thread(read_overview, vault, now)).s3
        sealed = before.secret_key_sealed
        if body.secret_key:
            sealed = vault.around.keys.seal(body.secret_key.encode())
        fields = body.model_dump(exclude={"secret_key"})
        choices = S3Choices(**fields, secret_key_sealed=sealed if body.bucket else "")
        await asyncio.to_thread(change_s3, engine, choices, Actor.of(identity), now)
        return _s3(choices)

    @api.put("/password", may, status_code=204)
    async def set_password(body: BackupPasswordIn, identity: Caller) -> None:
        await vault.set_password(body.password, Actor.of(identity), int(time.time()))


def _files(api: Endpoints, vault: Vault) -> None:
    engine, may = vault.engine, Permission.BACK_UP

    @api.get("/{backup_id}", may)
    async def read(backup_id: Id) -> BackupOut:
        return await _one(vault, backup_id)

    @api.post("/{backup_id}/verify", may)
    async def check(backup_id: Id) -> BackupOut:
        return _backup(await verify(vault, backup_id))

    @api.post("/{backup_id}/test", may)
    async def test(backup_id: Id) -> BackupOut:
        return _backup(await test_restore(vault, backup_id))

    @api.get("/{backup_id}/file", may, response_class=StreamingResponse)
    async def fetch(backup_id: Id) -> StreamingResponse:
        backup = await asyncio.to_thread(records.read_backup, engine, backup_id)
        if not await asyncio.to_thread(is_there, backup.path):
            raise BackupUnknown("The file of this backup is not there any more.")
        headers = {
            "content-disposition": f'attachment; filename="{backup.name}"',
            "content-length": str((await asyncio.to_thread(backup.path.stat)).st_size),
        }
        kind = "application/octet-stream"
        return StreamingResponse(records.read_file(backup.path), 200, headers, kind)


def _backup(backup: BackupView) -> BackupOut:
    inside = backup.manifest
    shown = None
    if inside is not None:
        shown = InsideOut(
            network=inside.network,
            chain_id=inside.chain_id,
            wallet=inside.wallet,
            block_height=inside.block_height,
            schema_revision=inside.schema_revision,
            software=inside.software,
            database=inside.database,
            counts=inside.counts,
            owed_atoms=inside.owed_atoms,
            owed_channels=inside.owed_channels,
            outside={each.name: each.value for each in inside.outside},
        )
    names = BackupOut.model_fields.keys() - {"inside", "path"}
    values = {name: getattr(backup, name) for name in names}
    return BackupOut(**values, path=str(backup.path), inside=shown)


def _status(found: Overview) -> BackupStatusOut:
    working, last = found.working, found.last_good
    return BackupStatusOut(
        password_set=found.password_set,
        working=None
        if working is None
        else WorkingOut(**{name: getattr(working, name) for name in WorkingOut.model_fields}),
        last_good_id=last.id if last else None,
        last_good_at=last.started_at if last else None,
        next_at=found.next_at,
        overdue=found.overdue.overdue,
        days_without=found.overdue.days,
        ever=found.overdue.ever,
        good_count=found.good_count,
        good_bytes=found.good_bytes,
        need_older_password=[each.id for each in found.older],
        restored_at=found.restored.restored_at or None,
        wallet_elsewhere=found.restored.elsewhere,
    )


def _choices(choices: BackupChoices) -> ChoicesIo:
    return ChoicesIo(**{name: getattr(choices, name) for name in ChoicesIo.model_fields})


def _s3(choices: S3Choices) -> S3Out:
    names = S3Out.model_fields.keys() - {"secret_key_set"}
    values = {name: getattr(choices, name) for name in names}
    return S3Out(**values, secret_key_set=bool(choices.secret_key_sealed))
