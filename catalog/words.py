"""Words as the catalog is searched by: folded, without accents, the same on every database."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from catalog.operations import METHODS, path_item

_WORD = re.compile(r"[^\W_]+")
_WORD_CHARACTERS = 40
_QUERY_WORDS = 8
_QUERY_CHARACTERS = 400
_OPERATION_CHARACTERS = 20_000
_TEXT_CHARACTERS = 500


def fold(text: str) -> str:
    """Lower case without accents: what looks alike to a searcher is alike."""
    plain = unicodedata.normalize("NFKD", text.replace("\x00", " "))
    return "".join(each for each in plain if not unicodedata.combining(each)).casefold()


def words(text: str) -> list[str]:
    """The words of a text, folded; nothing but letters and digits is left in them."""
    return [word[:_WORD_CHARACTERS] for word in _WORD.findall(fold(text))]


def query_words(text: str) -> list[str]:
    """What somebody searches for: at most eight different words."""
    return list(dict.fromkeys(words(text[:_QUERY_CHARACTERS])))[:_QUERY_WORDS]


def operation_text(spec: str) -> tuple[str, int]:
    """What an OpenAPI document says of its operations, and how many there are."""
    try:
        document = json.loads(spec) if spec else {}
    except ValueError:
        return "", 0
    paths = document.get("paths") if isinstance(document, dict) else None
    parts: list[str] = []
    count = 0
    for path, given in paths.items() if isinstance(paths, dict) else ():
        item = path_item(document, given)
        for method in METHODS:
            operation = item.get(method)
            if isinstance(operation, dict):
                count += 1
                parts += (method, str(path), *_said(operation))
    return " ".join(parts)[:_OPERATION_CHARACTERS], count


def _said(operation: Mapping[str, Any]) -> Iterable[str]:
    for name in ("operationId", "summary", "description"):
        if isinstance(operation.get(name), str):
            yield operation[name][:_TEXT_CHARACTERS]
    tags = operation.get("tags")
    yield from (tag for tag in (tags if isinstance(tags, list) else ()) if isinstance(tag, str))
