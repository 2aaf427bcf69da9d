"""A short secret under a password, as an age file (age-encryption.org/v1, type scrypt).

pyrage makes such files too, but with work chosen by the speed of the machine: up to a gigabyte
of memory. Here it is what age's own tool takes, always the same. Only writing is done here;
whoever opens one (pyrage, age, rage) knows nothing of this module.

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
_LABEL = b"age-encryption.org/v1/scrypt"
_BEGIN = "-----BEGIN AGE ENCRYPTED FILE-----"
_END = "-----END AGE ENCRYPTED FILE-----"
_STANZA = re.compile(rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n")


def seal(secret: bytes, password: str, work: int = WORK) -> str:
    """An armored age file of `secret`, at most 64 KiB, under `password`."""
    if len(secret) > _CHUNK_BYTES:
        raise ValueError("one chunk only")
    file_key, salt, nonce = (secrets.token_bytes(16) for _ in range(3))
    derived = hashlib.scrypt(
        password.encode(),
        salt=_LABEL + salt,
        n=1 << work,
        r=_BLOCK,
        p=1,
        maxmem=memory_of(work) + (1 << 20),
        dklen=32,
    )
    body = _encrypt(derived, bytes(12), file_key)
    head = f"age-encryption.org/v1\n-> scrypt {_plain(salt)} {work}\n{_plain(body)}\n---"
    mac = hmac.new(_derive(file_key, b"", b"header"), head.encode(), hashlib.sha256).digest()
    last = bytes(11) + b"\x01"  # the first chunk, and the last one
    chunk = _encrypt(_derive(file_key, nonce, b"payload"), last, secret)
    return _armored(f"{head} {_plain(mac)}\n".encode() + nonce + chunk)


def work_of(armored: str) -> int | None:
    """log2 of N that opening a file asks for; None where it is no such file."""
    text = "".join(armored.strip().removeprefix(_BEGIN).removesuffix(_END).split())
    try:
        found = _STANZA.match(base64.b64decode(text, validate=True))
    except ValueError:
        return None
    return int(found[1]) if found else None


def memory_of(work: int) -> int:
    """Bytes that scrypt fills."""
    return 128 * _BLOCK << work


def _encrypt(key: bytes, nonce: bytes, content: bytes) -> bytes:
    sealed, tag = ChaCha20_Poly1305.new(key=key, nonce=nonce).encrypt_and_digest(content)
    return sealed + tag


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    derived = HKDF(key, 32, salt, SHA256, context=info)
    assert isinstance(derived, bytes)
    return derived


def _plain(content: bytes) -> str:
    return base64.b64encode(content).decode().rstrip("=")


def _armored(content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((_BEGIN, *lines, _END, ""))
