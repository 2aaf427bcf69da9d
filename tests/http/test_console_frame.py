"""What holds for every page and endpoint of the private listener, whichever it is."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine, delete

from node.accounts.access import Role
from node.accounts.models import User
from node.console.tabs import TABS, Tab
from node.console.visit import Guest
from node.db.engine import writer
from node.process import RECURSION
from tests.console_world import Console, serve_console

PAGE = "/settings/appearance"
JSON = {"content-type": "application/json"}


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    with serve_console(
        migrated_engine, tmp_path, console_public_url="https://farebox.example"
    ) as console:
        yield console


def test_a_form_without_the_sessions_token_changes_nothing(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    for fields in ({}, {"csrf": ""}, {"csrf": console.session(Role.ADMIN).csrf}):
        answer = admin.post(PAGE, data={"zone": "Asia/Tokyo", "theme": "dark", **fields})
        assert answer.status_code == 403
    assert "Asia/Tokyo)" not in admin.get(PAGE).text
    console.send(admin, PAGE, zone="Asia/Tokyo", theme="dark")
    assert "Asia/Tokyo)" in admin.get(PAGE).text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_a_form_sent_by_another_site_changes_nothing(
    console: Console, headers: dict[str, str]
) -> None:
    admin = console.client(Role.ADMIN)
    token = console.sessions[admin.cookies[console.cookie]].csrf
    fields = {"csrf": token, "zone": "Asia/Tokyo", "theme": "dark"}
    assert admin.post(PAGE, data=fields, headers=headers).status_code == 403
    assert admin.post("/sign-in", data={}, headers=headers).status_code in (403, 404, 405)


def test_whoever_is_not_known_sees_the_theme_that_was_chosen_here(console: Console) -> None:
    for kept, shown in (("dark", "dark"), ("light", "light"), ('"><b>', "system"), ("", "system")):
        with httpx.Client(base_url=console.url, trust_env=False) as browser:
            for path in ("/sign-in", "/nothing-here"):
                page = browser.get(path, headers={"cookie": f"farebox_theme={kept}"}).text
                assert f'<html lang="en" data-theme="{shown}">' in page, (kept, path)


def test_no_page_can_be_framed_or_run_foreign_script(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    for path in ("/", PAGE, "/nothing-here", "/sign-in", "/static/farebox.css", "/api/nothing"):
        headers = admin.get(path).headers
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy, path
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] in ("no-store", "no-cache")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "farebox.example.evil", "10.0.0.1", ""]
)
def test_a_name_that_is_not_the_consoles_is_refused(console: Console, host: str) -> None:
    answer = httpx.get(f"{console.url}/", headers={"host": host}, trust_env=False)
    assert answer.status_code in (400, 421)
    assert "farebox_session" not in answer.headers.get("set-cookie", "")


def test_the_public_name_is_the_consoles(console: Console) -> None:
    answer = httpx.get(f"{console.url}/", headers={"host": "Farebox.example"}, trust_env=False)
    assert answer.status_code == 303


def test_two_host_names_at_once_are_refused(console: Console) -> None:
    place = urlsplit(console.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), 5) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n")
        assert line.recv(4096).split()[1] in (b"400", b"421")


def test_who_has_not_signed_in_is_asked_to_and_comes_back(console: Console) -> None:
    answer = httpx.get(f"{console.url}{PAGE}?a=1", trust_env=False)
    assert answer.headers["location"] == "/sign-in?next=/settings/appearance%3Fa%3D1"
    refresh = httpx.get(f"{console.url}{PAGE}", headers={"farebox-refresh": "1"}, trust_env=False)
    assert refresh.status_code == 401


def test_without_any_user_every_page_leads_to_the_setup(
    console: Console, migrated_engine: Engine
) -> None:
    with writer(migrated_engine).begin() as connection:
        connection.execute(delete(User))
    assert httpx.get(f"{console.url}/", trust_env=False).headers["location"] == "/setup"


def test_a_huge_form_is_refused_with_a_sentence(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    answer = console.send(admin, PAGE, zone="x" * 9_000_000)
    assert answer.status_code == 413
    assert "The form cannot be read" in answer.text


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\nb", "", "/ü"],
)
def test_no_redirect_leaves_the_console(path: str) -> None:
    assert Guest.local(path) == "/"


def test_errors_of_the_api_have_one_shape(console: Console) -> None:
    with console.api(Role.ADMIN) as api:
        missing = api.get("/api/nothing")
    anonymous = httpx.get(f"{console.url}/api/openapi.json", trust_env=False, timeout=60)
    assert anonymous.status_code == 200
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["code"] == "no_such_resource" and missing.json()["status"] == 404


def test_a_wrong_token_and_a_session_that_writes_are_refused(console: Console) -> None:
    wrong = httpx.get(
        f"{console.url}/api/me", headers={"authorization": "Bearer fbt_wrong"}, trust_env=False
    )
    assert wrong.status_code == 401 and wrong.headers["www-authenticate"] == "Bearer"
    session = console.client(Role.ADMIN)
    assert session.get("/api/me").status_code == 200
    assert session.post("/api/tokens", json={}).status_code == 403


def test_text_that_no_database_takes_is_refused_with_a_sentence(console: Console) -> None:
    with console.api(Role.ADMIN) as api:
        halves = api.post(
            "/api/users", content=b'{"name": "ab", "email": "\\ud800@b.c", "role": "viewer"}'
        )
    assert halves.status_code == 422
    assert httpx.get(f"{console.url}/listings/%00", trust_env=False).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/finance/reconcile/{}", "/notifications/{}", "/settings/email/mails/{}"],
)
def test_a_number_that_no_database_takes_is_refused_with_a_sentence(
    console: Console, path: str
) -> None:
    with console.client(Role.ADMIN) as admin:
        answer = admin.get(path.format(2**64))
    assert answer.status_code == 422 and "a number is too large" in answer.text


def test_a_body_nested_without_an_end_is_refused_and_ends_nothing(console: Console) -> None:
    """A node starts with this limit: what it imports raises it so far that C code overflows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(RECURSION)
    try:
        with console.api(Role.ADMIN) as api:
            answer = api.post("/api/users", content=b"[" * 1_000_000, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (400, "request_invalid")
            assert api.get("/api/me").status_code == 200
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("role", "section"),
    [
        (Role.ADMIN, "/settings/users"),
        (Role.CONSUMER, "/settings/security"),
        (Role.API_OWNER, "/settings/plans"),
        (Role.FINANCE, "/settings/limits"),
        (Role.VIEWER, "/settings/plans"),
    ],
)
def test_settings_lead_to_the_first_section_one_may_see(
    console: Console, role: Role, section: str
) -> None:
    with console.client(role) as client:
        assert client.get("/settings").headers["location"] == section
        assert client.get(section).status_code == 200
        assert f'href="{section}"' in client.get("/").text


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.name)
def test_the_address_of_every_tab_is_a_page(console: Console, tab: Tab) -> None:
    with console.client(Role.ADMIN) as client:
        assert client.get(tab.path, follow_redirects=True).status_code == 200


def test_an_api_error_says_where_the_mistake_is_and_what_there_is(console: Console) -> None:
    api = console.api(Role.ADMIN)
    for method, path in (("GET", "/api"), ("GET", "/api/docs"), ("PATCH", "/api/me")):
        assert "/api/openapi.json" in api.request(method, path).json()["detail"], path
    broken = api.post("/api/keys", content=b'{"name": ', headers=JSON)
    assert broken.status_code == 400
    assert broken.json()["errors"][0]["field"] == "body"
    assert "no JSON" in broken.json()["detail"]


def test_a_misspelled_filter_is_refused_before_anything_is_done(console: Console) -> None:
    api = console.api(Role.ADMIN)
    peer = api.post("/api/peers", json={"url": "http://127.0.0.1:9", "name": "gone"}).json()["id"]
    for method, path in (
        ("GET", "/api/calls?page=2"),
        ("GET", "/api/audit?who=admin"),
        ("DELETE", f"/api/peers/{peer}?keep_listing=true"),
    ):
        answer = api.request(method, path)
        assert answer.status_code == 422, path
        assert answer.json()["errors"][0]["field"] in ("page", "who", "keep_listing")
    assert [each["id"] for each in api.get("/api/peers").json()["items"]] == [peer]
    assert api.delete(f"/api/peers/{peer}?keep_listings=true").status_code == 204
