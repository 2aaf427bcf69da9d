"""Signing in over HTTP: cookies, redirects, forms, and what a forger would try."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyotp
import pytest
from sqlalchemy import Engine, update

from node.accounts.access import Role
from node.accounts.attempts import ADDRESS_FAILURES
from node.accounts.models import UserSession
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from tests.console_world import PASSWORD, Console, serve_console


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder: Path = tmp_path_factory.mktemp("console")
    engine: Engine = open_engine(f"sqlite:///{folder / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, folder) as console:
        yield console
    engine.dispose()


@pytest.fixture
def visitor(console: Console) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        yield client


def sign_in(client: httpx.Client, role: Role = Role.VIEWER, **fields: str) -> httpx.Response:
    form = {"name": role.value, "password": PASSWORD, **fields}
    return client.post("/sign-in", data=form)


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(
    console: Console,
    visitor: httpx.Client,
) -> None:
    cookie = sign_in(visitor).headers["set-cookie"]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert cookie.startswith(f"{console.cookie}=")
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert "secure" not in parts  # this machine has no TLS
    assert not any(part.startswith("domain") for part in parts)


def test_off_this_machine_the_cookie_travels_over_tls_only(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    upgrade(engine)
    public = "https://node.example.org"
    with serve_console(engine, tmp_path, console_public_url=public) as console:
        form = {"name": "viewer", "password": PASSWORD}
        answer = httpx.post(
            f"{console.url}/sign-in", data=form, headers={"host": "node.example.org"}
        )
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("trusted", [True, False])
def test_wrong_passwords_count_for_whom_a_trusted_proxy_names(
    migrated_engine: Engine, tmp_path: Path, trusted: bool
) -> None:
    """Else everybody has the proxy's address; and anybody could name another for himself."""
    proxies = ["127.0.0.1"] if trusted else []

    def come_from(*addresses: str) -> dict[str, str]:
        return {"x-forwarded-for": ", ".join(addresses)}

    with (
        serve_console(migrated_engine, tmp_path, trusted_proxies=proxies) as console,
        httpx.Client(base_url=console.url, trust_env=False) as visitor,
    ):
        for number in range(ADDRESS_FAILURES):
            form = {"name": f"nobody-{number}", "password": "wrong"}
            guessing = come_from(f"192.0.2.{number}", "203.0.113.9")
            visitor.post("/sign-in", data=form, headers=guessing)
        form = {"name": Role.VIEWER.value, "password": PASSWORD}
        guesser = visitor.post("/sign-in", data=form, headers=come_from("203.0.113.9"))
        owner = visitor.post("/sign-in", data=form, headers=come_from("198.51.100.7"))
    assert guesser.status_code == 403
    assert owner.status_code == (303 if trusted else 403)


def test_wrong_ones_keep_the_name_and_never_the_password(visitor: httpx.Client) -> None:
    answer = sign_in(visitor, password="my secret guess")
    assert answer.status_code == 403
    assert 'value="viewer"' in answer.text
    assert "my secret guess" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)",
     "/\t/evil.example", "http:evil.example", "\\\\evil.example"],
)  # fmt: skip
def test_signing_in_never_leads_to_another_site(visitor: httpx.Client, target: str) -> None:
    shown = visitor.get("/sign-in", params={"next": target})
    assert "evil" not in shown.text and "alert" not in shown.text
    assert sign_in(visitor, next=target).headers["location"] == "/"


def test_signing_in_leads_back_to_where_one_was_going(visitor: httpx.Client) -> None:
    asked = visitor.get("/account/tokens?page=1")
    assert asked.headers["location"] == "/sign-in?next=/account/tokens%3Fpage%3D1"
    assert sign_in(visitor, next="/account/tokens?page=1").headers["location"] == (
        "/account/tokens?page=1"
    )


def test_a_planted_session_is_not_the_one_that_is_signed_in(
    console: Console, visitor: httpx.Client
) -> None:
    planted = console.session(Role.CONSUMER).token
    visitor.cookies.set(console.cookie, planted)
    token = sign_in(visitor).cookies[console.cookie]
    assert token != planted
    fixed = httpx.get(f"{console.url}/account", cookies={console.cookie: planted})
    assert fixed.status_code == 303
    made_up = "attacker-chosen-value"
    visitor.cookies.set(console.cookie, made_up)
    assert sign_in(visitor).cookies[console.cookie] != made_up


def test_two_nodes_of_one_machine_sign_nobody_out_of_each_other(
    console: Console, visitor: httpx.Client, tmp_path: Path
) -> None:
    """Browsers keep cookies by host, whatever the port; `farebox demo` has two consoles."""
    engine = open_engine(f"sqlite:///{tmp_path / 'other.db'}")
    upgrade(engine)
    with serve_console(engine, tmp_path) as other:
        sign_in(visitor)
        visitor.base_url = httpx.URL(other.url)
        sign_in(visitor)
        for each in (other, console):
            assert visitor.get(f"{each.url}/account").status_code == 200
            assert visitor.get(f"{each.url}/api/me").status_code == 200
    engine.dispose()


def test_signing_out_ends_the_session_in_the_database(console: Console) -> None:
    client = console.client(Role.VIEWER)
    token = client.cookies[console.cookie]
    assert console.send(client, "/sign-out").headers["location"] == "/sign-in"
    assert httpx.get(f"{console.url}/account", cookies={console.cookie: token}).status_code == 303


def test_an_expired_session_is_sent_to_sign_in_and_back(console: Console) -> None:
    client = console.client(Role.VIEWER)
    session = console.sessions[client.cookies[console.cookie]]
    assert client.get("/account").status_code == 200
    with writer(console.engine).begin() as connection:
        ended = update(UserSession).where(UserSession.id == session.id)  # type: ignore[arg-type]
        connection.execute(ended.values(expires_at=1))
    console.parts.controls.accounts.forget()
    assert client.get("/account").headers["location"] == "/sign-in?next=/account"


@pytest.mark.parametrize("token", ["", "wrong", None])
def test_forms_without_the_sessions_token_change_nothing(
    console: Console, token: str | None
) -> None:
    client = console.client(Role.VIEWER)
    fields = {"email": "forged@example.org"} | ({} if token is None else {"csrf": token})
    assert client.post("/account/email", data=fields).status_code == 403
    assert "forged" not in client.get("/account").text


def test_the_token_of_another_session_is_not_enough(console: Console) -> None:
    client, other = console.client(Role.VIEWER), console.session(Role.VIEWER)
    fields = {"email": "forged@example.org", "csrf": other.csrf}
    assert client.post("/account/email", data=fields).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
)
def test_another_site_cannot_sign_a_visitor_in(
    visitor: httpx.Client, headers: dict[str, str]
) -> None:
    form = {"name": "viewer", "password": PASSWORD}
    answer = visitor.post("/sign-in", data=form, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_pages_cannot_be_framed(visitor: httpx.Client) -> None:
    headers = visitor.get("/sign-in").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_temporary_password_leads_to_its_change_from_every_page(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    made = console.send(admin, "/settings/users", name="newcomer", role="admin")
    password = re.search(r'code--line">([^<]+)<', made.text)
    assert password is not None
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        client.post("/sign-in", data={"name": "newcomer", "password": password[1]})
        for path in ("/", "/settings/users", "/settings/audit"):
            assert client.get(path).headers["location"] == "/account/password"
        form = client.get("/account/password")
        assert client.get("/api/users").status_code == 403
        new = {"old": password[1], "new": "a password of my own", "again": "a password of my own"}
        client.post("/account/password", data={"csrf": csrf(form.text), **new})
        assert client.get("/settings/users").status_code == 200


def test_the_password_page_says_which_field_is_wrong(console: Console) -> None:
    client = console.client(Role.FINANCE)
    wrong = {"old": "not it", "new": "a password of my own", "again": "a password of my own"}
    answer = console.send(client, "/account/password", **wrong)
    assert answer.status_code == 422 and 'id="e-old"' in answer.text
    differ = {"old": PASSWORD, "new": "a password of my own", "again": "another"}
    answer = console.send(client, "/account/password", **differ)
    assert answer.status_code == 422 and 'id="e-again"' in answer.text
    assert "a password of my own" not in answer.text


def test_changing_the_password_renews_the_session(console: Console) -> None:
    client, elsewhere = console.client(Role.API_OWNER), console.client(Role.API_OWNER)
    before = client.cookies[console.cookie]
    new = {"old": PASSWORD, "new": "a password of my own", "again": "a password of my own"}
    answer = console.send(client, "/account/password", **new)
    assert answer.cookies[console.cookie] != before
    assert elsewhere.get("/account").status_code == 303
    assert client.get("/account").status_code == 200


def test_the_second_factor_from_enrolment_to_recovery(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    made = console.send(admin, "/settings/users", name="careful", role="viewer")
    password = re.search(r'code--line">([^<]+)<', made.text)
    assert password is not None
    own = "a password of my own"
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        client.post("/sign-in", data={"name": "careful", "password": password[1]})
        form = {"csrf": csrf(client.get("/account/password").text)}
        client.post(
            "/account/password", data={**form, "old": password[1], "new": own, "again": own}
        )
        form = {"csrf": csrf(client.get("/account/second-factor").text)}
        client.post("/account/second-factor/offer", data=form)
        page = client.get("/account/second-factor").text
        assert "<path" in page and "data:image" not in page
        secret = re.search(r'code--line">([A-Z2-7 ]+)<', page)
        assert secret is not None
        app = pyotp.TOTP(secret[1].replace(" ", ""))
        wrong = client.post("/account/second-factor/confirm", data={**form, "code": "000000"})
        assert wrong.status_code == 422
        code = app.now()
        done = client.post("/account/second-factor/confirm", data={**form, "code": code})
        codes = re.findall(r"\b(?:[a-z2-7]{4}-){3}[a-z2-7]{4}\b", done.text)
        assert len(set(codes)) == 10
        assert codes[0] not in client.get("/account/second-factor").text
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        half = client.post("/sign-in", data={"name": "careful", "password": own})
        assert half.headers["location"].startswith("/sign-in/code")
        assert client.get("/account").status_code == 303
        assert client.get("/api/me").status_code == 401
        reused = client.post("/sign-in/code", data={"code": code})
        assert reused.status_code == 403 and "used" in reused.text
        whole = client.post("/sign-in/code", data={"code": codes[0], "next": "//evil.example"})
        assert whole.headers["location"] == "/"
        assert client.get("/account").status_code == 200


def test_locked_people_are_let_in_again_by_an_admin(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    user_id = console.users[Role.CONSUMER]
    with httpx.Client(base_url=console.url, trust_env=False) as client:
        for _ in range(5):
            sign_in(client, Role.CONSUMER, password="wrong")
        assert sign_in(client, Role.CONSUMER).status_code == 403
        assert "locked" in admin.get("/settings/users").text
        console.send(admin, f"/settings/users/{user_id}/unlock")
        assert sign_in(client, Role.CONSUMER).status_code == 303


def test_changing_somebodys_role_asks_for_the_password(console: Console) -> None:
    admin, user_id = console.client(Role.ADMIN), console.users[Role.VIEWER]
    path = f"/settings/users/{user_id}/role"
    answer = console.send(admin, path, role="admin", password="wrong")
    assert answer.status_code == 422 and 'id="e-password"' in answer.text
    assert "<dd>Viewer</dd>" in admin.get(f"/settings/users/{user_id}").text


def test_the_last_admin_cannot_be_shut_out_on_the_page(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, tmp_path) as console:
        admin = console.client(Role.ADMIN)
        path = f"/settings/users/{console.users[Role.ADMIN]}/disable"
        answer = console.send(admin, path)
        assert answer.status_code == 422 and "last admin" in answer.text
        assert admin.get("/").status_code == 200


def test_a_temporary_password_of_ones_own_is_shown_before_one_is_signed_out(tmp_path: Path) -> None:
    """Nobody knows it otherwise, and the old one is worth nothing: the only admin is shut out."""
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, tmp_path) as console:
        admin, path = console.client(Role.ADMIN), f"/settings/users/{console.users[Role.ADMIN]}"
        made = console.send(admin, f"{path}/reset-password", reset_confirm=PASSWORD)
        password = re.search(r'code--line">([^<]+)<', made.text)
        assert password, made.text
        assert admin.get(path).headers["location"].startswith("/sign-in")
        with httpx.Client(base_url=console.url, trust_env=False) as visitor:
            signed_in = sign_in(visitor, Role.ADMIN, password=password[1])
        assert signed_in.status_code == 303
    engine.dispose()


def test_a_secret_of_an_app_is_shown_once_and_works_until_it_is_revoked(
    console: Console,
) -> None:
    client = console.client(Role.ADMIN)
    made = console.send(client, "/settings/security/keys", name="<b>shop</b>")
    secret = re.search(r"fbx_[\w-]{43}", made.text)
    assert secret is not None and "<b>shop" not in made.text
    page = client.get("/settings/security").text
    assert secret[0] not in page
    key_id = re.search(r"key_[0-9a-f]{12}", page)
    assert key_id is not None
    rotated = console.send(client, f"/settings/security/keys/{key_id[0]}/rotate", grace="3600")
    assert "fbx_" in rotated.text and secret[0] not in rotated.text
    assert "old one until" in client.get("/settings/security").text
    revoke = f"/settings/security/keys/{key_id[0]}/revoke"
    asked = client.get(revoke).text
    assert "&lt;b&gt;shop" in asked and "cannot be taken back" in asked
    for fields in ({}, {"password": "wrong"}):
        refused = console.send(client, revoke, **fields)
        assert refused.status_code == 422 and 'id="e-password"' in refused.text
    assert ">revoked<" not in client.get("/settings/security").text
    console.send(client, revoke, password=PASSWORD)
    assert ">revoked<" in client.get("/settings/security").text


def test_the_audit_file_has_what_the_filter_shows(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    console.send(admin, "/settings/security/keys", name="=1+1")
    file = admin.get("/settings/audit.csv", params={"area": "key"})
    assert file.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    lines = file.text.splitlines()
    assert lines[0].startswith("at,who,")
    assert all(",key." in line for line in lines[1:]) and len(lines) > 1
    page = admin.get("/settings/audit", params={"area": "key", "since": "yesterday"})
    assert "Write a day as" in page.text


def test_api_tokens_of_a_page_work_and_end(console: Console) -> None:
    client = console.client(Role.FINANCE)
    made = console.send(client, "/account/tokens", name="books", role="finance", days="30")
    secret = re.search(r"fbt_[\w-]{43}", made.text)
    assert secret is not None
    headers = {"authorization": f"Bearer {secret[0]}"}
    assert httpx.get(f"{console.url}/api/me", headers=headers).json()["role"] == "finance"
    token_id = re.search(r"tok_[0-9a-f]{12}", client.get("/account/tokens").text)
    assert token_id is not None
    console.send(client, f"/account/tokens/{token_id[0]}/revoke")
    assert httpx.get(f"{console.url}/api/me", headers=headers).status_code == 401
    answer = console.send(client, "/account/tokens", name="more", role="admin")
    assert answer.status_code == 422 and 'id="e-role"' in answer.text


def test_a_lesser_token_cannot_change_its_makers_account(console: Console) -> None:
    client = console.client(Role.ADMIN)
    made = console.send(client, "/account/tokens", name="weak", role="viewer")
    secret = re.search(r"fbt_[\w-]{43}", made.text)
    assert secret is not None
    strong = console.api(Role.ADMIN)  # with another token of the same maker
    with httpx.Client(
        base_url=console.url, headers={"authorization": f"Bearer {secret[0]}"}
    ) as api:
        for each in api.get("/api/tokens").json()["items"]:
            assert api.delete(f"/api/tokens/{each['id']}").status_code == 403
        assert strong.get("/api/me").status_code == 200
        assert api.put("/api/me/email", json={"email": "x@example.org"}).status_code == 403
        assert api.post("/api/me/second-factor/offer").status_code == 403
        assert api.post("/api/me/sessions/end").status_code == 403
        assert api.get("/api/me").json()["permissions"] == sorted(
            ["own_account", "see_catalog", "see_dashboard", "see_developers", "see_finance",
             "see_listings", "see_notifications"]
        )  # fmt: skip


def test_api_and_page_show_the_same_users_and_changes(console: Console) -> None:
    api, page = console.api(Role.ADMIN), console.client(Role.ADMIN)
    users = api.get("/api/users").json()
    listed = page.get("/settings/users.csv").text.splitlines()[1:]
    assert [user["name"] for user in users["items"]] == [line.split(",")[0] for line in listed]
    total = api.get("/api/audit").json()["total"]
    assert f"{total:,} changes" in page.get("/settings/audit").text
