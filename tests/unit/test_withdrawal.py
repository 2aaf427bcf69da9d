"""Which destinations and amounts are taken, before any chain is asked."""

from __future__ import annotations

import pytest

from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    USDC_ADDRESS,
)
from finance.errors import WithdrawalRefused
from finance.networks import NETWORKS
from finance.operations import Token
from finance.withdrawal import DATA_FEE_WEI, Available, Fee, decide, read_destination

NETWORK = NETWORKS["devnet"]
OWN = "0x" + "11" * 20
# From EIP-55.
GOOD = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.mark.parametrize("text", [GOOD, GOOD.lower(), "0x" + GOOD[2:].upper(), f"  {GOOD}\n"])
def test_an_address_is_taken_with_its_checksum_or_without_any(text: str) -> None:
    assert read_destination(text, OWN, NETWORK) == GOOD.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vitalik.eth",
        GOOD[:-1],
        GOOD + "0",
        GOOD[2:],
        GOOD.replace("aA", "Aa", 1),  # one capital wrong
        "0x" + "00" * 20,
        "0x" + "00" * 19 + "04",
        OWN,
        OWN.upper().replace("X", "x"),
        USDC_ADDRESS,
        BATCH_SETTLEMENT_ADDRESS,
        ERC3009_COLLECTOR_ADDRESS,
        MULTICALL3_ADDRESS.lower(),
        "0x" + "١" * 40,
    ],
)
def test_an_address_where_money_would_be_lost_is_refused(text: str) -> None:
    with pytest.raises(WithdrawalRefused) as refused:
        read_destination(text, OWN, NETWORK)
    assert (refused.value.code, refused.value.field) == ("destination_invalid", "destination")


def test_eth_never_includes_its_own_gas_nor_what_is_promised() -> None:
    available = Available(usdc=0, wei=10**18, wei_promised=3 * 10**17)
    fee = Fee(10**15, 2 * 10**15)
    quote = decide(Token.ETH, GOOD, None, available, fee)
    assert quote.amount == 7 * 10**17 - 2 * 10**15 - DATA_FEE_WEI and quote.left == 0
    with pytest.raises(WithdrawalRefused):
        decide(Token.ETH, GOOD, quote.amount + 1, available, fee)
    assert decide(Token.ETH, GOOD, quote.amount - 1, available, fee).left == 1


def test_usdc_promised_elsewhere_cannot_be_withdrawn() -> None:
    available = Available(usdc=5, wei=10**18, usdc_promised=3)
    assert decide(Token.USDC, GOOD, 2, available, Fee(1, 1)).left == 0
    with pytest.raises(WithdrawalRefused) as refused:
        decide(Token.USDC, GOOD, 3, available, Fee(1, 1))
    assert refused.value.code == "balance_short"
