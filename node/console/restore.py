"""The wizard's other way: a new node becomes one that was backed up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from starlette.responses import Response

from backups.errors import BackupError
from backups.manifest import Manifest
from finance.money import Usdc
from node.console.backup_view import STAGES, Fact
from node.console.format import count, exact_amount, moment
from node.console.forms import Form
from node.console.pages import Guard, Pages
from node.console.visit import Guest
from node.vault.desk import RestoreDesk
from node.vault.restore import OLD_NODE
from node.vault.restored import VALID_AGAIN
from node.vault.source import told

PATH = "/setup/restore"
MOST_BYTES = 64 << 30
_FORM_BYTES = 16_000
OUTSIDE = "Set in the environment, to be set again"


@dataclass(frozen=True, slots=True)
class RestoreView:
    """What `setup/restore.html` shows: `step` is choose, agree, working, ready or ended."""

    step: str
    form: Form
    facts: Sequence[Fact] = ()
    warning: str = OLD_NODE
    valid_again: str = VALID_AGAIN
    stage: str = ""
    percent: int | None = None
    error: str = ""


class RestorePages:
    """The handlers; `guard` answers for people who may not set this node up."""

    def __init__(self, desk: RestoreDesk, guard: Guard) -> None:
        self._desk = desk
        self._guard = guard

    async def show(self, guest: Guest) -> Response:
        if (refusal := await self._guard(guest)) is not None:
            return refusal
        desk = self._desk
        if desk.running:
            stage, done, total = desk.progress
            percent = min(100, 100 * done // total) if total else None
            name = STAGES.get(stage, stage.capitalize())
            return _page(guest, RestoreView("working", Form(), stage=name, percent=percent))
        if desk.staged is not None:
            facts = facts_of(desk.staged.manifest, guest.now)
            return _page(guest, RestoreView("ready", Form(), facts))
        return _page(guest, RestoreView("choose", Form(), error=desk.error))

    async def look(self, guest: Guest) -> Response:
        """Take a file or a path, and show what is inside."""
        if (refusal := await self._guard(guest)) is not None:
            return refusal
        source = guest.form.get("path", "").strip()
        try:
            if (upload := guest.upload_stream("file")) is not None:
                source = await self._desk.receive(upload)
            manifest = await self._desk.look(source, guest.form.get("password", ""))
        except BackupError as error:
            form = Form({"path": guest.form.get("path", "")}).refused(error)
            return _page(guest, RestoreView("choose", form), 422)
        facts = facts_of(manifest, guest.now)
        return _page(guest, RestoreView("agree", Form({"source": source}), facts))

    async def begin(self, guest: Guest) -> Response:
        """Make the data directory; the operator saw what it will be."""
        if (refusal := await self._guard(guest)) is not None:
            return refusal
        source, password = guest.form.get("source", ""), guest.form.get("password", "")
        try:
            await self._desk.begin(source, password)
        except BackupError as error:
            form, seen = Form({"source": source}).refused(error), self._desk.seen(source)
            facts = facts_of(seen, guest.now) if seen else ()
            return _page(guest, RestoreView("agree", form, facts), 422)
        return guest.redirect(PATH)

    async def finish(self, guest: Guest) -> Response:
        """Swap it in; the node ends, so this answer is its last."""
        if (refusal := await self._guard(guest)) is not None:
            return refusal
        try:
            self._desk.finish()
        except BackupError as error:
            return _page(guest, RestoreView("choose", Form().refused(error)), 422)
        return _page(guest, RestoreView("ended", Form()))

    async def cancel(self, guest: Guest) -> Response:
        if (refusal := await self._guard(guest)) is not None:
            return refusal
        await self._desk.stop()
        await asyncio.to_thread(self._desk.forget)
        return guest.redirect("/setup")


def pages(desk: RestoreDesk, guard: Guard) -> Pages:
    """`/setup/restore` and the steps below it."""
    pages, handlers = Pages("setup"), RestorePages(desk, guard)
    pages.open_get(PATH)(handlers.show)
    pages.open_post(PATH, MOST_BYTES, guard)(handlers.look)
    pages.open_post(f"{PATH}/begin", _FORM_BYTES)(handlers.begin)
    pages.open_post(f"{PATH}/finish", _FORM_BYTES)(handlers.finish)
    pages.open_post(f"{PATH}/cancel", _FORM_BYTES)(handlers.cancel)
    return pages


def facts_of(manifest: Manifest, now: int) -> list[Fact]:
    """What a backup holds, before anything is changed."""
    made, counts = moment(manifest.created_at, now, ZoneInfo("UTC")), manifest.counts
    channels = counts.get("seller_channel", 0) + counts.get("buyer_channel", 0)
    owed = exact_amount(Usdc(manifest.owed_atoms)).text
    return [
        Fact("Wallet", manifest.wallet),
        Fact("Network", f"{manifest.network} (chain {manifest.chain_id})"),
        Fact("Made", f"{made.utc} ({made.text})"),
        Fact("Listings", count(counts.get("listing", 0))),
        Fact("Users", count(counts.get("user_account", 0))),
        Fact("Keys of apps", count(counts.get("consumer_key", 0))),
        Fact("Channels", count(channels)),
        Fact("Calls", count(counts.get("call", 0))),
        Fact("Owed then, not claimed", f"{owed} USDC"),
        Fact("Database", f"{manifest.database}, schema {manifest.schema_revision}"),
        Fact("Version", manifest.software),
        *([Fact(OUTSIDE, "; ".join(map(told, manifest.outside)))] if manifest.outside else []),
    ]


def _page(guest: Guest, view: RestoreView, status: int = 200) -> Response:
    return guest.page("setup/restore.html", view, "Restore a backup", status)
