"""The clear front of a backup file: 4096 bytes of text, then the age file.

    farebox backup 1
    age1…                                     the key it is encrypted to
    -----BEGIN AGE ENCRYPTED FILE-----        that key's identity, under the passphrase
    …
    -----END AGE ENCRYPTED FILE-----
    (line feeds)
    64 hex digits: SHA-256 of everything above

The checksum tells a damaged front from a wrong passphrase; it proves nothing more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from backups.errors import BackupDamaged, BackupTooNew, NotABackup

HEADER_BYTES = 4096
_MAGIC = "farebox backup "
_VERSION = "1"
_BEGIN = "-----BEGIN AGE ENCRYPTED FILE-----"
_CHECKSUM_BYTES = 65


@dataclass(frozen=True, slots=True)
class BackupKey:
    """A public key and its identity: age text `recipient`, and `key_block`, the armored age
    file that holds the identity under the passphrase."""

    recipient: str
    key_block: str


def encode_header(key: BackupKey) -> bytes:
    """The first HEADER_BYTES of a file."""
    text = f"{_MAGIC}{_VERSION}\n{key.recipient}\n{key.key_block.strip()}\n"
    room = HEADER_BYTES - _CHECKSUM_BYTES
    if len(text) > room:
        raise ValueError("the key does not fit into the header")
    body = text.encode("ascii").ljust(room, b"\n")
    return body + hashlib.sha256(body).hexdigest().encode() + b"\n"


def read_header(file: BinaryIO) -> BackupKey:
    """The key in front; leaves `file` where the age file begins.

    Raises NotABackup, BackupTooNew, BackupDamaged.
    """
    raw = file.read(HEADER_BYTES)
    if not raw.startswith(_MAGIC.encode()):
        raise NotABackup("This is no Farebox backup: it does not begin like one.")
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    lines = body.decode("ascii", errors="replace").split("\n")
    if len(raw) < HEADER_BYTES or hashlib.sha256(body).hexdigest().encode() + b"\n" != checksum:
        raise BackupDamaged("The front of this backup is damaged. Use another backup.")
    if lines[0] != _MAGIC + _VERSION:
        raise BackupTooNew(
            "This backup was written by a newer version of Farebox. Install that version."
        )
    block = "\n".join(lines[2:]).strip()
    if not block.startswith(_BEGIN):
        raise BackupDamaged("The front of this backup is damaged. Use another backup.")
    return BackupKey(lines[1], block + "\n")
