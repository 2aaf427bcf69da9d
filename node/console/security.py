"""Settings > Security: secrets of the buyer's apps; for admins also all tokens and sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from starlette.responses import Response

from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.accounts.service import Accounts
from node.accounts.sessions import list_sessions, revoke_session
from node.accounts.tokens import list_tokens, revoke_token
from node.accounts.totp import read_factor
from node.console.finance_confirm import Deed, ask, do
from node.console.format import Moment, count, moment
from node.console.forms import FieldError, Form, read_seen
from node.console.key_forms import KeyForm, key_form, listing_names, read_choices
from node.console.pager import Pager, page_of
from node.console.pages import Pages
from node.console.people import (
    SESSIONS_CSV,
    TOKENS_CSV,
    SessionLine,
    TokenLine,
    session_cells,
    session_lines,
    token_cells,
    token_lines,
)
from node.console.visit import Visit
from node.usage import keys
from node.usage.keys import KeyView, NewKey

PAGE_SIZE = 50
_PATH = "/settings/security"
_FORM_BYTES = 16_000
_GRACES: Final = (
    ("0", "ends now"),
    ("3600", "1 hour more"),
    ("86400", "1 day more"),
    ("604800", "7 days more"),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A secret of an app; `old_until`: when the one before it ends; `bounds`: what it may."""

    id: str
    name: str
    email: str
    integrator: bool
    bounds: str
    seen: Moment | None
    created: Moment
    revoked: Moment | None
    old_until: Moment | None
    version: int


@dataclass(frozen=True, slots=True)
class KeysView:
    """What `settings/security.html` shows; `made` once, with its secret."""

    fields: KeyForm
    keys: tuple[KeyLine, ...]
    pager: Pager
    graces: tuple[tuple[str, str], ...]
    made: NewKey | None
    base_url: str
    second_factor: bool
    all_people: bool


@dataclass(frozen=True, slots=True)
class TokensView:
    """What `settings/tokens.html` shows."""

    tokens: tuple[TokenLine, ...]
    pager: Pager


@dataclass(frozen=True, slots=True)
class SessionsView:
    """What `settings/sessions.html` shows."""

    sessions: tuple[SessionLine, ...]
    pager: Pager


class SecurityPages:
    """The handlers. `console_url`: where apps reach the proxy."""

    def __init__(self, accounts: Accounts, console_url: str) -> None:
        self._accounts = accounts
        self._console_url = console_url

    async def show(self, visit: Visit) -> Response:
        return await self._show(visit, Form())

    async def export(self, visit: Visit) -> Response:
        rows = await self._accounts.read(keys.list_keys)
        return visit.csv("secrets.csv", _HEADER, (_csv_line(key) for key in rows))

    async def create(self, visit: Visit) -> Response:
        try:
            choices = read_choices(visit)
            made = await self._accounts.read(keys.create_key, choices, visit.now, visit.actor)
        except (FieldError, AccountInvalid) as error:
            return await self._show(visit, Form(visit.form).refused(error), status=422)
        return await self._show(visit, Form(), made)

    async def rotate(self, visit: Visit) -> Response:
        text = visit.form.get("grace", "")
        if text not in dict(_GRACES):
            raise AccountInvalid("grace", "Choose how long the old secret goes on.")
        made = await self._accounts.read(
            keys.rotate_key,
            visit.path["key_id"],
            int(text),
            visit.now,
            visit.actor,
            read_seen(visit.form),
        )
        return await self._show(visit, Form(), made)

    async def ask_revoke(self, visit: Visit) -> Response:
        key = await self._accounts.read(keys.read_key, visit.path["key_id"])
        return ask(visit, _revocation(visit, key))

    async def revoke(self, visit: Visit) -> Response:
        key = await self._accounts.read(keys.read_key, visit.path["key_id"])

        async def work() -> None:
            await self._accounts.read(keys.revoke_key_id, key.id, visit.now, visit.actor)

        return await do(visit, _revocation(visit, key), work, "The secret opens nothing any more.")

    async def show_tokens(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_tokens)
        shown, pager = _page(visit, f"{_PATH}/tokens", rows)
        view = TokensView(token_lines(visit, shown), pager)
        return visit.page("settings/tokens.html", view, "All API tokens")

    async def export_tokens(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_tokens)
        return visit.csv("tokens.csv", TOKENS_CSV, token_cells(rows))

    async def end_token(self, visit: Visit) -> Response:
        token_id = visit.path["token_id"]
        await self._accounts.change(revoke_token, token_id, visit.actor, visit.now)
        return visit.redirect(f"{_PATH}/tokens", "The token is worth nothing from now on.")

    async def show_sessions(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_sessions, visit.now)
        shown, pager = _page(visit, f"{_PATH}/sessions", rows)
        view = SessionsView(session_lines(visit, shown), pager)
        return visit.page("settings/sessions.html", view, "All sessions")

    async def export_sessions(self, visit: Visit) -> Response:
        rows = await self._accounts.read(list_sessions, visit.now)
        return visit.csv("sessions.csv", SESSIONS_CSV, session_cells(rows))

    async def end_session(self, visit: Visit) -> Response:
        session_id = visit.path["session_id"]
        await self._accounts.change(revoke_session, session_id, visit.actor, visit.now)
        return visit.redirect(f"{_PATH}/sessions", "That browser is signed out.")

    async def _show(
        self, visit: Visit, form: Form, made: NewKey | None = None, status: int = 200
    ) -> Response:
        rows = await self._accounts.read(keys.list_keys)
        shown, pager = _page(visit, _PATH, rows)
        factor = await self._accounts.read(read_factor, visit.identity.user_id)
        listings = await self._accounts.read(listing_names)
        view = KeysView(
            fields=key_form(form, listings, visit.form_list("scopes") if form.errors else ()),
            keys=tuple(_line(visit, key) for key in shown),
            pager=pager,
            graces=_GRACES,
            made=made,
            base_url=f"{self._console_url}/call",
            second_factor=factor.enabled,
            all_people=visit.identity.may(Permission.MANAGE_USERS),
        )
        return visit.page("settings/security.html", view, "Security", status)


def pages(accounts: Accounts, console_url: str) -> Pages:
    """`/settings/security` and, for admins, tokens and sessions of everybody."""
    pages, handlers = Pages("settings", "security"), SecurityPages(accounts, console_url)
    manage, people = Permission.MANAGE_KEYS, Permission.MANAGE_USERS
    one = f"{_PATH}/keys/{{key_id}}"
    pages.get(_PATH, manage)(handlers.show)
    pages.get(f"{_PATH}/keys.csv", manage)(handlers.export)
    pages.post(f"{_PATH}/keys", manage, _FORM_BYTES)(handlers.create)
    pages.post(f"{one}/rotate", manage, _FORM_BYTES)(handlers.rotate)
    pages.get(f"{one}/revoke", manage)(handlers.ask_revoke)
    pages.post(f"{one}/revoke", manage, _FORM_BYTES)(handlers.revoke)
    pages.get(f"{_PATH}/tokens", people)(handlers.show_tokens)
    pages.get(f"{_PATH}/tokens.csv", people)(handlers.export_tokens)
    pages.post(f"{_PATH}/tokens/{{token_id}}/revoke", people, _FORM_BYTES)(handlers.end_token)
    pages.get(f"{_PATH}/sessions", people)(handlers.show_sessions)
    pages.get(f"{_PATH}/sessions.csv", people)(handlers.export_sessions)
    pages.post(f"{_PATH}/sessions/{{session_id}}/end", people, _FORM_BYTES)(handlers.end_session)
    return pages


def _page(visit: Visit, path: str, rows: Sequence[T]) -> tuple[Sequence[T], Pager]:
    return page_of(path, visit.query, rows, PAGE_SIZE)


def _revocation(visit: Visit, key: KeyView) -> Deed:
    seen = moment(key.last_used_at, visit.now, visit.zone).text if key.last_used_at else "never"
    return Deed(
        title=f"Revoke the secret of {key.name}",
        path=f"{_PATH}/keys/{key.id}/revoke",
        facts=(
            ("App", key.name),
            ("Id", key.id),
            ("Owner", key.owner_email or "nobody named"),
            ("Last seen", seen),
        ),
        points=(
            "Calls with it are answered 401 within a second or two, and its open streams end.",
            "It cannot be taken back: the app then needs a new secret. To change the secret without"
            " an interruption, rotate it and let the old one go on for a while.",
            "What it spent stays in the books.",
        ),
        button="Revoke it",
        back=_PATH,
        danger=True,
    )


def _line(visit: Visit, key: KeyView) -> KeyLine:
    def at(seconds: int | None) -> Moment | None:
        return moment(seconds, visit.now, visit.zone) if seconds else None

    going_on = key.previous_until is not None and key.previous_until > visit.now
    return KeyLine(
        id=key.id,
        name=key.name,
        email=key.owner_email,
        integrator=key.integrator,
        bounds=_bounds(key),
        seen=at(key.last_used_at),
        created=moment(key.created_at, visit.now, visit.zone),
        revoked=at(key.revoked_at),
        old_until=at(key.previous_until) if going_on and not key.revoked_at else None,
        version=key.version,
    )


def _bounds(key: KeyView) -> str:
    rate = f"{count(key.per_minute)} calls a minute" if key.per_minute is not None else ""
    listings = f"{count(len(key.scopes))} listing{'' if len(key.scopes) == 1 else 's'}"
    return ", ".join(part for part in (listings if key.scopes else "", rate) if part)


_HEADER: Final = (
    "id",
    "name",
    "created_at",
    "revoked_at",
    "old_secret_until",
    "owner_email",
    "integrator",
    "listings",
    "per_minute",
    "last_seen_at",
)


def _csv_line(key: KeyView) -> tuple[object, ...]:
    times = (key.created_at, key.revoked_at or "", key.previous_until or "")
    bounds = (" ".join(key.scopes), "" if key.per_minute is None else key.per_minute)
    who = (key.owner_email, "yes" if key.integrator else "")
    return key.id, key.name, *times, *who, *bounds, key.last_used_at or ""
