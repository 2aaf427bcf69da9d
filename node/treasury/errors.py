"""What can be wrong with what an operator asks of the money.

TreasuryError
├── TreasuryInvalid     a field that cannot be accepted; `field` names it
├── TreasuryUnknown           there is no such withdrawal, channel or limit
└── NotPossible       it cannot be done as things stand; the text says what to do first
"""

from __future__ import annotations


class TreasuryError(Exception):
    """Base of every error this package raises on purpose."""

    code = "treasury_error"


class TreasuryInvalid(TreasuryError):
    code = "treasury_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TreasuryUnknown(TreasuryError):
    code = "treasury_unknown"


class NotPossible(TreasuryError):
    code = "not_possible"

    def __init__(self, message: str, code: str = "not_possible") -> None:
        super().__init__(message)
        self.code = code
