"""A short secret under a password, as an age file (age-encryption.org/v1, type scrypt).

pyrage makes and opens such files too, but measures the machine each time: up to a gigabyte of
memory to write one, and one that was written is refused, as if by a wrong password, when the
machine was busy for the moment of measuring. Here the work is what age's own tool takes, always
the same, and what a file asks for is done. Any age tool opens what is written here.

    age-encryption.org/v1
    -> scrypt <salt> <log2 of N>
    <file key, ChaCha20-Poly1305 under scrypt(password)>
    --- <HMAC-SHA-256 of the lines above, under the file key>
    nonce, then one chunk: ChaCha20-Poly1305 under a key of file key and nonce
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

from Crypto.Cipher import ChaCha20_Poly1305
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

WORK = 18  # log2 of scrypt's N, as `age -p` has it: 256 MiB for most of a second
MOST_WORK = 20  # 1 GiB: what an earlier version, or another tool, may have written
_BLOCK = 8  # scrypt's r
_CHUNK_BYTES = 64 << 10
_LAST = bytes(11) + b"\x01"  # the nonce of the first chunk, where it is the last one too
_TAG_BYTES = 16
_LABEL = b"age-encryption.org/v1/scrypt"
_BEGIN = "-----BEGIN AGE ENCRYPTED FILE-----"
_END = "-----END AGE ENCRYPTED FILE-----"
_FILE = re.compile(
    rb"(age-encryption\.org/v1\n-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n"
    rb"([A-Za-z0-9+/]{43})\n---) ([A-Za-z0-9+/]{43})\n(.{16})(.*)",
    re.DOTALL,
)


class Unreadable(ValueError):
    """It is no such file, or was changed since it was written."""


class OtherPassword(ValueError):
    """It was written under another password."""


def seal(secret: bytes, password: str, work: int = WORK) -> str:
    """An armored age file of `secret`, at most 64 KiB, under `password`."""
    if len(secret) > _CHUNK_BYTES:
        raise ValueError("one chunk only")
    file_key, salt, nonce = (secrets.token_bytes(16) for _ in range(3))
    derived = _stretch(password, salt, work)
    body = _encrypt(derived, bytes(12), file_key)
    head = f"age-encryption.org/v1\n-> scrypt {_plain(salt)} {work}\n{_plain(body)}\n---"
    mac = hmac.new(_derive(file_key, b"", b"header"), head.encode(), hashlib.sha256).digest()
    chunk = _encrypt(_derive(file_key, nonce, b"payload"), _LAST, secret)
    return _armored(f"{head} {_plain(mac)}\n".encode() + nonce + chunk)


def unseal(armored: str, password: str) -> bytes:
    """The secret in such a file. Raises OtherPassword, Unreadable."""
    head, salt, work, body, mac, nonce, chunk = _read(armored).groups()
    derived = _stretch(password, _unplain(salt), int(work))
    try:
        file_key = _decrypt(derived, bytes(12), _unplain(body))
    except ValueError:
        raise OtherPassword from None
    proof = hmac.new(_derive(file_key, b"", b"header"), head, hashlib.sha256).digest()
    if not hmac.compare_digest(_plain(proof).encode(), mac):
        raise Unreadable
    try:
        return _decrypt(_derive(file_key, nonce, b"payload"), _LAST, chunk)
    except ValueError:
        raise Unreadable from None


def work_of(armored: str) -> int | None:
    """log2 of N that opening a file asks for; None where it is no such file."""
    try:
        return int(_read(armored)[3])
    except Unreadable:
        return None


def memory_of(work: int) -> int:
    """Bytes that scrypt fills."""
    return 128 * _BLOCK << work


def _read(armored: str) -> re.Match[bytes]:
    text = "".join(armored.strip().removeprefix(_BEGIN).removesuffix(_END).split())
    try:
        found = _FILE.fullmatch(base64.b64decode(text, validate=True))
    except ValueError:
        raise Unreadable from None
    if found is None or len(found[7]) > _CHUNK_BYTES + _TAG_BYTES:
        raise Unreadable
    return found


def _stretch(password: str, salt: bytes, work: int) -> bytes:
    return hashlib.scrypt(
        password.encode(),
        salt=_LABEL + salt,
        n=1 << work,
        r=_BLOCK,
        p=1,
        maxmem=memory_of(work) + (1 << 20),
        dklen=32,
    )


def _encrypt(key: bytes, nonce: bytes, content: bytes) -> bytes:
    sealed, tag = ChaCha20_Poly1305.new(key=key, nonce=nonce).encrypt_and_digest(content)
    return sealed + tag


def _decrypt(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    """Raises ValueError where the tag does not fit."""
    cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    return cipher.decrypt_and_verify(sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    derived = HKDF(key, 32, salt, SHA256, context=info)
    assert isinstance(derived, bytes)
    return derived


def _plain(content: bytes) -> str:
    return base64.b64encode(content).decode().rstrip("=")


def _unplain(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def _armored(content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((_BEGIN, *lines, _END, ""))
