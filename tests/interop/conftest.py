"""A seller for a file of tests, and what each of them says that it has earned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chain_fixtures import DevchainProcess
from tests.interop.seller_node import SellerNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SellerNode]:
    with DevchainProcess() as chain, SellerNode(tmp_path_factory.mktemp("seller"), chain) as node:
        yield node


@dataclass
class Outcome:
    """What a test says it has cost the buyers, in atoms, and how often the API was called."""

    earned: int = 0
    served: int = 0


@pytest.fixture
def outcome(node: SellerNode) -> Iterator[Outcome]:
    """The seller must have earned this, to the atom, wherever one looks."""
    before, calls = node.earned(), node.upstream.total
    outcome = Outcome()
    yield outcome
    node.claim()
    assert node.earned().since(before) == (outcome.earned,) * 4
    assert node.upstream.total - calls == outcome.served
    assert node.reconcile() == []
