"""One's own second factor: the same steps as in the console."""

from __future__ import annotations

import time

from pydantic import BaseModel

from node.accounts import totp
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.accounts.service import Accounts
from node.accounts.users import require_full_rights
from node.api.paging import Sent, ShortText
from node.api.routing import Caller, Endpoints


class FactorOut(BaseModel):
    """Whether it is on, whether a secret waits for its first code, recovery codes left."""

    enabled: bool
    offered: bool
    recovery_codes_left: int


class FactorOfferOut(BaseModel):
    """A secret for an authenticator app, base32, and as `otpauth://` address."""

    secret: str
    uri: str


class CodeIn(Sent):
    code: ShortText


class ConfirmIn(Sent):
    """The user's own password."""

    password: ShortText


class CodesOut(BaseModel):
    """Recovery codes, shown this once."""

    recovery_codes: list[str]


class FactorApi:
    """The handlers."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def show(self, identity: Caller) -> FactorOut:
        state = await self._accounts.read(totp.read_factor, identity.user_id)
        return FactorOut(**{name: getattr(state, name) for name in FactorOut.model_fields})

    async def offer(self, identity: Caller) -> FactorOfferOut:
        await self._accounts.read(require_full_rights, identity)
        offer = await self._accounts.change(
            totp.offer_factor,
            self._accounts.seal,
            identity.user_id,
            Actor.of(identity),
            int(time.time()),
        )
        return FactorOfferOut(secret=offer.secret, uri=offer.uri)

    async def confirm(self, body: CodeIn, identity: Caller) -> CodesOut:
        await self._accounts.read(require_full_rights, identity)
        codes = await self._accounts.change(
            totp.confirm_factor,
            self._accounts.unseal,
            identity.user_id,
            body.code,
            Actor.of(identity),
            int(time.time()),
        )
        return CodesOut(recovery_codes=list(codes))

    async def renew(self, body: ConfirmIn, identity: Caller) -> CodesOut:
        now = int(time.time())
        await self._accounts.check_password(identity, body.password, now)
        codes = await self._accounts.change(
            totp.renew_recovery_codes, identity.user_id, Actor.of(identity), now
        )
        return CodesOut(recovery_codes=list(codes))

    async def disable(self, body: ConfirmIn, identity: Caller) -> FactorOut:
        now = int(time.time())
        await self._accounts.check_password(identity, body.password, now)
        await self._accounts.change(totp.disable_factor, identity.user_id, Actor.of(identity), now)
        return await self.show(identity)


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/me/second-factor`."""
    api = Endpoints(prefix="/me/second-factor", tags=["accounts"])
    handlers, own = FactorApi(accounts), Permission.OWN_ACCOUNT
    api.get("", own)(handlers.show)
    api.post("/offer", own)(handlers.offer)
    api.post("/confirm", own)(handlers.confirm)
    api.post("/recovery-codes", own)(handlers.renew)
    api.post("/disable", own)(handlers.disable)
    return api
