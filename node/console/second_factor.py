"""Your account > Second factor: turn it on with a code, off with the password, new codes."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from node.accounts import totp
from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.accounts.service import Accounts
from node.accounts.sessions import sign_out_everywhere
from node.accounts.totp import FactorState
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.qr import Qr, qr
from node.console.visit import Visit

_FORM_BYTES = 16_000
_PATH = "/account/second-factor"


@dataclass(frozen=True, slots=True)
class FactorView:
    """What `account/second_factor.html` shows: an offered secret, or codes just made."""

    form: Form
    state: FactorState
    secret: str
    code: Qr | None
    recovery_codes: tuple[str, ...]


class FactorPages:
    """The handlers."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def show(self, visit: Visit) -> Response:
        return await self._show(visit, Form())

    async def offer(self, visit: Visit) -> Response:
        accounts, user_id = self._accounts, visit.identity.user_id
        try:
            await accounts.change(totp.offer_factor, accounts.seal, user_id, visit.actor, visit.now)
        except AccountInvalid as error:
            return await self._show(visit, Form().refused(error), status=422)
        return visit.redirect(_PATH)

    async def confirm(self, visit: Visit) -> Response:
        accounts, user_id, code = self._accounts, visit.identity.user_id, visit.form.get("code", "")
        try:
            codes = await accounts.change(
                totp.confirm_factor, accounts.unseal, user_id, code, visit.actor, visit.now
            )
        except AccountInvalid as error:
            return await self._show(visit, Form().refused(error), status=422)
        await accounts.change(
            sign_out_everywhere, user_id, visit.actor, visit.now, except_id=visit.session.id
        )
        return await self._show(visit, Form(), codes)

    async def renew_codes(self, visit: Visit) -> Response:
        try:
            await visit.confirm_password("renew_password")
            codes = await self._accounts.change(
                totp.renew_recovery_codes, visit.identity.user_id, visit.actor, visit.now
            )
        except (FieldError, AccountInvalid) as error:
            return await self._show(visit, Form().refused(error), status=422)
        return await self._show(visit, Form(), codes)

    async def disable(self, visit: Visit) -> Response:
        try:
            await visit.confirm_password()
        except FieldError as error:
            return await self._show(visit, Form().refused(error), status=422)
        user_id = visit.identity.user_id
        await self._accounts.change(totp.disable_factor, user_id, visit.actor, visit.now)
        return visit.redirect(_PATH, "The second factor is off: the password alone signs in.")

    async def _show(
        self, visit: Visit, form: Form, codes: tuple[str, ...] = (), status: int = 200
    ) -> Response:
        accounts, user_id = self._accounts, visit.identity.user_id
        state = await accounts.read(totp.read_factor, user_id)
        offer = await accounts.read(totp.read_offer, accounts.unseal, user_id)
        view = FactorView(
            form=form,
            state=state,
            secret=_in_fours(offer.secret) if offer else "",
            code=qr(offer.uri) if offer else None,
            recovery_codes=codes,
        )
        return visit.page("account/second_factor.html", view, "Second factor", status)


def pages(accounts: Accounts) -> Pages:
    """`/account/second-factor`."""
    pages, handlers = Pages("account"), FactorPages(accounts)
    own = Permission.OWN_ACCOUNT
    pages.get(_PATH, own)(handlers.show)
    pages.post(f"{_PATH}/offer", own, _FORM_BYTES)(handlers.offer)
    pages.post(f"{_PATH}/confirm", own, _FORM_BYTES)(handlers.confirm)
    pages.post(f"{_PATH}/recovery-codes", own, _FORM_BYTES)(handlers.renew_codes)
    pages.post(f"{_PATH}/disable", own, _FORM_BYTES)(handlers.disable)
    return pages


def _in_fours(secret: str) -> str:
    """As it is typed by hand."""
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
