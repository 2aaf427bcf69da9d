"""Who is asking: sign-in, sessions and tokens, as the pages and the JSON API use them.

The rest of accounts are plain functions of their modules; `change` runs one off the loop
and drops what was remembered of sessions, so that it holds from the next request on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine, select
from sqlmodel import col

from node.accounts.access import Identity
from node.accounts.attempts import AddressLimiter
from node.accounts.cache import ShortMemory
from node.accounts.errors import AccountInvalid, SignInRefused, SignInRequired
from node.accounts.models import User
from node.accounts.passwords import PasswordGate, needs_rehash, require_good_password
from node.accounts.sessions import (
    SEEN_SECONDS,
    Client,
    NewSession,
    SessionRow,
    end_session,
    find_session,
    hash_token,
    touch_session,
)
from node.accounts.sign_in import (
    Attempt,
    close_confirmed,
    close_new_password,
    close_refused,
    close_signed_in,
    close_with_code,
    open_attempt,
)
from node.accounts.tokens import PREFIX, USED_SECONDS, TokenRow, find_token, touch_token
from node.db.engine import writer

WRONG = (
    "Name or password is wrong. After five wrong ones an account is locked for a time that"
    " grows; an admin can unlock it."
)
WRONG_CODE = "This code is wrong, used or too old. Take the next one, or a recovery code."
WRONG_PASSWORD = (
    "The password is wrong. After five wrong ones the account is locked for a time that grows."
)
TOO_OFTEN = "Too many wrong sign-ins from this address. Try again in ten minutes."
REFUSED_SECONDS = 0.4  # every wrong name or password is answered after as long
TEMPORARY_PASSWORD = "temporary_password"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionView:
    """The session of a request. `zone` is empty until chosen; `theme` system, light or dark.

    `restricted` is empty, or `temporary_password`: the user must choose one of their own at
    /account/password before anything else.
    """

    id: str
    csrf: str
    zone: str
    theme: str
    restricted: str


class Accounts:
    """`seal` and `unseal` are the keystore's (`Keys.seal`, `Keys.unseal`)."""

    def __init__(
        self, engine: Engine, seal: Callable[[bytes], str], unseal: Callable[[str], bytes]
    ) -> None:
        self.engine = engine
        self.seal = seal
        self.unseal = unseal
        self._gate = PasswordGate()
        self._limiter = AddressLimiter()
        self._sessions: ShortMemory[SessionRow] = ShortMemory()
        self._tokens: ShortMemory[TokenRow] = ShortMemory()
        self._has_users = False

    async def read(
        self, work: Callable[Concatenate[Engine, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function of the engine off the loop."""
        return await asyncio.to_thread(work, self.engine, *args, **kwargs)

    async def change(
        self, work: Callable[Concatenate[Engine, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same for one that changes users, sessions or tokens."""
        try:
            return await asyncio.to_thread(work, self.engine, *args, **kwargs)
        finally:
            self.forget()

    def forget(self) -> None:
        """Trust nothing that was read before."""
        self._sessions.forget()
        self._tokens.forget()

    async def needs_setup(self) -> bool:
        """Whether nobody can sign in yet."""
        if not self._has_users:
            self._has_users = await self.read(_has_users)
        return not self._has_users

    async def identify_session(
        self, token: str, address: str, now: int
    ) -> tuple[Identity, SessionView] | None:
        """Who has this cookie; None when it is no session, ended, or waits for a code."""
        session = await self._session(token, now)
        if session is None or not session.second_factor:
            return None
        restricted = TEMPORARY_PASSWORD if session.temporary_password else ""
        identity = Identity(
            session.user_id, session.name, session.role, address, session.id, bool(restricted)
        )
        view = SessionView(session.id, session.csrf, session.zone, session.theme, restricted)
        return identity, view

    async def identify_token(self, bearer: str, address: str, now: int) -> Identity | None:
        """Who holds this `fbt_…` token; None when it is not valid (any more)."""
        if not bearer.startswith(PREFIX):
            return None
        key, generation = hash_token(bearer), self._tokens.generation
        row = self._tokens.get(key, now)
        if row is None:
            row = await self.read(find_token, key, now)
            if row is None:
                return None
            if now - row.last_used_at >= USED_SECONDS:
                await self.read(touch_token, row.id, now)
            self._tokens.put(key, row, now, generation)
        if row.expires_at is not None and row.expires_at <= now:
            return None
        name = f"{row.user_name} ({row.name})"
        return Identity(row.user_id, name, row.role, address, ends_at=row.expires_at)

    async def sign_in(
        self, name: str, password: str, client: Client, now: int, old_token: str = ""
    ) -> NewSession:
        """Check name and password. Without a second factor the session is whole; else
        `second_factor` is False and `sign_in_with_code` completes it. Raises SignInRefused.

        `old_token` is the browser's cookie until now: that session ends.
        """
        self._refuse_flood(client.address, now)
        began = time.monotonic()
        attempt = await self.read(open_attempt, now, name=name)
        hashed = attempt.password_hash if attempt else None
        if not await self._gate.verify(hashed, password) or attempt is None:
            await self._refuse(attempt, "session.refused", client.address, now)
            # What is stored for a known name takes time too; the answer must not tell.
            await asyncio.sleep(began + REFUSED_SECONDS - time.monotonic())
            raise SignInRefused(WRONG)
        rehash = needs_rehash(attempt.password_hash)
        return await self.change(
            close_signed_in,
            attempt,
            client,
            now,
            new_hash=await self._gate.hash(password) if rehash else None,
            old_token_hash=hash_token(old_token) if old_token else None,
        )

    async def waits_for_code(self, token: str, now: int) -> bool:
        """Whether this cookie's session has its password and still needs a code."""
        session = await self._session(token, now)
        return session is not None and not session.second_factor

    async def sign_in_with_code(
        self, token: str, code: str, client: Client, now: int
    ) -> NewSession:
        """Complete a sign-in with a code of the app or a recovery code.

        Raises SignInRequired when the half session is gone, SignInRefused.
        """
        self._refuse_flood(client.address, now)
        half = await self._session(token, now)
        if half is None or half.second_factor:
            raise SignInRequired("The sign-in took too long. Begin again.")
        attempt = await self.read(open_attempt, now, user_id=half.user_id)
        session = None
        if attempt is not None and attempt.totp_secret_sealed:
            secret = self.unseal(attempt.totp_secret_sealed).decode()
            session = await self.change(
                close_with_code, attempt, secret, code, hash_token(token), client, now
            )
        if session is None:
            await self._refuse(attempt, "session.code_refused", client.address, now)
            raise SignInRefused(WRONG_CODE)
        return session

    async def check_password(self, identity: Identity, password: str, now: int) -> None:
        """Ask a signed-in user for the password again. Raises SignInRefused; wrong ones count."""
        await self._confirm(identity, password, now)

    async def change_password(
        self, identity: Identity, old: str, new: str, client: Client, now: int
    ) -> NewSession:
        """Give oneself another password; every session ends and a new one begins.

        Raises SignInRefused (the old one is wrong) or AccountInvalid (field `new`).
        """
        attempt = await self._confirm(identity, old, now)
        require_good_password(new, attempt.name, "new")
        if new == old:
            raise AccountInvalid("new", "This is the old one. Choose another.")
        hashed = await self._gate.hash(new)
        return await self.change(close_new_password, attempt, hashed, client, now)

    async def hash_new(self, password: str, name: str, field: str = "password") -> str:
        """The hash of a password somebody chose. Raises AccountInvalid."""
        require_good_password(password, name, field)
        return await self._gate.hash(password)

    async def hash_temporary(self, password: str) -> str:
        """The hash of one that was made for somebody."""
        return await self._gate.hash(password)

    async def sign_out(self, token: str) -> None:
        """End the browser's session; without one, nothing happens."""
        await self.change(_end, hash_token(token))

    async def _confirm(self, identity: Identity, password: str, now: int) -> Attempt:
        self._refuse_flood(identity.address, now)
        attempt = await self.read(open_attempt, now, user_id=identity.user_id)
        hashed = attempt.password_hash if attempt else None
        if not await self._gate.verify(hashed, password) or attempt is None:
            await self._refuse(attempt, "password.refused", identity.address, now)
            raise SignInRefused(WRONG_PASSWORD)
        await self.read(close_confirmed, attempt)
        return attempt

    async def _session(self, token: str, now: int) -> SessionRow | None:
        if not token:
            return None
        key, generation = hash_token(token), self._sessions.generation
        session = self._sessions.get(key, now)
        if session is None:
            session = await self.read(find_session, key, now)
            if session is None:
                return None
            if now - session.last_seen_at >= SEEN_SECONDS:
                await self.read(touch_session, session.id, now)
            self._sessions.put(key, session, now, generation)
        return session if session.alive(now) else None

    def _refuse_flood(self, address: str, now: int) -> None:
        if self._limiter.refuses(address, now):
            raise SignInRefused(TOO_OFTEN)

    async def _refuse(self, attempt: Attempt | None, action: str, address: str, now: int) -> None:
        self._limiter.failed(address, now)
        if attempt is not None:
            await self.read(close_refused, attempt, action, address, now)


def _has_users(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.scalar(select(col(User.id)).limit(1)) is not None


def _end(engine: Engine, token_hash: str) -> None:
    with writer(engine).begin() as connection:
        end_session(connection, token_hash)
