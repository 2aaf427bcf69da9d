"""The catalog finds what is there, in a stable order, on both databases, whatever is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete, insert, text, update
from sqlmodel import col

from catalog.discovered import RemoteListing
from catalog.models import Listing, ListingOrigin
from catalog.search import PAGE, Query, Sort, Source, find_all, find_one, search
from catalog.search_index import refresh_index
from catalog.stars import set_star
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade

SPEC = {
    "openapi": "3.1.0",
    "paths": {"/orbit/{id}": {"get": {"operationId": "findSatellite", "summary": "Where it is"}}},
}

TYPED = [
    '"',
    "'",
    "weather'; DROP TABLE listing;--",
    'name:weather OR "',
    "weather*",
    "(weather",
    "weather AND",
    "NEAR(weather, 3)",
    "^weather",
    "-weather",
    "weather:*",
    "weather & !",
    "weather <-> x",
    "\\",
    "%",
    "_",
    "{",
    "weather\x00x",
    "𝔴eather",
    "🌦",
    ":",
    "listing_search MATCH 1",
    "weather)) UNION SELECT 1 --",
    "a" * 5000,
]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


def put(engine: Engine, listing_id: str, name: str, **fields: object) -> None:
    """A listing as somebody would have stored it."""
    remote = fields.pop("remote", False)
    online = fields.pop("online", True)
    row = {
        **Listing(
            id=listing_id, slug=listing_id, name=name, base_url=f"https://x/{listing_id}"
        ).model_dump(),
        "origin": ListingOrigin.REMOTE if remote else ListingOrigin.OWN,
        "updated_at": 1,
        **fields,
    }
    row["tags"] = json.dumps(fields.get("tags", []))
    with writer(engine).begin() as connection:
        connection.execute(insert(Listing), row)
        if remote:
            values = RemoteListing(
                listing_id=listing_id, base_url=row["base_url"], online=online, seen_at=1
            )
            connection.execute(insert(RemoteListing), values.model_dump())


def ids(engine: Engine, **asked: object) -> list[str]:
    refresh_index(writer(engine))
    return [each.id for each in search(engine, Query(**asked)).items]  # type: ignore[arg-type]


def test_name_counts_more_than_tag_than_description_than_operation(engine: Engine) -> None:
    put(engine, "op", "Orbits", spec=json.dumps(SPEC))
    put(engine, "text", "Sky", description="Every satellite, seen from here and from there")
    put(engine, "tag", "Space", tags=["satellite"])
    put(engine, "name", "Satellite")
    assert ids(engine, words="satellite") == ["name", "tag", "text"]
    assert ids(engine, words="findsatellite") == ["op"]
    assert ids(engine, words="orbit where") == ["op"]


def test_words_match_by_their_beginning_without_case_or_accents(engine: Engine) -> None:
    put(engine, "a", "Météo Évora", description="Previsões")
    for words in ("meteo", "METE", "évora météo", "previsoes", "  evo   met "):
        assert ids(engine, words=words) == ["a"], words
    assert ids(engine, words="eteo") == []


def test_signs_of_the_search_languages_are_letters_or_nothing(engine: Engine) -> None:
    put(engine, "a", "Weather")
    refresh_index(writer(engine))
    for typed in TYPED:
        assert search(engine, Query(words=typed)).total in (0, 1), typed
    assert search(engine, Query(words="weather")).total == 1


def test_pages_of_thirty_show_every_listing_once_in_every_order(engine: Engine) -> None:
    for number in range(70):
        put(
            engine,
            f"lst_{number:03}",
            f"Api {number % 7}",
            price_atoms=number % 5,
            created_at=number % 3,
        )
    refresh_index(writer(engine))
    for sort in Sort:
        for words in ("", "api"):
            asked = [search(engine, Query(words=words, sort=sort, page=n)) for n in (1, 2, 3)]
            assert [len(each.items) for each in asked] == [PAGE, PAGE, 10]
            shown = [found.id for each in asked for found in each.items]
            assert len(set(shown)) == 70
            assert [each.id for each in find_all(engine, Query(words=words, sort=sort))] == shown
    assert search(engine, Query(page=99)).page == 3


def test_five_orders(engine: Engine) -> None:
    put(engine, "b", "beta", price_atoms=30, created_at=1)
    put(engine, "a", "Alpha", price_atoms=20, created_at=2)
    put(engine, "c", "ćwikła", price_atoms=10, created_at=3)
    assert ids(engine, sort=Sort.NAME) == ["a", "b", "c"]
    assert ids(engine, sort=Sort.NEWEST) == ["c", "a", "b"]
    assert ids(engine, sort=Sort.PRICE_UP) == ["c", "a", "b"]
    assert ids(engine, sort=Sort.PRICE_DOWN) == ["b", "a", "c"]


def test_tags_combine_and_the_cloud_counts_what_is_left(engine: Engine) -> None:
    put(engine, "a", "One", tags=["Sea", "wind"])
    put(engine, "b", "Two", tags=["sea", "sun"])
    put(engine, "c", "Three", tags=["sun"])
    refresh_index(writer(engine))
    cloud = {each.tag: each.listings for each in search(engine, Query()).cloud}
    assert cloud == {"sea": 2, "sun": 2, "wind": 1}
    assert ids(engine, tags=("SEA",)) == ["a", "b"]
    both = search(engine, Query(tags=("sea", "sun")))
    assert [each.id for each in both.items] == ["b"]
    assert {each.tag: each.listings for each in both.cloud} == {"sea": 1, "sun": 1}


def test_filters_by_source_star_and_being_live(engine: Engine) -> None:
    put(engine, "own", "Own")
    put(engine, "paused", "Paused", paused=True)
    put(engine, "there", "There", remote=True)
    put(engine, "gone", "Gone", remote=True, online=False)
    with writer(engine).begin() as connection:
        set_star(connection, "ada", "gone", True, 1)
    assert ids(engine, source=Source.OWN) == ["own", "paused"]
    assert ids(engine, source=Source.SYNCED) == ["gone", "there"]
    assert ids(engine, live=True) == ["own", "there"]
    assert ids(engine, starred=True, user_id="ada") == ["gone"]
    assert ids(engine, starred=True, user_id="bob") == []
    assert {each.id: each.live for each in find_all(engine, Query())} == {
        "own": True, "paused": False, "there": True, "gone": False,
    }  # fmt: skip


def test_index_follows_every_change_and_forgets_what_is_gone(engine: Engine) -> None:
    put(engine, "a", "Before", tags=["old"])
    assert ids(engine, words="before") == ["a"]
    with writer(engine).begin() as connection:
        set_star(connection, "ada", "a", True, 1)
        changed = update(Listing).values(name="After", tags="[]", updated_at=2)
        connection.execute(changed)
    assert ids(engine, words="after") == ["a"] and ids(engine, words="before") == []
    assert ids(engine, tags=("old",)) == []
    with writer(engine).begin() as connection:
        connection.execute(delete(Listing).where(col(Listing.id) == "a"))
    assert refresh_index(writer(engine)) == 1 and refresh_index(writer(engine)) == 0
    assert ids(engine) == [] and find_one(engine, "a", "ada") is None
    with engine.connect() as connection:
        for table in ("star", "catalog_tag", "catalog_entry", "listing_search"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
