"""Parameters of an operation as a request has them (OpenAPI 3.1, "Parameter Object")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Parameter = dict[str, Any]

_EXAMPLES = ("example", "examples")


def as_sent(parameter: Parameter) -> Iterator[Parameter]:
    """A parameter under the names it is sent by. An object of the style `deepObject` is one for
    each of its properties, as `filter[city]`; one that is described by a media type, as JSON in a
    query, has that one's schema and examples."""
    schema = parameter.get("schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    content = parameter.get("content")
    if parameter.get("style") == "deepObject" and isinstance(properties, dict):
        yield from _properties(parameter, schema, properties)
    elif isinstance(content, dict) and content:
        media = next(iter(content.values()))
        told = media if isinstance(media, dict) else {}
        yield parameter | {key: told[key] for key in ("schema", *_EXAMPLES) if key in told}
    else:
        yield parameter


def _properties(
    parameter: Parameter, schema: Any, properties: dict[str, Any]
) -> Iterator[Parameter]:
    whole = {key: each for key, each in parameter.items() if key not in _EXAMPLES}
    example, required = parameter.get("example"), schema.get("required")
    for name, entry in properties.items():
        one = whole | {"name": f"{parameter.get('name')}[{name}]", "schema": entry}
        one["required"] = (
            parameter.get("required") is True and isinstance(required, list) and name in required
        )
        if isinstance(entry, dict) and "description" in entry:
            one["description"] = entry["description"]
        if isinstance(example, dict) and name in example:
            one["example"] = example[name]
        yield one
