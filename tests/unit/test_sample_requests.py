"""The request that a specification's examples make is one that its API takes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from catalog.operations import Operation, spec_operations
from catalog.samples import FORM_TYPE, JSON_TYPE, fields_of, gives_away, make_request
from catalog.schemas import read_declaration
from finance.x402.extensions import bazaar_extension


def asked(*parameters: dict[str, Any]) -> str:
    """Path and query of the request with every example as it is filled in."""
    operation = {"parameters": [{"name": "q", "in": "query", **each} for each in parameters]}
    fields = fields_of(operation)
    values = {(each.place, each.name): each.example for each in fields}
    return make_request("GET", "/find", fields, values).target


@pytest.mark.parametrize(
    "parameter",
    [{"schema": {"type": "string", "default": ""}}, {"schema": {"type": "array", "default": []}}],
)
def test_an_example_that_is_empty_asks_for_nothing(parameter: dict[str, Any]) -> None:
    """As FastAPI writes `q: str = ""`: two quotation marks are another question."""
    assert asked(parameter) == "/find"


def test_a_path_of_any_script_is_asked_for_as_an_address() -> None:
    [city] = fields_of({"parameters": [{"name": "straße", "in": "path", "example": "Ä b"}]})
    values = {("path", "straße"): city.example}
    request = make_request("GET", "/städte/{straße}/um 12%20Uhr", [city], values)
    assert request.target == "/st%C3%A4dte/%C3%84%20b/um%2012%20Uhr"
    assert request.template == "/städte/{straße}/um 12%20Uhr"


def body_of(operation: Operation) -> tuple[str, str]:
    """Content type and body of the request with the example as it is filled in."""
    fields = fields_of(operation)
    values = {(each.place, each.name): each.example for each in fields}
    request = make_request("POST", "/send", fields, values)
    return request.content_type, request.body


def operation_with(media_type: str) -> dict[str, Any]:
    properties = {
        "To": {"type": "string", "example": "+351 21"},
        "urgent": {"type": "boolean", "example": True},
        "tags": {"type": "array", "example": ["a", "b"]},
    }
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"content": {media_type: {"schema": schema}}}}


def test_a_form_is_filled_in_as_one_here_and_at_other_nodes() -> None:
    operation = operation_with(FORM_TYPE)
    assert body_of(operation) == (FORM_TYPE, "To=%2B351+21&urgent=true&tags=a&tags=b")
    declared = read_declaration(bazaar_extension("POST", operation)["bazaar"])
    assert declared is not None and body_of(declared.operation) == body_of(operation)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/v1+json"])
def test_json_by_another_name_is_sent_under_it_and_told_to_other_nodes(media_type: str) -> None:
    operation = operation_with(media_type)
    sent, body = body_of(operation)
    assert sent == media_type and json.loads(body)["tags"] == ["a", "b"]
    declared = read_declaration(bazaar_extension("POST", operation)["bazaar"])
    assert declared is not None and body_of(declared.operation) == (JSON_TYPE, body)


def test_of_a_list_the_first_entry_is_asked_for() -> None:
    """How several are joined depends on style and server; one is written alike in all."""
    assert asked({"example": ["rain", "wind"]}) == "/find?q=rain"
    assert asked({"schema": {"type": "array", "default": [3, 4]}}) == "/find?q=3"


def test_an_object_is_asked_for_by_its_properties_and_json_as_json() -> None:
    """As OpenAPI sends them: `filter[city]=Oslo`, and `near={"lat": 60}` in one value."""
    city = {"type": "string", "description": "Where"}
    schema = {"type": "object", "properties": {"city": city, "days": {"default": 3}}}
    deep = {"name": "filter", "in": "query", "required": True, "style": "deepObject"}
    deep |= {"schema": schema | {"required": ["city"]}, "example": {"city": "Oslo"}}
    content = {"application/json": {"schema": {"type": "object"}, "example": {"lat": 60}}}
    parameters = [deep, {"name": "near", "in": "query", "content": content}]
    paths = {"/find": {"get": {"parameters": parameters, "responses": {}}}}
    operation = spec_operations(json.dumps({"openapi": "3.1.0", "paths": paths}))["GET", "/find"]
    told = [(each.name, each.required, each.description) for each in fields_of(operation)]
    assert told[0] == ("filter[city]", True, "Where") and told[1][:2] == ("filter[days]", False)
    sent = asked(*operation["parameters"])
    assert parse_qsl(sent.partition("?")[2]) == [
        ("filter[city]", "Oslo"),
        ("filter[days]", "3"),
        ("near", '{"lat": 60}'),
    ]


def test_other_examples_are_asked_for_as_they_are_written() -> None:
    assert asked({"example": False}) == "/find?q=false"
    assert asked({"examples": {"none": {"value": 0}}}) == "/find?q=0"
    assert asked({"schema": {"enum": ["a b"]}}) == "/find?q=a%20b"
    assert asked({"schema": {"type": "string"}}) == "/find"


@pytest.mark.parametrize(
    ("value", "told"),
    [(b"on", True), (b"key=on;", True), (b"application/json", False), (b"once", False)],
)
def test_a_short_credential_is_told_by_a_word_of_its_own(value: bytes, told: bool) -> None:
    assert gives_away(value, [b"on"]) is told
