"""What strangers list is taken as what it is: text, bounded, and never more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catalog.discovery import (
    MAX_PRICE_ATOMS,
    MAX_ROUTES,
    FoundListing,
    Payable,
    Reading,
    Unusable,
    clean,
    clean_tags,
    group,
    read_resource,
)
from catalog.drafts import Draft
from catalog.remote import make_spec
from catalog.schemas import bound, read_declaration
from finance.x402.extensions import bazaar_extension

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAYABLE = Payable("eip155:8453", USDC)
PAY_TO = "0x" + "ab" * 20


def item(url: str = "https://sell.example/v1/weather/now", **changes: Any) -> dict[str, Any]:
    offer = {
        "scheme": "exact",
        "network": "eip155:8453",
        "asset": USDC,
        "amount": "1000",
        "payTo": PAY_TO,
        **changes.pop("offer", {}),
    }
    return {
        "resource": url,
        "type": "http",
        "x402Version": 2,
        "accepts": [offer],
        "serviceName": "Weather",
        "tags": ["Sky", "sky", "rain"],
        "description": "Now",
        **changes,
    }


def grouped(*items: object) -> list[FoundListing]:
    reading = Reading()
    reading.take(items, PAYABLE)
    return group(reading.resources)[0]


def test_routes_of_one_service_are_one_listing_with_their_prices() -> None:
    get = bazaar_extension("GET", {"parameters": [{"name": "city", "in": "path"}]}, "/v1/x/:city")
    [listing] = grouped(
        item(),
        item("https://sell.example/v1/weather/far/{city}", offer={"amount": "9"}, extensions=get),
        item("https://sell.example/v1/weather"),
    )
    assert listing.base_url == "https://sell.example/v1/weather"
    assert listing.name == "Weather" and listing.tags == ("sky", "rain")
    prices = {(route.method, route.path): route.price_atoms for route in listing.routes}
    assert prices == {("*", "/"): 1000, ("*", "/now"): 1000, ("GET", "/far/{city}"): 9}
    assert listing.price_atoms == 1000


def test_resources_elsewhere_are_grouped_by_their_services_name() -> None:
    one, two, lone = grouped(
        item("https://a.example/api/cats/big", serviceName="Animals"),
        item("https://a.example/api/dogs", serviceName="animals"),
        item("https://b.example/api/dogs", serviceName="Animals"),
        item("https://a.example/lone", serviceName=None),
    )
    assert (one.base_url, len(one.routes)) == ("https://a.example/api", 2)
    assert two.base_url == "https://b.example/api/dogs"
    assert lone.base_url == "https://a.example/lone" and lone.name == "a.example/lone"


@pytest.mark.parametrize(
    "changes",
    [
        {"offer": {"amount": "0"}},
        {"offer": {"amount": "-5"}},
        {"offer": {"amount": 1000}},
        {"offer": {"amount": "1e3"}},
        {"offer": {"amount": str(MAX_PRICE_ATOMS + 1)}},
        {"offer": {"amount": "9" * 5000}},
        {"offer": {"amount": "١٠٠"}},
        {"offer": {"network": "solana:main"}},
        {"offer": {"asset": "0x" + "00" * 20}},
        {"offer": {"scheme": "trust-me"}},
        {"offer": {"payTo": "<script>"}},
        {"accepts": []},
        {"accepts": "all"},
        {"accepts": None},
        {"type": "mcp"},
        {"resource": None},
        {"resource": "javascript:alert(1)"},
        {"resource": "https://user:pw@sell.example/x"},
        {"resource": "https://sell.example/x?y=1"},
        {"resource": "https://sell.example/a/../b"},
        {"resource": "https://[::1"},
        {"resource": "https://sell.example/" + "a" * 2000},
        {"resource": "https://sell.example/a\nb"},
    ],
)
def test_resource_that_cannot_be_bought_or_is_absurd_is_left_out(changes: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        read_resource(item(**changes), PAYABLE)


@pytest.mark.parametrize("junk", [None, 7, "x", [], [[]], {"resource": 1}, {"accepts": {}}])
def test_items_of_wrong_types_are_counted_and_break_nothing(junk: object) -> None:
    reading = Reading()
    assert reading.take([junk, item()], PAYABLE) == 2
    assert len(reading.resources) == 1 and reading.skipped.total() == 1


def test_a_page_that_was_there_before_is_not_news() -> None:
    reading = Reading()
    assert reading.take([item(), None], PAYABLE) == 2
    assert reading.take([item(), None], PAYABLE) == 0


def test_texts_of_strangers_are_one_line_without_tricks_and_of_bounded_length() -> None:
    assert clean("a\u202eb\x00c\r\n d", 80) == "a b c d"
    assert len(clean("x" * 10_000, 80)) == 80
    assert clean({"a": 1}, 80) == ""
    assert len(clean_tags([f"tag {number}" for number in range(500)])) == 20
    assert clean_tags(["A", "a", 3, None, "  "]) == ("a",)
    # The catalog is asked for tags parted by commas, and an address added by hand is checked.
    found = clean_tags(["Weather, sea", "sea", "ß" * 40])
    assert found[:2] == ("weather", "sea")
    Draft("Weather", "weather", "https://sell.example", tags=found)


def test_service_of_thousands_of_routes_is_cut() -> None:
    many = [item(f"https://sell.example/v1/weather/{n}") for n in range(MAX_ROUTES + 50)]
    reading = Reading()
    reading.take(many, PAYABLE)
    [listing], skipped = group(reading.resources)
    assert len(listing.routes) == MAX_ROUTES and skipped.total() == 50


def test_farebox_base_that_is_not_above_its_resource_is_not_believed() -> None:
    foreign = {"farebox": {"base": "https://sell.example/v1/other", "demo": ["GET /now"]}}
    [listing] = grouped(item(extensions=foreign))
    assert listing.base_url == "https://sell.example/v1/weather" and listing.seller_demo
    behind = {"farebox": {"base": "https://sell.example/far/v1/weather", "demo": []}}
    [listing] = grouped(item("https://sell.example/far/v1/weather/now", extensions=behind))
    assert listing.base_url == "https://sell.example/far/v1/weather"
    assert not listing.seller_demo


def test_declaration_becomes_the_operation_it_was_made_from() -> None:
    operation = {
        "parameters": [
            {"name": "city", "in": "path", "schema": {"type": "string"}, "example": "Lisbon"},
            {"name": "days", "in": "query", "schema": {"type": "integer"}},
        ],
        "responses": {"200": {"content": {"application/json": {"example": {"sky": "blue"}}}}},
    }
    made = bazaar_extension("GET", operation, "/v1/weather/:city")["bazaar"]
    declaration = read_declaration(made)
    assert declaration is not None and declaration.method == "GET"
    names = {(each["in"], each["name"]) for each in declaration.operation["parameters"]}
    assert names == {("path", "city"), ("query", "days")}
    assert declaration.example == {"sky": "blue"}


def test_schema_bomb_is_dropped_or_cut_and_references_lead_nowhere() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"properties": {"a": deep}}
    assert bound(deep) is None
    assert bound({"a": "x" * 100_000}) is None
    wide = bound({str(n): n for n in range(3_000)})
    assert sum(value is not None for value in wide.values()) <= 2_000
    assert bound({"$ref": "https://evil.example", "b": {"$id": "x", "c": 1}}) == {"b": {"c": 1}}


def test_specification_made_of_declarations_is_openapi() -> None:
    extension = bazaar_extension("POST", {"requestBody": {"content": {"application/json": {}}}})
    [listing] = grouped(item(extensions=extension), item("https://sell.example/v1/weather"))
    document = json.loads(make_spec(listing))
    assert document["openapi"].startswith("3.1") and list(document["paths"]) == ["/now"]
    assert "post" in document["paths"]["/now"]
