"""Tokens of this API, and the secrets of the buyer's apps."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, Field

from node.accounts import tokens
from node.accounts.access import Permission, Role
from node.accounts.audit import Actor
from node.accounts.service import Accounts
from node.api.paging import Id, Listed, PageNumber, ShortText, listed
from node.api.routing import Caller, Endpoints
from node.usage import keys


class TokenOut(BaseModel):
    """A token without its secret; times in Unix seconds."""

    id: str
    name: str
    role: Role
    user_id: str
    user_name: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked_at: int | None


class TokenIn(BaseModel):
    """A token to make, with a role within that of whoever asks. Without `days` it never ends."""

    name: ShortText
    role: ShortText
    days: Annotated[int, Field(ge=1, le=tokens.MAX_DAYS)] | None = None


class TokenMade(BaseModel):
    """The secret is shown this once."""

    id: str
    name: str
    role: Role
    secret: str


class KeyOut(BaseModel):
    """A secret of an app, without the secret; times in Unix seconds."""

    id: str
    name: str
    created_at: int
    revoked_at: int | None
    previous_until: int | None


class KeyIn(BaseModel):
    name: ShortText


class RotateIn(BaseModel):
    """How long the old secret goes on."""

    grace_seconds: Annotated[int, Field(ge=0, le=keys.LONGEST_GRACE_SECONDS)] = 0


class KeyMade(BaseModel):
    """The secret is shown this once."""

    id: str
    name: str
    secret: str


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/tokens`, `/api/tokens/all`, `/api/keys`."""
    api = Endpoints(prefix="", tags=["tokens"])
    own, people, manage = Permission.OWN_ACCOUNT, Permission.MANAGE_USERS, Permission.MANAGE_KEYS

    @api.get("/tokens", own)
    async def my_tokens(identity: Caller, page: PageNumber = 1) -> Listed[TokenOut]:
        rows = await accounts.read(tokens.list_tokens, identity.user_id)
        return listed([_token(row) for row in rows], page)

    @api.post("/tokens", own, status_code=201)
    async def make_token(body: TokenIn, identity: Caller) -> TokenMade:
        made = await accounts.change(
            tokens.create_token, identity, body.name, body.role, _now(), body.days
        )
        return TokenMade(id=made.id, name=made.name, role=made.role, secret=made.secret)

    @api.delete("/tokens/{token_id}", own)
    async def revoke_my_token(token_id: Id, identity: Caller) -> None:
        """A token of one's own; admins end those of others at `/api/tokens/all`."""
        actor, user_id = Actor.of(identity), identity.user_id
        await accounts.change(tokens.revoke_token, token_id, actor, _now(), user_id=user_id)

    @api.get("/tokens/all", people)
    async def all_tokens(page: PageNumber = 1) -> Listed[TokenOut]:
        rows = await accounts.read(tokens.list_tokens)
        return listed([_token(row) for row in rows], page)

    @api.delete("/tokens/all/{token_id}", people)
    async def revoke_any_token(token_id: Id, identity: Caller) -> None:
        await accounts.change(tokens.revoke_token, token_id, Actor.of(identity), _now())

    @api.get("/keys", manage)
    async def all_keys(page: PageNumber = 1) -> Listed[KeyOut]:
        rows = await accounts.read(keys.list_keys)
        return listed([_key(row) for row in rows], page)

    @api.post("/keys", manage, status_code=201)
    async def make_key(body: KeyIn, identity: Caller) -> KeyMade:
        made = await accounts.read(keys.create_key, body.name, _now(), Actor.of(identity))
        return KeyMade(id=made.id, name=made.name, secret=made.secret)

    @api.post("/keys/{key_id}/rotate", manage)
    async def rotate_key(key_id: Id, body: RotateIn, identity: Caller) -> KeyMade:
        made = await accounts.read(
            keys.rotate_key, key_id, body.grace_seconds, _now(), Actor.of(identity)
        )
        return KeyMade(id=made.id, name=made.name, secret=made.secret)

    @api.delete("/keys/{key_id}", manage)
    async def revoke_key(key_id: Id, identity: Caller) -> None:
        await accounts.read(keys.revoke_key_id, key_id, _now(), Actor.of(identity))

    return api


def _now() -> int:
    return int(time.time())


def _token(view: tokens.TokenView) -> TokenOut:
    return TokenOut(**{name: getattr(view, name) for name in TokenOut.model_fields})


def _key(view: keys.KeyView) -> KeyOut:
    return KeyOut(**{name: getattr(view, name) for name in KeyOut.model_fields})
