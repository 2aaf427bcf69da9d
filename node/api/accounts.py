"""Users, oneself, and who is signed in."""

from __future__ import annotations

import time

from pydantic import BaseModel

from node.accounts import users
from node.accounts.access import GRANTS, Permission, Role
from node.accounts.audit import Actor
from node.accounts.passwords import temporary_password
from node.accounts.service import Accounts
from node.accounts.sessions import (
    Client,
    SessionRow,
    list_sessions,
    revoke_session,
    sign_out_everywhere,
)
from node.accounts.users import NewUser, UserView
from node.api.paging import Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints


class Me(BaseModel):
    """Whoever asks. `permissions` are those of the token's or user's role."""

    user_id: str
    name: str
    role: Role
    permissions: list[Permission]
    email: str
    zone: str
    theme: str
    temporary_password: bool
    second_factor: bool


class UserOut(BaseModel):
    """A user; times in Unix seconds."""

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


class UserIn(Sent):
    """Somebody to add."""

    name: ShortText
    email: ShortText = ""
    role: ShortText


class UserWithPassword(BaseModel):
    """A user and the temporary password, shown this once."""

    user: UserOut
    temporary_password: str


class RoleIn(Sent):
    role: ShortText


class ResetIn(Sent):
    """`without_factor`: also turn the second factor off."""

    without_factor: bool = False


class PasswordIn(Sent):
    """Ends every session of the user."""

    old: ShortText
    new: ShortText


class EmailIn(Sent):
    email: ShortText


class AppearanceIn(Sent):
    """`zone`: IANA name, empty: the browser's; `theme`: system, light, dark."""

    zone: ShortText = ""
    theme: ShortText = "system"


class SessionOut(BaseModel):
    """A signed-in browser; times in Unix seconds."""

    id: str
    user_id: str
    user_name: str
    address: str
    user_agent: str
    created_at: int
    last_seen_at: int
    expires_at: int


class Ended(BaseModel):
    ended: int


class AccountsApi:
    """The handlers that need the service."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts

    async def me(self, identity: Caller) -> Me:
        user = await self.accounts.read(users.read_user, identity.user_id)
        return Me(
            user_id=user.id,
            name=user.name,
            role=identity.role,
            permissions=sorted(GRANTS[identity.role]),
            email=user.email,
            zone=user.zone,
            theme=user.theme,
            temporary_password=user.temporary_password,
            second_factor=user.second_factor,
        )

    async def change_password(self, body: PasswordIn, identity: Caller) -> None:
        client = Client(identity.address, "JSON API")
        session = await self.accounts.change_password(identity, body.old, body.new, client, _now())
        await self.accounts.sign_out(session.token)

    async def change_email(self, body: EmailIn, identity: Caller) -> UserOut:
        await self.accounts.read(users.require_full_rights, identity)
        await self.accounts.change(
            users.change_email, identity.user_id, body.email, Actor.of(identity), _now()
        )
        return await self.user(identity.user_id)

    async def change_appearance(self, body: AppearanceIn, identity: Caller) -> UserOut:
        await self.accounts.read(users.require_full_rights, identity)
        await self.accounts.change(
            users.set_appearance,
            identity.user_id,
            body.zone,
            body.theme,
            Actor.of(identity),
            _now(),
        )
        return await self.user(identity.user_id)

    async def my_sessions(self, identity: Caller, page: PageNumber = 1) -> Listed[SessionOut]:
        rows = await self.accounts.read(list_sessions, _now(), identity.user_id)
        return listed([_session(row) for row in rows], page)

    async def end_my_sessions(self, identity: Caller) -> Ended:
        await self.accounts.read(users.require_full_rights, identity)
        ended = await self.accounts.change(
            sign_out_everywhere, identity.user_id, Actor.of(identity), _now()
        )
        return Ended(ended=ended)

    async def end_my_session(self, session_id: Id, identity: Caller) -> None:
        await self.accounts.read(users.require_full_rights, identity)
        await self.accounts.change(
            revoke_session, session_id, Actor.of(identity), _now(), user_id=identity.user_id
        )

    async def users(self, page: PageNumber = 1) -> Listed[UserOut]:
        rows = await self.accounts.read(users.list_users)
        return listed([_user(row) for row in rows], page)

    async def user(self, user_id: Id) -> UserOut:
        return _user(await self.accounts.read(users.read_user, user_id))

    async def create(self, body: UserIn, identity: Caller) -> UserWithPassword:
        password = temporary_password()
        new = NewUser(
            body.name,
            body.email,
            users.parse_role(body.role),
            await self.accounts.hash_temporary(password),
        )
        user = await self.accounts.change(users.create_user, new, Actor.of(identity), _now())
        return UserWithPassword(user=_user(user), temporary_password=password)

    async def change_role(self, user_id: Id, body: RoleIn, identity: Caller) -> UserOut:
        role = users.parse_role(body.role)
        await self.accounts.change(users.change_role, user_id, role, Actor.of(identity), _now())
        return await self.user(user_id)

    async def disable(self, user_id: Id, identity: Caller) -> UserOut:
        await self.accounts.change(users.set_disabled, user_id, True, Actor.of(identity), _now())
        return await self.user(user_id)

    async def enable(self, user_id: Id, identity: Caller) -> UserOut:
        await self.accounts.change(users.set_disabled, user_id, False, Actor.of(identity), _now())
        return await self.user(user_id)

    async def unlock(self, user_id: Id, identity: Caller) -> UserOut:
        await self.accounts.change(users.unlock_user, user_id, Actor.of(identity), _now())
        return await self.user(user_id)

    async def reset(self, user_id: Id, body: ResetIn, identity: Caller) -> UserWithPassword:
        password = temporary_password()
        await self.accounts.change(
            users.reset_password,
            user_id,
            await self.accounts.hash_temporary(password),
            Actor.of(identity),
            _now(),
            without_factor=body.without_factor,
        )
        return UserWithPassword(user=await self.user(user_id), temporary_password=password)

    async def sessions(self, page: PageNumber = 1) -> Listed[SessionOut]:
        rows = await self.accounts.read(list_sessions, _now())
        return listed([_session(row) for row in rows], page)

    async def end_session(self, session_id: Id, identity: Caller) -> None:
        await self.accounts.change(revoke_session, session_id, Actor.of(identity), _now())


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/me`, `/api/users`, `/api/sessions`."""
    api, handlers = Endpoints(prefix="", tags=["accounts"]), AccountsApi(accounts)
    own, manage = Permission.OWN_ACCOUNT, Permission.MANAGE_USERS
    api.get("/me", own)(handlers.me)
    api.put("/me/password", own, status_code=204)(handlers.change_password)
    api.put("/me/email", own)(handlers.change_email)
    api.put("/me/appearance", own)(handlers.change_appearance)
    api.get("/me/sessions", own)(handlers.my_sessions)
    api.post("/me/sessions/end", own)(handlers.end_my_sessions)
    api.delete("/me/sessions/{session_id}", own)(handlers.end_my_session)
    api.get("/users", manage)(handlers.users)
    api.post("/users", manage, status_code=201)(handlers.create)
    api.get("/users/{user_id}", manage)(handlers.user)
    api.put("/users/{user_id}/role", manage)(handlers.change_role)
    api.post("/users/{user_id}/disable", manage)(handlers.disable)
    api.post("/users/{user_id}/enable", manage)(handlers.enable)
    api.post("/users/{user_id}/unlock", manage)(handlers.unlock)
    api.post("/users/{user_id}/reset-password", manage)(handlers.reset)
    api.get("/sessions", manage)(handlers.sessions)
    api.delete("/sessions/{session_id}", manage)(handlers.end_session)
    return api


def _now() -> int:
    return int(time.time())


def _user(view: UserView) -> UserOut:
    return UserOut(**{name: getattr(view, name) for name in UserOut.model_fields})


def _session(row: SessionRow) -> SessionOut:
    shared = ("id", "user_id", "address", "user_agent", "created_at", "last_seen_at", "expires_at")
    return SessionOut(user_name=row.name, **{name: getattr(row, name) for name in shared})
