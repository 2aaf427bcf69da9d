"""Signing in and out: name and password, then a code where the user has a second factor."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.responses import Response

from node.accounts.access import Permission, Role
from node.accounts.errors import SignInRefused, SignInRequired
from node.accounts.service import Accounts
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


def pages(accounts: Accounts) -> Pages:
    """`/sign-in`, `/sign-in/code`, `/sign-out`."""
    pages = Pages("account")

    @pages.open_get("/sign-in")
    async def ask(guest: Guest) -> Response:
        next_ = guest.local(guest.query.get("next", "/"))
        if await accounts.identify_session(token_of(guest), guest.address, guest.now):
            return guest.redirect(next_)
        return _ask(guest, Form({"next": next_}))

    @pages.open_post("/sign-in", most_bytes=_FORM_BYTES)
    async def sign_in(guest: Guest) -> Response:
        given = guest.form
        name, password = given.get("name", ""), given.get("password", "")
        try:
            session = await accounts.sign_in(
                name, password, client_of(guest), guest.now, token_of(guest)
            )
        except SignInRefused as error:
            return _ask(guest, Form(given).refused(error), 403)
        next_ = guest.local(given.get("next", "/"))
        if not session.second_factor:
            path = f"{_CODE}?{urlencode({'next': next_})}"
            return give_session(guest, guest.redirect(path), session)
        next_ = await _first(accounts, guest, session.token, next_)
        return give_session(guest, guest.redirect(next_), session)

    @pages.open_get(_CODE)
    async def ask_code(guest: Guest) -> Response:
        if not await accounts.waits_for_code(token_of(guest), guest.now):
            return guest.redirect("/sign-in")
        return _ask_code(guest, Form({"next": guest.query.get("next", "/")}))

    @pages.open_post(_CODE, most_bytes=_FORM_BYTES)
    async def sign_in_with_code(guest: Guest) -> Response:
        given = guest.form
        try:
            session = await accounts.sign_in_with_code(
                token_of(guest), given.get("code", ""), client_of(guest), guest.now
            )
        except SignInRequired as error:
            return _ask(guest, Form({"next": given.get("next", "/")}).refused(error), 403)
        except SignInRefused as error:
            return _ask_code(guest, Form(given).with_error("code", str(error)), 403)
        next_ = guest.local(given.get("next", "/"))
        next_ = await _first(accounts, guest, session.token, next_)
        return give_session(guest, guest.redirect(next_), session)

    @pages.post("/sign-out", Permission.OWN_ACCOUNT)
    async def sign_out(visit: Visit) -> Response:
        await accounts.sign_out(token_of(visit))
        return take_session(visit, visit.redirect("/sign-in"))

    return pages


async def _first(accounts: Accounts, guest: Guest, token: str, next_: str) -> str:
    """An admin who left the wizard half-way goes on with it."""
    found = await accounts.identify_session(token, guest.address, guest.now)
    if found is None or found[0].role is not Role.ADMIN or next_ != "/":
        return next_
    return "/setup" if unfinished(await accounts.read(read_progress)) else next_


def _ask(guest: Guest, form: Form, status: int = 200) -> Response:
    view = SignInView(form, guest.local(form.value("next") or "/"))
    return guest.page("sign_in/index.html", view, "Sign in", status)


def _ask_code(guest: Guest, form: Form, status: int = 200) -> Response:
    view = SignInView(form, guest.local(form.value("next") or "/"))
    return guest.page("sign_in/code.html", view, "Second factor", status)
