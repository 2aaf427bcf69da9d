"""Settings > Users: who may sign in, with which role; new passwords, locks, shutting out."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from node.accounts import users
from node.accounts.access import Permission, Role
from node.accounts.errors import AccountInvalid
from node.accounts.passwords import temporary_password
from node.accounts.service import Accounts
from node.accounts.users import NewUser, UserView
from node.console.format import Moment, moment
from node.console.forms import FieldError, Form
from node.console.pager import Pager, page_of
from node.console.pages import Pages
from node.console.people import role_options
from node.console.visit import Visit

PAGE_SIZE = 50
_PATH = "/settings/users"
_FORM_BYTES = 16_000


@dataclass(frozen=True, slots=True)
class UserLine:
    """One user in the list; `state` is a word and its tone."""

    id: str
    name: str
    email: str
    role: str
    state: tuple[str, str]
    second_factor: bool
    signed_in: Moment | None
    path: str


@dataclass(frozen=True, slots=True)
class UsersView:
    """What `settings/users.html` shows."""

    form: Form
    roles: tuple[tuple[str, str], ...]
    users: tuple[UserLine, ...]
    pager: Pager


@dataclass(frozen=True, slots=True)
class UserPage:
    """What `settings/user.html` shows; `password` once, when it was just made."""

    user: UserLine
    created: Moment
    locked_until: Moment | None
    failed_attempts: int
    disabled: bool
    form: Form
    roles: tuple[tuple[str, str], ...]
    password: str
    oneself: bool


class UsersPages:
    """The handlers."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def show_all(self, visit: Visit) -> Response:
        return await self._show_all(visit, Form({"role": Role.VIEWER.value}))

    async def export(self, visit: Visit) -> Response:
        rows = await self._accounts.read(users.list_users)
        lines = (_csv_line(row, visit.now) for row in rows)
        return visit.csv("users.csv", _CSV_HEADER, lines)

    async def create(self, visit: Visit) -> Response:
        given, password = visit.form, temporary_password()
        try:
            new = NewUser(
                given.get("name", ""),
                given.get("email", ""),
                users.parse_role(given.get("role", "")),
                await self._accounts.hash_temporary(password),
            )
            user = await self._accounts.change(users.create_user, new, visit.actor, visit.now)
        except AccountInvalid as error:
            return await self._show_all(visit, Form(given).refused(error), 422)
        return await self._show(visit, user.id, Form(), password)

    async def show(self, visit: Visit) -> Response:
        return await self._show(visit, visit.path["user_id"], Form())

    async def change_role(self, visit: Visit) -> Response:
        user_id = visit.path["user_id"]
        try:
            role = users.parse_role(visit.form.get("role", ""))
            await visit.confirm_password()
            await self._accounts.change(users.change_role, user_id, role, visit.actor, visit.now)
        except (AccountInvalid, FieldError) as error:
            return await self._show(visit, user_id, Form(visit.form).refused(error), status=422)
        return visit.redirect(f"{_PATH}/{user_id}", f"The role is {role.label} now.")

    async def disable(self, visit: Visit) -> Response:
        user_id = visit.path["user_id"]
        try:
            await self._accounts.change(users.set_disabled, user_id, True, visit.actor, visit.now)
        except AccountInvalid as error:
            return await self._show(visit, user_id, Form().refused(error), status=422)
        return visit.redirect(f"{_PATH}/{user_id}", "Shut out: sessions and tokens ended at once.")

    async def enable(self, visit: Visit) -> Response:
        user_id = visit.path["user_id"]
        await self._accounts.change(users.set_disabled, user_id, False, visit.actor, visit.now)
        return visit.redirect(f"{_PATH}/{user_id}", "May sign in again.")

    async def unlock(self, visit: Visit) -> Response:
        user_id = visit.path["user_id"]
        await self._accounts.change(users.unlock_user, user_id, visit.actor, visit.now)
        return visit.redirect(f"{_PATH}/{user_id}", "Unlocked.")

    async def reset_password(self, visit: Visit) -> Response:
        user_id, password = visit.path["user_id"], temporary_password()
        try:
            await visit.confirm_password("reset_confirm")
        except FieldError as error:
            return await self._show(visit, user_id, Form(visit.form).refused(error), status=422)
        await self._accounts.change(
            users.reset_password,
            user_id,
            await self._accounts.hash_temporary(password),
            visit.actor,
            visit.now,
            without_factor=visit.form.get("without_factor") == "on",
        )
        # Also one's own, though this session ended with all others: nobody else will see it.
        return await self._show(visit, user_id, Form(), password)

    async def _show_all(self, visit: Visit, form: Form, status: int = 200) -> Response:
        rows = await self._accounts.read(users.list_users)
        shown, pager = page_of(_PATH, visit.query, rows, PAGE_SIZE)
        view = UsersView(
            form=form,
            roles=role_options(Role),
            users=tuple(_line(visit, row) for row in shown),
            pager=pager,
        )
        return visit.page("settings/users.html", view, "Users", status)

    async def _show(
        self, visit: Visit, user_id: str, form: Form, password: str = "", status: int = 200
    ) -> Response:
        user = await self._accounts.read(users.read_user, user_id)
        locked = moment(user.locked_until, visit.now, visit.zone)
        view = UserPage(
            user=_line(visit, user),
            created=moment(user.created_at, visit.now, visit.zone),
            locked_until=locked if user.locked(visit.now) else None,
            failed_attempts=user.failed_attempts,
            disabled=user.disabled,
            form=Form({"role": user.role.value, **form.values}, form.errors),
            roles=role_options(Role),
            password=password,
            oneself=user.id == visit.identity.user_id,
        )
        return visit.page("settings/user.html", view, user.name, status)


def pages(accounts: Accounts) -> Pages:
    """`/settings/users` and a page for each of them."""
    pages, handlers = Pages("settings", "users"), UsersPages(accounts)
    manage, one = Permission.MANAGE_USERS, f"{_PATH}/{{user_id}}"
    pages.get(_PATH, manage)(handlers.show_all)
    pages.post(_PATH, manage, _FORM_BYTES)(handlers.create)
    pages.get(f"{_PATH}.csv", manage)(handlers.export)
    pages.get(one, manage)(handlers.show)
    pages.post(f"{one}/role", manage, _FORM_BYTES)(handlers.change_role)
    pages.post(f"{one}/disable", manage, _FORM_BYTES)(handlers.disable)
    pages.post(f"{one}/enable", manage, _FORM_BYTES)(handlers.enable)
    pages.post(f"{one}/unlock", manage, _FORM_BYTES)(handlers.unlock)
    pages.post(f"{one}/reset-password", manage, _FORM_BYTES)(handlers.reset_password)
    return pages


_CSV_HEADER = ("name", "email", "role", "state", "second_factor", "created_at", "last_sign_in_at")


def _csv_line(user: UserView, now: int) -> tuple[object, ...]:
    state, factor = _state(user, now)[0], "on" if user.second_factor else "off"
    times = (user.created_at, user.last_sign_in_at or "")
    return (user.name, user.email, user.role.label, state, factor, *times)


def _line(visit: Visit, user: UserView) -> UserLine:
    at = user.last_sign_in_at
    return UserLine(
        id=user.id,
        name=user.name,
        email=user.email,
        role=user.role.label,
        state=_state(user, visit.now),
        second_factor=user.second_factor,
        signed_in=moment(at, visit.now, visit.zone) if at else None,
        path=f"{_PATH}/{user.id}",
    )


def _state(user: UserView, now: int) -> tuple[str, str]:
    if user.disabled:
        return "shut out", "plain"
    if user.locked(now):
        return "locked", "bad"
    return ("temporary password", "loud") if user.temporary_password else ("active", "good")
