"""Tokens of this API."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, Field

from node.accounts import tokens
from node.accounts.access import Permission, Role
from node.accounts.audit import Actor
from node.accounts.service import Accounts
from node.accounts.users import require_full_rights
from node.api.paging import Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints


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


class TokenIn(Sent):
    """A token to make, with a role within that of whoever asks. Without `days` it never ends."""

    name: ShortText
    role: ShortText
    days: Annotated[int, Field(ge=1, le=tokens.MAX_DAYS)] | None = None


class ApiTokenMade(BaseModel):
    """The secret is shown this once."""

    id: str
    name: str
    role: Role
    secret: str


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/tokens`, `/api/tokens/all`."""
    api = Endpoints(prefix="", tags=["tokens"])
    own, people = Permission.OWN_ACCOUNT, Permission.MANAGE_USERS

    @api.get("/tokens", own)
    async def my_tokens(identity: Caller, page: PageNumber = 1) -> Listed[TokenOut]:
        rows = await accounts.read(tokens.list_tokens, identity.user_id)
        return listed([_token(row) for row in rows], page)

    @api.post("/tokens", own, status_code=201)
    async def make_token(body: TokenIn, identity: Caller) -> ApiTokenMade:
        made = await accounts.change(
            tokens.create_token, identity, body.name, body.role, _now(), body.days
        )
        return ApiTokenMade(id=made.id, name=made.name, role=made.role, secret=made.secret)

    @api.delete("/tokens/{token_id}", own)
    async def revoke_my_token(token_id: Id, identity: Caller) -> None:
        """A token of one's own; admins end those of others at `/api/tokens/all`."""
        await accounts.read(require_full_rights, identity)
        actor, user_id = Actor.of(identity), identity.user_id
        await accounts.change(tokens.revoke_token, token_id, actor, _now(), user_id=user_id)

    @api.get("/tokens/all", people)
    async def all_tokens(page: PageNumber = 1) -> Listed[TokenOut]:
        rows = await accounts.read(tokens.list_tokens)
        return listed([_token(row) for row in rows], page)

    @api.delete("/tokens/all/{token_id}", people)
    async def revoke_any_token(token_id: Id, identity: Caller) -> None:
        await accounts.change(tokens.revoke_token, token_id, Actor.of(identity), _now())

    return api


def _now() -> int:
    return int(time.time())


def _token(view: tokens.TokenView) -> TokenOut:
    return TokenOut(**{name: getattr(view, name) for name in TokenOut.model_fields})
