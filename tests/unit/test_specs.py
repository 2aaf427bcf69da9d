"""A specification says what is wrong with it and where; a hostile one costs nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from catalog.errors import ListingInvalid
from catalog.operations import spec_operations
from catalog.reading import MAX_BYTES, pointer_of
from catalog.specs import check_spec, parse_spec
from catalog.words import operation_text
from tests.publishing_world import SPEC, SPEC_YAML, spec_text


def with_path(**operation: Any) -> str:
    return spec_text(paths={"/a": {"get": {"responses": {"200": {"description": ""}}} | operation}})


def bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        name, below = chr(97 + level), chr(96 + level)
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]")
    return "\n".join(lines)


def test_json_and_yaml_of_both_versions_are_taken() -> None:
    assert json.loads(parse_spec(spec_text())) == SPEC
    assert json.loads(parse_spec(spec_text(openapi="3.0.3")))["openapi"] == "3.0.3"
    document = json.loads(parse_spec(SPEC_YAML))
    assert list(document["paths"]["/stations"]["get"]["responses"]) == ["200"]
    assert document["info"]["version"] == "1"


def test_a_path_that_is_a_reference_has_its_operations() -> None:
    answers = {"responses": {"200": {"description": "ok"}}}
    shared = {"get": answers | {"summary": "Stations near"}, "post": answers}
    items = {"Shared": shared, "Again": {"$ref": "#/components/pathItems/Shared"}}
    paths = {
        "/near": {"$ref": "#/components/pathItems/Again"},
        "/far": {"$ref": "#/paths/~1near"},
    }
    spec = parse_spec(spec_text(paths=paths, components={"pathItems": items}))
    found = spec_operations(spec)
    assert set(found) == {(method, path) for method in ("GET", "POST") for path in paths}
    assert found["GET", "/far"]["summary"] == "Stations near"
    assert operation_text(spec)[1] == 4
    circle = spec_text(paths={"/a": {"$ref": "#/paths/~1b"}, "/b": {"$ref": "#/paths/~1a"}})
    assert "no operation" in str(check_spec(circle).problems[0])


def test_a_parameter_that_stands_in_another_operation_is_found() -> None:
    """As bundlers write what is used twice."""
    city = {"name": "city", "in": "path", "required": True, "schema": {"type": "string"}}
    elsewhere = {"$ref": "#/paths/~1now~1%7Bcity%7D/get/parameters/0"}
    answers = {"responses": {"200": {"description": "ok"}}}
    paths = {
        "/now/{city}": {"get": answers | {"parameters": [city]}},
        "/then/{city}": {"get": answers | {"parameters": [elsewhere]}},
    }
    found = spec_operations(parse_spec(spec_text(paths=paths)))
    assert found["GET", "/then/{city}"]["parameters"] == [city]


@pytest.mark.parametrize("written", ["%7bcity%7d~1at%20noon", "{city}~1at%20noon"])
def test_a_reference_is_read_as_the_fragment_of_an_address(written: str) -> None:
    """RFC 6901, section 6: percent-escapes of any sign, in either case."""
    answers = {"responses": {"200": {"description": "ok"}}}
    city = {"name": "city", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {
        "/now/{city}/at noon": {"parameters": [city], "get": answers | {"summary": "At noon"}},
        "/then/{city}": {"$ref": f"#/paths/~1now~1{written}"},
    }
    found = spec_operations(parse_spec(spec_text(paths=paths)))
    assert found["GET", "/then/{city}"]["summary"] == "At noon"


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": r"^(?<year>\d{4})-\p{L}+$"},  # as JavaScript has it
        {"type": "string", "format": "date-time", "default": "2026-01-01T00:00:00"},
        {"type": "string", "enum": ["a"], "default": ""},
        {"allOf": [{"properties": {"a": {}}}], "required": ["b"]},
    ],
)
def test_what_openapi_leaves_open_is_no_fault(version: str, schema: dict[str, Any]) -> None:
    assert parse_spec(spec_text(openapi=version, components={"schemas": {"Any": schema}}))


def test_a_default_of_another_type_is_a_fault_in_3_0_only() -> None:
    schemas = {"Days": {"type": "object", "properties": {"n": {"type": "integer", "default": "3"}}}}
    [problem] = check_spec(spec_text(openapi="3.0.3", components={"schemas": schemas})).problems
    assert problem.pointer == "/components/schemas/Days/properties/n/default"
    assert parse_spec(spec_text(openapi="3.1.0", components={"schemas": schemas}))


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_a_fault_of_a_schema_is_placed_where_it_stands(version: str) -> None:
    schemas = {"Wind": {"type": "object", "properties": {"knots": {"minimum": "0"}}}}
    media = {"schema": {"$ref": "#/components/schemas/Wind"}}
    answers = {"200": {"description": "", "content": {"application/json": media}}}
    paths = {"/wind": {"get": {"responses": answers}}}
    text = spec_text(openapi=version, paths=paths, components={"schemas": schemas})
    problems = check_spec(text.replace('"minimum"', '\n"minimum"')).problems
    places = {(each.pointer, each.line) for each in problems if "'0'" in each.message}
    assert places == {("/components/schemas/Wind/properties/knots/minimum", 2)}


@pytest.mark.parametrize("path", ["/stations?kind=dear", "/#Stations"])
def test_a_path_with_a_query_is_told_since_no_price_of_it_would_be_met(path: str) -> None:
    answers = {"responses": {"200": {"description": "ok"}}}
    [problem] = check_spec(
        spec_text(paths={"/a": {"get": answers}, path: {"get": answers}})
    ).problems
    assert problem.pointer == pointer_of(["paths", path]) and "query" in problem.message


def test_words_of_yaml_stay_words() -> None:
    text = SPEC_YAML.replace("{title: Weather,", "{title: no, description: 2026-11-21,")
    info = json.loads(parse_spec(text))["info"]
    assert info == {"title": "no", "description": "2026-11-21", "version": "1"}


def test_problems_say_where_they_are() -> None:
    text = json.dumps({**SPEC, "info": {"title": "x"}}, indent=1)
    [problem] = check_spec(text).problems
    assert (problem.pointer, problem.line) == ("/info", 3)
    assert "version" in problem.message
    [problem] = check_spec(SPEC_YAML.replace("description: All", "summary: All")).problems[:1]
    assert problem.pointer == "/paths/~1stations/get/responses/200"
    assert problem.line == 7
    with pytest.raises(ListingInvalid, match="line 3"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("hello", "OpenAPI 3.0 or 3.1"),
        ('{"openapi": "2.0"}', "OpenAPI 3.0 or 3.1"),
        ('{"openapi": "3.1.0", "paths": {}}', "no operation"),
        ('{"a": 1, "a": 2}', "twice"),
        ("a: 1\na: 2", "twice"),
        ('{"a": 1e999}', "too large"),
        ('{"a": NaN}', "NaN"),
        ("a: \0", "NUL"),
        ("a: *nowhere", "anchor"),
        ("? [1]\n: x", "key"),
        ('x: !!python/object/apply:os.system ["id"]', "OpenAPI"),
        ("a: [", "neither JSON nor YAML"),
        ('{"a": }', "not JSON"),
    ],
)
def test_what_is_no_specification_is_a_sentence(text: str, words: str) -> None:
    checked = check_spec(text)
    assert checked.spec == ""
    assert words in checked.problems[0].message


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "[" * 500_000,
        '{"a":' * 100_000,
        "- " * 50_000 + "x",
        "{a: " * 100_000,
        "a: &a {b: *a}",
        json.dumps(["x"] * 300_000),
        "x" * (MAX_BYTES + 1),
        "a: &a " + "x" * 500_000 + "\nb: [" + ", ".join(["*a"] * 5000) + "]",
    ],
    ids=["bomb", "json", "objects", "yaml", "flow", "loop", "many", "large", "long text"],
)
def test_hostile_documents_are_refused_at_once(text: str) -> None:
    begun = time.process_time()
    checked = check_spec(text)
    assert checked.spec == "" and checked.problems
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "other.yaml#/a", "//evil/x"],
)
def test_references_never_lead_out_of_the_document(target: str) -> None:
    text = with_path(responses={"200": {"$ref": target}})
    [problem] = check_spec(text).problems
    assert "leads out" in problem.message
    assert problem.pointer == "/paths/~1a/get/responses/200/$ref"


def hiding_places(target: str) -> Iterator[str]:
    """Documents with a reference where a word for values of any kind is a name, or is above it."""
    out = {"$ref": target}
    for version in ("3.0.3", "3.1.0"):
        for operation in (
            {"responses": {"default": out}},
            {"responses": {"default": {"description": "", "headers": {"X": out}}}},
        ):
            yield spec_text(openapi=version, paths={"/a": {"get": operation}})
        for schema in (
            {"properties": {"default": out}},
            {"properties": {"example": {"properties": {"properties": out}}}},
            {"default": out},
            {"allOf": [{"$ref": "#/components/schemas/B/default"}]},
        ):
            other = {"default": {"properties": {"x": out}}}
            schemas = {"A": schema, "B": other, "default": {"items": out, "type": "array"}}
            yield spec_text(openapi=version, components={"schemas": schemas})


def test_nothing_outside_of_a_document_is_fetched_wherever_its_reference_hides() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for text in hiding_places(f"http://127.0.0.1:{listener.getsockname()[1]}/secrets.json"):
            problems = check_spec(text).problems
            assert problems and all("out of this document" in each.message for each in problems)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_an_example_may_hold_what_is_no_reference() -> None:
    schema = {"type": "object", "example": {"$ref": "https://example.org", "$id": "x"}}
    assert check_spec(spec_text(components={"schemas": {"A": schema}})).problems == ()


def test_references_that_lead_nowhere_or_back_are_told() -> None:
    schemas = {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}
    found = check_spec(spec_text(components={"schemas": schemas})).problems
    assert {each.message.split("' ")[-1] for each in found} == {"leads back to itself."}
    [problem] = check_spec(with_path(parameters=[{"$ref": "#/components/x"}])).problems
    assert "nowhere" in problem.message


def test_schema_that_holds_itself_is_fine() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Tree"}}}
    text = spec_text(components={"schemas": {"Tree": tree}})
    assert check_spec(text).problems == ()


def test_references_that_fan_out_are_cut_when_operations_are_read() -> None:
    """A hundred references to a hundred references …: 10^12 values if written out."""
    schemas = {
        f"S{level}": {
            "type": "object",
            "properties": {
                f"p{n}": {"$ref": f"#/components/schemas/S{level + 1}"} for n in range(100)
            },
        }
        for level in range(6)
    }
    schemas["S6"] = {"type": "string"}
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}
    text = spec_text(
        paths={"/a": {"post": {"requestBody": body, "responses": {}}}},
        components={"schemas": schemas},
    )
    begun = time.process_time()
    assert ("POST", "/a") in spec_operations(text)
    assert time.process_time() - begun < 3


def test_script_in_a_specification_is_kept_as_text() -> None:
    text = with_path(summary="<script>alert(1)</script>")
    operation = spec_operations(parse_spec(text))["GET", "/a"]
    assert operation["summary"] == "<script>alert(1)</script>"
