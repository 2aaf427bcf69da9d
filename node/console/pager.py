"""Links to the neighbouring pages of a list; they keep its filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from node.console.format import count

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pager:
    """What `ui.pager` shows; empty links are left out."""

    text: str = ""
    newer: str = ""
    older: str = ""
    newer_label: str = "Newer"
    older_label: str = "Older"


def link(path: str, query: Mapping[str, str], **changes: str | int | None) -> str:
    """`path` with the query as it is but for the changes; None and empty values are left out."""
    merged = {**query, **{name: "" if value is None else value for name, value in changes.items()}}
    kept = {name: value for name, value in merged.items() if value != ""}
    return f"{path}?{urlencode(kept)}" if kept else path


def numbered(path: str, query: Mapping[str, str], page: int, size: int, total: int) -> Pager:
    """For lists that are counted; pages from 1."""
    pages = max((total + size - 1) // size, 1)
    return Pager(
        f"Page {count(page)} of {count(pages)}",
        link(path, query, page=page - 1 if page > 2 else None) if page > 1 else "",
        link(path, query, page=page + 1) if page < pages else "",
        "Previous",
        "Next",
    )


def page_number(query: Mapping[str, str]) -> int:
    """`?page=`; what is no page is the first."""
    text = query.get("page", "")
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 8 else 1


def page_within(query: Mapping[str, str], size: int, total: int) -> int:
    """The same, but none behind the last: a list that became shorter is not an empty one."""
    return min(page_number(query), max((total + size - 1) // size, 1))


def page_of(
    path: str, query: Mapping[str, str], rows: Sequence[T], size: int
) -> tuple[Sequence[T], Pager]:
    """The rows of the page that is asked for, and the way to the others."""
    page = page_within(query, size, len(rows))
    shown = rows[(page - 1) * size : page * size]
    return shown, numbered(path, query, page, size, len(rows))


def keyset(
    path: str, query: Mapping[str, str], older: str | None, newest: bool, text: str = ""
) -> Pager:
    """For lists that are not counted: `before` names where the next page goes on."""
    first = "" if newest else link(path, query, before=None)
    return Pager(text, first, link(path, query, before=older) if older else "", "Newest")
