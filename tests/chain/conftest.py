"""One suite, two chains: the embedded one and anvil with our code placed on it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain.world import World
from tests.chain_fixtures import AnvilProcess, ChainProcess, DevchainProcess

_ANVIL_MISSING = "install the npm package @foundry-rs/anvil, or name the binary in FAREBOX_ANVIL"


def _anvil() -> str | None:
    local = Path(__file__).parents[2] / "node_modules" / ".bin" / "anvil"
    named = os.environ.get("FAREBOX_ANVIL")
    return named or shutil.which("anvil") or (str(local) if local.exists() else None)


@pytest.fixture(scope="session")
def devchain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


@pytest.fixture(
    scope="session", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
def chain(request: pytest.FixtureRequest) -> Iterator[ChainProcess]:
    if request.param == "embedded":
        yield request.getfixturevalue("devchain")
        return
    binary = _anvil()
    if binary is None:
        pytest.skip(_ANVIL_MISSING)
    with AnvilProcess(binary) as process:
        yield process


@pytest.fixture
def world(chain: ChainProcess) -> Iterator[World]:
    snapshot = chain.rpc("evm_snapshot")
    yield World(chain)
    chain.rpc("evm_revert", snapshot)
