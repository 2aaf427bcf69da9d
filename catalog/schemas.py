"""A seller's discovery declaration, made into an OpenAPI operation. Pure.

Source: the x402 `bazaar` extension, `extensions/bazaar/types.py` of the `x402`
package. Everything in it was written by strangers: sizes, depths and types are
bounded before anything is kept, and references are cut out, so that whoever reads a
schema afterwards has nothing to follow.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from catalog.samples import FORM_TYPE

MAX_BYTES: Final = 64 * 1024
_MAX_DEPTH = 12
_MAX_NODES = 2_000
_MAX_TEXT = 2_000
_METHODS = ("GET", "HEAD", "DELETE", "POST", "PUT", "PATCH")
_WITH_BODY = ("POST", "PUT", "PATCH")
_BODY_TYPES = {
    "json": "application/json",
    "form-data": FORM_TYPE,  # which can be typed, as multipart cannot
    "text": "text/plain",
}
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_REFERENCES = ("$ref", "$id", "$dynamicRef", "$schema")

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Declaration:
    """How one route is called. Kept as JSON: a peer lists thousands of them, and values may
    take twenty times the memory of their text."""

    method: str
    operation_json: str
    example_json: str

    @property
    def operation(self) -> _Json:
        """An OpenAPI 3.1 operation without references."""
        operation: _Json = json.loads(self.operation_json)
        return operation

    @property
    def example(self) -> Any:
        """An answer the seller shows, None when there is none."""
        return json.loads(self.example_json)


def read_declaration(extension: object) -> Declaration | None:
    """The operation behind a `bazaar` extension; None when there is none to be read."""
    bounded = bound(extension)
    info = _dict(_dict(bounded).get("info"))
    asked, schema = _dict(info.get("input")), _dict(_dict(bounded).get("schema"))
    method = asked.get("method")
    if not isinstance(method, str) or method.upper() not in _METHODS:
        return None
    method = method.upper()
    properties = _dict(_dict(_dict(schema.get("properties")).get("input")).get("properties"))
    operation: _Json = {"parameters": _parameters(asked, properties)}
    if method in _WITH_BODY:
        operation["requestBody"] = _body(asked, properties)
    example = _dict(info.get("output")).get("example")
    operation["responses"] = {"200": _answer(schema, example)}
    return Declaration(method, json.dumps(operation), json.dumps(example))


def bound(value: object) -> Any:
    """`value` when it is plain JSON of bearable size, cut at its depths; else None."""
    try:
        if len(json.dumps(value)) > MAX_BYTES:
            return None
    except (TypeError, ValueError, RecursionError):
        return None
    return _cut(value, 0, [_MAX_NODES])


def _cut(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {
            key: _cut(entry, depth + 1, left)
            for key, entry in value.items()
            if key not in _REFERENCES and _NAME.fullmatch(key)
        }
    if isinstance(value, list):
        return [_cut(entry, depth + 1, left) for entry in value]
    return value[:_MAX_TEXT] if isinstance(value, str) else value


def _parameters(asked: _Json, properties: _Json) -> list[_Json]:
    found = []
    for name, place in (("pathParams", "path"), ("queryParams", "query"), ("headers", "header")):
        declared, examples = _dict(properties.get(name)), _dict(asked.get(name))
        schemas = _dict(declared.get("properties"))
        required = declared.get("required")
        for key in dict.fromkeys((*schemas, *examples)):
            entry: _Json = {"name": key, "in": place, "schema": _dict(schemas.get(key))}
            if place == "path" or (isinstance(required, list) and key in required):
                entry["required"] = True
            if key in examples:
                entry["example"] = examples[key]
            found.append(entry)
    return found


def _body(asked: _Json, properties: _Json) -> _Json:
    kind = asked.get("bodyType")
    media: _Json = {"schema": _dict(properties.get("body"))}
    if asked.get("body") not in (None, {}, ""):
        media["example"] = asked["body"]
    named = kind if isinstance(kind, str) else "json"
    return {"content": {_BODY_TYPES.get(named, "application/json"): media}}


def _answer(schema: _Json, example: Any) -> _Json:
    output = _dict(_dict(_dict(schema.get("properties")).get("output")).get("properties"))
    media: _Json = {"schema": _dict(output.get("example"))}
    if example is not None:
        media["example"] = example
    return {"description": "The answer", "content": {"application/json": media}}


def _dict(value: Any) -> _Json:
    return value if isinstance(value, dict) else {}
