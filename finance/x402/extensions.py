"""What a 402 declares besides its price: how to call the route, and idempotency.

Source: x402 extensions `bazaar` (discovery) and `payment-identifier`; the shapes
are those of the SDK's `extensions/bazaar/resource_service.py` and
`extensions/payment_identifier/server.py`, and pass its validators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

BAZAAR: Final = "bazaar"
PAYMENT_IDENTIFIER: Final = "payment-identifier"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_QUERY_METHODS = ("GET", "HEAD", "DELETE")
_BODY_METHODS = ("POST", "PUT", "PATCH")
_BODY_TYPES = (
    ("application/json", "json"),
    ("multipart/form-data", "form-data"),
    ("application/x-www-form-urlencoded", "form-data"),
    ("text/plain", "text"),
)
_NO_PARAMETERS = ("accept", "authorization", "content-type")  # OpenAPI 3.1, section 4.8.12.2.1
# Deeper schemas say no more to a buyer who reads a catalog.
_MAX_DEPTH = 12

_Json = dict[str, Any]


def payment_identifier_extension(required: bool = False) -> _Json:
    """Declare that clients may (or must) name a payment to make it idempotent."""
    identifier = {
        "type": "string",
        "minLength": 16,
        "maxLength": 128,
        "pattern": "^[a-zA-Z0-9_-]+$",
    }
    schema = {
        "$schema": _DIALECT,
        "type": "object",
        "properties": {"required": {"type": "boolean"}, "id": identifier},
        "required": ["required"],
    }
    return {PAYMENT_IDENTIFIER: {"info": {"required": required}, "schema": schema}}


def bazaar_extension(
    method: str,
    operation: Mapping[str, Any],
    route_template: str | None = None,
    output_example: Any = None,
) -> _Json:
    """Declare how a route is called, from its OpenAPI 3 operation with `$ref`s resolved.

    `route_template` is the path from the host's root in `:name` form when it has
    parameters. Returns an empty dict for a method that discovery does not know.
    """
    method = method.upper()
    if method not in _QUERY_METHODS + _BODY_METHODS:
        return {}
    info, properties = {"type": "http", "method": method}, _input_properties(method)
    required = ["type", "method"]
    _describe_parameters(info, properties, operation)
    if method in _BODY_METHODS:
        _describe_body(info, properties, operation)
        required += ["bodyType", "body"]
    declaration: _Json = {"info": {"input": info}}
    schemas = {"input": _object(properties, required) | {"additionalProperties": False}}
    _describe_output(declaration["info"], schemas, operation, output_example)
    declaration["schema"] = {"$schema": _DIALECT, **_object(schemas, ["input"])}
    if route_template is not None:
        declaration["routeTemplate"] = route_template
    return {BAZAAR: declaration}


def _input_properties(method: str) -> _Json:
    return {
        "type": {"type": "string", "const": "http"},
        "method": {"type": "string", "enum": [method]},
    }


def _describe_parameters(info: _Json, properties: _Json, operation: Mapping[str, Any]) -> None:
    for place, name in (("query", "queryParams"), ("path", "pathParams"), ("header", "headers")):
        parameters = [
            parameter
            for parameter in _dicts(operation.get("parameters"))
            if parameter.get("in") == place and _is_told(parameter)
        ]
        if not parameters:
            continue
        schemas = {p["name"]: _plain(p.get("schema")) for p in parameters}
        required = [p["name"] for p in parameters if p.get("required") is True]
        properties[name] = _object(schemas, required)
        examples = {p["name"]: e for p in parameters if (e := _example(p)) is not None}
        if place == "header":  # the SDK has but text there
            examples = {key: each for key, each in examples.items() if isinstance(each, str)}
        # An example that lacks a required parameter would contradict its own schema.
        if examples and examples.keys() >= set(required):
            info[name] = examples


def _is_told(parameter: _Json) -> bool:
    """Whether it is one at all: of some headers OpenAPI says that they are not."""
    name = parameter.get("name")
    if not isinstance(name, str):
        return False
    return parameter.get("in") != "header" or name.lower() not in _NO_PARAMETERS


def _describe_body(info: _Json, properties: _Json, operation: Mapping[str, Any]) -> None:
    body_type, media = _body_media(_dict(_dict(operation.get("requestBody")).get("content")))
    schema, example = _plain(media.get("schema")), _example(media)
    if example is None:
        # The SDK reads an absent body as {}, so that one must not contradict the schema.
        example, schema = {}, _object(_dict(schema.get("properties")), [])
    info["bodyType"], info["body"] = body_type, example
    properties["bodyType"] = {"type": "string", "enum": ["json", "form-data", "text"]}
    properties["body"] = schema


def _describe_output(
    info: _Json, schemas: _Json, operation: Mapping[str, Any], example: Any
) -> None:
    responses = _dict(operation.get("responses"))
    success = next((_dict(responses[s]) for s in sorted(responses) if str(s)[:1] == "2"), {})
    media = _by_essence(_dict(success.get("content"))).get("application/json", {})
    if example is None:
        example = _example(media)
    if example is None:
        return
    info["output"] = {"type": "json", "example": example}
    shape = {"type": {"type": "string"}, "example": _plain(media.get("schema"))}
    schemas["output"] = _object(shape, ["type"])


def _body_media(content: _Json) -> tuple[str, _Json]:
    named = _by_essence(content)
    for media_type, body_type in _BODY_TYPES:
        if media_type in named:
            return body_type, named[media_type]
    return "json", {}


def _by_essence(content: _Json) -> dict[str, _Json]:
    """Media types without their parameters; what is JSON by another name is JSON."""
    found: dict[str, _Json] = {}
    for media_type, media in content.items():
        essence = media_type.partition(";")[0].strip().lower()
        found.setdefault("application/json" if essence.endswith("+json") else essence, _dict(media))
    return found


def _example(holder: _Json) -> Any:
    """The example of a parameter or media type, wherever OpenAPI lets it stand."""
    if "example" in holder:
        return holder["example"]
    for example in _dict(holder.get("examples")).values():
        if isinstance(example, dict) and "value" in example:
            return example["value"]
    schema = _dict(holder.get("schema"))
    return schema.get("example", schema.get("default"))


def _plain(schema: Any, depth: int = 0) -> _Json:
    """A schema a stranger may evaluate: references, which he would have to fetch, cut out."""
    cut = _cut(schema, depth)
    return cut if isinstance(cut, dict) else {}


def _cut(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        if depth > _MAX_DEPTH or "$ref" in value or "$id" in value or "$dynamicRef" in value:
            return {}
        return {key: _cut(entry, depth + 1) for key, entry in value.items() if key != "$schema"}
    if isinstance(value, list):
        return [_cut(entry, depth + 1) for entry in value] if depth <= _MAX_DEPTH else []
    return value


def _object(properties: _Json, required: Sequence[str]) -> _Json:
    schema: _Json = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _dict(value: Any) -> _Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[_Json]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
