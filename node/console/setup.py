"""The setup wizard: terms, admin account, email, backup password, and what to do next.

Each page asks the database how far the wizard has come, so a reload, another browser or a
restart goes on where it stopped. From the second page on the admin is signed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from finance.networks import Network
from node.accounts import setup
from node.accounts.access import Permission, Role
from node.accounts.audit import Actor
from node.accounts.errors import AccountInvalid, Forbidden
from node.accounts.passwords import require_good_password
from node.accounts.service import Accounts
from node.accounts.setup import BackupKeeper, Step, from_this_machine
from node.accounts.users import NewUser, create_first_admin, read_user
from node.console.facts import NodeFacts
from node.console.forms import Form
from node.console.pages import Pages
from node.console.qr import Qr, qr
from node.console.session_cookie import client_of, give_session, token_of
from node.console.visit import Guest, Visit
from node.failures import DOMAIN_ERRORS

CODE_COOKIE = "farebox_setup"
NOT_HERE = (
    "This node is not set up yet. Open this page on the machine itself, as http://127.0.0.1 with"
    " its port, or with the link that the node printed at its start (it begins with “Setup:”)."
)
WRONG_CODE = (
    "This setup link is wrong, used or too old. Restart the node: it prints a new one at its start."
)
_FORM_BYTES = 16_000
_LABELS: Final = {
    Step.TERMS: "Terms",
    Step.ADMIN: "Admin",
    Step.EMAIL: "Email",
    Step.BACKUP: "Backup",
    Step.DONE: "Done",
}


@dataclass(frozen=True, slots=True)
class SetupView:
    """A page of the wizard; `stages` as `ui.stages` wants them."""

    form: Form
    stages: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DoneView:
    """The last page: where money goes, as text and as QR code (EIP-681)."""

    stages: tuple[tuple[str, str], ...]
    address: str
    network: str
    usdc: Qr
    gas: Qr
    main_network: bool
    backed_up: bool


class Wizard:
    """The handlers; `keeper` None: this node has no backups, and no page asks for them."""

    def __init__(
        self, accounts: Accounts, network: Network, facts: NodeFacts, keeper: BackupKeeper | None
    ) -> None:
        self._accounts = accounts
        self._network = network
        self._facts = facts
        self._keeper = keeper

    async def begin(self, guest: Guest) -> Response:
        """The first two pages, and the way to all others."""
        if not await self._accounts.needs_setup():
            return guest.redirect(await self._page_of(guest))
        if "code" in guest.query:
            return await self._take_code(guest)
        if (refusal := await self.refused(guest)) is not None:
            return refusal
        return self._show(guest, await self._step(), Form())

    async def accept(self, guest: Guest) -> Response:
        if (refusal := await self.refused(guest)) is not None:
            return refusal
        if guest.form.get("accept") != "on":
            error = AccountInvalid("accept", "Farebox can only be used under these terms.")
            return self._show(guest, Step.TERMS, Form(guest.form).refused(error), 422)
        await self._accounts.read(setup.accept_terms, _somebody(guest), guest.now)
        return guest.redirect("/setup")

    async def make_admin(self, guest: Guest) -> Response:
        if (refusal := await self.refused(guest)) is not None:
            return refusal
        if await self._step() is not Step.ADMIN:
            return guest.redirect("/setup")
        given = guest.form
        name, password = given.get("name", ""), given.get("password", "")
        try:
            _same(given.get("again", ""), password)
            hashed = await self._accounts.hash_new(password, name.strip())
            new = NewUser(name, "", Role.ADMIN, hashed, temporary_password=False)
            await self._accounts.change(create_first_admin, new, _somebody(guest), guest.now)
            session = await self._accounts.sign_in(
                name, password, client_of(guest), guest.now, token_of(guest)
            )
        except AccountInvalid as error:
            return self._show(guest, Step.ADMIN, Form(given).refused(error), 422)
        answer = give_session(guest, guest.redirect("/setup"), session)
        answer.delete_cookie(CODE_COOKIE, path="/setup", httponly=True, samesite="strict")
        return answer

    async def ask_email(self, visit: Visit) -> Response:
        if (elsewhere := await self._elsewhere(visit, Step.EMAIL)) is not None:
            return elsewhere
        user = await self._accounts.read(read_user, visit.identity.user_id)
        return self._show(visit, Step.EMAIL, Form({"email": user.email}))

    async def keep_email(self, visit: Visit) -> Response:
        user_id, email = visit.identity.user_id, visit.form.get("email", "")
        try:
            await self._accounts.change(setup.choose_email, user_id, email, visit.actor, visit.now)
        except AccountInvalid as error:
            return self._show(visit, Step.EMAIL, Form(visit.form).refused(error), 422)
        return visit.redirect("/setup")

    async def ask_backup(self, visit: Visit) -> Response:
        elsewhere = await self._elsewhere(visit, Step.BACKUP)
        return self._show(visit, Step.BACKUP, Form()) if elsewhere is None else elsewhere

    async def keep_backup(self, visit: Visit) -> Response:
        if (elsewhere := await self._elsewhere(visit, Step.BACKUP)) is not None:
            return elsewhere
        assert self._keeper is not None
        password = visit.form.get("backup_password", "")
        try:
            _same(visit.form.get("again", ""), password)
            require_good_password(password, visit.identity.name, "backup_password")
        except AccountInvalid as error:
            return self._show(visit, Step.BACKUP, Form().refused(error), 422)
        try:
            await self._keeper.set_password(password, visit.actor, visit.now)
            await self._keeper.back_up_now("setup")
        except DOMAIN_ERRORS as error:
            return self._show(visit, Step.BACKUP, Form().with_error("", str(error)), 422)
        await self._accounts.read(setup.backup_chosen, visit.actor, visit.now)
        return visit.redirect("/setup")

    async def show_done(self, visit: Visit) -> Response:
        if (elsewhere := await self._elsewhere(visit, Step.DONE)) is not None:
            return elsewhere
        progress = await self._accounts.read(setup.read_progress)
        if setup.unfinished(progress):
            await self._accounts.read(setup.finish, visit.actor, visit.now)
        view = DoneView(
            stages=self._stages(Step.DONE),
            address=self._facts.address,
            network=self._facts.network,
            usdc=qr(usdc_uri(self._network, self._facts.address)),
            gas=qr(f"ethereum:{self._facts.address}@{self._network.chain_id}"),
            main_network=self._facts.main_network,
            backed_up=bool(progress.backup_at),
        )
        return visit.page("setup/done.html", view, "Set up")

    async def _page_of(self, guest: Guest) -> str:
        """Where an admin goes on; everybody else has nothing to do here."""
        found = await self._accounts.identify_session(token_of(guest), guest.address, guest.now)
        if found is None:
            return "/sign-in"
        if found[0].role is not Role.ADMIN:
            return "/"
        return f"/setup/{await self._step()}"

    async def _elsewhere(self, visit: Visit, step: Step) -> Response | None:
        """A page whose turn it is not leads to the one whose turn it is."""
        now = await self._step()
        return None if now is step else visit.redirect(f"/setup/{now}")

    async def _step(self) -> Step:
        progress = await self._accounts.read(setup.read_progress)
        has_users = not await self._accounts.needs_setup()
        return setup.next_step(progress, has_users, self._keeper is not None)

    async def _take_code(self, guest: Guest) -> Response:
        """Move the code out of the address, which browsers keep and show."""
        code = guest.query["code"]
        if not await self._accounts.read(setup.code_valid, code, guest.now):
            raise Forbidden(WRONG_CODE)
        answer = guest.redirect("/setup")
        answer.set_cookie(
            CODE_COOKIE,
            code,
            max_age=setup.CODE_SECONDS,
            path="/setup",
            secure=guest.secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    async def refused(self, guest: Guest) -> Response | None:
        """Raises Forbidden for people who may not set this node up."""
        if not await self._accounts.needs_setup():
            return guest.redirect("/sign-in")
        headers = guest.request.headers
        if from_this_machine(guest.address, headers.getlist("host"), headers.keys()):
            return None
        code = guest.request.cookies.get(CODE_COOKIE)
        if code is None:
            raise Forbidden(NOT_HERE)
        if not await self._accounts.read(setup.code_valid, code, guest.now):
            raise Forbidden(WRONG_CODE)
        return None

    def _show(self, guest: Guest, step: Step, form: Form, status: int = 200) -> Response:
        view = SetupView(form, self._stages(step))
        return guest.page(f"setup/{step}.html", view, f"Set up: {_LABELS[step]}", status)

    def _stages(self, now: Step) -> tuple[tuple[str, str], ...]:
        steps = [step for step in Step if step is not Step.BACKUP or self._keeper is not None]
        at = steps.index(now)
        done = "done" if now is Step.DONE else "now"
        return tuple(
            (_LABELS[step], "done" if i < at else done if i == at else "open")
            for i, step in enumerate(steps)
        )


def pages(
    accounts: Accounts, network: Network, facts: NodeFacts, keeper: BackupKeeper | None = None
) -> Pages:
    """`/setup` and the pages below it."""
    pages, wizard = Pages("setup"), Wizard(accounts, network, facts, keeper)
    pages.open_get("/setup")(wizard.begin)
    pages.open_post("/setup/terms", _FORM_BYTES)(wizard.accept)
    pages.open_post("/setup/admin", _FORM_BYTES)(wizard.make_admin)
    pages.get("/setup/email", Permission.CONFIGURE)(wizard.ask_email)
    pages.post("/setup/email", Permission.CONFIGURE, _FORM_BYTES)(wizard.keep_email)
    if keeper is not None:
        pages.get("/setup/backup", Permission.BACK_UP)(wizard.ask_backup)
        pages.post("/setup/backup", Permission.BACK_UP, _FORM_BYTES)(wizard.keep_backup)
    pages.get("/setup/done", Permission.CONFIGURE)(wizard.show_done)
    return pages


def usdc_uri(network: Network, address: str) -> str:
    """A request to send USDC here, as wallets scan it (EIP-681)."""
    return f"ethereum:{network.usdc}@{network.chain_id}/transfer?address={address}"


def _somebody(guest: Guest) -> Actor:
    return Actor("setup", "setup wizard", guest.address)


def _same(again: str, password: str) -> None:
    if again != password:
        raise AccountInvalid("again", "The two differ. Type the same password twice.")
