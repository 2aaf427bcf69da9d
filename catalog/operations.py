"""The operations of an OpenAPI 3.x document, by method and path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from catalog.parameters import as_sent
from catalog.reading import is_too_deep

Operation = Mapping[str, Any]
Operations = Mapping[tuple[str, str], Operation]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_WRITTEN = "x-farebox-path"  # ours, in an operation
# References of references; beyond this depth nobody reads on.
_MAX_DEPTH = 6
# References that fan out multiply; what is beyond these many values becomes {}.
_MAX_VALUES = 20_000
_MAX_VALUES_OF_ALL = 500_000


class _Budget:
    """How many values may still be written out, for one operation and for the document."""

    def __init__(self) -> None:
        self._all = _MAX_VALUES_OF_ALL
        self._left = 0

    def renew(self) -> None:
        self._left = min(_MAX_VALUES, self._all)

    def spend(self) -> bool:
        self._left -= 1
        self._all -= 1
        return self._left >= 0


@lru_cache(maxsize=256)
def spec_operations(spec: str) -> Operations:
    """Operations with `$ref`s resolved and shared parameters merged in, keyed by
    (METHOD, template). A missing or unreadable document has none: prices do not
    depend on it. Kept, because every change of any listing asks again; not to be changed."""
    try:
        document = json.loads(spec) if spec and not is_too_deep(spec) else {}
    except ValueError:
        return {}
    paths = document.get("paths") if isinstance(document, dict) else None
    found: dict[tuple[str, str], Operation] = {}
    budget = _Budget()
    for path, given in paths.items() if isinstance(paths, dict) else ():
        if isinstance(path, str):
            item, template = path_item(document, given), "/" + path.strip("/")
            for method in METHODS:
                if isinstance(item.get(method), dict):
                    budget.renew()
                    operation = _operation(document, item, item[method], budget)
                    found[method.upper(), template] = {
                        **operation,
                        _WRITTEN: f"/{path.lstrip('/')}",
                    }
    return found


def written_path(template: str, operation: Operation) -> str:
    """A template as its specification writes it: many servers redirect whoever leaves out the
    slash at its end, which counts for nothing where requests are matched."""
    return str(operation.get(_WRITTEN, template))


def path_item(document: dict[str, Any], given: Any) -> dict[str, Any]:
    """What stands at a path, also where it is a reference; {} for one that leads nowhere."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(given, dict) or not isinstance(given.get("$ref"), str):
            break
        given = _look_up(document, given["$ref"])
    return given if isinstance(given, dict) else {}


def _operation(
    document: dict[str, Any], item: dict[str, Any], own: dict[str, Any], budget: _Budget
) -> Operation:
    """The operation's own parameters replace the path's of the same name and place; each is as
    it is sent."""
    try:
        shared = _resolve(document, item.get("parameters", []), budget)
        resolved = _resolve(document, own, budget)
    except RecursionError:  # references that each lead deep down
        return {}
    if not isinstance(resolved, dict):
        return {}
    merged = {}
    for parameters in (shared, resolved.get("parameters", [])):
        for parameter in parameters if isinstance(parameters, list) else ():
            if isinstance(parameter, dict):
                merged[str(parameter.get("in")), str(parameter.get("name"))] = parameter
    sent = [each for parameter in merged.values() for each in as_sent(parameter)]
    return {**resolved, "parameters": sent} if merged else resolved


def _resolve(
    document: dict[str, Any], value: Any, budget: _Budget, seen: frozenset[str] = frozenset()
) -> Any:
    """`value` with its references replaced; one that leads back to itself ends as {}."""
    if not budget.spend():
        return {}
    if isinstance(value, list):
        return [_resolve(document, entry, budget, seen) for entry in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str):
        if reference in seen or len(seen) >= _MAX_DEPTH:
            return {}
        return _resolve(document, _look_up(document, reference), budget, seen | {reference})
    return {key: _resolve(document, entry, budget, seen) for key, entry in value.items()}


def reference_parts(reference: str) -> list[str]:
    """The keys that `#/a/b` goes through (RFC 6901, section 6)."""
    return [
        unquote(part).replace("~1", "/").replace("~0", "~") for part in reference[2:].split("/")
    ]


def look_up(root: Any, reference: str) -> Any:
    """What `#/a/b` refers to. Raises LookupError."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        raise LookupError(reference)
    value = root
    for key in reference_parts(reference):
        if isinstance(value, list) and key.isascii() and key.isdigit() and len(key) < 7:
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value[key]
        else:
            raise LookupError(reference)
    return value


def _look_up(document: dict[str, Any], reference: str) -> Any:
    """The target of a local reference (`#/components/…`), else an empty schema."""
    try:
        return look_up(document, reference)
    except LookupError:
        return {}
