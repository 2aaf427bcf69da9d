"""Settings > Backup: now, by the clock, elsewhere; the history, and the password."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response

from backups.errors import BackupError, ChoiceInvalid, FolderUnusable
from backups.folder import is_there
from backups.models import CopyState
from node.accounts.access import Permission
from node.accounts.errors import AccountsError
from node.console.backup_view import (
    BackupPage,
    detail_of,
    intervals,
    overdue_text,
    progress_of,
    restored_of,
    row_of,
)
from node.console.format import count, size
from node.console.forms import FieldError, Form
from node.console.pager import numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit
from node.preferences import read_preference
from node.vault import records
from node.vault.checks import test_restore, verify
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.overview import Overview, read_overview
from node.vault.records import BackupView
from node.vault.service import Vault

PATH = "/settings/backup"
ROWS = 20
_CSV_ROWS = 10_000
_HEADER = (
    *("made", "file", "reason", "state", "bytes", "seconds", "checked", "tested", "test_error"),
    *("s3", "mail", "password", "sha256", "error"),
)


class BackupPages:
    """The handlers; `seal` keeps the storage's secret key."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def show(self, visit: Visit) -> Response:
        return await self._page(visit)

    async def csv(self, visit: Visit) -> Response:
        rows, _ = await asyncio.to_thread(records.list_backups, self._vault.engine, 0, _CSV_ROWS)
        return visit.csv("backups.csv", _HEADER, (_csv_row(each) for each in rows))

    async def back_up(self, visit: Visit) -> Response:
        try:
            await self._vault.start("manual", visit.actor)
        except BackupError as error:
            return visit.redirect(PATH, str(error), "bad")
        return visit.redirect(PATH, "A backup is being written; calls go on meanwhile.")

    async def change(self, visit: Visit) -> Response:
        engine = self._vault.engine
        stored = await asyncio.to_thread(read_preference, engine, BackupChoices)
        try:
            choices = _choices(Form(visit.form).merged(_choices_form(stored).values).values)
            await asyncio.to_thread(change_choices, engine, choices, visit.actor, visit.now)
        except ChoiceInvalid as error:
            return await self._page(visit, choices=Form(visit.form).refused(error), status=422)
        except FolderUnusable as error:
            form = Form(visit.form).with_error("folder", str(error))
            return await self._page(visit, choices=form, status=422)
        return visit.redirect(PATH, "Saved.")

    async def change_s3(self, visit: Visit) -> Response:
        engine = self._vault.engine
        before = (await asyncio.to_thread(read_overview, self._vault, visit.now)).s3
        choices = s3_choices(visit.form, before, self._vault)
        try:
            await asyncio.to_thread(change_s3, engine, choices, visit.actor, visit.now)
        except ChoiceInvalid as error:
            return await self._page(visit, s3=Form(visit.form).refused(error), status=422)
        return visit.redirect(PATH, "Saved. The next backup is copied there.")

    async def set_password(self, visit: Visit) -> Response:
        form, given = Form(visit.form), visit.form.get("backup_password", "")
        try:
            if visit.form.get("again", "") != given:
                raise FieldError("again", "The two differ. Type the same password twice.")
            await visit.confirm_password("own_password")
            await self._vault.set_password(given, visit.actor, visit.now)
        except ChoiceInvalid as error:
            form = form.with_error("backup_password", str(error))
        except (FieldError, AccountsError) as error:
            form = form.refused(error)
        else:
            note = "The backup password is set. Files written before it still need the older one."
            return visit.redirect(PATH, note)
        return await self._page(visit, password=form, status=422)

    async def show_one(self, visit: Visit) -> Response:
        backup = await self._backup(visit)
        view = detail_of(backup, self._vault.working, visit.now, visit.zone)
        return visit.page("settings/backup_file.html", view, backup.name)

    async def download(self, visit: Visit) -> Response:
        backup = await self._backup(visit)
        if not await asyncio.to_thread(is_there, backup.path):
            note = f"{backup.path} is not there any more."
            return visit.redirect(f"{PATH}/{backup.id}", note, "bad")
        return visit.download(
            backup.name, records.read_file(backup.path), "application/octet-stream"
        )

    async def verify(self, visit: Visit) -> Response:
        backup = await self._backup(visit)
        return self._begin(visit, verify(self._vault, backup.id), "It is being checked.")

    async def test(self, visit: Visit) -> Response:
        backup = await self._backup(visit)
        return self._begin(visit, test_restore(self._vault, backup.id), "It is being restored.")

    def _begin(self, visit: Visit, work: object, note: str) -> Response:
        here = f"{PATH}/{visit.path['backup_id']}"
        try:
            self._vault.require_idle()
        except BackupError as error:
            work.close()  # type: ignore[attr-defined]
            return visit.redirect(here, str(error), "bad")
        self._vault.background(work)  # type: ignore[arg-type]
        return visit.redirect(here, f"{note} This page says what came of it.")

    async def _backup(self, visit: Visit) -> BackupView:
        return await asyncio.to_thread(
            records.read_backup, self._vault.engine, visit.path["backup_id"]
        )

    async def _page(
        self,
        visit: Visit,
        choices: Form | None = None,
        s3: Form | None = None,
        password: Form | None = None,
        status: int = 200,
    ) -> Response:
        page = page_number(visit.query)
        overview = await asyncio.to_thread(read_overview, self._vault, visit.now)
        rows, total = await asyncio.to_thread(
            records.list_backups, self._vault.engine, (page - 1) * ROWS, ROWS
        )
        now, zone = visit.now, visit.zone
        lines = [row_of(each, now, zone) for each in rows]
        view = BackupPage(
            password_set=overview.password_set,
            progress=progress_of(overview.working, now, zone),
            last=row_of(overview.last_good, now, zone) if overview.last_good else None,
            tested=row_of(overview.tested, now, zone) if overview.tested else None,
            overdue=overdue_text(overview),
            next=_next(overview, visit),
            kept=_kept(overview),
            rows=lines,
            sending=any(CopyState.SENDING in (each.s3_state, each.mail_state) for each in rows),
            pager=numbered(PATH, visit.query, page, ROWS, total),
            older=[row_of(each, now, zone) for each in overview.older],
            restored=restored_of(overview.restored, now, zone),
            choices=choices or _choices_form(overview.choices).as_shown(),
            s3=s3 or _s3_form(overview.s3),
            s3_secret_set=bool(overview.s3.secret_key_sealed),
            password=password or Form(),
            intervals=intervals(),
            folder=str(self._vault.folder(overview.choices)),
        )
        return visit.page("settings/backup.html", view, "Backup", status)


def pages(vault: Vault) -> Pages:
    """`/settings/backup` and the pages below it."""
    pages, handlers = Pages("settings", "backup"), BackupPages(vault)
    may = Permission.BACK_UP
    pages.get(PATH, may)(handlers.show)
    pages.get(f"{PATH}.csv", may)(handlers.csv)
    pages.post(f"{PATH}/now", may)(handlers.back_up)
    pages.post(f"{PATH}/choices", may)(handlers.change)
    pages.post(f"{PATH}/s3", may)(handlers.change_s3)
    pages.post(f"{PATH}/password", may)(handlers.set_password)
    pages.get(f"{PATH}/{{backup_id}}", may)(handlers.show_one)
    pages.get(f"{PATH}/{{backup_id}}/file", may)(handlers.download)
    pages.post(f"{PATH}/{{backup_id}}/verify", may)(handlers.verify)
    pages.post(f"{PATH}/{{backup_id}}/test", may)(handlers.test)
    return pages


def s3_choices(given: Mapping[str, str], before: S3Choices, vault: Vault) -> S3Choices:
    """What was typed; an empty secret keeps the one that is stored."""
    secret = given.get("secret_key", "")
    sealed = vault.around.keys.seal(secret.encode()) if secret else before.secret_key_sealed
    return S3Choices(
        endpoint_url=given.get("endpoint_url", "").strip(),
        region=given.get("region", "").strip(),
        bucket=given.get("bucket", "").strip(),
        prefix=given.get("prefix", "").strip(),
        access_key_id=given.get("access_key_id", "").strip(),
        secret_key_sealed=sealed if given.get("bucket", "").strip() else "",
    )


def _next(overview: Overview, visit: Visit) -> str:
    if overview.next_at is None:
        return ""
    minutes = (overview.next_at - visit.now) // 60
    if minutes < 1:
        return "within a minute or two"
    return f"in {minutes} min" if minutes < 120 else f"in {minutes // 60} h"


def _kept(overview: Overview) -> str:
    noun = "file" if overview.good_count == 1 else "files"
    return f"{count(overview.good_count)} {noun}, {size(overview.good_bytes)}"


def _choices(given: Mapping[str, str]) -> BackupChoices:
    return BackupChoices(
        every_hours=_number(given, "every_hours"),
        folder=given.get("folder", "").strip(),
        overdue_days=_number(given, "overdue_days"),
        keep_all_hours=_number(given, "keep_all_hours"),
        keep_days=_number(given, "keep_days"),
        keep_weeks=_number(given, "keep_weeks"),
        keep_months=_number(given, "keep_months"),
        mail=given.get("mail") == "on",
        mail_most_mb=_number(given, "mail_most_mb"),
    )


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise ChoiceInvalid(name, "Enter a whole number.")
    return int(text)


def _choices_form(choices: BackupChoices) -> Form:
    names = (
        *("every_hours", "folder", "overdue_days", "keep_all_hours", "keep_days", "keep_weeks"),
        *("keep_months", "mail_most_mb"),
    )
    values = {name: str(getattr(choices, name)) for name in names}
    return Form({**values, "mail": "on" if choices.mail else ""})


def _s3_form(choices: S3Choices) -> Form:
    names = ("endpoint_url", "region", "bucket", "prefix", "access_key_id")
    return Form({name: str(getattr(choices, name)) for name in names})


def _csv_row(backup: BackupView) -> tuple[object, ...]:
    return (
        backup.started_at,
        backup.name,
        backup.reason,
        backup.state.value,
        backup.size_bytes,
        backup.took_ms / 1000,
        backup.verified_at or "",
        backup.tested_at or "",
        backup.test_error,
        backup.s3_state.value,
        backup.mail_state.value,
        "current" if backup.current_password else "older",
        backup.sha256,
        backup.error,
    )
