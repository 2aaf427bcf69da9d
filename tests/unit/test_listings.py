"""What a request costs, whichever way its path is written."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.drafts import parse_route
from catalog.errors import ListingInvalid
from catalog.listings import PathAmbiguous, PricedListing, compile_listing, split_path
from catalog.models import Listing, RoutePrice
from node.console.listing_forms import price_fields

DEFAULT = 7


def compiled(*prices: tuple[str, str, int], spec: object = None) -> PricedListing:
    listing = Listing(
        id="l",
        slug="api",
        name="API",
        base_url="https://api.example",
        price_atoms=DEFAULT,
        spec=json.dumps(spec) if spec else "",
    )
    rows = [RoutePrice(listing_id="l", method=m, path=p, price_atoms=a) for m, p, a in prices]
    return compile_listing(listing, rows)


def cost(listing: PricedListing, method: str, path: str) -> int | None:
    route = listing.match(method, split_path(path.encode()))
    return None if route is None else route.price_atoms


def test_the_most_particular_route_counts() -> None:
    listing = compiled(
        ("GET", "/users/{id}", 2),
        ("GET", "/users/me", 3),
        ("*", "/files/{name}.json", 4),
        ("GET", "/files/{name}", 5),
        ("POST", "/all/*", 6),
    )
    assert cost(listing, "GET", "/users/1") == 2
    assert cost(listing, "GET", "/users/ME") == 3
    assert cost(listing, "GET", "/files/a.json") == 4
    assert cost(listing, "GET", "/files/a") == 5
    assert cost(listing, "POST", "/all/of/it") == 6
    assert cost(listing, "GET", "/all/of/it") == DEFAULT
    assert cost(listing, "POST", "/users/1") == DEFAULT
    assert cost(listing, "GET", "/") == DEFAULT


def test_in_another_case_a_request_costs_the_dearer_of_what_it_may_reach() -> None:
    """An API may tell letters by their case, or not: `/Status` may be a city there."""
    listing = compiled(
        ("GET", "/{city}", 50_000),
        ("GET", "/status", 10),
        ("GET", "/Dear", 90_000),
        ("GET", "/files/{name}", 20),
        ("GET", "/files/{name}.json", 5),
        ("OPTIONS", "/free", 3),
    )
    assert cost(listing, "GET", "/status") == 10
    assert cost(listing, "GET", "/Status") == 50_000
    assert cost(listing, "GET", "/Dear") == cost(listing, "GET", "/dEAR") == 90_000
    assert cost(listing, "GET", "/files/a.json") == 5
    assert cost(listing, "GET", "/files/a.JSON") == 20
    assert cost(listing, "OPTIONS", "/Free") == 3


def test_of_two_prices_for_one_path_the_dearer_counts_in_any_order() -> None:
    prices = [
        ("GET", "/Dear", 9),
        ("GET", "/dear", 3),
        ("POST", "/u/{id}", 8),
        ("POST", "/u/{name}/", 2),
    ]
    spec = {"paths": {"/DEAR": {"get": {}}, "/u/{x}": {"post": {}}}}
    for order in (prices, prices[::-1]):
        listing = compiled(*order, spec=spec)
        assert cost(listing, "GET", "/Dear") == cost(listing, "GET", "/DEAR") == 9
        assert cost(listing, "POST", "/u/1") == 8


def test_head_costs_what_get_does_and_preflights_nothing_unless_priced() -> None:
    listing = compiled(("GET", "/a", 3), ("*", "/b", 4), ("OPTIONS", "/c", 5))
    assert cost(listing, "HEAD", "/a") == 3
    assert cost(listing, "OPTIONS", "/a") is None
    assert cost(listing, "OPTIONS", "/b") is None
    assert cost(listing, "OPTIONS", "/c") == 5
    spec = {"paths": {"/a": {"get": {}, "head": {}}}}
    routes = compiled(("GET", "/a", 3), spec=spec).routes
    shown = {(route.method, route.template): route.price_atoms for route in routes}
    assert shown["HEAD", "/a"] == shown["GET", "/a"] == 3
    assert list(price_fields(json.dumps(spec))) == [("GET", "/a")]
    with pytest.raises(ListingInvalid, match="price GET /a"):
        parse_route("HEAD /a=0.01")


def test_a_route_of_the_spec_costs_what_its_price_says_whatever_its_parameter_is_called() -> None:
    spec = {"paths": {"/a/{x}": {"get": {}, "post": {}}, "/b": {"get": {}}}}
    listing = compiled(("*", "/a/{y}", 3), ("POST", "/a/{z}", 4), spec=spec)
    assert cost(listing, "GET", "/a/1") == 3
    assert cost(listing, "POST", "/a/1") == 4
    assert cost(listing, "GET", "/b") == DEFAULT


def test_an_escaped_price_is_met_however_its_path_is_written() -> None:
    spec = {"paths": {"/café": {"get": {}}, "/50%25": {"get": {}}}}
    prices = (("GET", "/caf%C3%A9", 3), ("*", "/x%20y/{id}", 4), ("GET", "/{id}%2A", 5))
    listing = compiled(*prices, ("GET", "/50%25", 6), spec=spec)
    assert cost(listing, "GET", "/caf%c3%a9") == cost(listing, "GET", "/%63af%C3%A9") == 3
    assert cost(listing, "PUT", "/x%20y/1") == 4
    assert cost(listing, "GET", "/1*") == cost(listing, "GET", "/1%2a") == 5
    assert cost(listing, "GET", "/50%25") == 6


@pytest.mark.parametrize("typed", ["/users/{id}/", "/users/{id}"])
def test_a_price_may_be_typed_as_the_specification_writes_its_path(typed: str) -> None:
    route = parse_route(f"GET {typed}=0.01")
    spec = {"paths": {"/users/{id}/": {"get": {}}}}
    listing = compiled((route.method, route.path, int(route.price)), spec=spec)
    assert cost(listing, "GET", "/users/1/") == cost(listing, "GET", "/users/1") == 10_000
    assert len(listing.routes) == 2  # and all the rest


@pytest.mark.parametrize(
    "path", ["//a", "/a//b", "/a/../b", "/%2e%2e/a", "/a%2fb", "/a;b", "/a%5cb", "/%252e", "/a%0d"]
)
def test_paths_with_two_readings_are_refused(path: str) -> None:
    with pytest.raises(PathAmbiguous):
        split_path(path.encode())


def test_a_strangers_template_takes_no_time_to_be_matched() -> None:
    """Sellers write the paths of what is bought, and a call is matched on the loop."""
    woven = "/" + "".join(f"{{p{n}}}x" for n in range(12))
    listing = compiled(("GET", woven, 3), ("GET", "/" + "{a}{b}" * 40 + ".y", 4))
    began = time.perf_counter()
    assert cost(listing, "GET", "/" + "x" * 2_000 + "z") == DEFAULT
    assert cost(listing, "GET", "/" + "ax" * 500) == 3
    assert cost(listing, "GET", "/" + "x" * 500 + ".y") == 4
    assert time.perf_counter() - began < 1


@given(
    st.lists(st.text("ab", max_size=2), min_size=2, max_size=5),
    st.text("ab", min_size=1, max_size=9),
)
def test_parameters_take_whatever_leaves_the_rest(parts: list[str], segment: str) -> None:
    listing = compiled(("GET", "/" + "{x}".join(parts), 3))
    fits = re.fullmatch(".+".join(parts), segment)
    assert cost(listing, "GET", f"/{segment}") == (3 if fits else DEFAULT)


@given(st.binary(max_size=60))
def test_no_path_crashes_or_leaves_a_dot_segment(path: bytes) -> None:
    try:
        segments = split_path(b"/" + path)
    except PathAmbiguous:
        return
    assert all(segment not in ("", ".", "..") and "/" not in segment for segment in segments)


def test_a_spec_that_refers_to_itself_compiles() -> None:
    spec = {
        "paths": {"/a": {"get": {"requestBody": {"$ref": "#/components/x"}}}},
        "components": {"x": {"schema": {"$ref": "#/components/x"}}},
    }
    assert cost(compiled(spec=spec), "GET", "/a") == DEFAULT
