"""Passwords: argon2id (RFC 9106), what is accepted as a new one, temporary ones.

Hashing takes 64 MiB and tens of milliseconds on purpose, so `PasswordGate` does it off
the event loop, few at a time, and refuses when too many wait: a flood of sign-ins must
not take the machine from the paid path.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from node.accounts.common_passwords import COMMON
from node.accounts.errors import AccountInvalid, SignInRefused

MIN_LENGTH = 12
MAX_LENGTH = 1024
AT_ONCE = 2
MAX_WAITING = 32
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"

_HASHER: Final = PasswordHasher(
    time_cost=3, memory_cost=64 * 1024, parallelism=4, hash_len=32, salt_len=16, type=Type.ID
)


def unmatched_hash() -> str:
    """A PHC string as of a password, which none is known to match."""
    lengths = _HASHER.salt_len, _HASHER.hash_len
    salt, hashed = (b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in lengths)
    cost = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${hashed}"


# Verified for names that do not exist, so that they take as long as those that do.
_NOBODY: Final = unmatched_hash()


def hash_password(password: str) -> str:
    """The PHC string of a password (blocking, tens of milliseconds)."""
    return _HASHER.hash(password)


def verify_password(hashed: str | None, password: str) -> bool:
    """Whether it is the password; as slow for None, where there is no user (blocking)."""
    try:
        _HASHER.verify(hashed or _NOBODY, password[:MAX_LENGTH])
    except (VerificationError, InvalidHashError):
        return False
    return hashed is not None


def needs_rehash(hashed: str) -> bool:
    """Whether it was made with weaker parameters than today's."""
    return _HASHER.check_needs_rehash(hashed)


def require_good_password(password: str, name: str, field: str = "password") -> None:
    """Raises AccountInvalid for one that is short, common, or made of the user's name."""
    if len(password) < MIN_LENGTH:
        raise AccountInvalid(field, f"Use at least {MIN_LENGTH} characters.")
    if len(password) > MAX_LENGTH:
        raise AccountInvalid(field, f"Use at most {MAX_LENGTH} characters.")
    plain = password.casefold()
    if plain.strip("0123456789!?.*#@$_- ") in COMMON or plain in COMMON or len(set(plain)) < 5:
        raise AccountInvalid(field, "This one is among the first that are tried. Choose another.")
    if len(name) > 2 and name.casefold() in plain:
        raise AccountInvalid(field, "Leave your name out of the password.")


def temporary_password() -> str:
    """A random one (79 bits) that can be read out: `kq3f-8hzt-p2mv-x7ra`."""
    letters = [secrets.choice(_ALPHABET) for _ in range(16)]
    return "-".join("".join(letters[start : start + 4]) for start in range(0, 16, 4))


class PasswordGate:
    """Hashing and checking, off the loop and bounded."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Raises SignInRefused when too many are waiting already."""
        if self._waiting >= MAX_WAITING:
            raise SignInRefused("Too many sign-ins at once. Try again in a minute.")
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(verify_password, hashed, password)
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        async with self._slots:
            return await asyncio.to_thread(hash_password, password)
