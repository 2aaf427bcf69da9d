"""What operators see and set of notifications, on pages and as JSON, role by role."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from node.accounts.access import Role
from node.alerts.alerts import Report
from node.alerts.rules import Rule
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from tests.alerts.post_office import Hook, PostOffice, serve_hook
from tests.alerts.test_webhook import verify
from tests.alerts.world import ADMIN
from tests.console_world import PASSWORD, Console, serve_console

# The server of these tests takes a password without TLS, and says that it should not.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

EVIL = "<script>alert(1)</script>\r\nX"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("node")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home, allowed_hosts=["127.0.0.1"]) as console:
        yield console
    engine.dispose()


@pytest.fixture
def console(served: Console) -> Console:
    """With no notification, mail or choice of the test before."""
    with writer(served.engine).begin() as connection:
        for table in ("notification", "delivery", "mail", "event", "audit_entry", "preference"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    do(served.parts.controls.alerts.acknowledge([], ADMIN))
    return served


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serve_hook() as hook:
        yield hook


def do(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def report(
    console: Console, rule: Rule, subject: str, message: str, link: str = "/finance"
) -> None:
    do(console.parts.controls.alerts.raise_(rule, subject, message, link))


def unread(console: Console) -> int:
    answer = console.api(Role.VIEWER).get("/api/notifications/unread")
    return int(answer.json()["unread"])


def shown_texts(engine: Engine) -> str:
    tables = ("notification", "delivery", "mail", "event", "audit_entry")
    with engine.connect() as connection:
        rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in tables]
    return str(rows)


def test_bell_list_and_json_say_the_same(console: Console) -> None:
    report(console, Rule.LOW_GAS, "", "Gas is low.")
    report(console, Rule.UPSTREAM_DOWN, "lst_1", "Weather is down.", "/listings/lst_1")
    admin = console.client(Role.ADMIN)
    page = admin.get("/notifications").text
    assert "Gas is low." in page and "Weather is down." in page
    assert 'aria-label="Notifications, 2 open"' in page
    listed = console.api(Role.VIEWER).get("/api/notifications").json()
    assert [each["message"] for each in listed["items"]] == ["Weather is down.", "Gas is low."]
    assert (listed["total"], listed["page"], listed["pages"], unread(console)) == (2, 1, 1, 2)


def test_selected_ones_are_acknowledged_and_the_bell_falls(console: Console) -> None:
    for number in range(3):
        report(console, Rule.UPSTREAM_DOWN, str(number), f"API {number} is down.")
    admin = console.client(Role.ADMIN)
    done = console.send(admin, "/notifications", action="acknowledge", id=["1", "3", "99", "x"])
    assert done.status_code == 303
    assert "2 notifications acknowledged." in admin.get("/notifications").text
    assert unread(console) == 1
    console.send(admin, "/notifications", action="acknowledge_all", rule="low_gas")
    assert unread(console) == 1
    console.send(admin, "/notifications", action="acknowledge_all")
    assert unread(console) == 0
    console.send(admin, "/notifications/2", action="resolve", id="2")
    page = admin.get("/notifications/2").text
    assert "1 notification marked as resolved." in page and "by admin" in page
    filtered = admin.get("/notifications?state=resolved").text
    assert "API 1 is down." in filtered and "API 0 is down." not in filtered


def test_filter_pages_and_csv_show_the_same(console: Console) -> None:
    found = {f"job {n}": Report(f"=Job {n} failed.", "/") for n in range(65)}
    do(console.parts.controls.alerts.follow(Rule.JOB_FAILING, found))
    report(console, Rule.LOW_GAS, "", "Gas is low.")
    admin = console.client(Role.ADMIN)
    last = admin.get("/notifications?rule=job_failing&page=3").text
    assert "Page 3 of 3" in last and "65 match the filter" in last
    assert "rule=job_failing&amp;page=2" in last
    answer = admin.get("/notifications/export.csv?rule=job_failing")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 65 and {row["rule"] for row in rows} == {"job_failing"}
    assert all(row["message"].startswith("'=Job") for row in rows)  # no formula in a spreadsheet
    assert all(int(row["opened_at"]) > 0 and row["resolved_at"] == "" for row in rows)
    for odd in ("page=0", "page=-1", "page=x", "page=99999999999", "state=x", "rule='--", "id=1"):
        assert admin.get(f"/notifications?{odd}").status_code == 200


def test_names_of_strangers_are_text_everywhere(console: Console) -> None:
    report(console, Rule.PEER_UNREACHABLE, EVIL, f"Peer {EVIL} is away.", "javascript:1")
    admin = console.client(Role.ADMIN)
    while do(console.parts.controls.courier.deliver_due()):
        pass
    for path in (
        "/notifications",
        "/notifications/1",
        "/settings/email",
        "/settings/email/mails/1",
    ):
        page = admin.get(path)
        assert page.status_code == 200 and "<script>alert" not in page.text, path
        assert "javascript:1" not in page.text, path
    assert "&lt;script&gt;" in admin.get("/notifications").text


def test_rules_are_saved_and_hold_at_once(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    rules = api.get("/api/rules").json()
    assert {each["rule"] for each in rules["items"]} == {rule.value for rule in Rule}
    fields = {f"level-{each['rule']}": each["level"] for each in rules["items"]}
    fields |= {f"severity-{each['rule']}": each["severity"] for each in rules["items"]}
    fields |= {"level-low_gas": "off", "severity-low_usdc": "error"}
    assert console.send(admin, "/notifications/rules", **fields).status_code == 303
    after = api.get("/api/rules").json()
    [gas] = [each for each in after["items"] if each["rule"] == "low_gas"]
    assert gas["level"] == "off" and after["notify_resolved"] is False
    report(console, Rule.LOW_GAS, "", "Gas is low.")
    report(console, Rule.LOW_USDC, "", "USDC is low.")
    listed = api.get("/api/notifications").json()["items"]
    assert [(each["rule"], each["severity"]) for each in listed] == [("low_usdc", "error")]
    refused = console.send(admin, "/notifications/rules", **{**fields, "level-low_gas": "loud"})
    assert refused.status_code == 422 and "Choose one of the levels." in refused.text
    change = {"rules": {"low_gas": {"level": "panel", "severity": "info"}}}
    assert api.put("/api/rules", json=change).json()["notify_resolved"] is True
    assert api.put("/api/rules", json={"rules": {"x": {}}}).status_code == 422


def test_mail_server_is_set_tested_and_its_password_never_shown(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    with PostOffice("node", "open sesame") as office:
        fields = {"host": "127.0.0.1", "port": str(office.port), "security": "none", "user": "node"}
        fields |= {"sender": "node@example.org", "recipients": "a@example.org\nb@example.org"}
        refused = console.send(admin, "/settings/email", **fields)
        assert refused.status_code == 422
        assert "Enter the password for this server and user." in refused.text
        assert "a@example.org\nb@example.org" in refused.text  # what was typed is kept
        console.send(admin, "/settings/email", **fields, password="open sesame")
        console.send(admin, "/settings/email/test")
        page = admin.get("/settings/email").text
        assert "The test mail was taken by the mail server." in page
        assert "[Farebox] Test mail" in page and "One is stored" in page
        assert office.recipients == [["a@example.org", "b@example.org"]]
        assert api.post("/api/email/test").json()["state"] == "sent"
    assert "This is the test mail you asked for." in admin.get("/settings/email/mails/1").text
    answer = api.get("/api/email").json()
    assert answer["password_set"] is True and "password_sealed" not in answer
    everything = (
        page + str(answer) + shown_texts(console.engine) + admin.get("/settings/audit").text
    )
    assert "sesame" not in everything
    assert len(admin.get("/settings/email/mails.csv").text.splitlines()) == 3


def test_test_mail_without_a_server_lies_in_the_mailbox(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    console.send(admin, "/settings/email/test")
    page = admin.get("/settings/email").text
    assert "No mail server is set: the test mail lies in the mailbox below." in page
    [mail] = console.api(Role.ADMIN).get("/api/email/mailbox").json()["items"]
    assert mail["state"] == "kept" and "This is the test mail" in mail["text"]


def test_webhook_secret_is_shown_once_and_signs(console: Console, hook: Hook) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    assert api.post("/api/webhook/test").status_code == 409
    first = _secret(console.send(admin, "/settings/webhook", url=hook.url).text)
    console.send(admin, "/settings/webhook/test")
    assert "The receiver took it (204)." in admin.get("/settings/webhook").text
    verify(hook.received[-1], first, int(time.time()))
    wrong = console.send(admin, "/settings/webhook/secret", password="wrong")
    assert wrong.status_code == 422 and "whsec_" not in wrong.text
    second = _secret(console.send(admin, "/settings/webhook/secret", password=PASSWORD).text)
    assert second != first
    assert api.post("/api/webhook/test").json()["response_status"] == 204
    verify(hook.received[-1], second, int(time.time()))
    shown = admin.get("/settings/webhook").text + str(api.get("/api/webhook").json())
    shown += admin.get("/settings/audit").text + shown_texts(console.engine)
    assert first not in shown and second not in shown
    log = api.get("/api/deliveries?channel=webhook").json()
    assert [each["state"] for each in log["items"]] == ["sent", "sent"]
    assert len(admin.get("/settings/webhook/deliveries.csv").text.splitlines()) == 3


def test_webhook_that_cannot_be_is_refused_beside_its_field(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    answer = console.send(admin, "/settings/webhook", url="ftp://example.org")
    assert answer.status_code == 422
    assert "begins with http:// or https://" in answer.text and "ftp://example.org" in answer.text
    body = console.api(Role.ADMIN).put("/api/webhook", json={"url": "ftp://x"}).json()
    assert (body["code"], body["errors"][0]["field"]) == ("alerts_invalid", "url")


def test_unknown_things_are_404(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    for path in ("/notifications/7", "/settings/email/mails/7"):
        assert admin.get(path).status_code == 404
    for path in ("/api/notifications/7", "/api/email/mailbox/7"):
        assert api.get(path).status_code == 404


@pytest.mark.parametrize("role", [Role.API_OWNER, Role.CONSUMER, Role.FINANCE, Role.VIEWER])
def test_roles_see_the_bell_and_only_admins_configure(console: Console, role: Role) -> None:
    report(console, Rule.LOW_GAS, "", "Gas is low.")
    user = console.client(role)
    page = user.get("/notifications")
    assert page.status_code == 200
    assert ("Acknowledge selected" in page.text) is (role is not Role.VIEWER)
    assert "/notifications/rules" not in page.text
    for path in ("/notifications/rules", "/settings/email", "/settings/webhook"):
        assert user.get(path).status_code == 403, path
        assert console.send(user, path, url="").status_code == 403, path
    expected = 403 if role is Role.VIEWER else 303
    answer = console.send(user, "/notifications", action="acknowledge", id="1")
    assert answer.status_code == expected
    assert unread(console) == (1 if role is Role.VIEWER else 0)


def _secret(page: str) -> str:
    found = re.search(r"whsec_[A-Za-z0-9_-]{40,}", page)
    assert found is not None
    return found[0]
