"""Mail arrives as it was meant, protected as it was chosen, or says why it did not."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest

from node.alerts.choices import MailSecurity
from node.alerts.configure import EmailChange, queue_test, save_email
from node.alerts.errors import AlertsInvalid
from node.alerts.mailbox import MOST_KEPT, list_mail
from node.alerts.models import Channel
from node.alerts.reading import DeliveryFilter, DeliveryView, list_deliveries
from node.alerts.rules import Level, Rule, Severity
from tests.alerts.certificates import make_certificate
from tests.alerts.post_office import PostOffice
from tests.alerts.world import ADMIN, World

# The server of these tests takes a password without TLS, and says that it should not.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


async def send_test(world: World) -> DeliveryView:
    delivery_id = queue_test(world.engine, Channel.EMAIL, ADMIN, world.now)
    return await world.courier.deliver_now(delivery_id)


def states(world: World) -> list[str]:
    """Of all deliveries."""
    return [each.state for each in list_deliveries(world.engine, DeliveryFilter(), 1).items]


async def test_incident_arrives_by_mail_when_it_begins_and_when_it_ends(
    world: World, post_office: PostOffice
) -> None:
    world.use_mail(post_office.port, recipients=("ops@example.org", "boss@example.org"))
    world.speak(Rule.LOW_GAS, Level.EMAIL, Severity.ERROR)
    await world.alerts.raise_(Rule.LOW_GAS, "", "0.0001 ETH are left.", "/finance")
    assert await world.courier.deliver_due() == 1
    await world.alerts.resolve(Rule.LOW_GAS, "")
    assert await world.courier.deliver_due() == 1
    assert await world.courier.deliver_due() == 0
    opened, resolved = post_office.letters
    assert opened["Subject"] == "[Farebox] Error: 0.0001 ETH are left."
    assert resolved["Subject"] == "[Farebox] Resolved: 0.0001 ETH are left."
    assert post_office.recipients[0] == ["ops@example.org", "boss@example.org"]
    text, html = opened.get_body(("plain",)), opened.get_body(("html",))
    assert text is not None and html is not None
    assert "http://127.0.0.1:8400/notifications/1" in text.get_content()
    assert 'href="http://127.0.0.1:8400/notifications/1"' in html.get_content()
    assert [each.state for each in list_deliveries(world.engine, DeliveryFilter(), 1).items] == [
        "sent",
        "sent",
    ]


async def test_without_a_server_mail_lies_in_the_local_mailbox(world: World) -> None:
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    await world.courier.deliver_due()
    [mail] = list_mail(world.engine, 1).items
    assert (mail.state, mail.recipients) == ("kept", ())
    assert "Gas is low." in mail.text and "Gas is low." in mail.html
    assert [each.state for each in list_deliveries(world.engine, DeliveryFilter(), 1).items] == [
        "kept"
    ]


async def test_sign_in_with_the_stored_password(world: World) -> None:
    with PostOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="open sesame")
        assert (await send_test(world)).state == "sent"
        assert office.signed_in == [True]


async def test_wrong_password_says_so_and_nothing_is_sent(world: World) -> None:
    with PostOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="close sesame")
        delivery = await send_test(world)
        assert (delivery.state, delivery.response_status) == ("given_up", 535)
        assert delivery.last_error == "The mail server refused the user name or the password."
        assert office.letters == []
    assert list_mail(world.engine, 1).items[0].state == "failed"


async def test_server_without_starttls_gets_neither_mail_nor_password(world: World) -> None:
    with PostOffice() as office:
        world.use_mail(office.port, MailSecurity.STARTTLS, user="node", password="open sesame")
        delivery = await send_test(world)
        assert delivery.state == "given_up" and "STARTTLS" in delivery.last_error
        assert office.letters == []


@pytest.mark.parametrize("security", [MailSecurity.STARTTLS, MailSecurity.TLS])
async def test_mail_travels_encrypted_to_a_server_that_is_known(
    world: World, security: MailSecurity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = make_certificate(tmp_path)
    with PostOffice(tls=context, tls_at_once=security is MailSecurity.TLS) as office:
        world.use_mail(office.port, security)
        refused = await send_test(world)
        assert refused.state == "given_up" and "certificate is not valid" in refused.last_error
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await send_test(world)).state == "sent"
        assert office.encrypted == [True]


async def test_tls_on_a_port_that_does_not_speak_it_is_explained(
    world: World, post_office: PostOffice
) -> None:
    world.use_mail(post_office.port, MailSecurity.TLS)
    delivery = await send_test(world)
    assert "does not speak TLS" in delivery.last_error


async def test_nobody_listening_is_explained(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.use_mail(closed.getsockname()[1])
        delivery = await send_test(world)
    assert delivery.last_error == "The mail server cannot be reached: Connection refused."


async def test_some_recipients_refused_is_sent_with_a_warning_in_the_mailbox(
    world: World, post_office: PostOffice
) -> None:
    post_office.refused = {"gone@example.org"}
    world.use_mail(post_office.port, recipients=("ops@example.org", "gone@example.org"))
    assert (await send_test(world)).state == "sent"
    assert post_office.recipients == [["ops@example.org"]]
    assert "gone@example.org (550" in list_mail(world.engine, 1).items[0].error


async def test_all_recipients_refused_is_a_failure(world: World, post_office: PostOffice) -> None:
    post_office.refused = {"ops@example.org"}
    world.use_mail(post_office.port)
    delivery = await send_test(world)
    assert delivery.state == "given_up" and "no such mailbox" in delivery.last_error


async def test_names_of_strangers_cannot_add_headers_or_markup(
    world: World, post_office: PostOffice
) -> None:
    world.use_mail(post_office.port)
    evil = "X\r\nBcc: all@example.org\r\n\r\n<script>alert(1)</script>\u2028Y" + "é" * 300
    await world.alerts.raise_(Rule.LOW_GAS, "", evil, "/finance")
    await world.courier.deliver_due()
    [letter] = post_office.letters
    assert letter["Bcc"] is None
    assert post_office.recipients == [["ops@example.org"]]
    assert letter["Subject"].startswith("[Farebox] Warning: X Bcc: all@example.org <script>")
    html = letter.get_body(("html",))
    assert html is not None and "<script>" not in html.get_content()


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?a=0D=0ABcc:_thief@example.org?=",
        "=?utf-8?b?DQoNClBheSB0byAweDY2Lg==?=",  # an empty line, and a text of its own
        "=?utf-8?q?=00?=",
        "?==?utf-8?q?=C3?= é",
    ],
)
async def test_encoded_words_of_strangers_stay_text(
    world: World, post_office: PostOffice, name: str
) -> None:
    """RFC 2047: what looks like one would be decoded, and its line breaks would end the header."""
    world.use_mail(post_office.port)
    await world.alerts.raise_(Rule.CUSTOMER_ASKED, "1", f"{name} asks for support.", "/")
    await world.courier.deliver_due()
    [letter], [mail] = post_office.letters, list_mail(world.engine, 1).items
    assert letter["Bcc"] is None and letter["Content-Type"].startswith("multipart/alternative")
    assert letter["Subject"].strip() == mail.subject  # folded, it begins on a line of its own
    assert mail.subject.replace("= ?", "=?") == f"[Farebox] Info: {name} asks for support."


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("host", {"host": "smtp.example.org\r\nDATA"}),
        ("port", {"port": 70000}),
        ("sender", {"sender": "a@example.org\nBcc: b@example.org"}),
        ("sender", {"sender": ""}),
        ("recipients", {"recipients": ("ops@example.org, b@example.org",)}),
        ("recipients", {"recipients": ()}),
        ("recipients", {"recipients": tuple(f"a{n}@example.org" for n in range(21))}),
        ("security", {"security": MailSecurity.NONE, "user": "u", "password": "p"}),
        ("password", {"user": "u"}),
        ("user", {"user": "u\r\n", "password": "p"}),
    ],
)
def test_settings_that_cannot_work_are_refused_at_their_field(
    world: World, field: str, change: dict[str, object]
) -> None:
    good: dict[str, object] = {
        "host": "smtp.example.org",
        "port": 587,
        "security": MailSecurity.STARTTLS,
        "user": "",
        "sender": "node@example.org",
        "recipients": ("ops@example.org",),
    }
    with pytest.raises(AlertsInvalid) as refusal:
        typed = EmailChange(**(good | change))  # type: ignore[arg-type]
        save_email(world.engine, typed, world.keys.seal, ADMIN, world.now)
    assert refusal.value.field == field
    assert world.rows("SELECT 1 FROM preference") == []


def test_stored_password_never_goes_to_another_server(world: World) -> None:
    tls = MailSecurity.TLS
    world.use_mail(465, tls, "node", "open sesame", host="smtp.example.org")
    world.use_mail(465, tls, "node", "", ("boss@example.org",), host="smtp.example.org")
    with pytest.raises(AlertsInvalid, match="password for this server"):
        world.use_mail(465, tls, "node", "", host="smtp.evil.example")


async def test_password_is_in_no_table_log_or_audit_entry(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with PostOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="open sesame")
        await send_test(world)
        world.use_mail(office.port, user="node", password="close sesame")
        await send_test(world)
    shown = world.everything_stored() + caplog.text.replace("tests/alerts", "")
    assert "sesame" not in shown
    [(after,)] = world.rows(
        "SELECT after FROM audit_entry WHERE action='preference.change' LIMIT 1"
    )
    assert json.loads(after)["password_sealed"] == "set"


async def test_mailbox_keeps_the_last_mails_only(world: World) -> None:
    for _ in range(3):
        await send_test(world)
    with world.engine.begin() as connection:
        columns = "at, state, sender, recipients, subject, text, html, attachments, message_id"
        copies = (
            f"INSERT INTO mail ({columns}, delivery_id, error)"
            f" SELECT {columns}, '', error FROM mail"
        )
        for _ in range(9):
            connection.exec_driver_sql(copies)
    await send_test(world)
    assert list_mail(world.engine, 1).total == MOST_KEPT
