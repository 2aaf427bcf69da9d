"""One request for a page, as its handler sees it, and the answers it may give."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from node.accounts.access import Identity
from node.accounts.audit import Actor
from node.accounts.errors import SignInRefused
from node.accounts.service import SessionView
from node.accounts.sessions import LONGEST_SECONDS
from node.accounts.users import THEMES
from node.console.format import duration
from node.console.forms import FieldError
from node.console.shell import Frame, Note, Shell
from node.console.tabs import sections, sidebar
from node.private import LOCAL_NAMES

ZONE_COOKIE = "farebox_zone"  # what the browser says, set by the page's script
# What the user chose, for pages that know no user: errors, and the one to sign in.
THEME_COOKIE = "farebox_theme"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Guest:
    """Somebody who has not signed in (yet)."""

    def __init__(self, frame: Frame, request: Request, form: FormData) -> None:
        self._frame = frame
        self._form = form
        self.request = request
        self.now = int(time.time())

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the address that its pattern names."""
        return self.request.path_params

    @property
    def form(self) -> Mapping[str, str]:
        """The fields sent, the first of each name, without files."""
        fields: dict[str, str] = {}
        for name, value in self._form.multi_items():
            if isinstance(value, str):
                fields.setdefault(name, value)
        return fields

    @property
    def address(self) -> str:
        """Where the request came from, as the connection says."""
        return self.request.client.host if self.request.client else ""

    def form_list(self, name: str) -> list[str]:
        """Every value of a field, e.g. of checkboxes."""
        return [value for value in self._form.getlist(name) if isinstance(value, str)]

    async def upload(self, name: str) -> bytes | None:
        """The content of a file field; None when none was chosen."""
        file = self._form.get(name)
        return await file.read() if isinstance(file, UploadFile) and file.filename else None

    def upload_stream(self, name: str) -> UploadFile | None:
        """The same for large files: on disk beyond a megabyte, to be read in parts."""
        file = self._form.get(name)
        return file if isinstance(file, UploadFile) and file.filename else None

    def page(self, template: str, view: object, title: str, status: int = 200) -> Response:
        """A page from its template, which gets `view` and `shell`."""
        html = self._frame.environment.get_template(template).render(
            view=view, shell=self._shell(title)
        )
        return HTMLResponse(html, status)

    def redirect(self, path: str, note: str = "", tone: str = "good") -> Response:
        """Show another page of the console by GET."""
        return RedirectResponse(path, 303)

    @property
    def secure(self) -> bool:
        """Whether cookies may travel over TLS only: everywhere but on this machine."""
        return self.request.url.hostname not in LOCAL_NAMES

    @staticmethod
    def local(path: str) -> str:
        """`path` if it is an address of this console, else the dashboard (no open redirect)."""
        plain = path.startswith("/") and not path.startswith(("//", "/\\"))
        return path if plain and path.isprintable() and path.isascii() else "/"

    def _kept_theme(self) -> str:
        kept = self.request.cookies.get(THEME_COOKIE, "")
        return kept if kept in THEMES else THEMES[0]

    def _shell(self, title: str) -> Shell:
        facts = self._frame.facts
        return Shell(
            title=title,
            network=facts.network,
            main_network=facts.main_network,
            uptime=duration(self.now - facts.started_at),
            theme=self._kept_theme(),
            here=_here(self.request),
        )


class Visit(Guest):
    """Somebody who has signed in and may see this page."""

    def __init__(
        self,
        frame: Frame,
        request: Request,
        form: FormData,
        identity: Identity,
        session: SessionView,
        place: tuple[str, str],
    ) -> None:
        super().__init__(frame, request, form)
        self.identity = identity
        self.session = session
        self.zone = _zone(session.zone or request.cookies.get(ZONE_COOKIE, ""))
        self._place = place

    @property
    def actor(self) -> Actor:
        return Actor.of(self.identity)

    def page(self, template: str, view: object, title: str, status: int = 200) -> Response:
        """A page from its template; the browser keeps the theme for those of guests."""
        answer, theme = super().page(template, view, title, status), self.session.theme
        if theme != self._kept_theme():
            answer.set_cookie(
                THEME_COOKIE,
                theme,
                max_age=LONGEST_SECONDS,
                secure=self.secure,
                httponly=True,
                samesite="strict",
            )
        return answer

    def redirect(self, path: str, note: str = "", tone: str = "good") -> Response:
        """Show another page of the console by GET; `note` stands above it, once."""
        if note:
            self._frame.notes.add(self.session.id, Note(note, tone))
        return super().redirect(path)

    def csv(
        self, filename: str, header: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> Response:
        """A file of what a list shows. Texts that a spreadsheet would run are quoted."""
        lines = (_line(row) for row in (header, *rows))
        return self.download(filename, (line.encode() for line in lines), "text/csv; charset=utf-8")

    def download(
        self,
        filename: str,
        content: bytes | Iterable[bytes] | AsyncIterable[bytes],
        media_type: str,
    ) -> Response:
        """A file to be saved, never shown in place; `filename` in plain ASCII."""
        headers = {"content-disposition": f'attachment; filename="{filename}"'}
        if isinstance(content, bytes):
            return Response(content, media_type=media_type, headers=headers)
        return StreamingResponse(content, media_type=media_type, headers=headers)

    async def confirm_password(self, field: str = "password") -> None:
        """Raises FieldError unless the form has the user's own password; wrong ones count
        towards the lock-out."""
        try:
            await self._frame.accounts.check_password(
                self.identity, self.form.get(field, ""), self.now
            )
        except SignInRefused as error:
            raise FieldError(field, str(error)) from error

    def _shell(self, title: str) -> Shell:
        facts, identity = self._frame.facts, self.identity
        tab, section = self._place
        return Shell(
            title=title,
            network=facts.network,
            main_network=facts.main_network,
            uptime=duration(self.now - facts.started_at),
            theme=self.session.theme,
            here=_here(self.request),
            user=identity.name,
            role=identity.role.label,
            csrf=self.session.csrf,
            unread=self._frame.unread(),
            tabs=sidebar(identity, tab),
            sections=sections(identity, tab, section),
            notes=self._frame.notes.take(self.session.id),
            restricted=identity.restricted,
        )


def _here(request: Request) -> str:
    """The address of this page, for forms that come back to it."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def _line(row: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: object) -> object:
    """Numbers as they are; texts never as a formula (OWASP, "CSV Injection")."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
