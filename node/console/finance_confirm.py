"""The page before anything that moves money: what will happen, and the password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import Response

from finance.errors import FinanceError
from node.console.forms import FieldError, Form
from node.console.visit import Visit
from node.treasury.errors import TreasuryError

TEMPLATE = "finance/confirm.html"


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that is asked about before it is done. `facts` are pairs of label and value,
    `points` sentences about what will happen; the form is sent to `path`."""

    title: str
    path: str
    facts: tuple[tuple[str, str], ...]
    points: tuple[str, ...]
    button: str
    back: str
    danger: bool = False


@dataclass(frozen=True, slots=True)
class DeedView:
    """What `finance/confirm.html` shows."""

    deed: Deed
    form: Form


def ask(visit: Visit, deed: Deed, form: Form | None = None) -> Response:
    """The page itself; `form` holds what is known to be in the way."""
    return visit.page(TEMPLATE, DeedView(deed, form or Form()), deed.title)


async def do(
    visit: Visit, deed: Deed, work: Callable[[], Awaitable[object]], note: str
) -> Response:
    """Check the password, do it, go back; or the page again with what is wrong."""
    try:
        await visit.confirm_password()
        await work()
    except (FieldError, FinanceError, TreasuryError) as error:
        return visit.page(TEMPLATE, DeedView(deed, Form().refused(error)), deed.title, 422)
    return visit.redirect(deed.back, note)
