"""Users: make, change, disable, unlock. The last admin who can sign in stays one.

A change of somebody's rights ends their sessions: they sign in anew, with the new ones.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import available_timezones

from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlmodel import col

from node.accounts import attempts
from node.accounts.access import Identity, Role
from node.accounts.audit import Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown, Forbidden
from node.accounts.models import ApiToken, SetupCode, User
from node.accounts.sessions import end_sessions_of
from node.accounts.totp import remove_factor
from node.db.engine import writer

THEMES: Final = ("system", "light", "dark")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{1,39}")
_EMAIL: Final = re.compile(
    r"[^\s\x00-\x1f\x7f@<>\"',;:\\()\[\]]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
)
_USERS_LOCK: Final = 0x75736572  # "user": PostgreSQL counts admins one change at a time


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as people see them; times in Unix seconds."""

    id: str
    name: str
    email: str
    role: Role
    temporary_password: bool
    second_factor: bool
    failed_attempts: int
    locked_until: int
    disabled: bool
    created_at: int
    last_sign_in_at: int | None
    zone: str
    theme: str

    def locked(self, now: int) -> bool:
        return attempts.lock_holds(self.locked_until, now)


@dataclass(frozen=True, slots=True)
class NewUser:
    """Somebody who is to be made; `password_hash` from `passwords.hash_password`."""

    name: str
    email: str
    role: Role
    password_hash: str
    temporary_password: bool = True


def clean_name(name: str) -> str:
    """A name to sign in with. Raises AccountInvalid."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise AccountInvalid(
            "name", "Use 2 to 40 letters, digits and . _ @ + -, beginning with a letter or digit."
        )
    return name


def clean_email(email: str, field: str = "email") -> str:
    """An address, or nothing. Raises AccountInvalid."""
    email = email.strip()
    if email and (len(email) > 254 or not _EMAIL.fullmatch(email)):
        raise AccountInvalid(field, "This is no email address, such as name@example.org.")
    return email


def parse_role(text: str) -> Role:
    """Raises AccountInvalid."""
    try:
        return Role(text)
    except ValueError:
        raise AccountInvalid("role", "Choose one of the roles.") from None


def create_user(engine: Engine, new: NewUser, actor: Actor, now: int) -> UserView:
    """Make a user (blocking). Raises AccountInvalid."""
    with writer(engine).begin() as connection:
        return add_user(connection, new, actor, now)


def create_first_admin(engine: Engine, new: NewUser, actor: Actor, now: int) -> UserView:
    """Make the first user, once (blocking). Raises AccountInvalid when there are users."""
    with writer(engine).begin() as connection:
        lock_users(connection)
        if connection.scalar(select(func.count()).select_from(User)):
            raise AccountInvalid("name", "This node has been set up already. Sign in.")
        connection.execute(delete(SetupCode))
        return add_user(connection, new, actor, now)


def add_user(connection: Connection, new: NewUser, actor: Actor, now: int) -> UserView:
    """The same in the caller's transaction."""
    lock_users(connection)
    name, email = clean_name(new.name), clean_email(new.email)
    taken = select(col(User.id)).where(col(User.name_key) == name.lower())
    if connection.scalar(taken) is not None:
        raise AccountInvalid("name", "There is a user of this name already.")
    row = {
        "id": f"usr_{secrets.token_hex(6)}",
        "name": name,
        "name_key": name.lower(),
        "email": email,
        "role": new.role,
        "password_hash": new.password_hash,
        "temporary_password": new.temporary_password,
        "created_at": now,
    }
    connection.execute(insert(User), row)
    shown = {"name": name, "email": email, "role": new.role}
    record(connection, actor, "user.create", str(row["id"]), now, after=shown)
    return _require(connection, str(row["id"]))


def list_users(engine: Engine) -> list[UserView]:
    """Everybody, by name (blocking)."""
    with engine.connect() as connection:
        rows = connection.execute(_SELECT.order_by(col(User.name_key))).mappings()
        return [_view(row) for row in rows]


def read_user(engine: Engine, user_id: str) -> UserView:
    """One user (blocking). Raises AccountUnknown."""
    with engine.connect() as connection:
        return _require(connection, user_id)


def find_user(engine: Engine, name: str) -> UserView:
    """By the name they sign in with (blocking). Raises AccountUnknown."""
    with engine.connect() as connection:
        statement = _SELECT.where(col(User.name_key) == name.strip().lower())
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise AccountUnknown(f"There is no user {name!r}. See: farebox user list")
    return _view(row)


def require_full_rights(engine: Engine, identity: Identity) -> None:
    """A token of a lesser role may look at its maker's account, not change it (blocking).

    Raises Forbidden."""
    if read_user(engine, identity.user_id).role is not identity.role:
        raise Forbidden("This token has not its maker's role: it cannot change the account.")


def change_role(engine: Engine, user_id: str, role: Role, actor: Actor, now: int) -> None:
    """Give another role; their sessions end (blocking). Raises AccountInvalid (last admin)."""
    with writer(engine).begin() as connection:
        lock_users(connection)
        user = _require(connection, user_id)
        if user.role is role:
            return
        if role is not Role.ADMIN:
            _require_another_admin(connection, user, "role")
        _store(connection, user_id, role=role)
        end_sessions_of(connection, user_id)
        record(connection, actor, "user.role", user_id, now, user.role, role)


def set_disabled(engine: Engine, user_id: str, disabled: bool, actor: Actor, now: int) -> None:
    """Shut a user out, with sessions and tokens, or let them in again (blocking).

    Raises AccountInvalid (last admin)."""
    with writer(engine).begin() as connection:
        lock_users(connection)
        user = _require(connection, user_id)
        if user.disabled is disabled:
            return
        if disabled:
            _require_another_admin(connection, user, "disabled")
            end_sessions_of(connection, user_id)
            _end_tokens_of(connection, user_id, now)
        _store(connection, user_id, disabled=disabled)
        action = "user.disable" if disabled else "user.enable"
        record(connection, actor, action, user_id, now, user.disabled, disabled)


def unlock_user(engine: Engine, user_id: str, actor: Actor, now: int) -> None:
    """Forget failed sign-ins (blocking)."""
    with writer(engine).begin() as connection:
        user = _require(connection, user_id)
        attempts.forgive(connection, user_id)
        before = {"failed_attempts": user.failed_attempts, "locked": user.locked(now)}
        record(connection, actor, "user.unlock", user_id, now, before)


def reset_password(
    engine: Engine,
    user_id: str,
    password_hash: str,
    actor: Actor,
    now: int,
    *,
    without_factor: bool = False,
) -> None:
    """Store a temporary password; sessions end, a lock too, on request the second factor."""
    with writer(engine).begin() as connection:
        _require(connection, user_id)
        _store(connection, user_id, password_hash=password_hash, temporary_password=True)
        attempts.forgive(connection, user_id)
        end_sessions_of(connection, user_id)
        if without_factor:
            remove_factor(connection, user_id)
        after = {"temporary": True, "second_factor_removed": without_factor}
        record(connection, actor, "user.reset_password", user_id, now, after=after)


def change_email(engine: Engine, user_id: str, email: str, actor: Actor, now: int) -> None:
    """Store another email address, or none (blocking). Raises AccountInvalid."""
    email = clean_email(email)
    with writer(engine).begin() as connection:
        before = _require(connection, user_id).email
        if before != email:
            _store(connection, user_id, email=email)
            record(connection, actor, "user.email", user_id, now, before, email)


def set_appearance(
    engine: Engine, user_id: str, zone: str, theme: str, actor: Actor, now: int
) -> None:
    """Store a user's time zone (empty: the browser's) and theme. Raises AccountInvalid."""
    if zone and zone not in available_timezones():
        raise AccountInvalid("zone", "Choose a time zone of the list, such as Europe/Lisbon.")
    if theme not in THEMES:
        raise AccountInvalid("theme", "Choose system, light or dark.")
    with writer(engine).begin() as connection:
        user = _require(connection, user_id)
        before, after = {"zone": user.zone, "theme": user.theme}, {"zone": zone, "theme": theme}
        if before != after:
            _store(connection, user_id, **after)
            record(connection, actor, "user.appearance", user_id, now, before, after)


def zone_names() -> list[str]:
    """Time zones to choose from: places, and UTC."""
    return ["UTC", *sorted(n for n in available_timezones() if "/" in n and n[:4] != "Etc/")]


def lock_users(connection: Connection) -> None:
    """One change of who is admin at a time; on SQLite every writer is alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_USERS_LOCK})"))


def _require_another_admin(connection: Connection, user: UserView, field: str) -> None:
    if user.role is not Role.ADMIN or user.disabled:
        return
    others = select(func.count()).where(
        col(User.role) == Role.ADMIN, col(User.disabled).is_(False), col(User.id) != user.id
    )
    if not connection.scalar(others):
        raise AccountInvalid(
            field, "This is the last admin who can sign in. Make somebody else admin first."
        )


def _require(connection: Connection, user_id: str) -> UserView:
    row = connection.execute(_SELECT.where(col(User.id) == user_id)).mappings().first()
    if row is None:
        raise AccountUnknown("There is no such user.")
    return _view(row)


def _end_tokens_of(connection: Connection, user_id: str, now: int) -> None:
    own = (col(ApiToken.user_id) == user_id) & col(ApiToken.revoked_at).is_(None)
    connection.execute(update(ApiToken).where(own).values(revoked_at=now))


def _view(row: Any) -> UserView:
    return UserView(**{**row, "role": Role(row["role"])})


def _store(connection: Connection, user_id: str, **values: object) -> None:
    connection.execute(update(User).where(col(User.id) == user_id).values(**values))


_SELECT: Final[Any] = select(
    *(col(getattr(User, name)) for name in UserView.__slots__ if name != "second_factor"),
    (col(User.totp_secret_sealed) != "").label("second_factor"),
)
