"""Two nodes trade on every network we know, before a chain with that network's id and USDC.

The contracts of the payment channels stand at the same addresses everywhere; USDC has an
address of its own on each network, and on Base Sepolia another name, which every signature
of a transfer depends on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from finance.chain import contracts
from finance.chain.contracts import compile_vyper, runtime_code, usdc_storage
from finance.chain.devchain.accounts import USDC_ATOMS
from finance.networks import NETWORKS, Network
from finance.wallet.signer import Signer
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import PRICE, Errand, open_market, transfer

CALLS = 5


def place_usdc(chain: DevchainProcess, network: Network, folder: Path) -> None:
    """USDC as the network has it, held by the chain's accounts."""
    code = runtime_code().get(network.usdc)
    if code is None:
        source = folder / "usdc.vy"
        words = Path(contracts.__file__).with_name("usdc.vy").read_text()
        source.write_text(words.replace('"USD Coin"', f'"{network.usdc_name}"'))
        code = compile_vyper(source)
        chain.rpc("anvil_setCode", network.usdc, "0x" + code.hex())
    for slot, word in usdc_storage(dict.fromkeys(chain.addresses, USDC_ATOMS)).items():
        chain.rpc("anvil_setStorageAt", network.usdc, f"0x{slot:064x}", f"0x{word:064x}")
    chain.usdc = network.usdc


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "base-sepolia"])
async def test_two_nodes_trade_on_it(tmp_path: Path, name: str) -> None:
    """By a channel, by a foreign client's `exact`, and claimed when the seller ends."""
    network, foreign = NETWORKS[name], Signer.random()
    with DevchainProcess(0.5, network.chain_id) as chain:
        place_usdc(chain, network, tmp_path)
        transfer(chain, Signer.from_hex(chain.keys[8]), foreign.address, PRICE)
        async with open_market(chain, tmp_path, network) as market:
            errands = [Errand(str(number)) for number in range(CALLS)]
            await market.buy_many(errands, 1)
            assert [each.cost_atoms for each in errands] == [PRICE] * CALLS
            await market.buy_exact(Errand("foreign"), foreign)
            await market.seller.stop()
            assert market.usdc(market.seller) == (CALLS + 1) * PRICE
            await market.reconcile()
