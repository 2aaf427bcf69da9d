"""Mail: composed, handed to the operator's server, and kept in the local mailbox either way."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime

from sqlalchemy import Engine

from node.alerts.choices import EmailSettings
from node.alerts.errors import NotConfigured, SendFailed
from node.alerts.mailbox import MailRecord, MailState, keep
from node.alerts.smtp import Server, hand_over
from node.alerts.text import one_line
from node.preferences import read_preference

SUBJECT_CHARACTERS = 150
AT_ONCE = 8  # as many as a round of deliveries has


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file; the mailbox keeps its name only."""

    name: str
    content: bytes
    media_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is to be said. `html` may be empty; `subject` may hold anything."""

    subject: str
    text: str
    html: str = ""
    attachments: Sequence[Attachment] = ()


class Mailer:
    """Sends mail as Settings > Email says. `unseal` opens the stored password."""

    def __init__(
        self,
        engine: Engine,
        unseal: Callable[[str], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._unseal = unseal
        self._clock = clock
        # Of its own: a server that says nothing holds each of them, and nobody else's.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mail")

    async def send(self, letter: Letter, delivery_id: str = "") -> MailState:
        """Send to the configured recipients; KEPT when no server is set. With a `delivery_id`
        a later attempt replaces the earlier one in the mailbox and has the same Message-ID.

        Raises NotConfigured (a server, but nobody to write to) or SendFailed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._send, letter, delivery_id)

    def _send(self, letter: Letter, delivery_id: str) -> MailState:
        settings = read_preference(self._engine, EmailSettings)
        message = compose(letter, settings, delivery_id or secrets.token_hex(16))
        if not settings.host:
            return self._keep(letter, settings, message, delivery_id, MailState.KEPT)
        if not settings.recipients:
            raise NotConfigured("Nobody is set to receive mail. Add a recipient first.")
        try:
            warning = hand_over(self._server(settings), message)
        except SendFailed as error:
            self._keep(letter, settings, message, delivery_id, MailState.FAILED, str(error))
            raise
        return self._keep(letter, settings, message, delivery_id, MailState.SENT, warning)

    def _server(self, settings: EmailSettings) -> Server:
        password = settings.password_sealed and self._unseal(settings.password_sealed).decode()
        return Server(settings.host, settings.port, settings.security, settings.user, password)

    def _keep(
        self,
        letter: Letter,
        settings: EmailSettings,
        message: EmailMessage,
        delivery_id: str,
        state: MailState,
        error: str = "",
    ) -> MailState:
        record = MailRecord(
            at=int(self._clock()),
            state=state,
            sender=settings.sender,
            recipients=settings.recipients,
            subject=str(message["Subject"]),
            text=letter.text,
            html=letter.html,
            attachments=tuple(one_line(each.name, 100) for each in letter.attachments),
            message_id=str(message["Message-ID"]),
            delivery_id=delivery_id,
            error=error,
        )
        keep(self._engine, record)
        return state


def compose(letter: Letter, settings: EmailSettings, message_key: str) -> EmailMessage:
    """The message as it travels. No text from strangers can add a header: the subject is one
    line, and the other headers are ours or checked when they were set."""
    message = EmailMessage(policy=SMTP)
    # An encoded word (RFC 2047) would be decoded here, and its line breaks written as they are.
    message["Subject"] = one_line(letter.subject, SUBJECT_CHARACTERS).replace("=?", "= ?")
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.recipients)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{message_key}@farebox.invalid>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers
    message.set_content(letter.text)
    if letter.html:
        message.add_alternative(letter.html, subtype="html")
    for each in letter.attachments:
        main, _, sub = each.media_type.partition("/")
        name = one_line(each.name, 100)
        message.add_attachment(each.content, maintype=main, subtype=sub, filename=name)
    return message
