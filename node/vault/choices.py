"""What operators choose about backups, in Settings > Backup."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from backups.errors import ChoiceInvalid
from backups.folder import prepare_folder
from backups.retention import Keeping
from backups.schedule import INTERVALS_HOURS
from catalog.addresses import callable_parts
from node.accounts.audit import Actor
from node.preferences import Preference, change_preference, read_preference

MOST_MAIL_MB = 100


class BackupChoices(Preference, frozen=True, tag="backup"):
    """`folder` empty: `backups` in the data directory. `every_hours` 0: only when asked."""

    every_hours: int = 24
    folder: str = ""
    overdue_days: int = 30
    keep_all_hours: int = 24
    keep_days: int = 7
    keep_weeks: int = 4
    keep_months: int = 12
    mail: bool = False  # send each one to the recipients of Settings > Email
    mail_most_mb: int = 10

    @property
    def keeping(self) -> Keeping:
        return Keeping(self.keep_all_hours, self.keep_days, self.keep_weeks, self.keep_months)


class S3Choices(Preference, frozen=True, tag="backup_s3"):
    """S3-compatible storage; without a bucket there is none."""

    endpoint_url: str = ""  # empty: Amazon's own
    region: str = "us-east-1"
    bucket: str = ""
    prefix: str = ""  # put before each name, e.g. "node-1/"
    access_key_id: str = ""
    secret_key_sealed: str = ""


class FirstStart(Preference, frozen=True, tag="first_start"):
    """When this node first ran, Unix seconds; 0: not yet."""

    at: int = 0


def change_choices(engine: Engine, choices: BackupChoices, actor: Actor, now: int) -> None:
    """Store them (blocking). Raises ChoiceInvalid, or FolderUnusable for a folder that cannot
    be written."""
    if choices.every_hours not in INTERVALS_HOURS:
        raise ChoiceInvalid("every_hours", "Choose 0 (off), 1, 3, 6, 12 or 24 hours.")
    _within("overdue_days", choices.overdue_days, 1, 365)
    _within("keep_all_hours", choices.keep_all_hours, 1, 24 * 31)
    _within("keep_days", choices.keep_days, 0, 366)
    _within("keep_weeks", choices.keep_weeks, 0, 520)
    _within("keep_months", choices.keep_months, 0, 120)
    _within("mail_most_mb", choices.mail_most_mb, 1, MOST_MAIL_MB)
    if choices.folder:
        folder = Path(choices.folder)
        if not folder.is_absolute() or not choices.folder.isprintable():
            raise ChoiceInvalid("folder", "Give the whole path of the folder, from the root.")
        prepare_folder(folder)
    change_preference(engine, choices, actor, now)


def change_s3(engine: Engine, choices: S3Choices, actor: Actor, now: int) -> None:
    """Store where copies go (blocking). Raises ChoiceInvalid."""
    if choices.bucket:
        if choices.endpoint_url and callable_parts(choices.endpoint_url) is None:
            raise ChoiceInvalid("endpoint_url", "Give an address that begins with https://.")
        if not choices.access_key_id:
            raise ChoiceInvalid("access_key_id", "Enter the access key of the storage.")
        if not choices.secret_key_sealed:
            raise ChoiceInvalid("secret_key", "Enter the secret key of the storage.")
        if not choices.region:
            raise ChoiceInvalid("region", "Enter the storage's region, for many: us-east-1.")
    change_preference(engine, choices, actor, now)


def first_start(engine: Engine, actor: Actor, now: int) -> int:
    """When this node first ran; now, if it never did (blocking)."""
    known = read_preference(engine, FirstStart).at
    if not known:
        change_preference(engine, FirstStart(at=now), actor, now)
    return known or now


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ChoiceInvalid(field, f"Choose a number from {least} to {most}.")
