"""Selling an API through the console and the JSON API, and what strangers' data must not do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text

from catalog.models import Listing, ListingMode, ListingOrigin, Sample
from catalog.specs import CheckedSpec
from finance.models import SellerChannel
from node.accounts.access import Role
from node.accounts.audit import SYSTEM
from node.alerts.rules import Rule
from node.app import _own_listings
from node.console.listing_forms import operation_key, price_field
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.jobs.health import health_job
from node.market.specs import check_apart
from node.preferences import change_preference
from node.usage.set_aside import ShownCalls
from tests.console_world import PASSWORD, Console, serve_console
from tests.publishing_world import KEY, SCRIPT, SPEC, SPEC_YAML, Weather, serve_weather, spec_text

_CITY = price_field("GET", "/forecast/{city}")
_FORECAST = operation_key("GET", "/forecast/{city}")
_STATIONS = operation_key("GET", "/stations")
_EMPTIED = (
    "listing",
    "listing_draft",
    "listing_health",
    "route_price",
    "sample",
    "seller_channel",
    "notification",
    "event",
    "audit_entry",
)


@pytest.fixture
def api() -> Iterator[Weather]:
    with serve_weather() as api:
        yield api


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("node")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


@pytest.fixture
def console(served: Console, api: Weather) -> Console:
    """With nothing for sale yet, and only this test's API within reach."""
    with served.engine.begin() as connection:
        for name in _EMPTIED:
            connection.execute(text(f"DELETE FROM {name}"))
    served.parts.shop.egress.allow_also([api.url.removeprefix("http://")])
    return served


@pytest.fixture
def owner(console: Console) -> httpx.Client:
    return console.client(Role.API_OWNER)


def details(api: Weather, **changes: str) -> dict[str, str]:
    return {
        "name": "Weather",
        "base_url": api.url,
        "description": "Forecasts",
        "tags": "weather, sea",
        "health_path": "/stations",
        "credential_kind": "header",
        "credential_name": "X-Key",
        "credential": KEY,
        "spec": spec_text(),
        **changes,
    }


def draft_of(answer: httpx.Response) -> str:
    assert answer.status_code == 303, re.findall(r"field__error[^<]*<?[^<]*", answer.text)
    return answer.headers["location"]


def publish(console: Console, owner: httpx.Client, api: Weather, **changes: str) -> str:
    """The listing's page, after both steps."""
    draft = draft_of(console.send(owner, "/listings/new", **details(api, **changes)))
    chosen = {
        "operation": [_FORECAST, _STATIONS],
        f"op-{_FORECAST}-path-city": "lisbon",
        f"op-{_FORECAST}-query-days": "3",
    }
    assert console.send(owner, f"{draft}/samples", **chosen).status_code == 303
    done = console.send(owner, f"{draft}/publish", price="0.001", **{_CITY: "0.01"})
    assert done.status_code == 303, done.text
    return str(done.headers["location"])


def rows(console: Console, sql: str) -> list[Any]:
    with console.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def everything_stored(console: Console) -> str:
    """All rows of all tables, but for columns that are meant to hold ciphertext."""
    tables = [row[0] for row in rows(console, "SELECT name FROM sqlite_master WHERE type='table'")]
    return "".join(repr(rows(console, f'SELECT * FROM "{name}"')) for name in tables)


def test_two_steps_make_a_listing_that_the_gateway_sells(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    shown = owner.get(page).text
    assert "Weather is published." in shown
    for words in ("GET /forecast/{city}", "0.01", "set (header X-Key)", "Farebox-Demo: 1"):
        assert words in shown
    [listing] = _own_listings(console.engine)
    prices = {f"{route.method} {route.template}": route.price_atoms for route in listing.routes}
    assert prices["GET /forecast/{city}"] == 10_000
    assert prices["GET /stations"] == prices["* /*"] == 1_000
    assert sorted(listing.answers.operations) == ["GET /forecast/{city}", "GET /stations"]
    assert listing.answers.find("GET", b"/forecast/lisbon", b"days=3", ("", "")) is not None


def test_a_path_that_ends_with_a_slash_is_asked_with_it(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    """As Django and others have it, which redirect whoever leaves it out, or know nothing."""
    spec = spec_text(paths={"/archive/": {"get": SPEC["paths"]["/stations"]["get"]}})
    draft = draft_of(console.send(owner, "/listings/new", **details(api, spec=spec)))
    console.send(owner, f"{draft}/samples", operation=operation_key("GET", "/archive"))
    done = console.send(owner, f"{draft}/publish", price="0.001")
    assert done.status_code == 303, done.text
    [listing] = _own_listings(console.engine)
    assert listing.answers.operations == ["GET /archive"]
    assert listing.answers.find("GET", b"/archive/", b"", ("", "")) is not None


def test_draft_survives_reload_and_sign_out(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    draft = draft_of(console.send(owner, "/listings/new", **details(api)))
    assert "3 operations" in owner.get(draft).text
    console.send(owner, "/sign-out")
    again = console.client(Role.API_OWNER)
    assert "Weather" in again.get("/listings").text
    assert "3 operations" in again.get(draft).text
    form = again.get(f"{draft}/edit").text
    assert "Keep the stored one (header X-Key)" in form and KEY not in form


def test_problems_are_listed_with_their_place_and_what_was_typed_stays(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    text_ = SPEC_YAML.replace("description: All", "summary: All")
    draft = draft_of(console.send(owner, "/listings/new", **details(api, spec=text_)))
    page = owner.get(draft).text
    assert "/paths/~1stations/get/responses/200" in page
    assert re.search(r'<td class="number"[^>]*>7</td>', page)
    assert "&#39;description&#39; is a required property" in page
    assert "title: Weather" in page
    assert "Mend the specification." in owner.get(f"{draft}/publish").text
    refused = console.send(owner, f"{draft}/publish", price="1")
    assert refused.status_code == 422 and "Mend the specification." in refused.text
    console.send(owner, f"{draft}/spec", spec=SPEC_YAML)
    assert "Mend the specification." not in owner.get(draft).text


def test_each_wrong_field_is_told_beside_it(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    wrong = {
        "name": ("ab", "3 to 80 characters"),
        "base_url": ("ftp://x", "no http or https address"),
        "description": ("x" * 501, "at most 500"),
        "tags": (",".join(map(str, range(21))), "At most 20 tags"),
        "health_path": ("no slash", "is no path"),
        "credential": ("\u200b", "unusual characters"),
        "spec": ("", "Upload a specification"),
    }
    for name, (value, words) in wrong.items():
        answer = console.send(owner, "/listings/new", **details(api, **{name: value}))
        assert answer.status_code == 422, name
        assert re.search(rf'id="e-{name}">[^<]*{words}', answer.text), name
    assert rows(console, "SELECT COUNT(*) FROM listing_draft") == [(0,)]


def test_a_form_that_was_open_while_the_specification_changed_asks_for_nothing_else(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    draft = draft_of(console.send(owner, "/listings/new", **details(api)))
    gone = operation_key("GET", "/before-it-changed")
    answer = console.send(owner, f"{draft}/samples", operation=[_STATIONS, gone])
    assert answer.status_code == 422 and "The specification has changed" in answer.text
    assert rows(console, "SELECT COUNT(*) FROM sample") == [(0,)]


def test_upload_and_address_are_as_good_as_pasting(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    session = console.sessions[owner.cookies[console.cookie]]
    given = {**details(api), "spec": "", "csrf": session.csrf}
    files = {"spec_file": ("openapi.yaml", SPEC_YAML.encode(), "application/yaml")}
    draft = draft_of(owner.post("/listings/new", data=given, files=files))
    assert "1 operation." in owner.get(draft).text
    address = f"{api.url}/openapi.json"
    fetched = {**given, "name": "Other", "spec_url": address}
    draft = draft_of(owner.post("/listings/new", data=fetched))
    assert "3 operations." in owner.get(draft).text


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1/openapi.json", "private range"),
        ("http://169.254.169.254/latest/meta-data/", "private range"),
        ("http://[::ffff:10.0.0.1]/", "private range"),
        ("http://localhost:1/", "private range"),
        ("file:///etc/passwd", "Only http and https"),
        ("http://a:b@example.com/", "without a name or password"),
    ],
)
def test_specification_is_not_fetched_from_inside(
    console: Console, owner: httpx.Client, api: Weather, address: str, words: str
) -> None:
    given = details(api, spec="", spec_url=address)
    answer = console.send(owner, "/listings/new", **given)
    assert answer.status_code == 422
    assert re.search(rf'id="e-spec_url">[^<]*{words}', answer.text), answer.text[-3000:]


def test_redirect_to_a_specification_is_not_followed(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    answer = console.send(
        owner, "/listings/new", **details(api, spec="", spec_url=f"{api.url}/away")
    )
    assert answer.status_code == 422 and "leads elsewhere" in answer.text
    assert api.calls["/openapi.json"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "http://127.0.0.1:9"}, "is a private address"),
        ({"base_url": "http://10.1.2.3"}, "is a private address"),
        ({"credential": "wrong"}, "credential is missing or wrong"),
        ({"health_path": "/missing"}, "answers 404 instead of 200"),
        ({"health_path": "/away"}, "answers 302 instead of 200"),
    ],
)
def test_upstream_that_cannot_serve_is_told_before_publishing(
    console: Console, owner: httpx.Client, api: Weather, changes: dict[str, str], words: str
) -> None:
    draft = draft_of(console.send(owner, "/listings/new", **details(api, **changes)))
    page = owner.get(draft).text
    assert words in page and "Make the upstream reachable." in page
    assert console.send(owner, f"{draft}/publish", price="1").status_code == 422
    assert rows(console, "SELECT COUNT(*) FROM listing") == [(0,)]


def test_upstream_that_is_gone_is_told(console: Console, owner: httpx.Client) -> None:
    with serve_weather() as gone:
        pass
    console.parts.shop.egress.allow_also([gone.url.removeprefix("http://")])
    draft = draft_of(console.send(owner, "/listings/new", **details(gone)))
    assert "is the API running?" in owner.get(draft).text


def test_credential_is_shown_logged_and_recorded_nowhere(
    console: Console, owner: httpx.Client, api: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    page = publish(console, owner, api)
    for target in ("/leak", "/leak?again=1"):
        done = console.send(owner, f"{page}/record", method="GET", target=target)
        assert done.status_code == 303, done.text
    assert KEY in api.headers[-1]["X-Key"]
    reader = console.api(Role.ADMIN)
    seen = [
        owner.get(page).text,
        owner.get(f"{page}/edit").text,
        owner.get("/listings/listings.csv").text,
        reader.get(f"/api{page}").text,
        everything_stored(console),
        caplog.text,
    ]
    for sample_id, body in rows(console, "SELECT id, body FROM sample"):
        seen += [owner.get(f"{page}/samples/{sample_id}").text, body.decode()]
    assert "X-Key" in seen[-1], "the upstream did tell it"
    for number, content in enumerate(seen):
        assert KEY not in content, number
    assert console.client(Role.ADMIN).get("/settings/audit").status_code == 200


def test_stored_credential_is_not_sent_to_another_server(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    """Else whoever may edit a listing could read the credential that nobody is shown."""
    page = publish(console, owner, api)
    with serve_weather() as thief:
        console.parts.shop.egress.allow_also([thief.url.removeprefix("http://")])
        given = {**details(thief), "credential_kind": "keep", "credential": "", "price": "1"}
        answer = console.send(owner, f"{page}/edit", **{**given, "spec": ""})
        assert answer.status_code == 422 and "give the credential again" in answer.text
        patched = console.api(Role.API_OWNER).patch(f"/api{page}", json={"base_url": thief.url})
        assert patched.status_code == 422, patched.text
        draft = draft_of(console.send(owner, "/listings/new", **details(api, name="Other")))
        moved = {**details(thief, name="Other"), "credential_kind": "keep", "credential": ""}
        assert console.send(owner, f"{draft}/edit", **moved).status_code == 422
        assert not thief.calls


def test_samples_keep_only_harmless_headers_and_limited_bodies(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    stored = rows(console, "SELECT headers FROM sample")
    assert all("session" not in row[0] and "10.0.0.7" not in row[0] for row in stored)
    answer = console.send(owner, f"{page}/record", method="GET", target="/big")
    assert answer.status_code == 422 and "more than 256 KiB" in answer.text
    for target in ("/../x", "/a%2fb", "no-slash", "/a b", "/{city}"):
        answer = console.send(owner, f"{page}/record", method="GET", target=target)
        assert answer.status_code == 422, target


def test_script_in_names_specs_and_samples_is_only_text(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    hostile = json.loads(spec_text())
    operation = hostile["paths"]["/forecast/{city}"]["get"]
    operation["summary"] = SCRIPT
    operation["parameters"][0]["description"] = SCRIPT
    hostile["paths"]["/~" + SCRIPT.replace("/", "")] = {
        "get": {"responses": {"200": {"description": SCRIPT}}}
    }
    page = publish(
        console,
        owner,
        api,
        name=f'W "{SCRIPT[:60]}',
        description=SCRIPT,
        tags=SCRIPT[:40],
        spec=json.dumps(hostile),
    )
    [sample_id] = rows(console, "SELECT id FROM sample WHERE target LIKE '/forecast%'")[0]
    shown = ["/listings", page, f"{page}/edit", f"{page}/delete", f"{page}/record"]
    for path in [*shown, f"{page}/samples/{sample_id}"]:
        html = owner.get(path).text
        assert "<script>" not in html.replace('<script type="module" src="/static/', ""), path
        assert "&lt;script&gt;" in html, path
    body = console.api(Role.VIEWER).get(f"/api{page}/samples/{sample_id}/body")
    assert body.headers["content-type"] == "application/octet-stream"
    assert body.headers["x-content-type-options"] == "nosniff"


def test_a_long_specification_is_checked_in_its_own_process() -> None:
    """Seconds of work would stop the whole node, paid calls included."""
    media = {"schema": {"properties": {name: {"type": "string"} for name in "abcde"}}}
    answers = {"200": {"description": "ok", "content": {"application/json": media}}}
    text_ = spec_text(paths={f"/{n}": {"get": {"responses": answers}} for n in range(1_000)})

    async def check() -> tuple[CheckedSpec, float]:
        task = asyncio.create_task(check_apart(text_, asyncio.Semaphore(1)))
        slowest = 0.0
        for _ in range(20):
            begun = time.perf_counter()
            await asyncio.sleep(0.01)
            slowest = max(slowest, time.perf_counter() - begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return CheckedSpec(""), slowest

    _, slowest = asyncio.run(check())
    assert slowest < 1.0


def test_viewer_sees_and_changes_nothing(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    viewer, finance = console.client(Role.VIEWER), console.client(Role.FINANCE)
    assert viewer.get(page).status_code == 200
    assert "Pause" not in viewer.get(page).text
    assert finance.get("/listings").status_code == 403
    for path in ("pause", "mode", "edit", "delete", "record", "health"):
        assert console.send(viewer, f"{page}/{path}").status_code == 403, path
    assert viewer.get("/listings/new").status_code == 403


def test_who_sells_does_not_switch_what_is_bought(console: Console, owner: httpx.Client) -> None:
    """An API owner may not spend: a bought listing that is put into production does."""
    bought = {"id": "lst_bought", "slug": "b", "name": "B", "base_url": "https://s.example/v1/b"}
    row = Listing(**bought, origin=ListingOrigin.REMOTE, mode=ListingMode.DEMO).model_dump()
    with console.engine.begin() as connection:
        connection.execute(insert(Listing), row)
    for name in ("lst_bought", "b"):
        for path, fields in (("mode", {"mode": "live"}), ("pause", {"paused": "yes"})):
            answer = console.send(owner, f"/listings/{name}/{path}", **fields)
            assert answer.status_code == 404, answer.text
    found = rows(console, "SELECT mode, paused FROM listing WHERE id = 'lst_bought'")
    assert found == [("demo", 0)]
    sample = {"id": "smp_paid", "listing_id": "lst_bought", "method": "GET", "template": "/x"}
    sample |= {"target": "/x", "status": 200, "headers": "[]", "body": b"{}"}
    sample |= {"request_headers": "[]", "request_type": "", "request_body": ""}
    with console.engine.begin() as connection:
        connection.execute(insert(Sample), sample | {"latency_us": 1, "recorded_at": 1})
    path = "/listings/lst_bought/samples/smp_paid"
    for what in ("record", "delete"):
        assert console.send(owner, f"{path}/{what}").status_code == 404
    with console.api(Role.API_OWNER) as program:
        assert program.delete(f"/api{path}").status_code == 404
        assert program.post(f"/api{path}/record").status_code == 404
        asked = [{"method": "GET", "target": "/x"}]
        assert program.post("/api/listings/lst_bought/samples", json=asked).status_code == 404
    assert rows(console, "SELECT id FROM sample") == [("smp_paid",)]


def test_pause_mode_and_edit_are_in_the_audit_trail(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    console.send(owner, f"{page}/pause", paused="yes")
    assert "Paused" in owner.get("/listings?status=paused").text
    console.send(owner, f"{page}/pause", paused="no")
    console.send(owner, f"{page}/mode", mode="demo")
    assert [each.demo for each in _own_listings(console.engine)] == [True]
    edited = {**details(api), "credential_kind": "keep", "credential": "", "spec": ""}
    changed = console.send(owner, f"{page}/edit", **edited, price="0.002")
    assert changed.status_code == 303, changed.text
    trail = rows(console, "SELECT action, actor_name, before, after FROM audit_entry ORDER BY id")
    actions = [row[0] for row in trail if row[0].split(".")[0] in ("listing", "draft", "sample")]
    assert actions == [
        "draft.start",
        "sample.record",
        "sample.record",
        "listing.publish",
        "listing.pause",
        "listing.resume",
        "listing.mode",
        "listing.change",
    ]
    [(_, who, before, after)] = [row for row in trail if row[0] == "listing.change"]
    assert who == "api_owner"
    assert json.loads(before)["price"] == "0.001" and json.loads(after)["price"] == "0.002"


def test_deleting_says_what_stays_and_needs_the_password(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    with console.engine.begin() as connection:
        row = {
            **dict.fromkeys(("channel_id", "payer", "payer_authorizer", "receiver"), "0x1"),
            **dict.fromkeys(("receiver_authorizer", "token", "salt"), "0x1"),
            "chain_id": 1,
            "withdraw_delay": 900,
            "state": "open",
            "balance_atoms": 5_000_000,
            "total_claimed_atoms": 1_000,
            "charged_atoms": 251_000,
            "signed_atoms": 251_000,
        }
        connection.execute(insert(SellerChannel), row)
        elsewhere = row | {"channel_id": "0x2", "chain_id": 2}  # where this node was before
        connection.execute(insert(SellerChannel), elsewhere)
    change_preference(console.engine, ShownCalls(chain_id=1), SYSTEM, 0)
    asked = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", owner.get(f"{page}/delete").text))
    assert "Payers hold 1 channel with this node, with 5 USDC in it" in asked
    assert "0.25 USDC are charged but not claimed yet" in asked
    refused = console.send(owner, f"{page}/delete", password="wrong")
    assert refused.status_code == 422 and len(_own_listings(console.engine)) == 1
    assert console.send(owner, f"{page}/delete", password=PASSWORD).status_code == 303
    assert _own_listings(console.engine) == ()
    assert rows(console, "SELECT COUNT(*) FROM sample") == [(0,)]
    assert rows(console, "SELECT charged_atoms FROM seller_channel") == [(251000,)] * 2


def test_upstream_that_fails_three_times_is_told_until_it_answers(
    console: Console, owner: httpx.Client, api: Weather
) -> None:
    page = publish(console, owner, api)
    controls = console.parts.controls
    run = health_job(controls.publisher, controls.alerts)

    def open_incidents() -> list[Any]:
        sql = "SELECT subject FROM notification WHERE rule = '{}' AND state != 'resolved'"
        return rows(console, sql.format(Rule.UPSTREAM_DOWN.value))

    asyncio.run(run())
    assert "up, " in owner.get(page).text and open_incidents() == []
    api.well = False
    for expected in (0, 0, 1, 1):
        asyncio.run(run())
        assert len(open_incidents()) == expected
    assert "answers 500" in owner.get(page).text
    assert "Down" in owner.get("/listings?status=down").text
    api.well = True
    asyncio.run(run())
    assert open_incidents() == []
    lines = rows(console, "SELECT type FROM event ORDER BY id")
    assert lines == [("upstream_down",), ("upstream_down_resolved",)]


def test_list_filters_pages_and_exports(console: Console, owner: httpx.Client) -> None:
    api = console.api(Role.API_OWNER)
    for number in range(30):
        made = api.post(
            "/api/listings",
            json={
                "name": f"Api number {number:02d}",
                "base_url": "https://api.example.com",
                "price_atoms": 1000 * number,
                "tags": ["even" if number % 2 == 0 else "odd"],
            },
        )
        assert made.status_code == 201, made.text
    first, second = owner.get("/listings").text, owner.get("/listings?page=2").text
    assert "Api number 00" in first and "Api number 29" not in first
    assert "Api number 29" in second
    found = api.get("/api/listings", params={"q": "odd", "page": 1}).json()
    assert (found["total"], len(found["items"])) == (15, 15)
    csv = owner.get("/listings/listings.csv?q=odd").text.splitlines()
    assert len(csv) == 16 and csv[1].split(",")[1] == "Api number 01"


def test_json_api_prices_every_operation_that_the_page_does(
    console: Console, owner: httpx.Client
) -> None:
    answers = {"responses": {"200": {"description": "ok"}}}
    named = {"in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Any] = {each: {"get": answers} for each in ("/café", "/日本", "/[x]|y")}
    for number, name in enumerate(("user id", "filter[x]", "größe")):
        paths[f"/by{number}/{{{name}}}"] = {
            "get": {**answers, "parameters": [{"name": name, **named}]}
        }
    client, prices = console.api(Role.API_OWNER), []
    for number, path in enumerate(paths):
        prices.append({"method": "GET", "path": path, "price_atoms": number + 1})
    given = {"name": "Odd paths", "base_url": "https://api.example.com", "price_atoms": 1000}
    made = client.post("/api/listings", json={**given, "spec": spec_text(paths=paths)})
    assert made.status_code == 201, made.text
    path = f"/api/listings/{made.json()['id']}"
    changed = client.patch(path, json={"routes": prices})
    assert changed.status_code == 200, changed.text
    found = {each["path"]: each["price_atoms"] for each in changed.json()["operations"]}
    assert {each["path"]: each["price_atoms"] for each in prices}.items() <= found.items()
    for bad in ("/a b", "/a?b", "/a#b", "/a\nb", "/{a/b}", "/{}", "/a{", "a"):
        refused = client.patch(path, json={"routes": [{**prices[0], "path": bad}]})
        assert refused.status_code == 422, bad


def test_json_api_registers_in_two_steps_too(console: Console, api: Weather) -> None:
    client = console.api(Role.API_OWNER)
    checked = client.post("/api/listings/validate", json={"spec": '{"openapi": "3.1.0"}'}).json()
    assert checked["operations"] == [] and checked["problems"][0]["pointer"]
    given = {
        "name": "Weather",
        "base_url": api.url,
        "health_path": "/stations",
        "credential": {"kind": "query", "name": "key", "value": KEY},
        "spec": spec_text(),
    }
    draft = client.post("/api/listings/drafts", json=given).json()
    assert draft["missing"] == ["Record 2 more samples."]
    early = client.post(f"/api/listings/drafts/{draft['id']}/publish", json={"price_atoms": 1})
    assert (early.status_code, early.json()["code"]) == (409, "draft_incomplete")
    wanted = [
        {"target": "/forecast/oslo"},
        {"method": "POST", "target": "/reports", "body": '{"sky": "grey"}'},
        {"target": "/nowhere"},
    ]
    done = client.post(f"/api/listings/{draft['id']}/samples", json=wanted).json()
    assert [bool(each["problem"]) for each in done] == [False, False, True]
    terms = {"price_atoms": 1000, "mode": "demo"}
    made = client.post(f"/api/listings/drafts/{draft['id']}/publish", json=terms)
    assert made.status_code == 201, made.text
    listing = client.get(f"/api/listings/{made.json()['listing_id']}").json()
    assert (listing["status"], listing["credential_kind"]) == ("demo", "query")
    assert {each["template"] for each in listing["recorded"]} == {"/forecast/{city}", "/reports"}
    assert KEY not in json.dumps(listing)
    assert client.get(f"/api/listings/{listing['id']}/openapi").json() == SPEC
    assert client.delete(f"/api/listings/{listing['id']}").status_code == 204
    assert client.get(f"/api/listings/{listing['id']}").status_code == 404
