"""Checking an OpenAPI 3.0 or 3.1 document: what is wrong with it, and where.

The checking itself (`check_spec`) is heavy and its input may be hostile: a running node
does it in a process of its own, `python -m catalog.specs`, which reads the document from
standard input, knows no secret, and is ended when it takes too long (node.market.specs).
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from catalog.errors import ListingInvalid
from catalog.operations import METHODS, look_up, path_item, reference_parts
from catalog.reading import MAX_BYTES, Document, Unreadable, locate, pointer_of, read_document

MAX_PROBLEMS = 50
MAX_MESSAGE = 300
CPU_SECONDS = 20
MEMORY_BYTES = 1_500_000_000
_VERSION = re.compile(r"3\.[01]\.\d{1,3}(-.{1,20})?")
# What holds values of any kind, unless one of the second kind has something by that name.
_VALUES = frozenset(("example", "examples", "default"))
_NAMES = frozenset(
    (
        *("paths", "webhooks", "pathItems", "callbacks", "parameters", "headers", "requestBodies"),
        *("responses", "links", "content", "encoding", "variables", "securitySchemes", "schemas"),
        *("properties", "patternProperties", "dependentSchemas", "definitions", "$defs"),
    )
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. `pointer` is a JSON pointer (RFC 6901), `line` counts from 1."""

    message: str
    pointer: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else ""
        place = ", ".join(part for part in (self.pointer, where) if part)
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True, slots=True)
class CheckedSpec:
    """`spec` is the document as compact JSON, empty when it has problems."""

    spec: str
    problems: tuple[Problem, ...] = ()


def parse_spec(text: str) -> str:
    """Check a document and return it as compact JSON. Raises ListingInvalid."""
    checked = check_spec(text)
    if checked.problems:
        more = len(checked.problems) - 1
        also = f" (and {more} more)" if more else ""
        raise ListingInvalid("spec", f"The specification: {checked.problems[0]}{also}")
    return checked.spec


def check_spec(text: str) -> CheckedSpec:
    """Everything that is wrong with a document, at most 50 problems."""
    try:
        document = read_document(text)
    except Unreadable as error:
        return CheckedSpec("", (Problem(str(error), "", error.line),))
    problems = list(islice(_problems(document.value), MAX_PROBLEMS))
    if problems:
        return CheckedSpec("", tuple(_with_lines(text, document, problems)))
    return _compact(document.value)


def _compact(value: Any) -> CheckedSpec:
    spec = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        size = len(spec.encode())
    except UnicodeEncodeError:
        return CheckedSpec("", (Problem("It has half a surrogate pair, which is no character."),))
    if size > 2 * MAX_BYTES:
        return CheckedSpec("", (Problem("Its aliases make it larger than 4 MB."),))
    return CheckedSpec(spec)


def _problems(value: Any) -> Iterator[Problem]:
    """In order; what would confuse the next step ends it."""
    version = value.get("openapi") if isinstance(value, dict) else None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        yield Problem('This is not OpenAPI 3.0 or 3.1: it needs "openapi": "3.1.0".', "/openapi")
        return
    if not _has_operation(value):
        yield Problem("There is no operation, so nothing could be called.", "/paths")
    yield from _unmatched_paths(value["paths"] if isinstance(value.get("paths"), dict) else {})
    broken = list(islice(_broken_references(value), MAX_PROBLEMS))
    yield from broken
    if not broken:
        yield from _schema_problems(value, version)


def _has_operation(value: dict[str, Any]) -> bool:
    paths = value.get("paths")
    items = paths.values() if isinstance(paths, dict) else ()
    return any(path_item(value, item).keys() & set(METHODS) for item in items)


def _unmatched_paths(paths: dict[str, Any]) -> Iterator[Problem]:
    """Those that no request has, and whose price would never be met."""
    for path in paths:
        if "?" in path or "#" in path:
            sentence = "A path has no query or fragment; describe a query as parameters."
            yield Problem(sentence, pointer_of(["paths", path]))


def _broken_references(root: Any) -> Iterator[Problem]:
    """References that lead out of the document, nowhere, or back to themselves.

    Nothing outside is ever fetched: the validator would follow addresses and files.
    """
    open_: list[tuple[list[str | int], Any]] = [([], root)]
    while open_:
        place, value = open_.pop()
        if isinstance(value, list):
            open_ += [([*place, index], entry) for index, entry in enumerate(value)]
        elif isinstance(value, dict):
            for name in ("$ref", "$dynamicRef", "$id", "$schema", "jsonSchemaDialect"):
                if isinstance(value.get(name), str) and _is_schema_word(place):
                    why = _fault_of(root, name, value[name])
                    if why:
                        yield Problem(why, pointer_of([*place, name]))
            open_ += [([*place, key], entry) for key, entry in value.items()]


def _is_schema_word(place: list[str | int]) -> bool:
    """Not inside an example; the answer or the property called `default` is none."""
    return not any(
        part in _VALUES and holder not in _NAMES
        for holder, part in zip(["", *place], place, strict=False)
    )


def _fault_of(root: Any, name: str, target: str) -> str:
    shown = target[:80]
    if name in ("$schema", "jsonSchemaDialect"):
        known = ("https://spec.openapis.org/oas/3.1/", "https://json-schema.org/draft/2020-12/")
        return "" if target.startswith(known) else f"The schema dialect {shown!r} is not known."
    if name == "$id":
        return "Schemas with an $id of their own are not supported; use components."
    if not target.startswith("#"):
        return f"{shown!r} leads out of this document; put what it refers to under components."
    if name == "$dynamicRef":
        return ""
    seen: set[str] = set()
    found: Any = {"$ref": target}
    while isinstance(found, dict) and isinstance(found.get("$ref"), str):
        if found["$ref"] in seen:
            return f"{shown!r} leads back to itself."
        seen.add(found["$ref"])
        try:
            found = look_up(root, found["$ref"])
        except LookupError:
            return f"{shown!r} leads nowhere."
    return ""


class _NothingOutside(dict[str, Any]):
    """The library's readers of addresses and files, by scheme: none of them reads. It has others
    for a scheme that is not in here."""

    def __contains__(self, _scheme: object) -> bool:
        return True


def _schema_problems(value: Any, version: str) -> Iterator[Problem]:
    """What the OpenAPI Initiative's schemas find."""
    # Imported here: it takes half a second, and the paid path never needs it.
    from jsonschema_path import SchemaPath
    from referencing.exceptions import Unresolvable

    from catalog.spec_rules import Rules30, Rules31

    kind = Rules30 if version.startswith("3.0") else Rules31
    found: list[tuple[tuple[str, str], Problem]] = []
    root = SchemaPath.from_dict(value, handlers=_NothingOutside(), resolved_cache_maxsize=128)
    try:
        for error in islice(kind(root).iter_errors(), MAX_PROBLEMS):
            problem = _problem_of(error, value)
            found.append(((problem.pointer, problem.message), problem))
    except Unresolvable as error:  # of an example, say, which is not looked into above
        yield Problem(f"{error.ref[:80]!r} leads nowhere, or out of this document.")
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # The library stumbles over some documents it has already found faults in.
        if not found:
            yield Problem("The document is put together in a way that cannot be checked.")
    yield from dict(found).values()


def _problem_of(error: Any, root: Any) -> Problem:
    """The innermost cause: that no alternative fits says nothing to whoever must mend it."""
    while error.context:
        # Everything could also be a reference; that it is none is not the fault.
        meant = [each for each in error.context if "$ref" not in each.message] or error.context
        error = max(meant, key=lambda each: len(each.absolute_path))
    message = error.message.partition("\n")[0]
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE // 2] + " … " + message[-MAX_MESSAGE // 2 :]
    return Problem(message, pointer_of(_written_at(root, list(error.absolute_path))))


def _written_at(root: Any, parts: list[str | int]) -> list[str | int]:
    """Where it stands, behind the references on the way to it."""
    place: list[str | int] = []
    value = root
    for part in parts:
        while isinstance(value, dict) and part not in value and "$ref" in value:
            place = [*reference_parts(value["$ref"])]
            value = look_up(root, value["$ref"])
        place.append(part)
        known = isinstance(value, list) or (isinstance(value, dict) and part in value)
        value = value[part] if known else None
    return place


def _with_lines(text: str, document: Document, problems: list[Problem]) -> Iterator[Problem]:
    lines = document.lines or locate(text, {problem.pointer for problem in problems})
    for problem in problems:
        pointer = problem.pointer
        while pointer and pointer not in lines:
            pointer = pointer.rpartition("/")[0]  # what is missing stands nowhere: its holder
        yield Problem(problem.message, problem.pointer, problem.line or lines.get(pointer))


def main() -> None:
    """Standard input to standard output, within limits of the system."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    text = sys.stdin.buffer.read().decode("utf-8")
    sys.stdout.write(json.dumps(asdict(check_spec(text))))


if __name__ == "__main__":
    main()
