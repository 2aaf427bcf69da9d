"""The pieces of work that a process of its own does, as requests and results.

They hold secrets, so they travel through a pipe, never on a command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from backups import postgres, sqlite
from backups.archive import Progress, Small, describe, write_archive
from backups.bucket import Bucket
from backups.errors import BackupBusy, CheckFailed, FolderUnusable
from backups.folder import hold_folder, place, require_space, unusable, work_folder
from backups.header import BackupKey
from backups.keyring import make_key, open_key
from backups.manifest import (
    MAX_SMALL_BYTES,
    MOST_OWED,
    POSTGRES_NAME,
    SQLITE_NAME,
    Manifest,
    Setting,
)
from backups.reading import open_front, read_backup, read_manifest, read_through
from backups.retention import Keeping


class Sqlite(msgspec.Struct, frozen=True, tag="sqlite"):
    """A database file."""

    path: str


class Postgres(msgspec.Struct, frozen=True, tag="postgres"):
    """A database on a server, as libpq's parameters."""

    conninfo: dict[str, str]


class MakeKey(msgspec.Struct, frozen=True, tag="make_key"):
    """A new key under a passphrase."""

    password: str


class MadeKey(msgspec.Struct, frozen=True):
    recipient: str
    key_block: str
    identity: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says beside what the snapshot shows."""

    id: str
    created_at: int
    reason: str
    software: str
    network: str
    chain_id: int
    wallet: str
    block_height: int | None
    wallet_nonce: int | None
    revision_sql: str
    owed_sql: str
    outside: list[Setting] = []


class Create(msgspec.Struct, frozen=True, kw_only=True, tag="create"):
    """Write a backup named `name` into `folder`; `files` are [member name, path] pairs."""

    folder: str
    name: str
    recipient: str
    key_block: str
    identity: str
    database: Sqlite | Postgres
    files: list[tuple[str, str]]
    facts: Facts


class Check(msgspec.Struct, frozen=True, kw_only=True, tag="check"):
    """Open a backup again, with the identity or the passphrase, and check all of it. `full`:
    also hold indexes against tables, or load a dump with its rows. `work` is a folder for the
    contents."""

    path: str
    work: str
    identity: str = ""
    password: str = ""
    server: dict[str, str] | None = None
    full: bool = False


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look"):
    """Read what a backup says of itself."""

    path: str
    identity: str = ""
    password: str = ""


class Extract(msgspec.Struct, frozen=True, kw_only=True, tag="extract"):
    """Check a backup and leave its members in `into`, which must be empty. `only` is the
    manifest id that the operator agreed to; `full`: hold every index against its table."""

    path: str
    into: str
    only: str
    full: bool = False
    identity: str = ""
    password: str = ""


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """Put a file into a bucket under `key` and read it back."""

    bucket: Bucket
    key: str
    path: str
    sha256: str


class Prune(msgspec.Struct, frozen=True, kw_only=True, tag="prune"):
    """Let go of the copies below `prefix` that `keeping` does not keep; `good` and `unsure` are
    keys in the history with their times, `recipients` the keys that make other ones ours."""

    bucket: Bucket
    prefix: str
    keeping: Keeping
    now: int
    good: dict[str, int]
    unsure: dict[str, int]
    recipients: list[str]


class Pruned(msgspec.Struct, frozen=True):
    """Keys of the copies that were let go, and of good ones that were gone already."""

    keys: list[str]
    missing: list[str]


class Done(msgspec.Struct, frozen=True):
    """There is no more to say."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was written or read: size of the file in bytes, and its SHA-256 (where it
    was written). `remark` says what could not be checked."""

    manifest: Manifest
    size: int
    sha256: str = ""
    remark: str = ""


Request = MakeKey | Create | Check | Look | Extract | Upload | Prune
Result = MadeKey | Outcome | Done | Pruned


def is_waited_for(request: Request) -> bool:
    """Whether somebody waits in front of it and the node sells nothing, or it takes a second."""
    match request:
        case Create():
            return request.facts.reason in ("setup", "migration")
        case MakeKey() | Look():
            return True
        case _:
            return False


def unlock(request: Request) -> Request:
    """With the identity instead of the password: apart from the rest, since one derivation is made
    at a time on a machine, so none may yield to others. Raises BackupError."""
    if not isinstance(request, Check | Look | Extract) or request.identity:
        return request
    path = Path(request.path)
    try:
        identity = open_key(open_front(path), request.password)
    except OSError as error:
        raise unusable(path, error) from None
    return msgspec.structs.replace(request, identity=identity, password="")


def perform(request: Request, progress: Progress) -> Result:
    """Do one piece of work that `unlock` gave. Raises BackupError."""
    try:
        match request:
            case MakeKey():
                key, identity = make_key(request.password)
                return MadeKey(key.recipient, key.key_block, identity)
            case Create():
                return _create(request, progress)
            case Check():
                return _check(request, progress)
            case Look():
                path = Path(request.path)
                manifest = read_manifest(path, request.identity)
                return Outcome(manifest=manifest, size=path.stat().st_size)
            case Extract():
                return _extract(request, progress)
            case Upload() | Prune():
                return _store(request, progress)
    except OSError as error:
        raise unusable(_where(request), error) from None


def _store(request: Upload | Prune, progress: Progress) -> Done | Pruned:
    from backups import s3  # boto3 is large: loaded only by a process that needs it

    if isinstance(request, Upload):
        path = Path(request.path)
        s3.put(request.bucket, request.key, path, request.sha256, progress)
        return Done()
    known = s3.Known(request.good, request.unsure, request.recipients)
    return Pruned(*s3.prune(request.bucket, request.prefix, known, request.now, request.keeping))


def _where(request: Request) -> Path:
    match request:
        case Create():
            return Path(request.folder)
        case Check():
            return Path(request.work)
        case Extract():
            return Path(request.into)
        case Look() | Upload():
            return Path(request.path)
        case _:
            return Path.cwd()


def _create(request: Create, progress: Progress) -> Outcome:
    folder = Path(request.folder)
    with hold_folder(folder), work_folder(folder) as work:
        if (folder / request.name).exists():
            raise BackupBusy(f"{request.name} is there already.")
        smalls = [_read_small(name, Path(path)) for name, path in request.files]
        database, manifest = _take_snapshot(request, smalls, work, progress)
        finished = work / "backup"
        key = BackupKey(request.recipient, request.key_block)
        size = write_archive(finished, key, request.identity, manifest, smalls, database, progress)
        remark = _read_again(finished, request, manifest, database, progress)
        digest = _sha256(finished)
        place(finished, folder / request.name)
    return Outcome(manifest=manifest, size=size, sha256=digest, remark=remark)


def _take_snapshot(
    request: Create, smalls: list[Small], work: Path, progress: Progress
) -> tuple[Path, Manifest]:
    facts = request.facts
    match request.database:
        case Sqlite(path):
            _require_room(Path(path), work)
            taken = work / SQLITE_NAME
            sqlite.snapshot(Path(path), taken, progress)
            found = sqlite.read_facts(taken, facts.revision_sql, facts.owed_sql)
        case Postgres(conninfo):
            taken = work / POSTGRES_NAME
            found = postgres.snapshot(conninfo, taken, facts.revision_sql, facts.owed_sql, progress)
    counts, revision, owed = found
    manifest = Manifest(
        id=facts.id,
        created_at=facts.created_at,
        reason=facts.reason,
        software=facts.software,
        schema_revision=revision,
        network=facts.network,
        chain_id=facts.chain_id,
        wallet=facts.wallet,
        block_height=facts.block_height,
        wallet_nonce=facts.wallet_nonce,
        database="sqlite" if isinstance(request.database, Sqlite) else "postgres",
        counts=counts,
        owed=owed[:MOST_OWED],
        further_channels=len(owed[MOST_OWED:]),
        further_atoms=sum(each.atoms for each in owed[MOST_OWED:]),
        members=[*(each.member for each in smalls), describe(taken, taken.name)],
        outside=facts.outside,
    )
    return taken, manifest


def _require_room(database: Path, work: Path) -> None:
    """A copy, and beside it the compressed file."""
    size = database.stat().st_size if database.exists() else 0
    require_space(work, 2 * size)


def _read_small(name: str, path: Path) -> Small:
    content = path.read_bytes()
    if len(content) > MAX_SMALL_BYTES:
        raise FolderUnusable(f"{path} is too large to be what its name says.")
    return Small(name, content)


def _read_again(
    finished: Path, request: Create, manifest: Manifest, database: Path, progress: Progress
) -> str:
    """Open the file as a restore would, from the first byte to the last. What is in it is, by its
    checksum, `database`: so that one is looked into, and nothing written a second time."""
    if read_through(finished, request.identity, progress) != manifest:
        raise CheckFailed("The backup that was written does not say what it should.")
    if isinstance(request.database, Postgres):
        return postgres.check(database, request.database.conninfo, manifest.counts, False)
    _require_rows(sqlite.check(database, progress), manifest)
    return ""


def _contents(
    path: Path,
    identity: str,
    into: Path,
    server: dict[str, str] | None,
    full: bool,
    progress: Progress,
) -> tuple[Manifest, str]:
    manifest = read_backup(path, identity, into, progress, _accept_room(into))
    database = into / manifest.database_member.name
    if manifest.database == "postgres":
        return manifest, postgres.check(database, server, manifest.counts, full)
    _require_rows(sqlite.check(database, progress, full), manifest)
    return manifest, ""


def _require_rows(counts: dict[str, int], manifest: Manifest) -> None:
    if counts != manifest.counts:
        raise CheckFailed("The database in this backup does not hold all its rows.")


def _accept_room(into: Path) -> Callable[[Manifest], None]:
    def accept(manifest: Manifest) -> None:
        require_space(into, sum(member.size for member in manifest.members))

    return accept


def _check(request: Check, progress: Progress) -> Outcome:
    path, folder = Path(request.path), Path(request.work)
    with work_folder(folder) as work:
        found = _contents(path, request.identity, work, request.server, request.full, progress)
        return Outcome(manifest=found[0], size=path.stat().st_size, remark=found[1])


def _extract(request: Extract, progress: Progress) -> Outcome:
    path, into = Path(request.path), Path(request.into)
    room = _accept_room(into)

    def accept(manifest: Manifest) -> None:
        if manifest.id != request.only:
            raise CheckFailed("This is not the backup that was looked at. Start again.")
        room(manifest)

    manifest = read_backup(path, request.identity, into, progress, accept)
    database = into / manifest.database_member.name
    if manifest.database == "sqlite":
        _require_rows(sqlite.check(database, progress, request.full), manifest)
    return Outcome(manifest=manifest, size=path.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode_request(line: bytes) -> Request:
    """A request as it came through the pipe."""
    request: Request = msgspec.json.decode(line, type=Request)
    return request
