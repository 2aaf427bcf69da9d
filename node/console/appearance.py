"""Settings > Appearance: light or dark, and the time zone, of the user who is signed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

from starlette.responses import Response

from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.accounts.service import Accounts
from node.accounts.users import set_appearance
from node.console.forms import Form
from node.console.pages import Pages
from node.console.visit import Visit

_THEMES = (("system", "As the system"), ("light", "Light"), ("dark", "Dark"))


@dataclass(frozen=True, slots=True)
class AppearanceView:
    """What `settings/appearance.html` shows; options are (value, label)."""

    form: Form
    themes: tuple[tuple[str, str], ...]
    zones: tuple[tuple[str, str], ...]
    now: str


def pages(accounts: Accounts) -> Pages:
    """`/settings/appearance`, and `/theme` for the switch in the top bar."""
    pages = Pages("settings", "appearance")

    @pages.get("/settings/appearance", Permission.OWN_ACCOUNT)
    async def show(visit: Visit) -> Response:
        return _show(visit, Form({"theme": visit.session.theme, "zone": visit.session.zone}))

    @pages.post("/settings/appearance", Permission.OWN_ACCOUNT)
    async def change(visit: Visit) -> Response:
        chosen = visit.form.get("zone", ""), visit.form.get("theme", "")
        try:
            await _keep(accounts, visit, *chosen)
        except AccountInvalid as error:
            return _show(visit, Form(visit.form).refused(error), 422)
        return visit.redirect("/settings/appearance", "Appearance saved.")

    @pages.post("/theme", Permission.OWN_ACCOUNT)
    async def switch(visit: Visit) -> Response:
        await _keep(accounts, visit, visit.session.zone, visit.form.get("theme", ""))
        return visit.redirect(visit.local(visit.form.get("here", "/")))

    return pages


async def _keep(accounts: Accounts, visit: Visit, zone: str, theme: str) -> None:
    user_id = visit.identity.user_id
    await accounts.change(set_appearance, user_id, zone, theme, visit.actor, visit.now)


def _show(visit: Visit, form: Form, status: int = 200) -> Response:
    local = datetime.fromtimestamp(visit.now, visit.zone).strftime("%Y-%m-%d %H:%M")
    names = ((name, name.replace("_", " ")) for name in sorted(available_timezones()))
    zones = (("", "As the browser says"), *names)
    view = AppearanceView(form, _THEMES, zones, f"{local} ({visit.zone.key})")
    return visit.page("settings/appearance.html", view, "Appearance", status)
