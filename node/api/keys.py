"""Secrets of the buyer's apps: who they are for, and what they may."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, Field

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.accounts.service import Accounts
from node.api.paging import Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints
from node.usage import keys
from node.usage.key_choices import MOST_PER_MINUTE, MOST_SCOPES, KeyChoices

Rate = Annotated[int, Field(ge=1, le=MOST_PER_MINUTE, description="in any 60 seconds")]
Scopes = Annotated[list[ShortText], Field(max_length=MOST_SCOPES, description="ids of listings")]


class KeyOut(BaseModel):
    """A secret of an app, without the secret; times in Unix seconds. `scopes`: ids of the only
    listings it may call, none for all; `per_minute` null: no limit."""

    id: str
    name: str
    created_at: int
    revoked_at: int | None
    previous_until: int | None
    last_used_at: int | None
    owner_email: str
    integrator: bool
    scopes: list[str]
    per_minute: int | None


class KeyIn(Sent):
    """A key to make. Integrators are metered, and end with the month's quota."""

    name: ShortText
    owner_email: ShortText = ""
    integrator: bool = False
    scopes: Scopes = Field(default_factory=list)
    per_minute: Rate | None = None


class KeyChange(Sent):
    """The fields that are sent are changed."""

    name: ShortText | None = None
    owner_email: ShortText | None = None
    integrator: bool | None = None
    scopes: Scopes | None = None
    per_minute: Rate | None = None


class RotateIn(Sent):
    """How long the old secret goes on."""

    grace_seconds: Annotated[int, Field(ge=0, le=keys.LONGEST_GRACE_SECONDS)] = 0


class KeyMade(BaseModel):
    """The secret is shown this once."""

    id: str
    name: str
    secret: str


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/keys`."""
    api, manage = Endpoints(prefix="/keys", tags=["keys"]), Permission.MANAGE_KEYS

    @api.get("", manage)
    async def all_keys(page: PageNumber = 1) -> Listed[KeyOut]:
        rows = await accounts.read(keys.list_keys)
        return listed([_key(row) for row in rows], page)

    @api.post("", manage, status_code=201)
    async def make_key(body: KeyIn, identity: Caller) -> KeyMade:
        choices = KeyChoices(
            body.name, body.owner_email, body.integrator, tuple(body.scopes), body.per_minute
        )
        made = await accounts.read(keys.create_key, choices, _now(), Actor.of(identity))
        return _made(made)

    @api.get("/{key_id}", manage)
    async def one_key(key_id: Id) -> KeyOut:
        return _key(await accounts.read(keys.read_key, key_id))

    @api.patch("/{key_id}", manage)
    async def change_key(key_id: Id, body: KeyChange, identity: Caller) -> KeyOut:
        """`per_minute` null takes the limit away; other fields that are null stay."""
        before = (await accounts.read(keys.read_key, key_id)).choices
        choices = _changed(before, body)
        await accounts.read(keys.change_key, key_id, choices, _now(), Actor.of(identity))
        return _key(await accounts.read(keys.read_key, key_id))

    @api.post("/{key_id}/rotate", manage)
    async def rotate_key(key_id: Id, body: RotateIn, identity: Caller) -> KeyMade:
        made = await accounts.read(
            keys.rotate_key, key_id, body.grace_seconds, _now(), Actor.of(identity)
        )
        return _made(made)

    @api.delete("/{key_id}", manage)
    async def revoke_key(key_id: Id, identity: Caller) -> None:
        await accounts.read(keys.revoke_key_id, key_id, _now(), Actor.of(identity))

    return api


def _changed(before: KeyChoices, body: KeyChange) -> KeyChoices:
    rate = body.per_minute if "per_minute" in body.model_fields_set else before.per_minute
    return KeyChoices(
        name=before.name if body.name is None else body.name,
        owner_email=before.owner_email if body.owner_email is None else body.owner_email,
        integrator=before.integrator if body.integrator is None else body.integrator,
        scopes=before.scopes if body.scopes is None else tuple(body.scopes),
        per_minute=rate,
    )


def _key(view: keys.KeyView) -> KeyOut:
    return KeyOut(**{name: getattr(view, name) for name in KeyOut.model_fields})


def _made(made: keys.NewKey) -> KeyMade:
    return KeyMade(id=made.id, name=made.name, secret=made.secret)


def _now() -> int:
    return int(time.time())
