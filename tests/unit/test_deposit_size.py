"""How much the buyer deposits: what a seller suggests is no reason not to buy."""

from __future__ import annotations

import pytest

from finance.buying.channels import Channel, channel_config, seller_of
from finance.buying.deposits import deposit_size
from finance.buying.terms import Terms
from finance.networks import NETWORKS
from finance.x402.digest import channel_id

PRICE = 1_000_000


def size(missing: int, most: int, suggested: int = 0, calls: int = 1, balance: int = 0) -> int:
    terms = Terms(
        "batch-settlement", PRICE, b"\x01" * 20, 60, b"", False, min_deposit_atoms=suggested
    )
    seller = seller_of(terms, "https://seller")
    config = channel_config(seller, 0, b"\x03" * 20, b"\x04" * 20, NETWORKS["devnet"])
    identity = channel_id(config, 31337)
    channel = Channel(identity, "0x" + identity.hex(), config, seller)
    channel.balance = balance
    return deposit_size(terms, channel, missing, calls, most)


@pytest.mark.parametrize(
    ("given", "deposited"),
    [
        ({"missing": 1, "most": 5 * PRICE}, PRICE),
        ({"missing": PRICE, "most": 5 * PRICE, "calls": 3}, 3 * PRICE),
        ({"missing": PRICE, "most": 50 * PRICE, "suggested": 10 * PRICE}, 10 * PRICE),
        # Official sellers suggest ten calls; a limit of five buys five.
        ({"missing": PRICE, "most": 5 * PRICE, "suggested": 10 * PRICE}, 5 * PRICE),
        # What the call itself needs is not made smaller: the limit then refuses it.
        ({"missing": 3 * PRICE, "most": PRICE, "suggested": 10 * PRICE}, 3 * PRICE),
        ({"missing": 1, "most": 50 * PRICE, "balance": 7 * PRICE}, 7 * PRICE),
    ],
)
def test_a_deposit_is_as_large_as_suggested_but_not_above_the_limit(
    given: dict[str, int], deposited: int
) -> None:
    assert size(**given) == deposited
