"""What the finance pages promise without a chain: who may what, what is refused and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from finance.wallet.keystore import Keystore
from finance.wallet.signer import Signer
from node.accounts.access import Role
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from tests.console_world import PASSWORD, Console, serve_console

PHRASE = "only for tests"
SEEING = (
    "/finance",
    "/finance/withdrawals",
    "/finance/channels",
    "/finance/channels/buying",
    "/finance/history",
    "/finance/thresholds",
    "/finance/claims",
    "/finance/reconcile",
    "/settings/limits",
)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("node")
    Keystore(home / "keys").create(PHRASE)
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


def rows(console: Console, query: str) -> list[tuple[object, ...]]:
    with console.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


@pytest.mark.parametrize("path", SEEING)
def test_money_is_seen_by_those_whose_role_says_so(console: Console, path: str) -> None:
    for role, status in {
        Role.ADMIN: 200,
        Role.FINANCE: 200,
        Role.VIEWER: 200,
        Role.CONSUMER: 403,
        Role.API_OWNER: 403,
    }.items():
        with console.client(role) as client:
            assert client.get(path).status_code == status, (role, path)


def test_only_admin_and_finance_move_money_and_only_admin_has_the_wallet(console: Console) -> None:
    with console.client(Role.VIEWER) as viewer:
        assert "Pause now" not in viewer.get("/finance/thresholds").text
        for path in ("/finance/serving", "/finance/withdraw", "/finance/thresholds"):
            assert console.send(viewer, path).status_code == 403, path
    with console.client(Role.FINANCE) as finance:
        assert finance.get("/finance/withdraw").status_code == 200
        assert finance.get("/finance/wallet").status_code == 403
        assert console.send(finance, "/finance/wallet/export").status_code == 403


def test_a_withdrawal_without_a_chain_says_so_and_keeps_what_was_typed(console: Console) -> None:
    with console.client(Role.FINANCE) as client:
        to = Signer.random().address
        answer = console.send(
            client, "/finance/withdraw", token="USDC", destination=to, amount="1.5"
        )
        assert answer.status_code == 422 and 'role="alert"' in answer.text
        assert "The chain does not answer at the moment" in answer.text
        assert to in answer.text and 'value="1.5"' in answer.text
    assert rows(console, "SELECT COUNT(*) FROM withdrawal") == [(0,)]


def test_thresholds_are_stored_with_their_trail_and_nonsense_is_refused(console: Console) -> None:
    good = {"low_usdc": "5", "low_gas": "0.001", "margin": "25", "auto_pause": "on"}
    with console.client(Role.FINANCE) as client:
        bad = console.send(client, "/finance/thresholds", **{**good, "margin": "-1"})
        assert bad.status_code == 422 and "A whole number." in bad.text
        bad = console.send(client, "/finance/thresholds", **{**good, "low_gas": "100"})
        assert bad.status_code == 422 and 'value="100"' in bad.text
        assert console.send(client, "/finance/thresholds", **good).status_code == 303
        assert 'value="0.001"' in client.get("/finance/thresholds").text
    with console.api(Role.VIEWER) as api:
        shown = api.get("/api/finance/thresholds").json()
    assert shown == {
        "low_usdc_atoms": 5_000_000,
        "low_gas_wei": str(10**15),
        "margin_percent": 25,
        "auto_pause": True,
    }
    [(actor, after)] = rows(
        console, "SELECT actor_name, after FROM audit_entry WHERE subject = 'thresholds'"
    )
    assert actor == "finance" and json.loads(str(after))["margin_percent"] == 25


def test_claim_policy_is_followed_at_once(console: Console) -> None:
    wanted = {
        "interval": "30",
        "at_risk": "2",
        "dust": "0.01",
        "gas_price": "0.05",
        "longest": "600",
    }
    with console.client(Role.FINANCE) as client:
        bad = console.send(client, "/finance/claims", **{**wanted, "dust": "3"})
        assert bad.status_code == 422 and "below what is at risk" in bad.text
        assert console.send(client, "/finance/claims", **wanted).status_code == 303
        assert 'value="0.05"' in client.get("/finance/claims").text
    policy = console.parts.money.claims.policy
    assert (policy.interval_seconds, policy.at_risk_atoms) == (1800, 2_000_000)
    assert policy.gas_price_wei == 50_000_000


def test_a_limit_is_not_raised_again_by_a_page_made_before_it_was_lowered(
    console: Console,
) -> None:
    with console.client(Role.FINANCE) as client:
        page = client.get("/settings/limits").text
        names = "call|listing|key|day|deposit"
        fields = dict(re.findall(rf'name="((?:was-)?(?:{names}))"[^>]* value="([^"]+)"', page))
        assert set(fields) >= set(names.split("|"))
        assert console.send(client, "/settings/limits", **{**fields, "day": "1"}).status_code == 303
        stale = console.send(client, "/settings/limits", **{**fields, "call": "0.25"})
        assert stale.status_code == 303
        lines = (line.split(",") for line in client.get("/settings/limits.csv").text.split("\r\n"))
        found = {line[0]: (line[3], line[5]) for line in lines if len(line) > 3}
        assert (found["day"], found["call"]) == (("1", "False"), ("0.25", "False"))
        assert found["key"][1] == "True"  # untouched, it goes on being the default


@pytest.mark.parametrize(
    ("path", "changed", "typed", "other"),
    [
        ("/finance/thresholds", ("low_gas", "0.003"), ("margin", "33"), ("auto_pause", "")),
        ("/finance/claims", ("gas_price", "3"), ("at_risk", "7"), ("interval", "50")),
    ],
)
def test_a_stale_page_changes_only_what_was_typed_on_it(
    console: Console,
    path: str,
    changed: tuple[str, str],
    typed: tuple[str, str],
    other: tuple[str, str],
) -> None:
    with console.client(Role.FINANCE) as client:
        fields = shown_fields(client.get(path).text)
        now = {**fields, changed[0]: changed[1], other[0]: other[1]}
        assert console.send(client, path, **now).status_code == 303
        assert console.send(client, path, **{**fields, typed[0]: typed[1]}).status_code == 303
        after = shown_fields(client.get(path).text)
        assert [after.get(name, "") for name, _ in (changed, typed, other)] == [
            changed[1],
            typed[1],
            other[1],
        ]


def shown_fields(page: str) -> dict[str, str]:
    """What a browser would send of a form that nobody touched."""
    form = page[page.rindex('class="form"') :]
    fields = dict(re.findall(r'<input[^>]* name="((?:was-)?[a-z_]+)"[^>]* value="([^"]*)"', form))
    if not re.search(r'<input[^>]*name="auto_pause"[^>]* checked', form):
        fields.pop("auto_pause", None)
    return fields


def test_limits_are_changed_with_their_trail_and_shown_with_todays_use(console: Console) -> None:
    with console.client(Role.FINANCE) as client:
        limits = {"call": "0.5", "listing": "10", "key": "10", "day": "7", "deposit": "5"}
        assert console.send(client, "/settings/limits", **limits).status_code == 303
        bad = console.send(client, "/settings/limits", **{**limits, "day": "lots"})
        assert bad.status_code == 422 and 'value="lots"' in bad.text
        own = {"scope": "listing", "subject": "nobody", "limit": "1"}
        assert console.send(client, "/settings/limits/own", **own).status_code == 422
        file = [row.split(",") for row in client.get("/settings/limits.csv").text.split("\r\n")]
        assert {row[0]: row[3] for row in file[1:] if len(row) > 3} == limits
    general = "SELECT scope, limit_atoms FROM spend_limit WHERE subject = '*'"
    found = {str(scope): atoms for scope, atoms in rows(console, general)}
    assert found["call"] == 500_000 and found["day"] == 7_000_000
    with console.api(Role.FINANCE) as api:
        cleared = {"scope": "day", "limit_atoms": None}
        shown = api.put("/api/finance/limits", json=cleared).json()["limits"]
    assert {each["scope"]: each["default"] for each in shown}["day"] is True
    trail = "SELECT before, after FROM audit_entry WHERE action = 'limit.change'"
    assert ('"7 USDC"', "") in rows(console, trail + " AND subject = 'day:*'")


def test_pausing_by_hand_holds_and_is_told(console: Console) -> None:
    with console.client(Role.FINANCE) as client:
        assert console.send(client, "/finance/serving", action="pause").status_code == 303
        assert console.parts.treasury.guard.paused()
        assert "API serving is paused" in client.get("/finance").text
        console.send(client, "/finance/serving", action="resume")
        assert not console.parts.treasury.guard.paused()


def test_the_address_is_there_as_text_and_as_codes(console: Console) -> None:
    with console.client(Role.VIEWER) as client:
        page = client.get("/finance").text
    address = console.parts.treasury.address
    assert page.count(address) >= 2 and page.count('class="qr"') == 2
    with console.api(Role.VIEWER) as api:
        shown = api.get("/api/finance").json()
    assert shown["address"] == address
    assert shown["payment_uri"].startswith("ethereum:0x")
    assert shown["payment_uri"].endswith(f"@31337/transfer?address={address}")


def test_days_of_the_history_are_the_viewers(console: Console) -> None:
    """An arrival at 23:30 UTC is of the next day in Berlin."""
    at = 1_763_767_800  # 2025-11-21 23:30 UTC
    row = f"('eth:1', 31337, 'ETH', '7', '', NULL, 5, {at})"
    with writer(console.engine).begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO arrival VALUES {row}")
    with console.client(Role.VIEWER) as client:
        day = {"from": "2025-11-21", "to": "2025-11-21"}
        lines = client.get("/finance/history.csv", params=day).text.splitlines()
        assert lines[1].startswith(
            "2025-11-21 23:30:00,1763767800,received,ETH,0.000000000000000007"
        )
        look = {"zone": "Europe/Berlin", "theme": "system"}
        assert console.send(client, "/settings/appearance", **look).status_code == 303
        assert len(client.get("/finance/history.csv", params=day).text.splitlines()) == 1
        next_day = {"from": "2025-11-22", "to": "2025-11-22", "action": "received"}
        assert len(client.get("/finance/history.csv", params=next_day).text.splitlines()) == 2
        bad = client.get("/finance/history", params={"from": "yesterday"})
        assert bad.status_code == 200 and "A day, like" in bad.text


def test_the_wallet_leaves_encrypted_and_with_both_passwords_only(
    console: Console, tmp_path: Path
) -> None:
    with console.client(Role.ADMIN) as client:
        client.timeout = 60  # opening a keystore takes long on purpose
        path, right = "/finance/wallet/export", {"passphrase": PHRASE, "password": PASSWORD}
        wrong = console.send(client, path, **{**right, "passphrase": "no"})
        assert wrong.status_code == 422 and "does not open the wallet" in wrong.text
        wrong = console.send(client, path, **{**right, "password": "no"})
        assert wrong.status_code == 422
        answer = console.send(client, path, **right)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.json()["version"] == 3 and "farebox" not in answer.json()
    other = Keystore(tmp_path)
    other.import_wallet(answer.text, PHRASE, "another")
    keystore = console.parts.treasury.keystore
    assert other.address() == keystore.address()
    assert ("wallet.export",) in rows(console, "SELECT action FROM audit_entry")


def test_another_wallet_is_refused_while_the_balance_is_not_known(console: Console) -> None:
    with console.client(Role.ADMIN) as client:
        assert "balance is not known" in client.get("/finance/wallet").text
    with console.api(Role.ADMIN) as api:
        wish = {
            "password": PASSWORD,
            "keystore": "{}",
            "its_passphrase": "x",
            "passphrase": PHRASE,
        }
        answer = api.post("/api/finance/wallet/import", json=wish)
    assert answer.status_code == 409 and answer.json()["code"] == "wallet_in_use"


def test_a_reconciliation_that_cannot_be_done_says_why(console: Console) -> None:
    with console.api(Role.FINANCE) as api:
        started = api.post("/api/finance/reconciliations").json()["id"]
        again = api.post("/api/finance/reconciliations")
        assert again.status_code in (201, 409)
        for _ in range(200):
            run = api.get(f"/api/finance/reconciliations/{started}").json()
            if run["finished_at"]:
                break
        assert run["error"] and not run["balanced"]
    with console.client(Role.VIEWER) as viewer:
        assert "Not done" in viewer.get("/finance/reconcile").text
        file = viewer.get("/finance/reconcile.csv").text
        assert file.startswith("id,started_unix") and "could not be done" in file


def test_a_confirmation_without_anything_to_confirm_leads_back_to_the_form(
    console: Console,
) -> None:
    with console.client(Role.FINANCE) as client:
        for query in ("", "?id=x", "?token=ETH&amount=1"):
            there = client.get(f"/finance/withdraw/confirm{query}")
            assert there.headers["location"] == "/finance/withdraw", query
            assert "Say here what is to be sent" in client.get("/finance/withdraw").text


def test_a_negative_difference_is_a_number_in_the_file_too(console: Console) -> None:
    found = json.dumps([{"kind": "wallet_usdc", "subject": "", "books": -5, "chain": 3}])
    with writer(console.engine).begin() as connection:
        connection.execute(
            text(
                "INSERT INTO reconciliation (id, started_at, finished_at, actor_name, block_number,"
                " checked, differences, open_items) VALUES (900, 1, 2, 'Ann', 1, 1, :found, '[]')"
            ),
            {"found": found},
        )
    with console.client(Role.VIEWER) as viewer:
        assert "−0.000005 USDC" in viewer.get("/finance/reconcile/900").text
        file = viewer.get("/finance/reconcile/900/differences.csv").text
    assert file.splitlines()[1] == "wallet_usdc,,-5,3,usdc_atoms"


def test_an_interval_that_is_no_whole_minute_outlives_the_form(console: Console) -> None:
    with console.api(Role.FINANCE) as api, console.client(Role.FINANCE) as client:
        before = api.get("/api/finance/claim-policy").json()
        odd = {**before, "interval_seconds": 90}
        api.put("/api/finance/claim-policy", json=odd).raise_for_status()
        assert 'value="1.5"' in client.get("/finance/claims").text
        fields = {"interval": "1.5", "at_risk": "3", "dust": "0.05", "gas_price": "2"}
        fields["longest"] = str(before["longest_seconds"] // 60)
        assert console.send(client, "/finance/claims", **fields).status_code == 303
        after = api.get("/api/finance/claim-policy").json()
    assert (after["interval_seconds"], after["at_risk_atoms"]) == (90, 3_000_000)
