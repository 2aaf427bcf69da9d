"""The JSON API keeps what its document says, whatever it is sent: no 5xx, no other shape.

`make soak` sends it things for ten minutes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from node.accounts.access import Role
from node.db.engine import open_engine
from node.db.migrations import upgrade
from tests.console_world import Console, serve_console

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
EXAMPLES = 4  # of each operation, and in `make soak` again for so long
SHARES = 4
SECONDS = 600 / SHARES if SOAK else 0
# The chain does not answer in this world: that is said with 503, as the document says.
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("node")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


@pytest.fixture(scope="module")
def token(console: Console) -> str:
    with console.api(Role.ADMIN) as client:
        return str(client.headers["authorization"])


@pytest.fixture(scope="module")
def document(console: Console) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{console.url}/api/openapi.json")


@pytest.mark.parametrize("share", range(SHARES))
def test_answers_are_what_the_document_says(
    console: Console, document: schemathesis.BaseSchema, token: str, share: int
) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    until = time.monotonic() + SECONDS
    while True:
        for operation in operations[share::SHARES]:
            _try(operation, token)
        if time.monotonic() >= until:
            break


def _try(operation: schemathesis.APIOperation[Any, Any, Any, Any], token: str) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=not SOAK,
        suppress_health_check=list(HealthCheck),
    )
    def hold(case: schemathesis.Case) -> None:
        answer = case.call(headers={"authorization": token}, timeout=120)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    hold()


def test_every_endpoint_says_who_may_call_it_and_how_it_fails(console: Console) -> None:
    paths = httpx.get(f"{console.url}/api/openapi.json", trust_env=False, timeout=60).json()[
        "paths"
    ]
    operations = [each for path in paths.values() for each in path.values()]
    assert all(each["x-permission"] and "401" in each["responses"] for each in operations)
    assert len({each["operationId"] for each in operations}) == len(operations)


def test_every_shape_has_a_name_that_a_generated_client_can_use(console: Console) -> None:
    """Two shapes of one name are told apart by the modules they are in: no name for a class."""
    document = httpx.get(f"{console.url}/api/openapi.json", trust_env=False, timeout=60).json()
    assert [name for name in document["components"]["schemas"] if "__" in name] == []
    OpenAPIV31SpecValidator(document).validate()


def test_no_body_takes_a_field_that_it_does_not_know(console: Console) -> None:
    document = httpx.get(f"{console.url}/api/openapi.json", trust_env=False, timeout=60).json()
    shapes = document["components"]["schemas"]
    lax = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                found = [content["schema"], *_within(content["schema"], shapes)]
                lax |= {(method, path) for each in found if _is_lax(each)}
    assert lax == set()


def _within(schema: Any, shapes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema below one, with those it refers to."""
    if isinstance(schema, list):
        for each in schema:
            yield from _within(each, shapes)
    elif isinstance(schema, dict):
        yield schema
        if "$ref" in schema:
            yield from _within(shapes[schema["$ref"].rpartition("/")[2]], shapes)
        yield from _within(list(schema.values()), shapes)


def _is_lax(schema: dict[str, Any]) -> bool:
    """Whether it is an object with named fields to which others may be added."""
    return "properties" in schema and schema.get("additionalProperties", True) is True


def test_a_misspelled_field_is_refused_by_its_name(console: Console, token: str) -> None:
    # Taken for one that was left out, it would make a secret that may call everything.
    sent = {"name": "app", "scope": ["lst_one"]}
    with httpx.Client(base_url=console.url, headers={"authorization": token}) as client:
        before = client.get("/api/keys").json()["total"]
        answer = client.post("/api/keys", json=sent)
        assert answer.status_code == 422
        assert [each["field"] for each in answer.json()["errors"]] == ["scope"]
        assert "leave it out" in answer.json()["detail"]
        assert client.get("/api/keys").json()["total"] == before
