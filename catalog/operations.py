"""The operations of an OpenAPI 3.x document, by method and path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Operation = Mapping[str, Any]

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# References of references; beyond this depth nobody reads on.
_MAX_DEPTH = 6


def spec_operations(spec: str) -> dict[tuple[str, str], Operation]:
    """Operations with `$ref`s resolved and shared parameters merged in, keyed by
    (METHOD, template). A missing or unreadable document has none: prices do not
    depend on it."""
    try:
        document = json.loads(spec) if spec else {}
    except ValueError:
        return {}
    paths = document.get("paths") if isinstance(document, dict) else None
    found: dict[tuple[str, str], Operation] = {}
    for path, item in paths.items() if isinstance(paths, dict) else ():
        if isinstance(path, str) and isinstance(item, dict):
            template = "/" + path.strip("/")
            for method in _METHODS:
                if isinstance(item.get(method), dict):
                    found[method.upper(), template] = _operation(document, item, item[method])
    return found


def _operation(document: dict[str, Any], item: dict[str, Any], own: dict[str, Any]) -> Operation:
    """The operation's own parameters replace the path's of the same name and place."""
    resolved: dict[str, Any] = _resolve(document, own)
    shared = _resolve(document, item.get("parameters", []))
    merged = {}
    for parameters in (shared, resolved.get("parameters", [])):
        for parameter in parameters if isinstance(parameters, list) else ():
            if isinstance(parameter, dict):
                merged[parameter.get("in"), parameter.get("name")] = parameter
    return {**resolved, "parameters": list(merged.values())} if merged else resolved


def _resolve(document: dict[str, Any], value: Any, seen: frozenset[str] = frozenset()) -> Any:
    """`value` with its references replaced; one that leads back to itself ends as {}."""
    if isinstance(value, list):
        return [_resolve(document, entry, seen) for entry in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str):
        if reference in seen or len(seen) >= _MAX_DEPTH:
            return {}
        return _resolve(document, _look_up(document, reference), seen | {reference})
    return {key: _resolve(document, entry, seen) for key, entry in value.items()}


def _look_up(document: Any, reference: str) -> Any:
    """The target of a local reference (`#/components/…`), else an empty schema."""
    if not reference.startswith("#/"):
        return {}
    for key in reference[2:].split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        if not isinstance(document, dict) or key not in document:
            return {}
        document = document[key]
    return document
