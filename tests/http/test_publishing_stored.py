"""Selling an API by its use cases, on either database, and by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from catalog.drafts import Draft, DraftCredential, DraftRoute, slug_of
from catalog.editing import read_samples
from catalog.errors import DraftIncomplete, ListingInvalid, ListingUnknown
from catalog.models import ListingMode, ListingOrigin
from catalog.samples import SampleRequest
from finance.money import Usdc
from node.accounts.audit import SYSTEM
from node.cli import app
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.market.drafts import Details, Terms, list_drafts, publish_draft, read_draft, save_draft
from node.market.health import look_at
from node.market.own_listings import ListingFilter, Status, list_own, read_own
from node.market.publisher import Publisher
from node.market.publishing import Change, change, farewell, pause, remove, sell, switch_mode
from node.market.samples import record_again, record_samples
from tests.publishing_world import KEY, SPEC_YAML, Weather, serve_weather, spec_text

NOW = 1_800_000_000


@pytest.fixture
def api() -> Iterator[Weather]:
    with serve_weather() as api:
        yield api


@pytest.fixture
def publisher(database_url: str, api: Weather) -> Iterator[Publisher]:
    engine = open_engine(database_url)
    upgrade(engine)
    egress = EgressPolicy([api.url.removeprefix("http://")])
    yield Publisher(engine, bytes.hex, bytes.fromhex, lambda: egress)
    engine.dispose()


def test_listings_are_found_by_what_is_read_of_them(publisher: Publisher) -> None:
    """Capitals and accents of any script count as little as in the catalog; signs are signs."""
    for name, tags in (("Écho Météo", ("Straße", "100%")), ("Wave", ("sea", 'the "best"'))):
        draft = Draft(name, slug_of(name), "http://127.0.0.1:9", tags=tags)
        sell(publisher, draft, ListingMode.LIVE, SYSTEM, NOW)
    found = {
        text: [row.name for row in list_own(publisher, ListingFilter(text), 1).items]
        for text in ("Écho", "ÉCHO MÉTÉO", "echo", "STRASSE", "straße", "100%", '"best"', "cho-m-t")
    }
    assert found == {text: ["Wave" if "best" in text else "Écho Météo"] for text in found}
    nothing = ("[", '", "', "u00e9", "ach")  # of how tags are stored, and across two of them
    assert [list_own(publisher, ListingFilter(text), 1).total for text in nothing] == [0] * 4


async def test_life_of_a_listing(publisher: Publisher, api: Weather) -> None:
    credential = DraftCredential("query", "key", KEY)
    details = Details("Weather", api.url, spec_text(), "", ("sea",), "/stations", credential)
    draft_id = await save_draft(publisher, None, details, SYSTEM, NOW)
    assert list_drafts(publisher)[0].missing == ("Record 2 more samples.",)
    terms = Terms(Usdc(1000), (DraftRoute("GET", "/forecast/{city}", Usdc(5)),))
    with pytest.raises(DraftIncomplete):
        publish_draft(publisher, draft_id, terms, SYSTEM, NOW)
    wanted = [
        SampleRequest("GET", "", "/forecast/oslo?days=2"),
        SampleRequest("GET", "", "/stations"),
    ]
    done = await record_samples(publisher, draft_id, wanted, SYSTEM, NOW)
    assert [each.problem for each in done] == ["", ""]
    [forecast, _] = read_draft(publisher, draft_id).samples
    assert (forecast.template, forecast.content_type) == (
        "/forecast/{city}",
        "application/json; charset=utf-8",
    )
    listing_id = publish_draft(publisher, draft_id, terms, SYSTEM, NOW)
    assert listing_id == draft_id
    with pytest.raises(ListingUnknown):
        read_draft(publisher, draft_id)
    [row] = list_own(publisher, ListingFilter("SEA", Status.LIVE), 1).items
    assert (row.price_from_atoms, row.price_to_atoms, row.samples) == (5, 1000, 2)
    assert (await look_at(publisher, listing_id, NOW)).up
    assert (await record_again(publisher, forecast.id, SYSTEM, NOW + 5)).problem == ""
    assert {each.recorded_at for each in read_samples(publisher.engine)} == {NOW, NOW + 5}
    change(publisher, listing_id, Change(price=Usdc(7), routes=()), SYSTEM, NOW)
    assert {each.price_atoms for each in read_own(publisher, listing_id).operations} == {7}
    with pytest.raises(ListingInvalid):
        change(publisher, listing_id, Change(base_url="https://example.com"), SYSTEM, NOW)
    switch_mode(publisher, "weather", ListingMode.DEMO, SYSTEM, NOW)
    pause(publisher, "Weather", True, SYSTEM, NOW)
    assert read_own(publisher, listing_id).line.status is Status.PAUSED
    assert farewell(publisher, listing_id).open_channels == 0
    assert remove(publisher, listing_id, SYSTEM, NOW) == 1
    assert read_samples(publisher.engine) == []


async def test_an_upstream_whose_path_is_of_any_script_is_asked_by_an_address(
    publisher: Publisher, api: Weather
) -> None:
    """Many servers refuse a request line that is not ASCII."""
    details = Details("Weather", f"{api.url}/städte", SPEC_YAML, health_path="/health")
    await save_draft(publisher, None, details, SYSTEM, NOW)
    assert api.targets == ["/st%C3%A4dte/health"]


@pytest.mark.parametrize("name", ["Weather", "weather"])
def test_a_name_that_a_stranger_gave_too_puts_neither_into_production(
    publisher: Publisher, name: str
) -> None:
    """What a peer lists may be called anything; in production it costs money."""
    draft = Draft("Weather", "weather", "http://127.0.0.1:9")
    own = sell(publisher, draft, ListingMode.DEMO, SYSTEM, NOW)
    theirs = replace(draft, origin=ListingOrigin.REMOTE)
    bought = sell(publisher, theirs, ListingMode.DEMO, SYSTEM, NOW)
    with pytest.raises(ListingInvalid, match=f"{own}.*sold.*{bought}.*bought"):
        switch_mode(publisher, name, ListingMode.LIVE, SYSTEM, NOW)
    assert switch_mode(publisher, own, ListingMode.LIVE, SYSTEM, NOW) == 1
    assert read_own(publisher, own).line.mode is ListingMode.LIVE


async def test_refused_draft_leaves_nothing_behind(publisher: Publisher, api: Weather) -> None:
    for wrong in (Details("ab", api.url, ""), Details("Name", "gopher://x", "")):
        with pytest.raises(ListingInvalid):
            await save_draft(publisher, None, wrong, SYSTEM, NOW)
    assert list_drafts(publisher) == ()
    with publisher.engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM audit_entry")) == 0


def test_commands_take_yaml_record_and_switch(
    tmp_path: Path, api: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"NETWORK": "devnet", "PASSPHRASE": "only for tests", "ALLOWED_HOSTS": "127.0.0.1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"FAREBOX_{name}", value)
    spec, runner = tmp_path / "openapi.yaml", CliRunner()
    spec.write_text(SPEC_YAML)

    def farebox(*words: str, code: int = 0, given: str = "") -> str:
        done = runner.invoke(app, words, input=given)
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.stdout

    farebox("init")
    credential = ("--auth-header", "X-Key", "--auth-value-stdin")
    added = ("listing", "add", "Weather", "--upstream", api.url, "--price", "0.001")
    farebox(*added, "--spec", str(spec), *credential, given=KEY + "\n")
    rows = json.loads(farebox("listing", "record", "weather", "/stations", "--json"))
    assert rows == [{"request": "GET /stations", "status": 200, "problem": ""}]
    [failed] = json.loads(farebox("listing", "record", "weather", "/nothing", "--json", code=1))
    assert "answered 404" in failed["problem"]
    farebox("listing", "mode", "weather", "demo")
    [row] = json.loads(farebox("listing", "list", "--json"))
    assert (row["mode"], row["paused"]) == ("demo", False)
    assert farebox("listing", "remove", "weather", "--json").strip() == '{"removed": 1}'
