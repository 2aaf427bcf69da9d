"""The key that backups are encrypted to, and the passphrase that opens it (age format).

Writing a backup needs the public half only. The identity is kept under the passphrase in
front of every file, and wherever the caller keeps it for checks that run by themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyrage

from backups.errors import BackupDamaged, ChoiceInvalid, MemoryShort, PasswordWrong
from backups.header import BackupKey
from backups.password import MOST_WORK, WORK, OtherPassword, memory_of, seal, unseal, work_of

MIN_PASSWORD = 12
_ALONE_SECONDS = 60.0
_SPARE_BYTES = 32 << 20
_GROUP = Path("/sys/fs/cgroup")
_NOT_OURS = "The front of this backup is not Farebox's own. Use another backup."
_MAC_LABEL = b"farebox backup manifest 1\0"


def check_password(password: str) -> None:
    """Raises ChoiceInvalid for one that is too short to protect a wallet."""
    if len(password) < MIN_PASSWORD:
        raise ChoiceInvalid(
            "password", f"Choose a backup password of at least {MIN_PASSWORD} characters."
        )


def make_key(password: str) -> tuple[BackupKey, str]:
    """A new key under `password`, and its identity (text). Takes a second or two: it is opened
    again, as a restore would. Raises ChoiceInvalid, MemoryShort."""
    check_password(password)
    identity = pyrage.x25519.Identity.generate()
    with _alone():
        _require_memory(memory_of(WORK))
        block = seal(str(identity).encode(), password)
    key = BackupKey(str(identity.to_public()), block)
    return key, open_key(key, password)


def open_key(key: BackupKey, password: str) -> str:
    """The identity in front of a file. Raises PasswordWrong, BackupDamaged, MemoryShort; takes
    a second."""
    work = work_of(key.key_block)
    if work is None or work > MOST_WORK:
        raise BackupDamaged(_NOT_OURS)
    try:
        with _alone():
            _require_memory(memory_of(work))
            identity = unseal(key.key_block, password).decode()
    except OtherPassword:
        raise PasswordWrong(
            "The backup password does not open this backup. It is the one that was set when the"
            " backup was written, not the wallet's passphrase."
        ) from None
    except ValueError:
        raise BackupDamaged(_NOT_OURS) from None
    require_match(key, identity)
    return identity


@contextmanager
def _alone() -> Iterator[None]:
    """One derivation at a time on this machine, for the memory each takes. The lock is on this
    file; whoever holds it for long holds up nobody for ever."""
    with Path(__file__).open("rb") as file:
        deadline = time.monotonic() + _ALONE_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.05)
        yield


def _require_memory(wanted: int) -> None:
    """Raises MemoryShort rather than to have the system end a process: not always this one."""
    free = _free_memory()
    if free is not None and free < wanted + _SPARE_BYTES:
        raise MemoryShort(
            f"The backup password takes {(wanted + _SPARE_BYTES) >> 20} MiB of memory for a moment,"
            f" and {free >> 20} MiB are free. End something else and try again."
        )


def _free_memory() -> int | None:
    """Bytes that may still be taken: of the machine, and of a container's share. None where the
    system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return None
    try:
        most = int((_GROUP / "memory.max").read_text())
        return min(free, most - int((_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return free


def require_match(key: BackupKey, identity: str) -> None:
    """Raises BackupDamaged unless `identity` belongs to the key in front of the file."""
    if str(parse_identity(identity).to_public()) != key.recipient:
        raise BackupDamaged("The keys in this backup do not belong together. Use another backup.")


def parse_identity(identity: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(identity.strip())
    except pyrage.IdentityError:
        raise BackupDamaged("The key in this backup cannot be read. Use another backup.") from None


def manifest_mac(identity: str, manifest: bytes) -> str:
    """Hex proof that whoever wrote `manifest` held the identity: encrypting needs only the
    public key, which stands in front of every file."""
    key = hashlib.sha256(_MAC_LABEL + identity.strip().encode()).digest()
    return hmac.new(key, manifest, hashlib.sha256).hexdigest()
