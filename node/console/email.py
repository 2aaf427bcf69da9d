"""Settings > Email: the mail server, a test, and the local mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from node.accounts.access import Permission
from node.alerts.choices import EmailView, MailSecurity, read_email
from node.alerts.configure import EmailChange, Seal, queue_test, save_email
from node.alerts.courier import Courier
from node.alerts.errors import AlertsInvalid
from node.alerts.mailbox import MOST_KEPT, MailRecord, export_mail, list_mail, read_mail
from node.alerts.models import Channel
from node.alerts.reading import PER_PAGE, DeliveryView
from node.console.deliveries import MAIL_HEADER, MailRow, mail_cells, mail_row
from node.console.format import count
from node.console.forms import Form
from node.console.pager import Pager, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit

PATH = "/settings/email"
_SECURITIES = (
    (MailSecurity.STARTTLS.value, "STARTTLS (usually port 587)"),
    (MailSecurity.TLS.value, "TLS from the start (usually port 465)"),
    (MailSecurity.NONE.value, "None (only on this machine or a network you trust)"),
)


@dataclass(frozen=True, slots=True)
class EmailPage:
    """What `settings/email.html` shows."""

    form: Form
    securities: tuple[tuple[str, str], ...]
    configured: bool
    password_set: bool
    mails: tuple[MailRow, ...]
    total: str
    most: int
    pager: Pager


@dataclass(frozen=True, slots=True)
class MailPageView:
    """What `settings/mail.html` shows; `html` is shown as source only."""

    row: MailRow
    text: str
    html: str
    attachments: tuple[str, ...]
    message_id: str


def pages(courier: Courier, seal: Seal) -> Pages:
    """`/settings/email` and its mails."""
    pages = Pages("settings", "email")
    engine = courier.engine

    @pages.get(PATH, Permission.CONFIGURE)
    async def show(visit: Visit) -> Response:
        return await _show(courier, visit, None)

    @pages.post(PATH, Permission.CONFIGURE)
    async def save(visit: Visit) -> Response:
        try:
            change = _change(visit.form)
            await asyncio.to_thread(save_email, engine, change, seal, visit.actor, visit.now)
        except AlertsInvalid as error:
            return await _show(courier, visit, Form(visit.form).refused(error))
        return visit.redirect(PATH, "Mail settings saved.")

    @pages.post(f"{PATH}/test", Permission.CONFIGURE)
    async def test(visit: Visit) -> Response:
        delivery_id = await asyncio.to_thread(
            queue_test, engine, Channel.EMAIL, visit.actor, visit.now
        )
        return visit.redirect(PATH, *_told(await courier.deliver_now(delivery_id)))

    @pages.get(f"{PATH}/mails/{{mail_id:int}}", Permission.CONFIGURE)
    async def read(visit: Visit) -> Response:
        mail = await asyncio.to_thread(read_mail, engine, int(visit.path["mail_id"]))
        return visit.page("settings/mail.html", _mail_view(mail, visit), mail.subject)

    @pages.get(f"{PATH}/mails.csv", Permission.CONFIGURE)
    async def export(visit: Visit) -> Response:
        return visit.csv("mails.csv", MAIL_HEADER, mail_cells(export_mail(engine)))

    return pages


async def _show(courier: Courier, visit: Visit, refused: Form | None) -> Response:
    settings = await asyncio.to_thread(read_email, courier.engine)
    box = await asyncio.to_thread(list_mail, courier.engine, page_number(visit.query))
    view = EmailPage(
        form=refused or _form(settings),
        securities=_SECURITIES,
        configured=bool(settings.host),
        password_set=settings.password_set,
        mails=tuple(mail_row(each, visit.now, visit.zone) for each in box.items),
        total=count(box.total),
        most=MOST_KEPT,
        pager=numbered(PATH, {}, box.page, PER_PAGE, box.total),
    )
    return visit.page("settings/email.html", view, "Email", 422 if refused else 200)


def _form(settings: EmailView) -> Form:
    return Form(
        {
            "host": settings.host,
            "port": str(settings.port),
            "security": settings.security.value,
            "user": settings.user,
            "sender": settings.sender,
            "recipients": "\n".join(settings.recipients),
        }
    )


def _change(fields: Mapping[str, str]) -> EmailChange:
    """Raises AlertsInvalid for what is no number or no choice."""
    port, security = fields.get("port", "").strip(), fields.get("security", "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise AlertsInvalid("port", "A port is a number from 1 to 65535; 587 and 465 are usual.")
    if security not in list(MailSecurity):
        raise AlertsInvalid("security", "Choose how the connection is protected.")
    return EmailChange(
        host=fields.get("host", "").strip(),
        port=int(port),
        security=MailSecurity(security),
        user=fields.get("user", "").strip(),
        sender=fields.get("sender", "").strip(),
        recipients=tuple(fields.get("recipients", "").replace(",", " ").split()),
        password=fields.get("password", ""),
    )


def _told(delivery: DeliveryView) -> tuple[str, str]:
    """The sentence about a test, and its tone."""
    match delivery.state:
        case "sent":
            return "The test mail was taken by the mail server.", "good"
        case "kept":
            return "No mail server is set: the test mail lies in the mailbox below.", "info"
    return f"The test mail was not sent. {delivery.last_error}", "bad"


def _mail_view(mail: MailRecord, visit: Visit) -> MailPageView:
    return MailPageView(
        row=mail_row(mail, visit.now, visit.zone),
        text=mail.text,
        html=mail.html,
        attachments=mail.attachments,
        message_id=mail.message_id,
    )
