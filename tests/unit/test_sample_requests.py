"""The request that a specification's examples make is one that its API takes."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.samples import fields_of, make_request


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


def test_of_a_list_the_first_entry_is_asked_for() -> None:
    """How several are joined depends on style and server; one is written alike in all."""
    assert asked({"example": ["rain", "wind"]}) == "/find?q=rain"
    assert asked({"schema": {"type": "array", "default": [3, 4]}}) == "/find?q=3"


def test_other_examples_are_asked_for_as_they_are_written() -> None:
    assert asked({"example": False}) == "/find?q=false"
    assert asked({"examples": {"none": {"value": 0}}}) == "/find?q=0"
    assert asked({"schema": {"enum": ["a b"]}}) == "/find?q=a%20b"
    assert asked({"schema": {"type": "string"}}) == "/find"
