"""What can go wrong with a backup, each with a sentence that says what to do.

BackupError
├── NoBackupKey          no backup password was chosen yet
├── BackupBusy           another backup or check is running
├── BackupUnknown        there is no such backup
├── NotABackup           the file is something else
├── BackupTooNew         written by a newer version, or for a newer schema
├── BackupDamaged        flipped, cut off, put together from several
├── PasswordWrong        the backup password does not open it
├── WrongNetwork         it is of another chain
├── DatabaseUnfit        its database cannot be put where it should go
├── SnapshotFailed       the database could not be read
├── CheckFailed          what was written is not what was read
├── FolderUnusable       no rights, no space
├── MemoryShort          not enough to derive a key from the password
├── DestinationFailed    S3 or mail did not take it
├── ChoiceInvalid        a setting that cannot be accepted; `field` names it
└── WorkerDied           the process that did the work is gone
"""

from __future__ import annotations


class BackupError(Exception):
    """Base of every error this package raises on purpose."""

    code = "backup_error"


class NoBackupKey(BackupError):
    code = "no_backup_key"


class BackupBusy(BackupError):
    code = "backup_busy"


class BackupUnknown(BackupError):
    code = "backup_unknown"


class NotABackup(BackupError):
    code = "not_a_backup"


class BackupTooNew(BackupError):
    code = "backup_too_new"


class BackupDamaged(BackupError):
    code = "backup_damaged"


class PasswordWrong(BackupError):
    code = "backup_password_wrong"
    field = "password"


class WrongNetwork(BackupError):
    code = "backup_wrong_network"


class DatabaseUnfit(BackupError):
    code = "backup_database_unfit"


class SnapshotFailed(BackupError):
    code = "snapshot_failed"


class CheckFailed(BackupError):
    code = "backup_check_failed"


class FolderUnusable(BackupError):
    code = "backup_folder_unusable"


class MemoryShort(BackupError):
    code = "backup_memory_short"


class DestinationFailed(BackupError):
    code = "backup_destination_failed"


class ChoiceInvalid(BackupError):
    """One field is not acceptable; the text says what to mend."""

    code = "backup_choice_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class WorkerDied(BackupError):
    code = "backup_worker_died"


_BY_CODE: dict[str, type[BackupError]] = {
    kind.code: kind for kind in BackupError.__subclasses__() if kind is not ChoiceInvalid
}


def error_of(code: str, message: str) -> BackupError:
    """The error that another process met."""
    return _BY_CODE.get(code, BackupError)(message)
