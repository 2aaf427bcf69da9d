"""Between the server and the pages: who is it, may they, did they mean it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import gettempdir
from urllib.parse import quote, urlsplit

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from backups.folder import unusable
from node.accounts.access import Identity
from node.accounts.errors import Forbidden
from node.accounts.service import TEMPORARY_PASSWORD, SessionView
from node.bodies import BodyTooLarge, limited
from node.console.forms import FieldError
from node.console.pages import PageRoute
from node.console.shell import Frame
from node.console.visit import Guest, Visit
from node.failures import DOMAIN_ERRORS, UNSTORABLE, Failure, explain
from node.private import session_token

SIGN_IN = "/sign-in"
SETUP = "/setup"
# Where a session may go that is not whole yet, by the reason it is restricted.
FIRST_DO = {TEMPORARY_PASSWORD: "/account/password"}
# What else is open to it: leaving, and light or dark.
_STILL_OPEN = frozenset({*FIRST_DO.values(), "/sign-out", "/theme"})
_MOST_FIELDS = 2000
_PART_BYTES = 4_000_000

_log = logging.getLogger("farebox.console")


class Doorkeeper:
    """Turns page routes into endpoints. Every page passes through here."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def endpoint(self, route: PageRoute) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await self._answer(route, request)
            except ClientDisconnect:
                raise
            except (*DOMAIN_ERRORS, *UNSTORABLE, FieldError) as error:
                return self.failed(request, explain(error))
            except (BodyTooLarge, HTTPException) as error:
                reason = getattr(error, "detail", None) or str(error)
                failure = Failure(413, "body_too_large", f"The form cannot be read: {reason}")
                return self.failed(request, failure)
            except Exception:
                _log.exception("%s %s", request.method, request.url.path)
                sentence = "Something went wrong here. The node's log says more."
                return self.failed(request, Failure(500, "internal_error", sentence))

        return answer

    async def _answer(self, route: PageRoute, request: Request) -> Response:
        if await self._frame.accounts.needs_setup() and not _is_below(request, SETUP):
            return RedirectResponse(SETUP, 303)
        if request.method == "POST" and _from_elsewhere(request):
            raise Forbidden("Another site sent this form; nothing was done.")
        if route.permission is None:
            return await self._answer_guest(route, request)
        found = await self.identify(request)
        if found is None:
            return _sign_in(request)
        identity, session = found
        if identity.restricted and route.path not in _STILL_OPEN:
            return RedirectResponse(FIRST_DO[session.restricted], 303)
        identity.require(route.permission)
        form = await _form(request, route)
        if request.method == "POST" and not _meant(form, session):
            raise Forbidden(
                "This form is from an older session. Open the page again and repeat it."
            )
        place = (route.tab, route.section)
        return await route.handler(Visit(self._frame, request, form, identity, session, place))

    async def _answer_guest(self, route: PageRoute, request: Request) -> Response:
        if route.guard is not None:
            early = Guest(self._frame, request, FormData())
            if (refusal := await route.guard(early)) is not None:
                return refusal
        return await route.handler(Guest(self._frame, request, await _form(request, route)))

    async def identify(self, request: Request) -> tuple[Identity, SessionView] | None:
        """Whose session the cookie names."""
        token = session_token(request)
        if not token:
            return None
        guest = Guest(self._frame, request, FormData())
        return await self._frame.accounts.identify_session(token, guest.address, guest.now)

    def failed(self, request: Request, failure: Failure) -> Response:
        """A page that says what is wrong, in place of the one asked for."""
        if request.headers.get("farebox-refresh"):
            return Response(failure.detail, failure.status)
        guest = Guest(self._frame, request, FormData())
        return guest.page("layouts/failed.html", failure, "Not done", failure.status)


async def _form(request: Request, route: PageRoute) -> FormData:
    if route.method != "POST":
        return FormData()
    reading = Request(request.scope, limited(request.receive, route.most_bytes))
    try:
        return await reading.form(max_files=10, max_fields=_MOST_FIELDS, max_part_size=_PART_BYTES)
    except OSError as error:  # of the file in which a large part is kept while it arrives
        raise unusable(Path(gettempdir()), error) from None


def _sign_in(request: Request) -> Response:
    if request.headers.get("farebox-refresh"):
        return Response("Sign in again.", 401)
    if request.method == "POST":
        return RedirectResponse(SIGN_IN, 303)
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(SIGN_IN if here == "/" else f"{SIGN_IN}?next={quote(here)}", 303)


def _meant(form: FormData, session: SessionView) -> bool:
    given = form.get("csrf")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), session.csrf.encode())


def _is_below(request: Request, path: str) -> bool:
    return request.url.path == path or request.url.path.startswith(f"{path}/")


def _from_elsewhere(request: Request) -> bool:
    """Whether a browser says that a page of another origin sent this."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
