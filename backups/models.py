"""The history of backups. Times in Unix seconds."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel


class BackupState(StrEnum):
    """The life of one backup; stored, only ever added to.

    running -> good | failed        good: written, opened again and checked
    good -> removed                 by the rule for keeping
    good -> missing | damaged       its file is gone, or no longer what was written
    good -> elsewhere               its file stayed on the machine this node was restored from
    missing | elsewhere -> good     its file is there, and was checked
    """

    RUNNING = "running"
    GOOD = "good"
    FAILED = "failed"
    REMOVED = "removed"
    MISSING = "missing"
    DAMAGED = "damaged"
    ELSEWHERE = "elsewhere"


class CopyState(StrEnum):
    """What became of a copy elsewhere: S3, mail."""

    NONE = ""  # not wanted
    SENDING = "sending"
    SENT = "sent"  # S3: and read back
    SKIPPED = "skipped"  # too large for mail
    FAILED = "failed"
    REMOVED = "removed"


class BackupKeyRow(SQLModel, table=True):
    """A key that backups are, or were, encrypted to; one for each backup password."""

    __tablename__ = "backup_key"

    recipient: str = Field(primary_key=True, description="age public key")
    key_block: str = Field(sa_type=Text, description="armored age file: identity under password")
    identity_sealed: str = Field(sa_type=Text, description="sealed by the wallet's keystore")
    created_at: int = Field(sa_type=BigInteger)
    retired_at: int | None = Field(
        default=None, sa_type=BigInteger, description="when another password took its place"
    )


class Backup(SQLModel, table=True):
    """One backup, from its start; the row outlives its file."""

    __tablename__ = "backup"

    id: str = Field(primary_key=True, description="also in its manifest")
    name: str = Field(description="of the file")
    folder: str = Field(sa_type=Text, description="where the file lies")
    reason: str = Field(description="manual, scheduled, setup, migration, command")
    state: str = Field(default=BackupState.RUNNING)
    recipient: str = Field(description="backup_key it is encrypted to")
    started_at: int = Field(index=True, sa_type=BigInteger)
    finished_at: int | None = Field(default=None, sa_type=BigInteger)
    took_ms: int = Field(default=0, sa_type=BigInteger)
    size_bytes: int = Field(default=0, sa_type=BigInteger)
    sha256: str = Field(default="", description="of the file, hex")
    manifest: str = Field(default="", sa_type=Text, description="JSON, see backups.manifest")
    error: str = Field(default="", sa_type=Text, description="why it failed, or is not good")
    remark: str = Field(default="", sa_type=Text, description="what could not be done or checked")
    verified_at: int | None = Field(default=None, sa_type=BigInteger, description="last check")
    tested_at: int | None = Field(default=None, sa_type=BigInteger, description="test restore")
    test_error: str = Field(default="", sa_type=Text, description="empty: the test went well")
    s3_state: str = Field(default=CopyState.NONE)
    s3_key: str = Field(default="", sa_type=Text, description="name in the bucket")
    s3_error: str = Field(default="", sa_type=Text)
    mail_state: str = Field(default=CopyState.NONE)
    mail_error: str = Field(default="", sa_type=Text)
    removed_at: int | None = Field(default=None, sa_type=BigInteger)
