"""The JSON API keeps what its document says, whatever it is sent: no 5xx, no other shape.

`make soak` sends it many times more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
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
EXAMPLES = 300 if SOAK else 4
SHARES = 4
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
    for operation in operations[share::SHARES]:
        _try(operation, token)


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
        answer = case.call(headers={"authorization": token}, timeout=30)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    hold()


def test_every_endpoint_says_who_may_call_it_and_how_it_fails(console: Console) -> None:
    paths = httpx.get(f"{console.url}/api/openapi.json", trust_env=False).json()["paths"]
    operations = [each for path in paths.values() for each in path.values()]
    assert all(each["x-permission"] and "401" in each["responses"] for each in operations)
    assert len({each["operationId"] for each in operations}) == len(operations)
