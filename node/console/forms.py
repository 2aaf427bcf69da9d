"""What somebody typed, and what is wrong with it, kept together until it is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from finance.money import ungrouped
from node.failures import told


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

    def refused(self, error: Exception) -> Self:
        """With the error beside the field it names, or above the form."""
        return self.with_error(getattr(error, "field", None) or "", told(error))


def read_whole(form: Form, name: str, sentence: str) -> int | None:
    """A whole number of up to twelve digits, `1,234` or `1234`; None for nothing. Raises
    FieldError with `sentence`."""
    typed = ungrouped(form.value(name))
    if not typed:
        return None
    if not (typed.isascii() and typed.isdigit()) or len(typed) > 12:
        raise FieldError(name, sentence)
    return int(typed)
