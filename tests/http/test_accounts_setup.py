"""First start: nobody but the owner of the machine makes the first admin."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from finance.wallet.keystore import Keystore
from node.accounts.access import Role
from node.accounts.setup import issue_code
from node.accounts.trail import TrailFilter, all_entries
from node.accounts.users import list_users
from tests.console_world import PASSWORD, Console, serve_console

ADMIN = {"name": "ada", "password": PASSWORD, "again": PASSWORD}


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    public = "https://node.example.org"
    with serve_console(
        migrated_engine, tmp_path, users=False, console_public_url=public
    ) as console:
        yield console


@pytest.fixture
def owner(console: Console) -> Iterator[httpx.Client]:
    """A browser on the machine itself."""
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        yield client


def stranger(console: Console) -> httpx.Client:
    """A browser elsewhere, through the proxy in front of the console."""
    headers = {"host": "node.example.org", "x-forwarded-for": "203.0.113.7"}
    return httpx.Client(base_url=console.url, headers=headers, trust_env=False)


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def test_every_page_leads_to_the_wizard_until_there_is_an_admin(
    owner: httpx.Client,
) -> None:
    for path in ("/", "/sign-in", "/settings/users", "/account"):
        assert owner.get(path).headers["location"] == "/setup"
    assert owner.get("/api/me").status_code == 401
    assert owner.get("/static/farebox.css").status_code == 200


def test_the_wizard_from_the_terms_to_the_address(console: Console, owner: httpx.Client) -> None:
    Keystore(console.parts.settings.keystore_dir).create("the wallet's passphrase")
    assert "what you agree to" in owner.get("/setup").text
    refused = owner.post("/setup/terms", data={})
    assert refused.status_code == 422 and "under these terms" in refused.text
    owner.post("/setup/terms", data={"accept": "on"})
    assert "The admin's account" in owner.get("/setup").text
    short = owner.post("/setup/admin", data={"name": "ada", "password": "short", "again": "short"})
    assert short.status_code == 422 and 'value="ada"' in short.text
    made = owner.post("/setup/admin", data=ADMIN)
    assert made.status_code == 303 and console.cookie in made.cookies
    assert [user.role for user in list_users(console.engine)] == [Role.ADMIN]
    assert owner.get("/setup").headers["location"] == "/setup/email"
    assert owner.get("/setup/done").headers["location"] == "/setup/email"
    form = {"csrf": csrf(owner.get("/setup/email").text)}
    wrong = owner.post("/setup/email", data={**form, "email": "nobody"})
    assert wrong.status_code == 422 and 'value="nobody"' in wrong.text
    owner.post("/setup/email", data={**form, "email": " ada@example.org"})
    assert "ada@example.org</textarea>" in owner.get("/settings/email").text
    assert owner.get("/setup").headers["location"] == "/setup/backup"
    new = {"backup_password": "paper in the drawer 7", "again": "paper in the drawer 8"}
    differ = owner.post("/setup/backup", data={**form, **new})
    assert differ.status_code == 422 and "paper" not in differ.text
    new["again"] = new["backup_password"]
    answer = owner.post("/setup/backup", data={**form, **new}, timeout=60)
    assert answer.status_code == 303, answer.text
    written = list(console.parts.settings.data_dir.glob("backups/*.farebox"))
    assert len(written) == 1
    done = owner.get("/setup/done").text
    assert console.parts.controls.facts.address in done
    assert "/setup" not in owner.get("/").headers.get("location", "")


def test_another_browser_goes_on_where_the_wizard_stopped(
    console: Console, owner: httpx.Client
) -> None:
    owner.post("/setup/terms", data={"accept": "on"})
    owner.post("/setup/admin", data=ADMIN)
    with httpx.Client(base_url=console.url, trust_env=False) as other:
        assert other.get("/setup").headers["location"] == "/sign-in"
        signed_in = other.post("/sign-in", data={"name": "ada", "password": PASSWORD})
        assert signed_in.headers["location"] == "/setup"
        assert other.get("/setup").headers["location"] == "/setup/email"


def test_the_second_to_come_makes_no_admin(console: Console, owner: httpx.Client) -> None:
    owner.post("/setup/terms", data={"accept": "on"})
    owner.post("/setup/admin", data=ADMIN)
    with httpx.Client(base_url=console.url, trust_env=False) as second:
        answer = second.post("/setup/admin", data={**ADMIN, "name": "eve"})
        assert answer.headers["location"] == "/sign-in"
    assert [user.name for user in list_users(console.engine)] == ["ada"]


def test_the_admin_comes_only_after_the_terms(console: Console, owner: httpx.Client) -> None:
    assert owner.post("/setup/admin", data=ADMIN).headers["location"] == "/setup"
    assert list_users(console.engine) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"host": "node.example.org"},
        {"x-real-ip": "127.0.0.1"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_whoever_comes_through_a_proxy_is_refused(
    console: Console, owner: httpx.Client, headers: dict[str, str], method: str
) -> None:
    if method == "GET":
        answer = owner.get("/setup", headers=headers)
    else:
        owner.post("/setup/terms", data={"accept": "on"})
        answer = owner.post("/setup/admin", data=ADMIN, headers=headers)
    assert answer.status_code == 403
    assert "Setup:" in answer.text
    assert list_users(console.engine) == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "rebound.example:8400"])
def test_a_foreign_host_name_shows_nothing(owner: httpx.Client, host: str) -> None:
    answer = owner.get("/setup", headers={"host": host})
    assert answer.status_code == 421 and "agree" not in answer.text


def test_a_page_of_another_site_cannot_set_the_node_up(
    console: Console, owner: httpx.Client
) -> None:
    owner.post("/setup/terms", data={"accept": "on"})
    answer = owner.post("/setup/admin", data=ADMIN, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert list_users(console.engine) == []


def test_the_printed_code_opens_the_wizard_from_elsewhere_once(console: Console) -> None:
    code = issue_code(console.engine, int(time.time()))
    assert code is not None
    with stranger(console) as client:
        answer = client.get("/setup", params={"code": code})
        assert (answer.status_code, answer.headers["location"]) == (303, "/setup")
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "secure"))
        # The proxy in front speaks TLS; this test's client does not, so it sends by hand.
        sent = {"cookie": f"farebox_setup={code}"}
        client.post("/setup/terms", data={"accept": "on"}, headers=sent)
        made = client.post("/setup/admin", data=ADMIN, headers=sent)
        assert made.status_code == 303 and "farebox_session=" in made.headers["set-cookie"]
    with stranger(console) as client:
        assert client.get("/setup", params={"code": code}).headers["location"] == "/sign-in"
        again = client.post(
            "/setup/admin",
            data={**ADMIN, "name": "eve"},
            headers={"cookie": f"farebox_setup={code}"},
        )
        assert again.headers["location"] == "/sign-in"
    assert [user.name for user in list_users(console.engine)] == ["ada"]


def test_wrong_codes_open_nothing(console: Console) -> None:
    old = issue_code(console.engine, int(time.time()))
    issue_code(console.engine, int(time.time()))
    with stranger(console) as client:
        for code in ("", "wrong", str(old)):
            answer = client.get("/setup", params={"code": code})
            assert answer.status_code == 403 and "set-cookie" not in answer.headers
            sent = {"cookie": f"farebox_setup={code}"}
            assert client.post("/setup/admin", data=ADMIN, headers=sent).status_code == 403
    assert list_users(console.engine) == []


def test_the_wizards_trail_has_no_password(console: Console, owner: httpx.Client) -> None:
    owner.post("/setup/terms", data={"accept": "on"})
    owner.post("/setup/admin", data=ADMIN)
    entries = list(all_entries(console.engine, TrailFilter()))
    assert {entry.action for entry in entries} == {
        "preference.change",
        "user.create",
        "session.sign_in",
    }
    assert all(PASSWORD not in entry.before + entry.after for entry in entries)
    assert {entry.address for entry in entries} == {"127.0.0.1"}
