"""One conversation with a mail server. Fails closed: a connection that cannot be protected
as the operator chose carries no mail and no password."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage

from node.alerts.choices import MailSecurity
from node.alerts.errors import SendFailed
from node.alerts.text import one_line

TIMEOUT_SECONDS = 15.0  # for each step of the conversation
_REPLY_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed over, and as whom."""

    host: str
    port: int
    security: MailSecurity
    user: str
    password: str = field(repr=False)


def hand_over(server: Server, message: EmailMessage) -> str:
    """Give `message` to the server (blocking); a sentence about recipients it refused, empty
    when it took all. Raises SendFailed."""
    try:
        with _conversation(server) as connection:
            if server.security is MailSecurity.STARTTLS:
                connection.starttls(context=ssl.create_default_context())
            if server.user:
                _sign_in(connection, server)
            refused = connection.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        raise SendFailed(f"Every recipient was refused: {_replies(error.recipients)}") from None
    except smtplib.SMTPResponseException as error:
        reply = _readable(error.smtp_error)
        raise SendFailed(
            f"The mail server answered {error.smtp_code}: {reply}", error.smtp_code
        ) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:  # also of what is no base64
        raise SendFailed(_explain(error)) from None
    return f"Refused for {_replies(refused)}" if refused else ""


@contextmanager
def _conversation(server: Server) -> Iterator[smtplib.SMTP]:
    """What the server says to the goodbye changes nothing: by then it took the mail, or did not."""
    connection = _connect(server)
    try:
        yield connection
    finally:
        with suppress(smtplib.SMTPException, OSError):
            connection.quit()
        connection.close()


class _Connection(smtplib.SMTP):
    """Waits for a whole reply: the time-out of a socket begins anew with each byte of it."""

    def getreply(self) -> tuple[int, bytes]:
        began = time.monotonic()
        late = threading.Timer(TIMEOUT_SECONDS, _hang_up, (self.sock,))
        late.daemon = True
        late.start()
        try:
            return super().getreply()
        except smtplib.SMTPServerDisconnected:
            if time.monotonic() - began >= TIMEOUT_SECONDS:
                raise TimeoutError from None
            raise
        finally:
            late.cancel()


class _TlsConnection(_Connection, smtplib.SMTP_SSL):
    """The same, encrypted from the start."""


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _connect(server: Server) -> smtplib.SMTP:
    if server.security is MailSecurity.TLS:
        context = ssl.create_default_context()
        return _TlsConnection(server.host, server.port, timeout=TIMEOUT_SECONDS, context=context)
    return _Connection(server.host, server.port, timeout=TIMEOUT_SECONDS)


def _sign_in(connection: smtplib.SMTP, server: Server) -> None:
    """The server's own words are left out: it could repeat the password in them."""
    try:
        connection.login(server.user, server.password)
    except smtplib.SMTPAuthenticationError as error:
        raise SendFailed(
            "The mail server refused the user name or the password.", error.smtp_code
        ) from None
    except UnicodeEncodeError:  # whose words show which character it was
        raise SendFailed(
            "A sign-in to a mail server carries ASCII only: choose a user name and a password"
            " without other characters."
        ) from None


def _explain(error: Exception) -> str:
    match error:
        case smtplib.SMTPNotSupportedError():
            return f"The mail server cannot do what is asked of it: {one_line(str(error), 200)}"
        case ssl.SSLCertVerificationError():
            return f"The mail server's certificate is not valid: {error.verify_message}."
        case ssl.SSLError():
            return "The mail server does not speak TLS there. Check the port and the encryption."
        case TimeoutError():
            return "The mail server did not answer in time."
        case smtplib.SMTPServerDisconnected():
            return "The mail server closed the connection. Check the port and the encryption."
        case OSError():
            reason = error.strerror or type(error).__name__
            return f"The mail server cannot be reached: {one_line(reason, 200)}."
    return f"The mail could not be sent: {one_line(str(error), 200)}"


def _replies(refused: dict[str, tuple[int, bytes]]) -> str:
    return one_line(
        "; ".join(f"{who} ({code} {_readable(reply)})" for who, (code, reply) in refused.items()),
        2 * _REPLY_CHARACTERS,
    )


def _readable(reply: bytes | str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return one_line(text, _REPLY_CHARACTERS)
