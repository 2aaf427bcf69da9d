"""Prices per minute, and the streams that are open, on pages, in files and in the JSON API."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Iterator
from io import StringIO

import httpx
import pytest
from sqlalchemy import insert

from catalog.models import Listing, ListingOrigin
from catalog.search_index import refresh_index
from node.accounts.access import Role
from node.console.listing_forms import price_field
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.usage.keys import create_key
from node.usage.models import Call
from node.usage.stream_rows import StreamSession
from tests.console_world import Console, serve_console

PAYER = "0x" + "ab" * 20
SPEC = {"openapi": "3.1.0", "info": {"title": "Live", "version": "1"}}
_GET = {"get": {"responses": {"200": {"description": "OK"}}}}
PATHS = {"/live": _GET, "/last": _GET}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("streams")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


def sell(console: Console) -> str:
    """A listing by the call with one route by the minute; its id."""
    with console.api(Role.ADMIN) as api:
        routes = [{"method": "GET", "path": "/live", "price_atoms": 20_000, "price_unit": "minute"}]
        made = api.post(
            "/api/listings",
            json={
                "name": f"Live {time.time_ns()}",
                "base_url": "https://api.example.com",
                "price_atoms": 1_000,
                "routes": routes,
                "spec": json.dumps({**SPEC, "paths": PATHS}),
            },
        )
        assert made.status_code == 201, made.text
    return str(made.json()["id"])


def typed_again(api: httpx.Client, listing_id: str) -> dict[str, str]:
    """What its form asks for besides prices, as the listing has it."""
    told = api.get(f"/api/listings/{listing_id}").json()
    return {"name": told["name"], "base_url": told["base_url"], "credential_kind": "none"}


def test_a_price_per_minute_is_kept_and_shown_wherever_a_price_is(console: Console) -> None:
    listing_id = sell(console)
    with console.api(Role.ADMIN) as api, console.client(Role.ADMIN) as client:
        told = api.get(f"/api/listings/{listing_id}").json()
        units = {each["path"]: each["price_unit"] for each in told["operations"]}
        assert units == {"/live": "minute", "/last": "call", "/*": "call"}
        assert (told["price_unit"], told["own_price_unit"]) == ("mixed", "call")
        page = client.get(f"/listings/{listing_id}").text
        assert "USDC per call or minute" in page and "per minute" in page
        refresh_index(writer(console.engine))
        seen = client.get(f"/catalog/{listing_id}", params={"op": "GET /live"}).text
        assert "per call or minute" in seen
        found = api.get(f"/api/catalog/{listing_id}").json()
        by_path = {each["path"]: each["price_unit"] for each in found["operation_list"]}
        assert by_path["/live"] == "minute" and by_path["/last"] == "call"


def test_the_form_takes_the_unit_of_each_price_and_gives_it_back(console: Console) -> None:
    listing_id = sell(console)
    with console.api(Role.ADMIN) as api, console.client(Role.ADMIN) as client:
        form = client.get(f"/listings/{listing_id}/edit").text
        assert 'value="0.02/minute"' in form
        fields = typed_again(api, listing_id)
        last = price_field("GET", "/last")
        typed = {"price": "0.5", "unit": "minute", last: "0.001", "routes": "* /a=2/minute"}
        path = f"/listings/{listing_id}/edit"
        saved = console.send(client, path, **fields, **typed)
        assert saved.status_code == 303, saved.text
        after = api.get(f"/api/listings/{listing_id}").json()
        assert (after["price_atoms"], after["own_price_unit"]) == (500_000, "minute")
        prices = {
            each["path"]: (each["price_atoms"], each["price_unit"]) for each in after["operations"]
        }
        assert prices["/a"] == (2_000_000, "minute") and (1_000, "call") in prices.values()
        wrong = console.send(client, path, **fields, **{**typed, last: "1/week"})
        assert wrong.status_code == 422 and "per call or per minute" in wrong.text


def test_a_form_that_was_open_while_the_specification_changed_prices_no_other_operation(
    console: Console,
) -> None:
    listing_id = sell(console)
    path = f"/listings/{listing_id}/edit"
    with console.api(Role.ADMIN) as api, console.client(Role.ADMIN) as client:
        form = {**typed_again(api, listing_id), "price": "0.001", "unit": "call"}
        last, live = re.findall(r'name="(price-[^"]+)"', client.get(path).text)
        more = json.dumps({**SPEC, "paths": {"/all": _GET, **PATHS}})
        assert console.send(client, path, **form, spec=more).status_code == 303
        typed = {last: "0.05", live: "0.02/minute"}
        assert console.send(client, path, **form, **typed).status_code == 303
        after = api.get(f"/api/listings/{listing_id}").json()["operations"]
        prices = {each["path"]: (each["price_atoms"], each["price_unit"]) for each in after}
        assert prices["/last"] == (50_000, "call") and prices["/live"] == (20_000, "minute")
        assert prices["/*"] == (1_000, "call") == prices.get("/all", (1_000, "call"))
        less = json.dumps({**SPEC, "paths": {"/live": _GET}})
        assert console.send(client, path, **form, spec=less).status_code == 303
        stale = console.send(client, path, **form, **typed)
        assert stale.status_code == 422 and "was changed meanwhile" in stale.text


def test_a_price_is_not_set_back_by_a_form_that_was_open_while_it_was_raised(
    console: Console,
) -> None:
    listing_id = sell(console)
    path = f"/listings/{listing_id}/edit"
    with console.api(Role.ADMIN) as api, console.client(Role.ADMIN) as client:
        form = {**typed_again(api, listing_id), "price": "0.001", "unit": "call"}
        form |= {"description": "Typed in another tab."}
        [seen] = re.findall(r'name="seen" value="(\d+)"', client.get(path).text)
        assert api.patch(f"/api/listings/{listing_id}", json={"price_atoms": 70_000}).is_success
        stale = console.send(client, path, **form, seen=seen)
        assert stale.status_code == 422 and "changed after this page was made" in stale.text
        assert "Typed in another tab." in stale.text
        assert api.get(f"/api/listings/{listing_id}").json()["price_atoms"] == 70_000
        [seen] = re.findall(r'name="seen" value="(\d+)"', stale.text)
        assert console.send(client, path, **form, seen=seen).status_code == 303
        assert api.get(f"/api/listings/{listing_id}").json()["price_atoms"] == 1_000


def test_live_streams_stand_on_both_pages_with_what_they_paid(console: Console) -> None:
    listing_id, now = sell(console), int(time.time())
    made = create_key(console.engine, "Stream app", now)
    with writer(console.engine).begin() as rows:
        bought = Listing(
            id="lst_bought", slug="bought", name="Bought feed", base_url="https://s.example/v1/x"
        )
        bought.origin = ListingOrigin.REMOTE
        rows.execute(insert(Listing), [bought.model_dump()])
        for side, listing, key, payer in (
            ("served", listing_id, None, PAYER),
            ("bought", "lst_bought", made.id, None),
        ):
            rows.execute(insert(StreamSession), [_session(side, listing, key, payer, now)])
            rows.execute(insert(Call), [_call(f"{side}-1", side, listing, key, payer, now)])
    with console.api(Role.VIEWER) as api, console.client(Role.VIEWER) as client:
        for page, place in (
            (f"/listings/{listing_id}", f"/api/listings/{listing_id}/streams"),
            (f"/developers/keys/{made.id}", f"/api/usage/keys/{made.id}/streams"),
        ):
            (told,) = api.get(place).json()["items"]
            # Its opening and two minutes more.
            assert (told["paid_atoms"], told["minute_atoms"]) == (60_000, 20_000)
            assert told["paid_until"] == now - 130 + 180 and told["seconds"] >= 130
            shown = client.get(page).text
            assert "Live streams" in shown and "0.06" in shown and "WebSocket" in shown
            (line,) = csv.DictReader(StringIO(client.get(f"{page}/streams.csv").text))
            assert (line["paid_usdc"], line["usdc_per_minute"]) == ("0.06", "0.02")
        assert PAYER in client.get(f"/listings/{listing_id}").text
        assert "Bought feed" in client.get(f"/developers/keys/{made.id}").text


def _session(
    side: str, listing: str, key: str | None, payer: str | None, now: int
) -> dict[str, object]:
    return {
        "id": f"{side}-1",
        "side": side,
        "listing_id": listing,
        "key_id": key,
        "payer": payer,
        "kind": "websocket",
        "started_at": now - 130,
        "last_tick_at": now - 5,
        "seconds": 125,
        "state": "open",
        "owner": 1,
        "minute_atoms": 20_000,
        "paid_until": now - 130 + 180,
    }


def _call(
    call_id: str, side: str, listing: str, key: str | None, payer: str | None, now: int
) -> dict[str, object]:
    row = Call(
        id=call_id,
        side=side,
        at_ms=(now - 130) * 1000,
        listing_id=listing,
        method="GET",
        path="/live",
        status=101,
        latency_us=1_000,
        key_id=key,
        payer=payer,
        scheme="batch-settlement",
        amount_atoms=20_000,
    )
    return row.model_dump()
