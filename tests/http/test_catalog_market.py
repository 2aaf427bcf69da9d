"""The catalog between two nodes: what arrives from peers, how it is called in demo mode, and
what peers that mean harm achieve."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from catalog.discovery import Payable, group
from catalog.errors import PeerInvalid
from catalog.listings import compile_listings
from catalog.models import Sample
from catalog.peers import add_peer, read_peer
from catalog.samples import SampleRequest
from node.accounts.access import Role
from node.accounts.audit import SYSTEM
from node.alerts.alerts import Alerts
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.market import peers
from node.market.peer_reader import Bounds, PeerReader
from node.market.sync import Sync, SyncReport
from node.market.try_it import TryIt, Wanted
from node.proxy.sources import load_sources
from node.proxy.tryout import Tried
from tests.console_world import Console, serve_console
from tests.http.conftest import NETWORK, PRICE, Market, free_port, serving
from tests.http.scripted_seller import ScriptedSeller

SCRIPT = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
SPEC = json.dumps(
    {
        "openapi": "3.1.0",
        "info": {"title": "Weather", "version": "1"},
        "paths": {
            "/forecast/{city}": {
                "get": {
                    "summary": "A forecast",
                    "parameters": [
                        {"name": "city", "in": "path", "required": True, "example": "lisbon"}
                    ],
                    "responses": {"200": {"description": "ok"}},
                }
            }
        },
    }
)
BOUNDS = Bounds(
    page_bytes=200_000,
    page_items=50,
    pages=6,
    resources=400,
    answer_seconds=0.7,
    whole_seconds=3.0,
)


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    with serve_console(migrated_engine, tmp_path, allowed_hosts=["127.0.0.1"]) as console:
        yield console


def sync_of(engine: Engine, hosts: tuple[str, ...] = ("127.0.0.1",)) -> Sync:
    reader = PeerReader(lambda: EgressPolicy(hosts), BOUNDS)
    payable = Payable(NETWORK.caip2, NETWORK.usdc)
    return Sync(engine, reader, payable, Alerts(engine), "http://127.0.0.1:1")


async def read(engine: Engine, url: str, peer_id: str = "") -> tuple[str, SyncReport]:
    """One sync of a (new) peer at `url`."""
    if not peer_id:
        with writer(engine).begin() as connection:
            peer_id = add_peer(connection, url, "", 1).id
    return peer_id, await sync_of(engine).sync(peer_id, int(time.time()))


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def sell_weather(market: Market) -> None:
    market.sell("weather", spec=SPEC, description="Forecasts", tags='["sky"]')
    sample = Sample(
        id="smp-1",
        listing_id="id-weather",
        method="GET",
        template="/forecast/{city}",
        target="/forecast/lisbon",
        request_headers="[]",
        status=200,
        headers='[["content-type", "application/json"]]',
        body=b'{"sky": "recorded"}',
        latency_us=1,
        recorded_at=1_700_000_000,
    )
    market.gateway.reload(compile_listings(market.listings, market.prices, [sample]))


async def test_another_nodes_listings_arrive_in_demo_and_are_tried_without_paying(
    market: Market, console: Console
) -> None:
    sell_weather(market)
    admin = console.client(Role.ADMIN)

    async def send(path: str, **fields: str) -> httpx.Response:
        answer = await asyncio.to_thread(console.send, admin, path, **fields)
        assert answer.status_code == 303, answer.text
        return answer

    await send("/settings/network/peers", url=market.url, name="The seller")
    shown = await asyncio.to_thread(admin.get, "/catalog")
    assert "The weather" in shown.text and ">Demo<" in shown.text and "0.001 USDC" in shown.text
    [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
    page = (await asyncio.to_thread(admin.get, f"/catalog/{listing_id}")).text
    assert "GET /forecast/{city}" in page and "A forecast" not in page.split("<h1>")[0]
    tried = await send(
        f"/catalog/{listing_id}/try",
        **{"op": "GET /forecast/{city}", "path.city": "lisbon"},
    )
    result = (await asyncio.to_thread(admin.get, tried.headers["location"])).text
    assert "recorded" in result and "of the seller" in result and "0 USDC" in result
    assert rows(console.engine, "SELECT count(*) FROM purchase") == [(0,)]
    booked = "SELECT key_id, scheme, amount_atoms, status FROM call"
    assert rows(console.engine, booked) == [("console", "demo", 0, 200)]
    assert market.upstream.total == 0


async def test_api_searches_tries_and_says_what_a_listing_is(
    market: Market, console: Console
) -> None:
    sell_weather(market)
    api = console.api(Role.ADMIN)
    added = await asyncio.to_thread(
        lambda: api.post("/api/catalog", json={"url": f"{market.url}/v1/weather/forecast/lisbon"})
    )
    assert added.status_code == 201, added.text
    detail = added.json()
    assert detail["mode"] == "demo" and detail["base_url"].endswith("/v1/weather")
    assert detail["price_to_atoms"] == PRICE and detail["schemes"][0] == "batch-settlement"
    found = (await asyncio.to_thread(lambda: api.get("/api/catalog?q=weath&tag=sky"))).json()
    assert [each["id"] for each in found["items"]] == [detail["id"]]
    call = {
        "operation": "GET /forecast/{city}",
        "values": [{"place": "path", "name": "city", "value": "lisbon"}],
    }
    path = f"/api/catalog/{detail['id']}"
    tried = (await asyncio.to_thread(lambda: api.post(f"{path}/try", json=call))).json()
    assert (tried["status"], tried["demo"], tried["charged_atoms"]) == (200, True, 0)
    # A purchase is refused while the listing is in demo mode: it gives the sample as well.
    bought = (await asyncio.to_thread(lambda: api.post(f"{path}/buy", json=call))).json()
    assert bought["demo"] and bought["charged_atoms"] == 0
    refused = await asyncio.to_thread(
        lambda: console.api(Role.VIEWER).post(f"{path}/buy", json=call)
    )
    assert refused.status_code == 403
    assert rows(console.engine, "SELECT count(*) FROM purchase") == [(0,)]


async def test_an_address_is_the_same_however_it_is_typed(market: Market, console: Console) -> None:
    sell_weather(market)
    api, host = console.api(Role.ADMIN), market.url.removeprefix("http")
    typed = [f"HTTP{host}/v1/weather/forecast/lisbon?", f"http{host}/v1/weather/#"]
    added = [
        await asyncio.to_thread(lambda url=url: api.post("/api/catalog", json={"url": url}))
        for url in typed
    ]
    assert [each.status_code for each in added] == [201, 409]
    assert rows(console.engine, "SELECT base_url FROM listing") == [(f"http{host}/v1/weather",)]
    own = {"name": "Typed", "price_atoms": 1, "base_url": "https://api.example.com/v1?"}
    refused = await asyncio.to_thread(lambda: api.post("/api/listings", json=own))
    assert refused.status_code == 422


async def test_an_address_that_is_sold_with_a_slash_at_its_end_keeps_it(console: Console) -> None:
    port, api = free_port(), console.api(Role.ADMIN)
    async with serving(ScriptedSeller(), port):
        for url in (f"http://127.0.0.1:{port}/paid/", f"http://127.0.0.1:{port}/"):
            added = await asyncio.to_thread(
                lambda url=url: api.post("/api/catalog", json={"url": url})
            )
            assert added.status_code == 201
    called = [str(each.url("", "")) for each in load_sources(console.engine).values()]
    assert sorted(called) == [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/paid/"]


async def test_peer_that_goes_away_takes_nothing_with_it_and_comes_back(
    market: Market, migrated_engine: Engine
) -> None:
    sell_weather(market)
    peer_id, report = await read(migrated_engine, market.url)
    assert (report.error, report.added) == ("", 1)
    down = f"UPDATE peer SET url = 'http://127.0.0.1:{free_port()}/discovery/resources'"
    with writer(migrated_engine).begin() as connection:
        connection.execute(text(down))
    _, report = await read(migrated_engine, "", peer_id)
    assert "cannot be reached" in report.error
    online = "SELECT name, online FROM listing JOIN remote_listing ON id = listing_id"
    assert rows(migrated_engine, online) == [("The weather", 0)]
    incidents = "SELECT count(*) FROM notification WHERE rule = 'peer_unreachable'"
    assert rows(migrated_engine, incidents) == [(1,)]
    with writer(migrated_engine).begin() as connection:
        back = f"UPDATE peer SET url = '{market.url}/discovery/resources'"
        connection.execute(text(back))
    _, report = await read(migrated_engine, "", peer_id)
    assert (report.added, report.changed) == (0, 0)
    assert rows(migrated_engine, online) == [("The weather", 1)]


async def test_listing_that_is_sold_no_more_is_marked_and_a_new_price_arrives(
    market: Market, migrated_engine: Engine
) -> None:
    sell_weather(market)
    market.sell("other")
    peer_id, report = await read(migrated_engine, market.url)
    assert report.added == 2
    market.listings.pop()
    market.listings[0].price_atoms = 5 * PRICE
    market.reload()
    _, report = await read(migrated_engine, "", peer_id)
    assert (report.added, report.changed, report.offline) == (0, 1, 1)
    prices = "SELECT price_to_atoms FROM catalog_entry ORDER BY price_to_atoms"
    assert rows(migrated_engine, prices) == [(PRICE,), (5 * PRICE,)]


class Hostile:
    """A peer that answers every page with what `page` makes of its offset."""

    def __init__(self, page: Any) -> None:
        self.page, self.asked = page, 0

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked += 1
        query = dict(part.split("=") for part in scope["query_string"].decode().split("&") if part)
        made = self.page(int(query.get("offset", 0)))
        if made is None:
            await asyncio.sleep(30)
            return
        status, headers, body = made
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def hostile(page: Any) -> AsyncIterator[tuple[Hostile, str]]:
    port = free_port()
    peer = Hostile(page)
    async with serving(peer, port):
        yield peer, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("removed", [True, False])
async def test_a_peer_that_is_given_up_while_it_is_asked_is_no_trouble_any_more(
    migrated_engine: Engine, removed: bool
) -> None:
    """Nobody asks it again, so nothing would ever end the incident."""
    alarm = Alerts(migrated_engine)
    async with hostile(lambda _: None) as (silent, url):
        with writer(migrated_engine).begin() as connection:
            peer = add_peer(connection, url, "", 1)
        asking = asyncio.create_task(sync_of(migrated_engine).sync(peer.id, int(time.time())))
        while not silent.asked:
            await asyncio.sleep(0.01)
        if removed:
            peers.remove(migrated_engine, SYSTEM, peer.id, keep=False, now=1)
        else:
            peers.enable(migrated_engine, SYSTEM, peer.id, enabled=False, now=1)
        await peers.settle(alarm, peer)
        assert (await asking).error
    assert rows(migrated_engine, "SELECT id FROM notification WHERE resolved_at IS NULL") == []


def resource(number: int, **changes: Any) -> dict[str, Any]:
    offer = {
        "scheme": "exact",
        "network": NETWORK.caip2,
        "asset": NETWORK.usdc,
        "amount": "1000",
        "payTo": "0x" + "5e" * 20,
    }
    return {
        "resource": f"https://sell.example/service-{number}",
        "type": "http",
        "x402Version": 2,
        "accepts": [offer],
        "description": "A service",
        **changes,
    }


def ok(*items: object, **more: object) -> tuple[int, list[Any], bytes]:
    return 200, [], json.dumps({"x402Version": 2, "items": list(items), **more}).encode()


REFUSED = {
    "huge": (lambda _: (200, [], b'{"items": ["' + b"x" * 300_000 + b'"]}'), "larger than"),
    "slow": (lambda _: None, "in time"),
    "redirect": (lambda _: (302, [(b"location", b"http://169.254.169.254/")], b""), "redirects"),
    "no JSON": (lambda _: (200, [], b"<html>"), "not JSON"),
    "deep": (lambda _: (200, [], b"[" * 100_000), "not JSON"),
    "wrong types": (lambda _: (200, [], b'{"items": {"a": 1}}'), "no discovery endpoint"),
    "a list": (lambda _: (200, [], b"[1, 2]"), "no discovery endpoint"),
    "error": (lambda _: (500, [], b""), "status 500"),
    "compressed": (lambda _: (200, [(b"content-encoding", b"gzip")], b"x"), "compressed"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_peer_that_misbehaves_is_named_and_changes_nothing(
    migrated_engine: Engine, kind: str
) -> None:
    page, sentence = REFUSED[kind]
    async with hostile(page) as (_, url):
        _, report = await read(migrated_engine, url)
    assert sentence in report.error
    assert rows(migrated_engine, "SELECT count(*) FROM listing") == [(0,)]


async def test_list_without_an_end_is_read_to_a_bound(migrated_engine: Engine) -> None:
    def more(offset: int) -> Any:
        return ok(*(resource(offset + n) for n in range(50)), pagination={"total": 10**12})

    async with hostile(more) as (peer, url):
        peer_id, report = await read(migrated_engine, url)
    assert report.error == "" and peer.asked == BOUNDS.pages
    assert report.listings == BOUNDS.pages * 50
    with migrated_engine.connect() as connection:
        assert read_peer(connection, peer_id).listings == report.listings


async def test_a_list_of_riddles_is_read_to_a_bound_of_memory() -> None:
    """Of a page, its values may take twenty times the room; a peer may send hundreds."""
    asked = {"method": "GET", "queryParams": {f"k{n}": {} for n in range(900)}}
    riddle = {"bazaar": {"info": {"input": asked, "output": {"example": [[]] * 900}}}}

    def more(offset: int) -> Any:
        return ok(*(resource(offset + n, extensions=riddle) for n in range(10)))

    page = len(more(0)[2])
    slow = {"answer_seconds": 20.0, "whole_seconds": 60.0}  # memory is looked at
    bounds = replace(BOUNDS, pages=20, whole_bytes=5 * page, **slow)
    reader = PeerReader(lambda: EgressPolicy(("127.0.0.1",)), bounds)
    async with hostile(more) as (peer, url):
        tracemalloc.start()
        reading = await reader.read(url, Payable(NETWORK.caip2, NETWORK.usdc))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert not reading.whole and peer.asked == 5
    assert len(group(reading.resources)[0]) == 50
    assert kept < 10 * bounds.whole_bytes  # and what the peer itself has in memory


async def test_same_page_again_and_again_ends_the_list(migrated_engine: Engine) -> None:
    async with hostile(lambda _: ok(resource(1), resource(2), None, 7)) as (peer, url):
        _, report = await read(migrated_engine, url)
    assert peer.asked == 2 and report.listings == 2 and report.skipped == 2


async def test_a_peer_with_an_endless_address_keeps_no_other_from_being_read(
    database_url: str,
) -> None:
    engine = open_engine(database_url)
    upgrade(engine)
    signs = "".join(chr(0x4E00 + (7919 * n) % 20_000) for n in range(970))
    endless = resource(1, resource=f"https://sell.example/{signs}")
    async with (
        hostile(lambda _: ok(endless)) as (_, one),
        hostile(lambda _: ok(resource(2))) as (
            _,
            two,
        ),
    ):
        with writer(engine).begin() as connection:
            peers = [add_peer(connection, url, "", 1).id for url in (one, two)]
        await sync_of(engine).sync_due(int(time.time()))
    with engine.connect() as connection:
        assert [read_peer(connection, each).synced_at is None for each in peers] == [False, False]
    assert rows(engine, "SELECT base_url FROM listing") == [("https://sell.example/service-2",)]
    engine.dispose()


async def test_private_hosts_are_not_asked_unless_they_are_allowed(
    migrated_engine: Engine,
) -> None:
    async with hostile(lambda _: ok(resource(1))) as (peer, url):
        with writer(migrated_engine).begin() as connection:
            peer_id = add_peer(connection, url, "", 1).id
        report = await sync_of(migrated_engine, ()).sync(peer_id, 5)
    assert "private range" in report.error and "Settings > Network" in report.error
    assert peer.asked == 0


async def test_two_peers_that_list_the_same_make_one_listing(migrated_engine: Engine) -> None:
    other = ok(resource(1, description="Mine!"))
    async with hostile(lambda _: ok(resource(1))) as (_, one), hostile(lambda _: other) as (_, two):
        await read(migrated_engine, one)
        _, report = await read(migrated_engine, two)
    assert (report.added, report.changed, report.skipped) == (0, 0, 1)
    assert rows(migrated_engine, "SELECT description FROM listing") == [("A service",)]


@pytest.mark.parametrize("host", ["xn--é", "xn--a", "é" * 64 + ".example", "a\\b", "．"])
async def test_a_host_that_cannot_be_is_left_out_and_stops_no_other(
    migrated_engine: Engine, host: str
) -> None:
    listed = ok(resource(1, resource=f"https://{host}/x"), resource(2), resource(3))
    async with hostile(lambda _: listed) as (_, url):
        _, report = await read(migrated_engine, url)
    assert (report.error, report.added, report.skipped) == ("", 2, 1)
    with pytest.raises(PeerInvalid):
        await read(migrated_engine, f"https://{host}")
    with writer(migrated_engine).begin() as connection:  # as it was let in before
        let_in = text("UPDATE listing SET base_url = :url WHERE slug LIKE '%-3'")
        connection.execute(let_in, {"url": f"https://{host}/x"})
    assert list(load_sources(migrated_engine)) == ["sell-example-service-2"]


async def test_a_bought_answer_outlives_its_sellers_example_and_stops_no_sync(
    migrated_engine: Engine,
) -> None:
    bazaar = {
        "info": {
            "input": {"type": "http", "method": "GET"},
            "output": {"type": "json", "example": {"sky": "promised"}},
        }
    }

    async def buy(_slug: str, _request: SampleRequest, _demo: bool) -> Tried:
        headers = (("content-type", "application/json"), ("farebox-scheme", "exact"))
        return Tried("call-1", 200, headers, b'{"sky": "bought"}', True, 1)

    lists = [resource(1, extensions={"bazaar": bazaar})]
    async with hostile(lambda _: ok(*lists)) as (_, url):
        peer_id, _ = await read(migrated_engine, url)
        [(listing_id,)] = rows(migrated_engine, "SELECT id FROM listing")
        tried = await TryIt(migrated_engine, buy, buy).attempt(listing_id, Wanted("GET /"), False)
        assert tried.recorded
        lists[0] |= {"description": "Another service"}
        _, report = await read(migrated_engine, "", peer_id)
    assert (report.error, report.changed) == ("", 1)
    assert rows(migrated_engine, "SELECT body FROM sample") == [(b'{"sky": "bought"}',)]


async def test_a_seller_with_long_descriptions_is_read_by_its_peers(
    market: Market,
) -> None:
    def described(characters: int) -> dict[str, Any]:
        schema = {"type": "string", "description": "x" * characters}
        asked = [{"name": "q", "in": "query", "schema": schema}]
        return {"get": {"parameters": asked, "responses": {"200": {"description": "ok"}}}}

    paths = {f"/p{number}": described(50_000) for number in range(100)}
    paths["/endless"] = described(5_000_000)
    market.sell("long", spec=json.dumps({"openapi": "3.1.0", "paths": paths}))
    reader = PeerReader(lambda: EgressPolicy(("127.0.0.1",)))
    url = f"{market.url}/discovery/resources"
    reading = await reader.read(url, Payable(NETWORK.caip2, NETWORK.usdc))
    assert reading.whole and not reading.skipped
    assert {each.path.removeprefix("/v1/long") for each in reading.resources} > set(paths)
    assert sum(each.declaration is not None for each in reading.resources) == 100


@pytest.mark.parametrize("path", ["", "/api"])
async def test_a_seller_knows_best_what_it_sells_wherever_it_stands(
    migrated_engine: Engine, path: str
) -> None:
    """Also at the root of its host, and whoever has listed it first."""
    made: list[Any] = []
    async with hostile(lambda _: ok(*made)) as (_, first), hostile(lambda _: ok(*made)) as (_, own):
        for description in ("Hearsay", "As it is"):
            made[:] = [resource(1, resource=own + path, description=description)]
            _, report = await read(migrated_engine, first if description == "Hearsay" else own)
            assert (report.error, report.skipped) == ("", 0)
    assert rows(migrated_engine, "SELECT description FROM listing") == [("As it is",)]


async def test_script_in_names_tags_and_samples_stays_text_on_every_page(
    console: Console,
) -> None:
    bazaar = {
        "info": {
            "input": {"type": "http", "method": "GET", "queryParams": {SCRIPT: SCRIPT}},
            "output": {"type": "json", "example": {SCRIPT: SCRIPT}},
        },
        "schema": {"properties": {"input": {"properties": {"queryParams": {"type": "object"}}}}},
    }
    evil = resource(
        1,
        serviceName=SCRIPT,
        description=SCRIPT,
        tags=[SCRIPT, "=cmd()"],
        extensions={"bazaar": bazaar},
    )
    async with hostile(lambda _: ok(evil)) as (_, url):
        admin = console.client(Role.ADMIN)
        added = await asyncio.to_thread(
            console.send, admin, "/settings/network/peers", url=url, name=SCRIPT
        )
        assert added.status_code == 303
    [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
    for path in ("/catalog", f"/catalog/{listing_id}", "/settings/network"):
        shown = await asyncio.to_thread(admin.get, path)
        assert shown.status_code == 200
        assert "<script>alert" not in shown.text and "<img src=x" not in shown.text
        assert "&lt;script&gt;" in shown.text
    sheet = (await asyncio.to_thread(admin.get, "/catalog.csv")).text
    assert '"=cmd' not in sheet and ",=cmd" not in sheet


async def test_the_shown_curl_makes_the_call_that_the_form_makes(console: Console) -> None:
    asked = {
        "GET": {"queryParams": {"q": "a b'&c"}, "headers": {"X-Lang": "pt's", "X-Other": "1"}},
        "POST": {"bodyType": "json", "body": {"city": "Lisbon's $HOME"}},
        "PUT": {"bodyType": "text", "body": "@/etc/passwd"},
        "HEAD": {"queryParams": {"q": "1"}},
    }
    listed = [
        resource(
            1,
            resource=f"https://sell.example/v1/all/{method.lower()}",
            extensions={"bazaar": {"info": {"input": {"method": method, **given}}}},
        )
        for method, given in asked.items()
    ]
    seen: dict[str, tuple[Any, ...]] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        told = [headers.get(name) for name in ("authorization", "x-lang", "content-type")]
        seen[scope["method"]] = (scope["query_string"].decode(), body.decode(), *told)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    port = free_port()
    async with hostile(lambda _: ok(*listed)) as (_, url), serving(app, port):
        await read(console.engine, url)
        [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
        for method in asked:
            page = f"/catalog/{listing_id}?op={method}+/{method.lower()}"
            shown = (await asyncio.to_thread(console.client(Role.ADMIN).get, page)).text
            curl = html.unescape(shown.split("As an app calls it")[1].split(">", 2)[2])
            command = re.sub(r"http://[^/]+/call", f"http://127.0.0.1:{port}/call", curl)
            run = await asyncio.create_subprocess_exec(
                "bash", "-c", command.split("</pre>")[0], env={**os.environ, "FAREBOX_SECRET": "s"}
            )
            assert await asyncio.wait_for(run.wait(), 10) == 0
    assert seen == {
        "GET": ("q=a%20b%27%26c", "", "Bearer s", "pt's", None),
        "POST": ("", '{"city": "Lisbon\'s $HOME"}', "Bearer s", None, "application/json"),
        "PUT": ("", "@/etc/passwd", "Bearer s", None, "text/plain"),
        "HEAD": ("q=1", "", "Bearer s", None, None),
    }


async def test_a_path_that_ends_with_a_slash_is_listed_and_called_with_it(
    market: Market, console: Console
) -> None:
    market.sell("weather", spec=SPEC.replace("{city}", "{city}/"))
    await read(console.engine, market.url)
    [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
    page = f"/catalog/{listing_id}?op=GET+/forecast/%7Bcity%7D"
    shown = (await asyncio.to_thread(console.client(Role.ADMIN).get, page)).text
    assert "/the-weather/forecast/lisbon/ " in html.unescape(shown)


async def test_headers_that_an_api_asks_for_are_told_but_for_its_own_credential(
    market: Market, console: Console
) -> None:
    asked = [
        {"name": "city", "in": "path", "required": True, "example": "lisbon"},
        {"name": "X-Unit", "in": "header", "required": True, "example": "metric"},
        {"name": "X-Days", "in": "header", "schema": {"type": "integer"}, "example": 3},
        {"name": "x-key", "in": "header", "required": True, "example": "yours"},
        {"name": "Accept", "in": "header"},  # which counts for nothing there (OpenAPI 3.1)
    ]
    spec = json.loads(SPEC)
    spec["paths"]["/forecast/{city}"]["get"]["parameters"] = asked
    sealed = {"credential_kind": "header", "credential_name": "X-Key", "credential_secret": "00"}
    market.sell("weather", spec=json.dumps(spec), **sealed)
    await read(console.engine, market.url)
    [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
    api = console.api(Role.ADMIN)
    answer = await asyncio.to_thread(api.get, f"/api/catalog/{listing_id}")
    [operation, _] = answer.json()["operation_list"]
    fields = [(each["name"], each["required"], each["example"]) for each in operation["values"]]
    assert fields == [
        ("city", True, "lisbon"),
        ("X-Unit", True, "metric"),
        ("X-Days", False, ""),
    ]


async def test_demo_without_a_sample_is_404_and_free_and_the_own_example_is_given(
    console: Console,
) -> None:
    bazaar = {
        "info": {
            "input": {"type": "http", "method": "GET"},
            "output": {"type": "json", "example": {"answer": 42}},
        },
        "schema": {},
    }
    api = console.api(Role.ADMIN)
    listed = ok(resource(1, extensions={"bazaar": bazaar}))
    async with hostile(lambda _: listed) as (_, url):
        made = await asyncio.to_thread(lambda: api.post("/api/peers", json={"url": url}))
        await asyncio.to_thread(lambda: api.post(f"/api/peers/{made.json()['id']}/sync"))
    [(listing_id,)] = rows(console.engine, "SELECT id FROM listing")
    path = f"/api/catalog/{listing_id}/try"

    def attempt(**call: str) -> Any:
        return api.post(path, json=call).json()

    given = await asyncio.to_thread(lambda: attempt(operation="GET /"))
    assert (given["status"], given["source"]) == (200, "recorded here")
    none = await asyncio.to_thread(lambda: attempt(operation="any", path="/nothing"))
    assert (none["status"], none["error"]) == (404, "demo_not_recorded")
    assert rows(console.engine, "SELECT count(*) FROM purchase") == [(0,)]


def test_switch_star_and_removal_are_audited_and_need_their_roles(console: Console) -> None:
    add = "INSERT INTO listing (id, origin, slug, name, description, tags, base_url, price_atoms,"
    add += " mode, paused, credential_kind, credential_name, credential_secret, spec, health_path,"
    add += " created_at, updated_at) VALUES ('lst_1', 'remote', 'far', 'Far', '', '[]',"
    add += " 'https://far.example', 0, 'live', false, 'none', '', '', '', '', 1, 1)"
    with writer(console.engine).begin() as connection:
        connection.execute(text(add))
    user, viewer = console.client(Role.CONSUMER), console.client(Role.VIEWER)
    assert user.get("/catalog/lst_1").status_code == 200
    for path in ("mode", "star", "try", "buy", "remove"):
        refused = console.send(viewer, f"/catalog/lst_1/{path}", mode="demo")
        assert refused.status_code == 403, path
    assert console.send(user, "/catalog/lst_1/mode", mode="demo").status_code == 303
    assert console.send(user, "/catalog/lst_1/star", starred="on").status_code == 303
    assert "Far" in user.get("/catalog?mine=on").text
    assert "Far" not in viewer.get("/catalog?mine=on").text.split("<main", 1)[1]
    assert console.send(user, "/catalog/lst_1/remove").status_code == 303
    actions = rows(console.engine, 'SELECT action, "before", "after" FROM audit_entry ORDER BY id')
    changed = [each for each in actions if each[0].startswith("catalog.")]
    assert changed[0] == ("catalog.mode", '{"mode": "production"}', '{"mode": "demo"}')
    assert changed[1][0] == "catalog.remove"
    assert user.get("/catalog/lst_1").status_code == 404


def test_what_cannot_be_bought_or_read_is_said_beside_the_address(console: Console) -> None:
    user = console.client(Role.CONSUMER)
    for url in (
        "ftp://x",
        "https://a b",
        "http://u:p@x/y",
        "https://x/?q=1",
        "http://127.0.0.1:9/x",
    ):
        shown = console.send(user, "/catalog/add/look", url=url)
        assert shown.status_code == 422 and "field__error" in shown.text
        assert f'value="{url}"' in shown.text
    admin = console.client(Role.ADMIN)
    for url in ("ftp://x", "", "https://x/?a=1"):
        assert console.send(admin, "/settings/network/peers", url=url).status_code == 422
    hosts = console.send(
        admin, "/settings/network/hosts", hosts="10.0.0.1:8402\nno spaces allowed!"
    )
    assert hosts.status_code == 422 and "allowed!" in hosts.text
    assert console.send(admin, "/settings/network/interval", sync_minutes="7").status_code == 422
    kept = console.send(admin, "/settings/network/hosts", hosts="10.0.0.1:8402")
    assert kept.status_code == 303
    assert console.parts.shop.egress.allows("10.0.0.1", 8402)
