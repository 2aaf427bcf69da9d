"""The rules that a document is held to: the library's, each fault with the place of its schema,
and without those that OpenAPI does not make.

A pattern is a regular expression of JavaScript (ECMA-262), which Python cannot judge. What is
required need not be described. A default need not fit its schema: in 3.0 it has its type, and
formats are hints in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from jsonschema import FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema_path import SchemaPath
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from openapi_spec_validator.validation import keywords
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

_Fault = TypeVar("_Fault", bound=ValidationError)
_NO_FORMATS = FormatChecker(formats=())


class _Placed(keywords.SchemaValidator):
    """Schemas of either version."""

    def __call__(
        self, schema: SchemaPath, require_properties: bool = True, meta_checked: bool = False
    ) -> Iterator[ValidationError]:
        return super().__call__(schema, False, meta_checked)

    def _validate_schema_meta(
        self, schema: SchemaPath, schema_value: Any
    ) -> OpenAPIValidationError | None:
        error = super()._validate_schema_meta(schema, schema_value)
        return None if error is None else _place(error, schema)


class _Schemas30(_Placed, keywords.OpenAPIV30SchemaValidator):
    def _get_schema_checker(self, schema: SchemaPath, schema_value: Any) -> Any:
        return lambda value: OAS30Validator.check_schema(value, format_checker=_NO_FORMATS)


class _Schemas31(_Placed, keywords.OpenAPIV31SchemaValidator):
    schema_validator_format_checker = _NO_FORMATS


class _Defaults30(keywords.OpenAPIV30ValueValidator):
    def __call__(self, schema: SchemaPath, value: Any) -> Iterator[ValidationError]:
        with schema.resolve() as resolved:
            given = resolved.contents
        type_only = {name: given[name] for name in ("type", "nullable") if name in given}
        for error in OAS30Validator(type_only).iter_errors(value):
            yield _place(error, schema / "default")


class _Defaults31(keywords.OpenAPIV31ValueValidator):
    def __call__(self, schema: SchemaPath, value: Any) -> Iterator[ValidationError]:
        return iter(())


class Rules30(OpenAPIV30SpecValidator):
    """Of OpenAPI 3.0."""

    keyword_validators = OpenAPIV30SpecValidator.keyword_validators | {
        "schema": _Schemas30,
        "default": _Defaults30,
    }


class Rules31(OpenAPIV31SpecValidator):
    """Of OpenAPI 3.1."""

    keyword_validators = OpenAPIV31SpecValidator.keyword_validators | {
        "schema": _Schemas31,
        "default": _Defaults31,
    }


def _place(error: _Fault, schema: SchemaPath) -> _Fault:
    """The library counts it from the schema on."""
    error.relative_path.extendleft(reversed(schema.parts))
    return error
