"""Amounts of money as integers of atomic units, with their unit in the type.

USDC has 6 decimals, ETH 18. Nothing here is ever a float, and arithmetic that
would leave the range of a 64-bit column (USDC) or go below zero raises instead
of wrapping.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import ClassVar, Self

from finance.errors import AmountInvalid

MAX_ATOMS = 2**63 - 1
_DECIMAL = re.compile(r"\$?([0-9]{1,80}(\.[0-9]{0,80})?|\.[0-9]{1,80})")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")


class _Amount(int):
    """A non-negative integer amount of one token's atomic units."""

    decimals: ClassVar[int]
    symbol: ClassVar[str]
    ceiling: ClassVar[int]

    def __new__(cls, atoms: int) -> Self:
        if isinstance(atoms, bool | float) or not 0 <= atoms <= cls.ceiling:
            raise AmountInvalid(f"{atoms!r} is not an amount of {cls.symbol} atoms")
        return super().__new__(cls, atoms)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a decimal like `"0.25"`; raise AmountInvalid if it has too many decimals."""
        typed = text.strip()
        if not _DECIMAL.fullmatch(typed):
            raise AmountInvalid(f"{text[:100]!r} is not an amount of {cls.symbol}")
        whole, _, rest = typed.removeprefix("$").partition(".")
        decimals = rest.rstrip("0")
        if len(decimals) > cls.decimals:
            raise AmountInvalid(f"{text!r} has more than {cls.decimals} decimals")
        return cls(int(whole + decimals.ljust(cls.decimals, "0")))

    def __add__(self, other: int) -> Self:
        return type(self)(int(self) + int(other))

    def __sub__(self, other: int) -> Self:
        return type(self)(int(self) - int(other))

    def __str__(self) -> str:
        """The exact decimal amount without trailing zeros, e.g. `0.001`."""
        return format(Decimal(int(self)).scaleb(-self.decimals).normalize(), "f")

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def rounded_down(self, places: int) -> str:
        """The amount cut to `places` decimals, thousands separated: `1,234.56`."""
        scale = 10 ** (self.decimals - places)
        whole, rest = divmod(int(self) // scale, 10**places)
        return f"{whole:,}.{rest:0{places}d}" if places else f"{whole:,}"


def ungrouped(text: str) -> str:
    """`1,234.5` as `1234.5`. A comma that parts no thousands stays: 0,5 is not 5."""
    typed = text.strip()
    return typed.replace(",", "") if _GROUPED.fullmatch(typed) else typed


class Usdc(_Amount):
    """An amount of USDC in atoms (10^-6 USDC)."""

    decimals = 6
    symbol = "USDC"
    ceiling = MAX_ATOMS


class Wei(_Amount):
    """An amount of ETH in wei (10^-18 ETH)."""

    decimals = 18
    symbol = "ETH"
    ceiling = 2**256 - 1
