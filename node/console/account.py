"""Your account: who you are here, password, email, sessions, tokens."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from node.accounts.access import GRANTS, Permission, Role
from node.accounts.errors import AccountInvalid, SignInRefused
from node.accounts.service import Accounts
from node.accounts.sessions import list_sessions, revoke_session, sign_out_everywhere
from node.accounts.tokens import (
    NewToken,
    create_token,
    list_tokens,
    revoke_token,
    roles_within,
)
from node.accounts.totp import FactorState, read_factor
from node.accounts.users import change_email, read_user
from node.console.format import Moment, moment
from node.console.forms import Form
from node.console.pager import Pager, page_of
from node.console.pages import Pages
from node.console.people import (
    SESSIONS_CSV,
    TOKENS_CSV,
    SessionLine,
    TokenLine,
    role_options,
    session_cells,
    session_lines,
    token_cells,
    token_lines,
)
from node.console.session_cookie import client_of, give_session
from node.console.visit import Visit

PAGE_SIZE = 50
_FORM_BYTES = 16_000


@dataclass(frozen=True, slots=True)
class AccountView:
    """What `account/index.html` shows."""

    name: str
    role: str
    signed_in: Moment | None
    form: Form
    factor: FactorState
    sessions: tuple[SessionLine, ...]


@dataclass(frozen=True, slots=True)
class PasswordView:
    """What `account/password.html` shows; `forced`: before anything else."""

    form: Form
    forced: bool


@dataclass(frozen=True, slots=True)
class TokensView:
    """What `account/tokens.html` shows; `made` once, with its secret."""

    form: Form
    roles: tuple[tuple[str, str], ...]
    tokens: tuple[TokenLine, ...]
    pager: Pager
    made: NewToken | None


class AccountPages:
    """The handlers."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def show(self, visit: Visit) -> Response:
        user = await self._accounts.read(read_user, visit.identity.user_id)
        return await self._show(visit, Form({"email": user.email}))

    async def keep_email(self, visit: Visit) -> Response:
        email = visit.form.get("email", "")
        try:
            await self._accounts.change(
                change_email, visit.identity.user_id, email, visit.actor, visit.now
            )
        except AccountInvalid as error:
            return await self._show(visit, Form(visit.form).refused(error), 422)
        return visit.redirect("/account", "Email address saved.")

    async def ask_password(self, visit: Visit) -> Response:
        return self._ask_password(visit, Form())

    async def keep_password(self, visit: Visit) -> Response:
        old, new = visit.form.get("old", ""), visit.form.get("new", "")
        try:
            if visit.form.get("again", "") != new:
                raise AccountInvalid("again", "The two differ. Type the same password twice.")
            session = await self._accounts.change_password(
                visit.identity, old, new, client_of(visit), visit.now
            )
        except SignInRefused as error:
            return self._ask_password(visit, Form().with_error("old", str(error)), 422)
        except AccountInvalid as error:
            return self._ask_password(visit, Form().refused(error), 422)
        return give_session(visit, visit.redirect("/account"), session)

    async def export_sessions(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_sessions, visit.now, visit.identity.user_id)
        return visit.csv("sessions.csv", SESSIONS_CSV, session_cells(rows))

    async def end_session(self, visit: Visit) -> Response:
        session_id, user_id = visit.path["session_id"], visit.identity.user_id
        await self._accounts.change(
            revoke_session, session_id, visit.actor, visit.now, user_id=user_id
        )
        return visit.redirect("/account", "That browser is signed out.")

    async def end_others(self, visit: Visit) -> Response:
        ended = await self._accounts.change(
            sign_out_everywhere,
            visit.identity.user_id,
            visit.actor,
            visit.now,
            except_id=visit.session.id,
        )
        return visit.redirect("/account", f"Signed out in {ended} other browsers.")

    async def show_tokens(self, visit: Visit) -> Response:
        return await self._show_tokens(visit, _least(visit))

    async def export_tokens(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_tokens, visit.identity.user_id)
        return visit.csv("tokens.csv", TOKENS_CSV, token_cells(rows))

    async def make_token(self, visit: Visit) -> Response:
        given = visit.form
        try:
            made = await self._accounts.change(
                create_token,
                visit.identity,
                given.get("name", ""),
                given.get("role", ""),
                visit.now,
                days=given.get("days", ""),
            )
        except AccountInvalid as error:
            return await self._show_tokens(visit, Form(given).refused(error), status=422)
        return await self._show_tokens(visit, _least(visit), made)

    async def end_token(self, visit: Visit) -> Response:
        token_id, user_id = visit.path["token_id"], visit.identity.user_id
        await self._accounts.change(revoke_token, token_id, visit.actor, visit.now, user_id=user_id)
        return visit.redirect("/account/tokens", "The token is worth nothing from now on.")

    async def _show(self, visit: Visit, form: Form, status: int = 200) -> Response:
        user_id = visit.identity.user_id
        user = await self._accounts.read(read_user, user_id)
        at = user.last_sign_in_at
        view = AccountView(
            name=user.name,
            role=user.role.label,
            signed_in=moment(at, visit.now, visit.zone) if at else None,
            form=form,
            factor=await self._accounts.read(read_factor, user_id),
            sessions=session_lines(
                visit, await self._accounts.read(list_sessions, visit.now, user_id)
            ),
        )
        return visit.page("account/index.html", view, "Your account", status)

    def _ask_password(self, visit: Visit, form: Form, status: int = 200) -> Response:
        view = PasswordView(form, visit.identity.restricted)
        return visit.page("account/password.html", view, "Password", status)

    async def _show_tokens(
        self, visit: Visit, form: Form, made: NewToken | None = None, status: int = 200
    ) -> Response:
        rows = await self._accounts.read(list_tokens, visit.identity.user_id)
        shown, pager = page_of("/account/tokens", visit.query, rows, PAGE_SIZE)
        view = TokensView(
            form=form,
            roles=role_options(roles_within(visit.identity.role)),
            tokens=token_lines(visit, shown),
            pager=pager,
            made=made,
        )
        return visit.page("account/tokens.html", view, "Tokens", status)


def pages(accounts: Accounts) -> Pages:
    """`/account`, `/account/password`, `/account/tokens`."""
    pages, handlers = Pages("account"), AccountPages(accounts)
    own = Permission.OWN_ACCOUNT
    pages.get("/account", own)(handlers.show)
    pages.post("/account/email", own, _FORM_BYTES)(handlers.keep_email)
    pages.get("/account/password", own)(handlers.ask_password)
    pages.post("/account/password", own, _FORM_BYTES)(handlers.keep_password)
    pages.get("/account/sessions.csv", own)(handlers.export_sessions)
    pages.post("/account/sessions/{session_id}/end", own, _FORM_BYTES)(handlers.end_session)
    pages.post("/account/sessions/end-others", own, _FORM_BYTES)(handlers.end_others)
    pages.get("/account/tokens", own)(handlers.show_tokens)
    pages.get("/account/tokens.csv", own)(handlers.export_tokens)
    pages.post("/account/tokens", own, _FORM_BYTES)(handlers.make_token)
    pages.post("/account/tokens/{token_id}/revoke", own, _FORM_BYTES)(handlers.end_token)
    return pages


def _least(visit: Visit) -> Form:
    """The form as it begins: with a role that only looks on, else the one that may do least."""
    roles = roles_within(visit.identity.role)
    least = min(roles, key=lambda role: (role is not Role.VIEWER, len(GRANTS[role])))
    return Form({"role": least.value})
