"""What endpoints take and give alike: lists in pages of fifty, bodies, texts and ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, Self, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

PAGE_SIZE = 50

T = TypeVar("T")
# PostgreSQL keeps every character of a text but NUL.
_NO_NUL = r"^[^\x00]*$"
ShortText = Annotated[str, Field(max_length=1024, pattern=_NO_NUL)]
Id = Annotated[str, Path(max_length=64, pattern=_NO_NUL)]
FilterText = Annotated[str, Query(max_length=200, pattern=_NO_NUL)]
PageNumber = Annotated[int, Query(ge=1, le=10_000_000, description="from 1")]


class Sent(BaseModel):
    """What a caller sends: a field that is not known is refused, for one that is misspelled
    would be taken for one that was left out."""

    model_config = ConfigDict(extra="forbid")


class Shown(BaseModel):
    """What is given of one of our views: fields are read from its attributes, under the name in
    their `validation_alias` where it has another one; amounts that are text are numbers there."""

    model_config = ConfigDict(from_attributes=True, coerce_numbers_to_str=True)

    @classmethod
    def of(cls, view: object) -> Self:
        return cls.model_validate(view)


class Listed(BaseModel, Generic[T]):
    """One page of `total` items; a page behind the last one is empty."""

    items: list[T]
    total: int
    page: int
    pages: int


def listed(rows: Sequence[T], page: int) -> Listed[T]:
    """A page of rows that are all at hand."""
    shown = list(rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE])
    pages = max(-(-len(rows) // PAGE_SIZE), 1)
    return Listed(items=shown, total=len(rows), page=page, pages=pages)
