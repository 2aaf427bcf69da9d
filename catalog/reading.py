"""Reading a document somebody typed or sent: JSON or YAML, into plain JSON values.

Hostile ones end with a sentence instead of with the memory: size, nesting and the
number of values are limited, aliases count as often as they are used, and a key that
stands twice is refused, because two readers would take different ones.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 2_000_000
MAX_DEPTH = 80
MAX_VALUES = 200_000

# The core schema of YAML 1.2, as OpenAPI asks: `no` is a word, `2026-11-21` is text.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_STR_TAG = "tag:yaml.org,2002:str"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(ValueError):
    """The document cannot be read; `line` counts from 1, None when it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Document:
    """Values, and on which line (from 1) each JSON pointer stands, where that is known."""

    value: Any
    lines: dict[str, int] = field(default_factory=dict)


def read_document(text: str) -> Document:
    """`text` as JSON if it is, else as YAML. Raises Unreadable."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise Unreadable(f"It is larger than {MAX_BYTES // 1_000_000} MB.")
    if not text.strip():
        raise Unreadable("It is empty.")
    if "\0" in text:
        raise Unreadable(
            "It is not text: it has NUL characters.", text[: text.index("\0")].count("\n") + 1
        )
    if text.lstrip()[:1] in "{[":
        return Document(_read_json(text))
    return _YamlReader(text).read()


def locate(text: str, pointers: set[str]) -> dict[str, int]:
    """Lines of these pointers in a JSON document, where they can be told."""
    try:
        lines = _YamlReader(text).read().lines
    except Unreadable:
        return {}
    return {pointer: lines[pointer] for pointer in pointers if pointer in lines}


def pointer_of(parts: list[str | int]) -> str:
    """RFC 6901: `["paths", "/a"]` is `/paths/~1a`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def is_too_deep(text: str) -> bool:
    """Whether a JSON text is nested deeper than is read, told before anything recurses into
    it: the standard library's reader is only as safe as the process's recursion limit."""
    depth = 0
    for found in _BRACKETS.finditer(text):
        bracket = found.group()
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif bracket in "]}":
            depth -= 1
    return False


def _read_json(text: str) -> Any:
    if is_too_deep(text):
        raise Unreadable(f"It is nested more than {MAX_DEPTH} levels deep.")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"It is not JSON: {error.msg}.", error.lineno) from error
    except ValueError as error:
        raise error if isinstance(error, Unreadable) else Unreadable(str(error)) from error
    _check_size(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unreadable(f"The key {twice[:80]!r} stands twice in one object.")
    return found


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name} is no value in JSON.")


def _check_size(value: Any) -> None:
    """Walks without recursion. Raises Unreadable."""
    open_, count = [(value, 1)], 0
    while open_:
        current, depth = open_.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise Unreadable(f"It is nested more than {MAX_DEPTH} levels deep.")
        if count > MAX_VALUES:
            raise Unreadable(f"It has more than {MAX_VALUES} values.")
        if isinstance(current, float) and not math.isfinite(current):
            raise Unreadable("A number is too large.")
        if isinstance(current, dict):
            open_ += [(entry, depth + 1) for entry in current.values()]
        elif isinstance(current, list):
            open_ += [(entry, depth + 1) for entry in current]


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end has not come yet."""

    value: Any
    pointer: str
    anchor: str | None
    start: int  # values counted before it
    key: str | None = None


class _YamlReader:
    """Builds values from YAML's events, without recursion and without copying aliases."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[str, int] = {}
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, values in it, depth in it
        self._count = 0
        self._deepest: list[int] = []
        self._root: list[Any] = []

    def read(self) -> Document:
        try:
            events: Any = yaml.parse(self._text, Loader=_Loader)
            for event in events:
                self._take(event, event.start_mark.line + 1)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = None if mark is None else mark.line + 1
            raise Unreadable(f"It is neither JSON nor YAML: {error.problem}.", line) from error
        except (yaml.YAMLError, UnicodeError) as error:
            raise Unreadable("It has characters that YAML does not know.") from error
        if len(self._root) != 1:
            raise Unreadable("It is not one YAML document.")
        return Document(self._root[0], self._lines)

    def _take(self, event: Any, line: int) -> None:
        match event:
            case yaml.ScalarEvent():
                self._scalar(event, line)
            case yaml.MappingStartEvent():
                self._begin({}, event, line)
            case yaml.SequenceStartEvent():
                self._begin([], event, line)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()

    def _scalar(self, event: Any, line: int) -> None:
        holder = self._open[-1] if self._open else None
        if holder is not None and isinstance(holder.value, dict) and holder.key is None:
            if event.value in holder.value:
                raise Unreadable(f"The key {event.value[:80]!r} stands twice.", line)
            if event.value == "<<":
                raise Unreadable("Merge keys (<<) are not part of YAML 1.2.", line)
            holder.key = event.value
            self._grow(_weight(event.value) - 1, 0, line)
            return
        value = _scalar_value(event)
        weight = _weight(event.value)
        self._grow(weight, 1, line)
        if event.anchor:
            self._anchors[event.anchor] = (value, weight, 1)
        self._put(value, line)

    def _begin(self, value: Any, event: Any, line: int) -> None:
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            raise Unreadable("A key is not text.", line)
        self._grow(1, 1, line)
        pointer = self._put(value, line)
        self._open.append(_Open(value, pointer, event.anchor, self._count))
        self._deepest.append(1)

    def _end(self) -> None:
        closed, depth = self._open.pop(), self._deepest.pop()
        if closed.anchor:
            self._anchors[closed.anchor] = (closed.value, self._count - closed.start + 1, depth)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise Unreadable(f"The alias *{anchor[:80]} has no anchor before it.", line)
        value, size, depth = self._anchors[anchor]
        self._grow(size, depth, line)
        self._put(value, line)

    def _grow(self, values: int, depth: int, line: int) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise Unreadable(f"It has more than {MAX_VALUES} values, aliases included.", line)
        if len(self._open) + depth > MAX_DEPTH:
            raise Unreadable(f"It is nested more than {MAX_DEPTH} levels deep.", line)
        for level in range(len(self._deepest)):
            below = len(self._deepest) - level + depth
            self._deepest[level] = max(self._deepest[level], below)

    def _put(self, value: Any, line: int) -> str:
        """Into the open collection; its pointer."""
        if not self._open:
            self._root.append(value)
            pointer = ""
        else:
            holder = self._open[-1]
            part: str | int = len(holder.value) if holder.key is None else holder.key
            pointer = holder.pointer + pointer_of([part])
            if holder.key is None:
                if isinstance(holder.value, dict):
                    raise Unreadable("A key is not text.", line)
                holder.value.append(value)
            else:
                holder.value[holder.key] = value
                holder.key = None
        self._lines[pointer] = line
        return pointer


def _weight(text: str) -> int:
    """Long text counts for more than one value: an alias may repeat it."""
    return 1 + len(text) // 50


def _scalar_value(event: Any) -> Any:
    """Quoted and tagged scalars are text; plain ones are what YAML 1.2 says."""
    text: str = event.value
    if not event.implicit[0] or event.tag == _STR_TAG:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text
