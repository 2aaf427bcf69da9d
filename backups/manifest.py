"""What a backup says of itself: the first member, authenticated, and true of all others."""

from __future__ import annotations

import re

import msgspec

from backups.errors import BackupDamaged, BackupTooNew

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAC_NAME = "manifest.mac"
SQLITE_NAME = "database.sqlite"
POSTGRES_NAME = "database.pgdump"
MAX_MANIFEST_BYTES = 1 << 20
MAX_SMALL_BYTES = 1 << 20  # every member but the database is held in memory
MOST_OWED = 1_000  # channels that a manifest names; a node may have a million
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}(/[a-zA-Z0-9][a-zA-Z0-9._-]{0,99})?")


class Member(msgspec.Struct, frozen=True):
    """One file: `size` in bytes, `sha256` in hex."""

    name: str
    size: int
    sha256: str


class Owed(msgspec.Struct, frozen=True):
    """Charged through a channel and not claimed on the chain when the snapshot was taken."""

    channel_id: str
    atoms: int


class Setting(msgspec.Struct, frozen=True):
    """A setting that came from outside the data directory, so that no file here holds it.
    `value` is empty where it is secret or of that machine only."""

    name: str
    value: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Times in Unix seconds. `counts`: rows per table. `block_height` and `wallet_nonce`
    (transactions the wallet had sent) are None when no endpoint answered. `outside`: what the
    restored node must be told again. `owed` names the channels that owe most, `further_channels`
    counts the others, which owe `further_atoms`."""

    format: int = FORMAT
    id: str
    created_at: int
    reason: str
    software: str
    schema_revision: str
    network: str
    chain_id: int
    wallet: str
    block_height: int | None
    wallet_nonce: int | None
    database: str
    counts: dict[str, int]
    owed: list[Owed]
    members: list[Member]
    outside: list[Setting] = []
    further_channels: int = 0
    further_atoms: int = 0

    @property
    def owed_atoms(self) -> int:
        """USDC atoms in vouchers that only this backup and the lost disk know of."""
        return sum(each.atoms for each in self.owed) + self.further_atoms

    @property
    def owed_channels(self) -> int:
        """In how many channels they are."""
        return len(self.owed) + self.further_channels

    @property
    def database_member(self) -> Member:
        return self.members[-1]


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest)


def decode_manifest(content: bytes) -> Manifest:
    """Raises BackupTooNew or BackupDamaged."""
    try:
        number = msgspec.json.decode(content, type=_Versioned).format
        if number > FORMAT:
            raise BackupTooNew(
                "This backup was written by a newer version of Farebox. Install that version."
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError:
        raise BackupDamaged("What this backup says of itself cannot be read.") from None
    _check(manifest)
    return manifest


class _Versioned(msgspec.Struct):
    format: int


def _check(manifest: Manifest) -> None:
    """Names and sizes that cannot reach outside a folder or fill a machine's memory."""
    names = [member.name for member in manifest.members]
    database = SQLITE_NAME if manifest.database == "sqlite" else POSTGRES_NAME
    if not names or names[-1] != database or len(set(names)) != len(names):
        raise BackupDamaged("This backup does not hold what it should: the database is missing.")
    for member in manifest.members[:-1]:
        if not _NAME.fullmatch(member.name) or not 0 <= member.size <= MAX_SMALL_BYTES:
            raise BackupDamaged(f"This backup holds a file that has no place in it, {member.name}.")
