"""What is chosen for a secret of an app: the form, and the page of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlmodel import col
from starlette.responses import Response

from catalog.models import Listing, ListingOrigin
from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.accounts.service import Accounts
from node.console.forms import FieldError, Form, read_seen
from node.console.pages import Pages
from node.console.visit import Visit
from node.usage import keys
from node.usage.key_choices import KeyChoices
from node.usage.keys import KeyView

PATH = "/settings/security/keys/{key_id}"
_FORM_BYTES = 32_000


@dataclass(frozen=True, slots=True)
class ListingOption:
    """A listing that may be ticked."""

    id: str
    name: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class KeyForm:
    """What `settings/_key_form.html` shows."""

    form: Form
    listings: tuple[ListingOption, ...]


@dataclass(frozen=True, slots=True)
class OneKey:
    """What `settings/key.html` shows."""

    id: str
    name: str
    fields: KeyForm
    version: int
    integrator: bool
    may_see_use: bool
    may_see_limits: bool


def read_choices(visit: Visit) -> KeyChoices:
    """What was typed. Raises FieldError."""
    form = visit.form
    return KeyChoices(
        name=form.get("name", ""),
        owner_email=form.get("owner_email", ""),
        integrator=form.get("integrator", "") == "on",
        scopes=tuple(visit.form_list("scopes")),
        per_minute=_per_minute(form.get("per_minute", "").strip()),
    )


def typed(key: KeyView) -> Form:
    """A key as its form has it."""
    rate = "" if key.per_minute is None else str(key.per_minute)
    values = {"name": key.name, "owner_email": key.owner_email, "per_minute": rate}
    return Form(values | ({"integrator": "on"} if key.integrator else {}))


def listing_names(engine: Engine) -> list[tuple[str, str]]:
    """(id, name) of what this node can buy, by name (blocking)."""
    statement = select(col(Listing.id), col(Listing.name)).where(
        col(Listing.origin) == ListingOrigin.REMOTE
    )
    with engine.connect() as connection:
        found = [(row[0], row[1]) for row in connection.execute(statement)]
    return sorted(found, key=lambda row: (row[1].casefold(), row[0]))


def key_form(form: Form, listings: Sequence[tuple[str, str]], chosen: Sequence[str]) -> KeyForm:
    """The form; a chosen listing that is gone stays, so that saving does not widen a key."""
    known = {name for name, _ in listings}
    gone = [(each, f"{each} (gone)") for each in chosen if each not in known]
    options = tuple(ListingOption(id_, name, id_ in chosen) for id_, name in [*listings, *gone])
    return KeyForm(form, options)


def pages(accounts: Accounts) -> Pages:
    """The page of one secret, and what is chosen there."""
    pages, manage = Pages("settings", "security"), Permission.MANAGE_KEYS

    @pages.get(PATH, manage)
    async def show(visit: Visit) -> Response:
        key = await accounts.read(keys.read_key, visit.path["key_id"])
        return await _page(accounts, visit, key, typed(key), key.scopes)

    @pages.post(PATH, manage, _FORM_BYTES)
    async def save(visit: Visit) -> Response:
        key = await accounts.read(keys.read_key, visit.path["key_id"])
        try:
            choices = read_choices(visit)
            seen = read_seen(visit.form)
            await accounts.read(keys.change_key, key.id, choices, visit.now, visit.actor, seen)
        except (FieldError, AccountInvalid) as error:
            form, scopes = Form(visit.form).refused(error), visit.form_list("scopes")
            return await _page(accounts, visit, key, form, scopes, 422)
        return visit.redirect("/settings/security", "Saved; it holds within a second or two.")

    return pages


async def _page(
    accounts: Accounts,
    visit: Visit,
    key: KeyView,
    form: Form,
    scopes: Sequence[str],
    status: int = 200,
) -> Response:
    listings = await accounts.read(listing_names)
    view = OneKey(
        key.id,
        key.name,
        key_form(form, listings, scopes),
        key.version,
        key.integrator,
        visit.identity.may(Permission.SEE_DEVELOPERS),
        visit.identity.may(Permission.SEE_FINANCE),
    )
    return visit.page("settings/key.html", view, key.name, status)


def _per_minute(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise FieldError("per_minute", "Write a whole number of calls, or nothing for no limit.")
    return int(text)
