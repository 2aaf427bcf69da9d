"""A listing's operations, ready to be read: parameters, schemas as rows, examples. Pure.

Specifications are other people's. Whatever their schemas hold or refer to, the rows of
one are bounded in depth and number, and nothing in them is anything but text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from catalog.listings import ANY, REST, PricedListing, PricedRoute
from catalog.models import PriceUnit
from catalog.samples import Field, fields_of

MAX_ROWS: Final = 120
MAX_DEPTH: Final = 8
_TEXT = 500
_EXAMPLE = 20_000
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class SchemaRow:
    """One line of a schema; `depth` says how far in it stands."""

    depth: int
    name: str
    type: str
    required: bool
    about: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A body: its media type, schema and example. `cut`: the schema goes on."""

    media_type: str
    rows: tuple[SchemaRow, ...]
    cut: bool
    example: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer an operation may give; `status` is e.g. 200, 4XX or default."""

    status: str
    about: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """One operation. `open_`: nobody says what it takes, so any path and body may be sent."""

    key: str
    method: str
    path: str
    price_atoms: int
    summary: str
    description: str
    fields: tuple[Field, ...]
    request: tuple[Shape, ...]
    answers: tuple[Answer, ...]
    open_: bool = False
    unit: PriceUnit = PriceUnit.CALL


def explain(listing: PricedListing) -> tuple[Explained, ...]:
    """Every described operation in the order of the specification, then any other request."""
    found = [
        _explained(route)
        for route in listing.routes
        if route.method != ANY and route.template != REST
    ]
    rest = next(
        (each for each in listing.routes if each.method == ANY and each.template == REST), None
    )
    price = listing.price_atoms if rest is None else rest.price_atoms
    unit = PriceUnit.CALL if rest is None else rest.unit
    about = "Any other request"
    other = Explained("any", "", "", price, about, "", (), (), (), open_=True, unit=unit)
    return (*found, other)


def schema_rows(schema: Any) -> tuple[tuple[SchemaRow, ...], bool]:
    """The lines of a schema, and whether it was cut."""
    rows: list[SchemaRow] = []
    for row in _walk("", schema, False, 0):
        if len(rows) == MAX_ROWS:
            return tuple(rows), True
        rows.append(row)
    return tuple(rows), False


def _explained(route: PricedRoute) -> Explained:
    operation = route.operation
    body = _dict(_dict(operation.get("requestBody")).get("content"))
    return Explained(
        key=f"{route.method} {route.template}",
        method=route.method,
        path=route.path,
        price_atoms=route.price_atoms,
        summary=_text(operation.get("summary")),
        description=_text(operation.get("description")),
        fields=fields_of(operation),
        request=_shapes(body),
        answers=tuple(_answers(_dict(operation.get("responses")))),
        unit=route.unit,
    )


def _answers(responses: Mapping[str, Any]) -> Iterator[Answer]:
    for status, response in list(responses.items())[:12]:
        about = _text(_dict(response).get("description"))
        yield Answer(str(status)[:10], about, _shapes(_dict(_dict(response).get("content"))))


def _shapes(content: Mapping[str, Any]) -> tuple[Shape, ...]:
    return tuple(_shape(name, _dict(media)) for name, media in list(content.items())[:4])


def _shape(media_type: str, media: Mapping[str, Any]) -> Shape:
    rows, cut = schema_rows(media.get("schema"))
    return Shape(media_type[:80], rows, cut, _example(media))


def _walk(name: str, schema: Any, required: bool, depth: int) -> Iterator[SchemaRow]:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return
    if name or schema:
        yield SchemaRow(depth, name[:80], _type(schema), required, _about(schema))
    wanted = schema.get("required")
    must = [each for each in wanted if isinstance(each, str)] if isinstance(wanted, list) else []
    for key, entry in _dict(schema.get("properties")).items():
        yield from _walk(str(key), entry, key in must, depth + 1)
    for word in ("allOf", "oneOf", "anyOf"):
        parts = schema.get(word)
        for entry in parts if isinstance(parts, list) else ():
            yield from _walk(_JOINED[word], entry, False, depth + 1)
    yield from _walk("each", schema.get("items"), False, depth + 1)
    yield from _walk("any other", schema.get("additionalProperties"), False, depth + 1)


_JOINED = {"allOf": "and", "oneOf": "one of", "anyOf": "any of"}


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    names = [str(each) for each in kind] if isinstance(kind, list) else [_text(kind)]
    written = " or ".join(name for name in names[:4] if name)
    written = written or ("object" if "properties" in schema else "any")
    form = _text(schema.get("format"))
    return f"{written} ({form})"[:80] if form else written[:80]


def _about(schema: Mapping[str, Any]) -> str:
    parts = [_text(schema.get("description")) or _text(schema.get("title"))]
    if isinstance(schema.get("enum"), list):
        parts.append("one of " + ", ".join(_short(each) for each in schema["enum"][:12]))
    for word, sign in (("minimum", "≥"), ("maximum", "≤"), ("pattern", "matches")):
        if isinstance(schema.get(word), int | float | str):
            parts.append(f"{sign} {_short(schema[word])}")
    if "default" in schema:
        parts.append(f"otherwise {_short(schema['default'])}")
    return "; ".join(part for part in parts if part)[:_TEXT]


def _example(media: Mapping[str, Any]) -> str:
    named = [_dict(each).get("value") for each in _dict(media.get("examples")).values()]
    schema = _dict(media.get("schema"))
    for value in (media.get("example"), *named, schema.get("example")):
        if isinstance(value, str):
            return value[:_EXAMPLE]
        if value is not None:
            return json.dumps(value, indent=2, ensure_ascii=False)[:_EXAMPLE]
    return ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:60]


def _text(value: Any) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
