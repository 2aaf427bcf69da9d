"""Builds that break a law, each by one change, and the test that must notice.

`pytest tests/laws --fault NAME` runs the promises against the broken build;
test_faults.py does so for all of them. A fault replaces a function, a statement or a
constant of the product with one that a hurried rewrite might well have left there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest import MonkeyPatch

Apply = Callable[[MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """A broken build: the law it breaks, what is wrong with it, the promise it fails."""

    name: str
    law: int
    breaks: str
    test: str
    apply: Apply

    @property
    def node_id(self) -> str:
        return f"tests/laws/test_law_{self.law:02}.py::{self.test}"


FAULTS: dict[str, Fault] = {}


def fault(law: int, breaks: str, test: str) -> Callable[[Apply], Apply]:
    """Register a function that breaks the product as the fault of its own name."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, law, breaks, test, apply)
        return apply

    return register


def load_faults() -> dict[str, Fault]:
    """All of them. They live beside each other by whose money they lose."""
    from tests.laws import (  # noqa: F401
        faults_buying,
        faults_chain,
        faults_keys,
        faults_minutes,
        faults_plans,
        faults_selling,
        faults_treasury,
    )

    return FAULTS
