"""Amounts of money as integers of atomic units, with their unit in the type.

USDC has 6 decimals, ETH 18. Nothing here is ever a float, and arithmetic that
would leave the range of a 64-bit column (USDC) or go below zero raises instead
of wrapping.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import ClassVar, Self

from finance.errors import AmountInvalid

MAX_ATOMS = 2**63 - 1


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
        try:
            atoms = Decimal(text.strip().lstrip("$")).scaleb(cls.decimals)
        except (InvalidOperation, ValueError) as error:
            raise AmountInvalid(f"{text!r} is not an amount of {cls.symbol}") from error
        if not atoms.is_finite() or atoms != atoms.to_integral_value():
            raise AmountInvalid(f"{text!r} has more than {cls.decimals} decimals")
        return cls(int(atoms))

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
