"""Signing in and out: name and password, then a code where the user has a second factor."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.responses import Response

from node.accounts.access import Permission, Role
from node.accounts.errors import SignInRefused, SignInRequired
from node.accounts.service import Accounts
from node.accounts.sessions import NewSession
from node.accounts.setup import read_progress, unfinished
from node.console.forms import Form
from node.console.pages import Pages
from node.console.session_cookie import client_of, give_session, take_session, token_of
from node.console.visit import Guest, Visit

_FORM_BYTES = 16_000
_CODE = "/sign-in/code"


@dataclass(frozen=True, slots=True)
class SignInView:
    """What `sign_in/index.html` and `sign_in/code.html` show; `next` is the page after it."""

    form: Form
    next: str


class SignInPages:
    """The handlers."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def ask(self, guest: Guest) -> Response:
        next_ = guest.local(guest.query.get("next", "/"))
        if await self._accounts.identify_session(token_of(guest), guest.address, guest.now):
            return guest.redirect(next_)
        return _ask(guest, Form({"next": next_}))

    async def sign_in(self, guest: Guest) -> Response:
        given = guest.form
        name, password = given.get("name", ""), given.get("password", "")
        try:
            session = await self._accounts.sign_in(
                name, password, client_of(guest), guest.now, token_of(guest)
            )
        except SignInRefused as error:
            return _ask(guest, Form(given).refused(error), 403)
        if session.second_factor:
            return await self._enter(guest, session)
        next_ = guest.local(given.get("next", "/"))
        path = f"{_CODE}?{urlencode({'next': next_})}"
        return give_session(guest, guest.redirect(path), session)

    async def ask_code(self, guest: Guest) -> Response:
        if not await self._accounts.waits_for_code(token_of(guest), guest.now):
            return guest.redirect("/sign-in")
        return _ask_code(guest, Form({"next": guest.query.get("next", "/")}))

    async def sign_in_with_code(self, guest: Guest) -> Response:
        given = guest.form
        try:
            session = await self._accounts.sign_in_with_code(
                token_of(guest), given.get("code", ""), client_of(guest), guest.now
            )
        except SignInRequired as error:
            return _ask(guest, Form({"next": given.get("next", "/")}).refused(error), 403)
        except SignInRefused as error:
            return _ask_code(guest, Form(given).with_error("code", str(error)), 403)
        return await self._enter(guest, session)

    async def sign_out(self, visit: Visit) -> Response:
        await self._accounts.sign_out(token_of(visit))
        return take_session(visit, visit.redirect("/sign-in"))

    async def _enter(self, guest: Guest, session: NewSession) -> Response:
        """To the page that was asked for; an admin who left the wizard half-way goes on with it."""
        next_ = guest.local(guest.form.get("next", "/"))
        if next_ == "/" and await self._is_half_way(guest, session.token):
            next_ = "/setup"
        return give_session(guest, guest.redirect(next_), session)

    async def _is_half_way(self, guest: Guest, token: str) -> bool:
        found = await self._accounts.identify_session(token, guest.address, guest.now)
        if found is None or found[0].role is not Role.ADMIN:
            return False
        return unfinished(await self._accounts.read(read_progress))


def pages(accounts: Accounts) -> Pages:
    """`/sign-in`, `/sign-in/code`, `/sign-out`."""
    pages, handlers = Pages("account"), SignInPages(accounts)
    pages.open_get("/sign-in")(handlers.ask)
    pages.open_post("/sign-in", _FORM_BYTES)(handlers.sign_in)
    pages.open_get(_CODE)(handlers.ask_code)
    pages.open_post(_CODE, _FORM_BYTES)(handlers.sign_in_with_code)
    pages.post("/sign-out", Permission.OWN_ACCOUNT)(handlers.sign_out)
    return pages


def _ask(guest: Guest, form: Form, status: int = 200) -> Response:
    view = SignInView(form, guest.local(form.value("next") or "/"))
    return guest.page("sign_in/index.html", view, "Sign in", status)


def _ask_code(guest: Guest, form: Form, status: int = 200) -> Response:
    view = SignInView(form, guest.local(form.value("next") or "/"))
    return guest.page("sign_in/code.html", view, "Second factor", status)
