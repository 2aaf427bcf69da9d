"""The routes of one page module, each with the permission it asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response

from node.accounts.access import Permission
from node.console.visit import Guest, Visit

Handler = Callable[[Visit], Awaitable[Response]]
OpenHandler = Callable[[Guest], Awaitable[Response]]
Guard = Callable[[Guest], Awaitable[Response | None]]
H = TypeVar("H", bound=Handler)
O = TypeVar("O", bound=OpenHandler)  # noqa: E741

FORM_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One address. `permission` None: open to whoever reaches the console, and whom `guard`, which
    is asked before anything of a form is read, gives no answer of its own."""

    method: str
    path: str
    permission: Permission | None
    handler: Callable[..., Awaitable[Response]]
    tab: str
    section: str
    most_bytes: int
    guard: Guard | None = None


class Pages:
    """`tab` and `section` are the names in node/console/tabs.py that the pages stand under."""

    def __init__(self, tab: str, section: str = "") -> None:
        self._tab, self._section = tab, section
        self.routes: list[PageRoute] = []

    def get(self, path: str, permission: Permission) -> Callable[[H], H]:
        """A page of signed-in users; HEAD is answered as well."""
        return self._add("GET", path, permission, 0)

    def post(
        self, path: str, permission: Permission, most_bytes: int = FORM_BYTES
    ) -> Callable[[H], H]:
        """A form of signed-in users; its token is checked before the handler is called."""
        return self._add("POST", path, permission, most_bytes)

    def open_get(self, path: str) -> Callable[[O], O]:
        """A page for people who have not signed in."""
        return self._add("GET", path, None, 0)

    def open_post(
        self, path: str, most_bytes: int = FORM_BYTES, guard: Guard | None = None
    ) -> Callable[[O], O]:
        """A form for people who have not signed in; refused when another site sent it."""
        return self._add("POST", path, None, most_bytes, guard)

    def _add(
        self,
        method: str,
        path: str,
        permission: Permission | None,
        most_bytes: int,
        guard: Guard | None = None,
    ) -> Callable[[H], H]:
        def keep(handler: H) -> H:
            place = (self._tab, self._section)
            self.routes.append(
                PageRoute(method, path, permission, handler, *place, most_bytes, guard)
            )
            return handler

        return keep
