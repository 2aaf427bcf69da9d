"""Plans, customers and invoices in the console and the JSON API: the same figures, and who may."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text

from catalog.models import Listing
from finance.models import OnchainPayment
from node.accounts.access import Role
from node.accounts.audit import SYSTEM
from node.alerts.alerts import Alerts
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.jobs.questions import questions_job
from node.plans.clerk import Clerk
from node.plans.models import SubscriptionRequest
from node.plans.offered import add_plan, choices
from node.plans.orders import ask, subscribe
from node.plans.subscribers import Offered
from node.plans.terms import first_stretch
from node.usage.metering import QuotaUsage
from node.usage.overrides import list_overrides
from node.usage.quotas import Meter
from node.usage.windows import window_of
from tests.console_world import PASSWORD, Console, serve_console

LISTING, SUBSCRIPTION = "lst_1", "a1" * 10
PAYER = "0x" + "c4" * 20
PLANS = f"/listings/{LISTING}/plans"
CUSTOMER = f"/developers/customers/{SUBSCRIPTION}"
FORM = {
    "name": "Pro",
    "price": "12.5",
    "calls": "1,000",
    "stream_hours": "2",
    "per_minute": "",
    "beyond": "pay",
    "grace_days": "3",
}


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    upgrade(engine)
    listing = Listing(id=LISTING, slug="api", name="The API", base_url="http://127.0.0.1:9")
    with writer(engine).begin() as connection:
        row = {name: getattr(listing, name) for name in Listing.model_fields}
        connection.execute(insert(Listing).values(row))
    with serve_console(engine, tmp_path) as console:
        yield console
    engine.dispose()


def rows(console: Console, query: str) -> list[tuple[Any, ...]]:
    with console.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def sell(console: Console, kind: str = "override") -> Offered:
    """A customer that has paid, used 9 of its calls, and asks for something."""
    now, engine = int(time.time()), console.engine
    chosen = choices("Pro", "", 3_000_000, 1_000, 7_200, None, "stop", 3)
    plan = add_plan(engine, LISTING, chosen, now, SYSTEM)
    stretch = first_stretch(plan.deal, now)
    payment = {
        **dict.fromkeys(("token", "nonce", "signature", "fingerprint", "route"), ""),
        **dict.fromkeys(("valid_after", "valid_before", "owner", "voucher_atoms"), 0),
        "id": "pay",
        "kind": "exact",
        "state": "confirmed",
        "chain_id": 31337,
        "payer": PAYER,
        "pay_to": "0x" + "5e" * 20,
        "value_atoms": stretch.price_atoms,
        "charge_atoms": stretch.price_atoms,
        "listing_id": LISTING,
        "tx_hash": "0x" + "ab" * 32,
        "updated_at": now,
    }
    of_customer = (PAYER, "f" * 64, "Kim", "kim@example.org", "pay", now)
    asked: dict[str, Any] = {"kind": kind, "text": "Please", "asked_at": now}
    if kind == "override":
        asked |= {"meter": "calls", "cap": 5_000, "until": now + 86_400}
    used = {"subject": f"sub:{SUBSCRIPTION}", "window_start": window_of(now).start, "used": 9}
    with writer(engine).begin() as connection:
        connection.execute(insert(OnchainPayment).values(payment))
        for write in subscribe(SUBSCRIPTION, plan, stretch, *of_customer):
            write.make(connection)
        connection.execute(insert(QuotaUsage).values(used | {"meter": "calls"}))
        request = asked | {"subscription_id": SUBSCRIPTION}
        connection.execute(insert(SubscriptionRequest).values(request))
    assert Clerk(engine).issue() == 1 and Clerk(engine).issue() == 0
    return plan


def test_a_plan_is_offered_changed_and_retired(console: Console) -> None:
    owner = console.client(Role.API_OWNER)
    assert "pays call by call" in owner.get(PLANS).text
    assert console.send(owner, PLANS, **FORM).status_code == 303
    stored = "SELECT price_atoms, calls, stream_seconds, per_minute, beyond FROM plan"
    assert rows(console, stored) == [(12_500_000, 1_000, 7_200, None, "pay")]
    [plan_id] = rows(console, "SELECT id FROM plan")[0]
    changed = console.send(owner, f"{PLANS}/{plan_id}", **{**FORM, "price": "15"})
    assert changed.status_code == 303 and rows(console, stored)[0][0] == 15_000_000
    assert console.send(owner, f"{PLANS}/{plan_id}/retire").status_code == 303
    assert "retired" in owner.get(PLANS).text
    assert owner.get(f"{PLANS}/{plan_id}").status_code == 404
    trail = "SELECT action FROM audit_entry WHERE action LIKE 'plan.%' ORDER BY id"
    assert [row[0] for row in rows(console, trail)] == ["plan.add", "plan.change", "plan.retire"]


WRONG = (
    ("name", "", "Give it a name"),
    ("name", "x" * 61, "Give it a name"),
    ("name", "a\u202eb", "Give it a name"),
    ("price", "-1", "no price"),
    ("price", "1000000001", "at most a million"),
    ("calls", "many", "whole number"),
    ("calls", "0", "or nothing for no end"),
    ("stream_hours", "1.5", "whole number"),
    ("grace_days", "15", "0 to 14"),
    ("beyond", "maybe", "Choose what happens"),
    ("description", "d" * 501, "500"),
)


def test_a_plan_is_not_set_back_by_a_form_that_was_open_while_it_was_changed(
    console: Console,
) -> None:
    with console.client(Role.API_OWNER) as client:
        assert console.send(client, PLANS, **FORM).status_code == 303
        [(plan_id,)] = rows(console, "SELECT id FROM plan")
        path = f"{PLANS}/{plan_id}"
        [seen] = re.findall(r'name="seen" value="(\d+)"', client.get(path).text)
        dearer = console.send(client, path, **{**FORM, "price": "20"}, seen=seen)
        assert dearer.status_code == 303
        stale = console.send(client, path, **{**FORM, "name": "Pro 2"}, seen=seen)
        assert stale.status_code == 422 and "changed after this page was made" in stale.text
        assert rows(console, "SELECT name, price_atoms FROM plan") == [("Pro", 20_000_000)]


def test_what_cannot_be_a_plan_is_said_beside_its_field(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    for field, value, words in WRONG:
        answer = console.send(admin, PLANS, **{**FORM, field: value})
        assert answer.status_code == 422 and words in answer.text, (field, value)
        assert "What it is for" in answer.text
    assert rows(console, "SELECT count(*) FROM plan") == [(0,)]


def test_a_free_plan_stays_free_and_names_are_taken_once(console: Console) -> None:
    admin = console.client(Role.ADMIN)
    console.send(admin, PLANS, **{**FORM, "price": "0"})
    [plan_id] = rows(console, "SELECT id FROM plan")[0]
    dearer = console.send(admin, f"{PLANS}/{plan_id}", **FORM)
    assert dearer.status_code == 422 and "stays free" in dearer.text
    console.send(admin, PLANS, **{**FORM, "name": "Über"})
    for name in ("pro", "Über", "ÜBER"):
        again = console.send(admin, PLANS, **{**FORM, "name": name})
        assert again.status_code == 422 and "of this name already" in again.text


def test_customers_stand_with_what_they_use_the_same_in_page_api_and_csv(
    console: Console,
) -> None:
    plan = sell(console)
    limit = first_stretch(plan.deal, int(time.time())).calls
    viewer = console.client(Role.VIEWER)
    page = viewer.get("/developers/customers").text
    assert (
        "Kim" in page and f"9 of {limit:,} API calls" in page and "1 request of customers" in page
    )
    [line] = csv.DictReader(io.StringIO(viewer.get("/developers/customers.csv").text))
    assert (line["id"], line["quota_calls_used"], line["quota_calls"]) == (
        SUBSCRIPTION,
        "9",
        str(limit),
    )
    [item] = console.api(Role.VIEWER).get("/api/customers").json()["items"]
    assert (item["used_calls"], item["calls_limit"], item["state"]) == (9, limit, "active")
    detail = console.api(Role.VIEWER).get(f"/api/customers/{SUBSCRIPTION}").json()
    assert detail["orders"][0]["tx_hash"] == "0x" + "ab" * 32
    assert "Kim" in viewer.get(CUSTOMER).text
    assert viewer.get(f"/developers/customers/{PAYER}").status_code == 200
    assert viewer.get("/developers/customers/nobody").status_code == 404


def test_an_override_is_granted_once_and_ends_by_hand(console: Console) -> None:
    sell(console)
    admin, now = console.client(Role.ADMIN), int(time.time())
    assert "Override asked for" in admin.get(f"{CUSTOMER}/requests/1").text
    wrong = console.send(
        admin, f"{CUSTOMER}/requests/1", what="grant", cap="some", ends_at="x", answer=""
    )
    assert wrong.status_code == 422 and "whole number" in wrong.text
    until = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now + 3_600))
    fields = {"what": "grant", "cap": "5000", "ends_at": until, "answer": "Good luck"}
    assert console.send(admin, f"{CUSTOMER}/requests/1", **fields).status_code == 303
    [lift] = list_overrides(console.engine, f"sub:{SUBSCRIPTION}")
    assert (lift.cap, lift.meter, lift.holds(lift.starts_at)) == (5_000, Meter.CALLS, True)
    assert console.send(admin, f"{CUSTOMER}/requests/1", **fields).status_code == 409
    assert "Good luck" in admin.get(CUSTOMER).text
    assert console.send(admin, f"{CUSTOMER}/overrides/{lift.id}/end").status_code == 303
    assert not list_overrides(console.engine, f"sub:{SUBSCRIPTION}")[0].holds(int(time.time()))


def test_a_question_is_told_once_with_a_link_and_is_over_when_it_is_answered(
    console: Console,
) -> None:
    sell(console)
    alerts = Alerts(console.engine)
    told = "SELECT state, link, count, resolved_by FROM notification WHERE rule = 'customer_asked'"
    asyncio.run(questions_job(alerts)())
    asyncio.run(questions_job(alerts)())
    assert rows(console, told) == [("new", f"{CUSTOMER}#requests", 1, "")]
    [message] = rows(console, "SELECT message FROM notification")[0]
    assert message == "Kim, customer of The API, asks for more API calls: Please"
    channels = rows(console, "SELECT channel FROM delivery ORDER BY channel")
    assert channels == [("email",), ("webhook",)]
    asyncio.run(alerts.resolve_by_hand([1], SYSTEM))
    asyncio.run(questions_job(alerts)())
    assert [row[3] for row in rows(console, told)] == [SYSTEM.name]  # not told again
    asked = ask(SUBSCRIPTION, "support", None, None, None, "Hello", 2)
    with writer(console.engine).begin() as connection:
        connection.execute(asked.statement, dict(asked.params))
    asyncio.run(questions_job(alerts)())
    console.send(console.client(Role.ADMIN), f"{CUSTOMER}/requests/2", answer="Hi")
    asyncio.run(questions_job(alerts)())
    assert [(row[0], row[3]) for row in rows(console, told)] == [
        ("resolved", SYSTEM.name),
        ("resolved", ""),
    ]


def test_what_cannot_be_granted_changes_nothing(console: Console) -> None:
    sell(console)
    api = console.api(Role.ADMIN)
    path = f"/api/customers/{SUBSCRIPTION}/requests/1"
    answer = api.post(path, json={"action": "grant", "cap": 5, "ends_at": 1})
    assert answer.status_code == 422
    assert rows(console, "SELECT state FROM subscription_request") == [("open",)]
    assert api.post(path, json={"action": "answer", "answer": "Hi"}).status_code == 422
    refused = api.post(path, json={"action": "refuse", "answer": "Not now"})
    assert refused.json()["state"] == "refused"
    assert list_overrides(console.engine, f"sub:{SUBSCRIPTION}") == []


def test_a_request_is_granted_wherever_its_words_are_cut_off(console: Console) -> None:
    """The reason of an override is shorter than a request: a sign of several is not torn."""
    sell(console)
    family = "\U0001f469\u200d\U0001f467"
    words = {"words": "x" * 287 + family + " would like more"}
    with writer(console.engine).begin() as connection:
        connection.execute(text("UPDATE subscription_request SET text = :words"), words)
    until = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 3_600))
    fields = {"what": "grant", "cap": "5000", "ends_at": until, "answer": ""}
    admin = console.client(Role.ADMIN)
    assert console.send(admin, f"{CUSTOMER}/requests/1", **fields).status_code == 303
    [lift] = list_overrides(console.engine, f"sub:{SUBSCRIPTION}")
    assert len(lift.reason) <= 300 and lift.reason.startswith("Request 1: xxx")


def test_a_message_is_answered(console: Console) -> None:
    sell(console, "support")
    admin = console.client(Role.ADMIN)
    empty = console.send(admin, f"{CUSTOMER}/requests/1", answer=" ")
    assert empty.status_code == 422 and "Write an answer" in empty.text
    turned = console.send(admin, f"{CUSTOMER}/requests/1", answer="Yes \u202eon")
    assert turned.status_code == 422 and "can be seen" in turned.text
    assert console.send(admin, f"{CUSTOMER}/requests/1", answer="Yes").status_code == 303
    state = "SELECT state, answer, answered_by FROM subscription_request"
    assert rows(console, state) == [("answered", "Yes", "admin")]


def test_a_subscription_is_ended_with_a_reason_and_a_password_once(console: Console) -> None:
    sell(console)
    admin, end = console.client(Role.ADMIN), f"{CUSTOMER}/end"
    asked = admin.get(end).text
    assert "What is paid stays served until" in asked and "At once" not in asked
    wrong = console.send(admin, end, reason="Closing", password="guess")
    assert wrong.status_code == 422 and "Closing" in wrong.text
    fields = {"password": PASSWORD, "when": "period_end"}
    assert "Say why" in console.send(admin, end, reason=" ", **fields).text
    at_once = console.send(admin, end, reason="Closing", password=PASSWORD, when="now")
    assert at_once.status_code == 409
    assert rows(console, "SELECT cancelled_at FROM subscription") == [(None,)]
    assert console.send(admin, end, reason="Closing", **fields).status_code == 303
    page = admin.get(CUSTOMER).text
    assert "ended by admin" in page and "Closing" in page and f'"{end}"' not in page
    assert admin.get(end).status_code == 409
    api = console.api(Role.ADMIN)
    again = api.post(f"/api/customers/{SUBSCRIPTION}/end", json={"reason": "Again"})
    assert (again.status_code, again.json()["code"]) == (409, "already_ended")
    detail = api.get(f"/api/customers/{SUBSCRIPTION}").json()
    assert (detail["ended_by"], detail["end_reason"]) == ("admin", "Closing")
    assert detail["customer"]["state"] == "cancelled" and detail["cancelled_at"]


def test_who_deletes_an_api_is_told_of_the_customers_it_serves(console: Console) -> None:
    admin, page = console.client(Role.ADMIN), f"/listings/{LISTING}/delete"
    assert "Customers with a plan" not in admin.get(page).text
    sell(console)
    assert "1 customer has a plan of it and is served no more" in admin.get(page).text
    refused = console.send(admin, page, password="wrong")
    assert refused.status_code == 422 and "1 customer has a plan of it" in refused.text


def test_an_invoice_is_a_page_a_line_and_a_document(console: Console) -> None:
    sell(console)
    finance, number = console.client(Role.FINANCE), time.strftime("FB-%Y-000001", time.gmtime())
    assert number in finance.get("/finance/invoices").text
    page = finance.get("/finance/invoices/1").text
    assert f"Invoice {number}" in page and "0x" + "ab" * 32 in page and "Kim" in page
    [line] = csv.DictReader(io.StringIO(finance.get("/finance/invoices.csv").text))
    [item] = console.api(Role.FINANCE).get("/api/invoices?side=sold").json()["items"]
    paid = rows(console, "SELECT value_atoms FROM onchain_payment")[0][0]
    assert item["amount_atoms"] == paid == sum(each["amount_atoms"] for each in item["lines"])
    assert (line["number"], line["transaction"]) == (number, item["tx_hash"])
    assert console.api(Role.FINANCE).get("/api/invoices?side=bought").json()["total"] == 0
    assert finance.get("/finance/invoices/2").status_code == 404
    with writer(console.engine).begin() as connection:
        connection.execute(text("UPDATE invoice SET chain_id = 84532"))
    assert number not in finance.get("/finance/invoices?side=sold").text
    assert list(csv.DictReader(io.StringIO(finance.get("/finance/invoices.csv").text))) == []
    assert console.api(Role.FINANCE).get("/api/invoices").json()["total"] == 0
    assert "base-sepolia" in finance.get("/finance/invoices/1").text


def test_plans_by_the_api(console: Console) -> None:
    api, path = console.api(Role.API_OWNER), f"/api/listings/{LISTING}/plans"
    wish = {"name": "Pro", "price_atoms": 5_000_000, "calls": 100}
    made = api.post(path, json=wish)
    assert made.status_code == 201, made.text
    plan_id = made.json()["id"]
    assert api.post(path, json=wish).status_code == 409
    assert api.post("/api/listings/none/plans", json=wish).status_code == 404
    changed = api.put(f"{path}/{plan_id}", json={**wish, "calls": None, "name": "Max"})
    assert (changed.json()["calls"], changed.json()["name"]) == (None, "Max")
    assert api.post(path, json={**wish, "grace_days": 15}).status_code == 422
    assert api.delete(f"{path}/{plan_id}").status_code == 204
    assert api.delete(f"{path}/{plan_id}").status_code == 404
    [item] = api.get(path).json()["items"]
    assert item["retired_at"] is not None


def test_a_quota_that_is_no_whole_hour_outlives_the_form(console: Console) -> None:
    with console.api(Role.ADMIN) as api, console.client(Role.API_OWNER) as client:
        body = {"name": "Half", "price_atoms": 1_000_000, "stream_seconds": 5_400}
        plan = api.post(f"/api{PLANS}", json=body).json()
        form = client.get(f"{PLANS}/{plan['id']}").text
        assert 'name="stream_hours"' in form and 'value="1.5"' in form
        fields = FORM | {"name": "Other name", "stream_hours": "1.5"}
        assert console.send(client, f"{PLANS}/{plan['id']}", **fields).status_code == 303
        assert api.get(f"/api{PLANS}/{plan['id']}").json()["stream_seconds"] == 5_400
        fields["stream_hours"] = "1"
        assert console.send(client, f"{PLANS}/{plan['id']}", **fields).status_code == 303
        assert api.get(f"/api{PLANS}/{plan['id']}").json()["stream_seconds"] == 3_600
