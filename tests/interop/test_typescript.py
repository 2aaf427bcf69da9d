"""The official TypeScript packages, unchanged: their client buys from our gateway, our proxy from
their Express middleware and facilitator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from finance.chain.addresses import USDC_ADDRESS
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode
from tests.interop.conftest import Outcome
from tests.interop.official_buyer import FUNDS, NETWORK, new_account
from tests.interop.seller_node import DEPOSIT, PRICE, SellerNode

pytestmark = pytest.mark.typescript
_SOURCES = Path(__file__).parent / "typescript"
_SECONDS = 60


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our two scripts, beside the packages that they import."""
    packages = os.environ.get("FAREBOX_TYPESCRIPT_PACKAGES")
    if packages is None or shutil.which("node") is None:
        pytest.skip(
            "install Node.js 20 and the npm packages @x402/fetch, @x402/express, @x402/evm, express"
            " and viem, and name their node_modules in FAREBOX_TYPESCRIPT_PACKAGES"
        )
    folder = tmp_path_factory.mktemp("typescript") / "scripts"
    shutil.copytree(_SOURCES, folder)
    (folder / "node_modules").symlink_to(packages)
    return folder


def buy(
    scripts: Path, node: SellerNode, account: LocalAccount, scheme: str, *words: str, **more: Any
) -> list[Any]:
    """What the client prints: an answer for each word, and the refund's outcome if it asks."""
    told = {
        "rpcUrl": node.chain.rpc_url,
        "network": NETWORK,
        "key": account.key.to_0x_hex(),
        "scheme": scheme,
        "urls": [node.url(f"echo/{word}") for word in words],
    }
    command = ["node", str(scripts / "buyer.mjs"), json.dumps(told | more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_its_client_buys_with_exact(scripts: Path, node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 2 * PRICE, 2
    answers = buy(scripts, node, account, "exact", "one", "two")
    assert [answer["status"] for answer in answers] == [200, 200]
    assert [answer["body"]["path"] for answer in answers] == ["/base/echo/one", "/base/echo/two"]
    assert [int(answer["receipt"]["amount"]) for answer in answers] == [PRICE, PRICE]
    assert node.usdc(account.address) == FUNDS - 2 * PRICE


def test_its_client_opens_a_channel_tops_it_up_and_has_the_rest_refunded(
    scripts: Path, node: SellerNode, outcome: Outcome
) -> None:
    account, words = new_account(node), [str(number) for number in range(12)]
    outcome.earned, outcome.served = 12 * PRICE, 12
    *answers, refund = buy(scripts, node, account, "batch-settlement", *words, refund=True)
    assert [answer["status"] for answer in answers] == [200] * 12
    receipts = [answer["receipt"] for answer in answers]
    deposits = [index for index, receipt in enumerate(receipts) if receipt["transaction"]]
    assert deposits == [0, 10]
    assert (refund["success"], int(refund["amount"])) == (True, 8 * PRICE)
    assert node.usdc(account.address) == FUNDS - 12 * PRICE


def test_its_client_that_lost_its_state_goes_on(
    scripts: Path, node: SellerNode, outcome: Outcome
) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 4 * PRICE, 4
    for words in (("one", "two"), ("three", "four")):  # each from a process that knows nothing
        answers = buy(scripts, node, account, "batch-settlement", *words)
        assert [answer["status"] for answer in answers] == [200, 200]
    assert node.usdc(account.address) == FUNDS - DEPOSIT


@pytest.fixture(scope="module")
def seller(scripts: Path, chain: DevchainProcess) -> Iterator[str]:
    """Their middleware with their facilitator, selling below /vouchers/ and /exact/."""
    told = {"rpcUrl": chain.rpc_url, "chainId": chain.chain_id, "usdc": USDC_ADDRESS}
    told |= {"price": PRICE, "key": chain.keys[5], "authorizerKey": chain.keys[6]}
    command = ["node", str(scripts / "seller.mjs"), json.dumps(told)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize(("kind", "calls"), [("exact", 2), ("vouchers", 12)])
async def test_our_proxy_buys_from_its_middleware(
    seller: str, chain: DevchainProcess, tmp_path: Path, kind: str, calls: int
) -> None:
    node = BuyerNode(tmp_path, chain)
    node.list("theirs", seller)
    async with node.running() as proxy:
        answers = [await proxy.call(f"theirs/{kind}/{number}") for number in range(calls)]
    assert [answer.status_code for answer in answers] == [200] * calls
    assert answers[-1].json() == {"kind": kind, "word": str(calls - 1)}
    assert -node.booked("spent") == calls * PRICE
    node.check_books()
