"""What somebody typed, and what is wrong with it, kept together until it is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Self

from finance.money import ungrouped
from node.failures import told

_EXACT: Final = Decimal("0.0001")  # an hour has fewer seconds


class FieldError(Exception):
    """One field cannot be accepted; the sentence stands beside it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Form:
    """`values` and `errors` by field name; the empty name is the form as a whole."""

    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        return self.values.get(name, "")

    def error(self, name: str) -> str:
        return self.errors.get(name, "")

    def with_error(self, name: str, message: str) -> Self:
        return type(self)(self.values, {**self.errors, name: message})

    def as_shown(self) -> Self:
        """With what the page showed, beside what will be typed over it (see `merged`)."""
        shown = {f"was-{name}": text for name, text in self.values.items()}
        return type(self)({**self.values, **shown}, self.errors)

    def merged(self, stored: Mapping[str, str]) -> Self:
        """What nobody touched since the page was made stands as it is stored by now."""
        kept = {
            name: text
            for name, text in stored.items()
            if self.values.get(f"was-{name}") == self.value(name)
        }
        return type(self)({**self.values, **kept}, self.errors)

    def refused(self, error: Exception) -> Self:
        """With the error beside the field it names, or above the form."""
        return self.with_error(getattr(error, "field", None) or "", told(error))


def read_seen(fields: Mapping[str, str]) -> int | None:
    """Of which state the page was made that a form comes from; None where none is named."""
    text = fields.get("seen", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def in_units(amount: int, unit: int) -> str:
    """An amount in a larger unit: `2`, or `1.5` where it is not whole."""
    return format((Decimal(amount) / unit).quantize(_EXACT).normalize(), "f")


def read_units(form: Form, name: str, unit: int, stored: int | None, sentence: str) -> int | None:
    """A whole number of a larger unit; what was not whole when it was shown, and was not touched,
    stays as it is stored. Raises FieldError as `read_whole` does."""
    if stored is not None and form.value(name).strip() == in_units(stored, unit):
        return stored
    number = read_whole(form, name, sentence)
    return None if number is None else number * unit


def read_whole(form: Form, name: str, sentence: str) -> int | None:
    """A whole number of up to twelve digits, `1,234` or `1234`; None for nothing. Raises
    FieldError with `sentence`."""
    typed = ungrouped(form.value(name))
    if not typed:
        return None
    if not (typed.isascii() and typed.isdigit()) or len(typed) > 12:
        raise FieldError(name, sentence)
    return int(typed)
