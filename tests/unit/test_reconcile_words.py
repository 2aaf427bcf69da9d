"""What books and chain do not agree on is told with its unit."""

from __future__ import annotations

import pytest

from finance.reconcile import Difference
from node.console.finance_books import KINDS, difference_row
from node.treasury.reconciling import Unit, unit_of


@pytest.mark.parametrize(
    ("kind", "books", "chain", "unit", "shown"),
    [
        ("transfer", -1_500_000, 0, Unit.USDC_ATOMS, ("−1.500000 USDC", "0.000000 USDC")),
        ("gas_wei", 21_000, "no receipt", Unit.WEI, ("0.000000000000021 ETH", "no receipt")),
        ("seller_voucher", "no valid signature", "0xab", Unit.NONE, ("no valid signature", "0xab")),
        ("receiver_claimed", 2**64, 1, Unit.USDC_ATOMS, (f"{2**64:,} atoms", "0.000001 USDC")),
    ],
)
def test_a_difference_of_the_books_has_its_unit(
    kind: str, books: int | str, chain: int | str, unit: Unit, shown: tuple[str, str]
) -> None:
    found = Difference(kind, "0x1", books, chain)
    row = difference_row(found)
    assert unit_of(found) is unit
    assert (row.kind, row.subject.full) == (KINDS[kind], "0x1")
    assert (row.books, row.chain) == shown
