"""Which destinations and amounts are taken, before any chain is asked."""

from __future__ import annotations

from functools import partial

import pytest

from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    USDC_ADDRESS,
)
from finance.errors import AmountInvalid, WithdrawalRefused
from finance.money import Usdc
from finance.networks import NETWORKS
from finance.operations import Token
from finance.withdrawal import (
    DATA_FEE_WEI,
    Available,
    Fee,
    decide,
    read_amount,
    read_destination,
)
from node.console.finance_choices import read_usdc
from node.console.forms import FieldError, Form, read_whole

NETWORK = NETWORKS["devnet"]
OWN = "0x" + "11" * 20
# From EIP-55.
GOOD = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.mark.parametrize(
    ("text", "atoms"),
    [("12.5", 12_500_000), ("1,234.50", 1_234_500_000), ("1,234,567", 1_234_567_000_000)],
)
def test_an_amount_is_taken_as_it_is_shown(text: str, atoms: int) -> None:
    assert read_amount(Token.USDC, text) == atoms


@pytest.mark.parametrize("text", ["0,5", "12,5", "0,500", "1,23", "1,2345", "1.234,5", ",5", "1_5"])
def test_a_comma_that_parts_no_thousands_is_not_passed_over(text: str) -> None:
    """Whoever writes half a dollar as 0,5 must not send five."""
    with pytest.raises(WithdrawalRefused):
        read_amount(Token.USDC, text)
    for read in (read_usdc, partial(read_whole, sentence="A whole number.")):
        with pytest.raises(FieldError):
            read(Form({"limit": text}), "limit")


@pytest.mark.parametrize("text", ["1e5000", "9e999999", "1" * 5000, "1e-9999999", "٣", "1_5", ""])
def test_what_is_no_plain_number_is_no_amount(text: str) -> None:
    with pytest.raises(AmountInvalid):
        Usdc.parse(text)


def test_amounts_are_read_to_the_last_decimal() -> None:
    read = [int(Usdc.parse(text)) for text in ("$0.000001", ".5", "5.", "0.1000000", " 7 ")]
    assert read == [1, 500_000, 5_000_000, 100_000, 7_000_000]
    with pytest.raises(AmountInvalid, match="more than 6 decimals"):
        Usdc.parse("0.0000001")


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
