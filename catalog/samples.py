"""Recorded answers: the request that a spec's examples make, what is kept of the answer,
and which recorded answer a demo request gets. Pure.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from catalog.errors import SampleInvalid
from catalog.models import Sample
from catalog.operations import Operation

MAX_BODY_BYTES = 256 * 1024
MAX_REQUEST_BYTES = 64 * 1024
MAX_TARGET_CHARACTERS = 2000
MAX_SAMPLES = 50  # of one listing
JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"
# What stands for itself in a path and query as people write them.
PLAIN_SIGNS: Final = "/?&=%:@!$'()*+,;~-._[]"

# What helps to read the body. Everything else may name a person, a session or a server.
_KEPT_HEADERS = frozenset(("content-type", "content-language", "content-disposition", "link"))
_SHORTEST_SECRET = 8  # blotting out a shorter word would hide more than the secret


@dataclass(frozen=True, slots=True)
class Field:
    """One value an operation wants. `place` is path, query, header or body."""

    name: str
    place: str
    required: bool
    example: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A request below a listing. `target` is path and query; `template` the operation's path."""

    method: str
    template: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """A recorded answer as the wire gives it."""

    method: str
    template: str
    target: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)
    recorded_at: int


@dataclass(frozen=True, slots=True)
class DemoBook:
    """The recorded answers of one listing, ready to look up."""

    answers: tuple[DemoAnswer, ...] = ()
    _exact: Mapping[tuple[str, bytes], DemoAnswer] = field(default_factory=dict)
    _paths: Mapping[tuple[str, bytes], DemoAnswer] = field(default_factory=dict)
    _operations: Mapping[tuple[str, str], DemoAnswer] = field(default_factory=dict)

    @property
    def operations(self) -> list[str]:
        """The operations with an answer, e.g. `GET /forecast/{city}`."""
        return list(dict.fromkeys(f"{each.method} {each.template}" for each in self.answers))

    def find(
        self, method: str, path: bytes, query: bytes, operation: tuple[str, str]
    ) -> DemoAnswer | None:
        """The answer to this very request, else to this path, else of the operation.

        HEAD is answered as GET. `operation` is (METHOD, template) of the matched route.
        """
        method = "GET" if method == "HEAD" else method
        target = path + b"?" + query if query else path
        return (
            self._exact.get((method, target))
            or self._paths.get((method, path))
            or self._operations.get(operation)
        )


NO_ANSWERS: Final = DemoBook()


def make_book(samples: Iterable[Sample]) -> DemoBook:
    """Compile the samples of one listing; of several for one operation the newest counts."""
    rows = sorted(samples, key=lambda row: (row.recorded_at, row.id))
    answers = tuple(_answer(row) for row in rows)
    return DemoBook(
        answers,
        {(each.method, each.target): each for each in answers},
        {(each.method, each.target.partition(b"?")[0]): each for each in answers},
        {(each.method, each.template): each for each in answers},
    )


def fields_of(operation: Operation) -> tuple[Field, ...]:
    """What an operation wants, with the specification's examples filled in."""
    found = []
    for parameter in operation.get("parameters", []):
        if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
            continue
        place = parameter.get("in")
        if place in ("path", "query", "header"):
            required = place == "path" or parameter.get("required") is True
            example = _typed(_first(_example(parameter)))
            about = _text(parameter.get("description"))
            found.append(Field(parameter["name"], place, required, example, about))
    media_type, media = _media(operation)
    if media_type:
        required = _mapping(operation.get("requestBody")).get("required") is True
        example = _example(media)
        form = media_type == FORM_TYPE and isinstance(example, dict)
        found.append(Field(media_type, "body", required, (_form if form else _typed)(example)))
    return tuple(found)


def make_request(
    method: str, path: str, fields: Iterable[Field], values: Mapping[tuple[str, str], str]
) -> SampleRequest:
    """The request with these values, by (place, name). Raises SampleInvalid."""
    template, query, headers, body, media_type = "/" + path.strip("/"), [], [], "", ""
    for wanted in fields:
        value = values.get((wanted.place, wanted.name), "")
        if not value and wanted.required:
            raise SampleInvalid(f"{method} {template} needs a value for {wanted.name}.")
        if wanted.place == "path":
            path = path.replace("{" + wanted.name + "}", quote(value, safe=""))
        elif value and wanted.place == "query":
            query.append(f"{quote(wanted.name, safe='')}={quote(value, safe='')}")
        elif value and wanted.place == "header":
            headers.append((wanted.name, value))
        elif value:
            body, media_type = value, wanted.name
    path = quote(path, safe=PLAIN_SIGNS + "{}")
    target = path + ("?" + "&".join(query) if query else "")
    request = SampleRequest(method, template, target, tuple(headers), body, media_type)
    check_request(request)
    return request


def check_request(request: SampleRequest) -> None:
    """Raises SampleInvalid when it could not be sent as it stands."""
    what = f"{request.method} {request.template}"
    if not request.target.startswith("/") or not _is_plain(request.target):
        raise SampleInvalid(f"{what}: the path must begin with / and have no spaces.")
    if "{" in request.target.partition("?")[0]:
        raise SampleInvalid(f"{what}: every part in braces needs a value.")
    if len(request.target) > MAX_TARGET_CHARACTERS:
        raise SampleInvalid(f"{what}: the path is longer than {MAX_TARGET_CHARACTERS} characters.")
    if len(request.body.encode("utf-8", "replace")) > MAX_REQUEST_BYTES:
        raise SampleInvalid(f"{what}: the body is larger than 64 KiB.")
    if "\0" in request.body or not _is_plain(request.content_type.replace(" ", "")):
        raise SampleInvalid(f"{what}: the body or its content type has unusual characters.")
    for name, value in request.headers:
        if not _is_plain(name) or not value.isascii() or not value.isprintable():
            raise SampleInvalid(f"{what}: the header {name} has unusual characters.")


def kept_headers(
    given: Iterable[tuple[str, str]], secrets: Iterable[bytes]
) -> list[tuple[str, str]]:
    """The headers a sample keeps; one that holds a credential goes."""
    hidden = list(secrets)
    return [
        (name.lower(), value)
        for name, value in given
        if name.lower() in _KEPT_HEADERS
        and not gives_away(value.encode("utf-8", "replace"), hidden)
    ]


def gives_away(value: bytes, secrets: Iterable[bytes]) -> bool:
    """Whether a header's value tells the upstream's credential: a short one as a word of its own,
    for it is within many others."""
    return any(
        secret in value and (len(secret) >= _SHORTEST_SECRET or _is_word(secret, value))
        for secret in secrets
    )


def _is_word(secret: bytes, value: bytes) -> bool:
    return re.search(rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])" % re.escape(secret), value) is not None


def blotted(body: bytes, secrets: Iterable[bytes]) -> bytes:
    """`body` with the upstream's credential blotted out, as the gateway does."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            body = body.replace(secret, b"*" * len(secret))
    return body


def secrets_of(kind: str, secret: bytes) -> tuple[bytes, ...]:
    """Every form in which an answer might repeat a credential."""
    bare = secret.strip()  # blanks at its ends do not travel
    if kind == "none" or not bare:
        return ()
    # `Bearer abc`: the part after the word is the secret too.
    words = (bare, bare.split()[-1])
    forms = [*(form for word in words for form in _spelt(word)), quote(secret, safe="").encode()]
    return tuple(sorted(dict.fromkeys(forms), key=len, reverse=True))


def _spelt(word: bytes) -> Iterator[bytes]:
    """As it is, in JSON, in PHP's, which has a backslash before each slash, and in HTML."""
    text = word.decode("utf-8", "surrogateescape")
    quoted = json.dumps(text)[1:-1]
    yield word
    yield quoted.encode()
    yield quoted.replace("/", "\\/").encode()
    yield html.escape(text).encode("utf-8", "surrogateescape")
    yield html.escape(quoted).encode()


def _answer(row: Sample) -> DemoAnswer:
    headers = tuple(
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in json.loads(row.headers)
    )
    target = row.target.encode("latin-1", "replace")
    return DemoAnswer(
        row.method, row.template, target, row.status, headers, row.body, row.recorded_at
    )


def _media(operation: Operation) -> tuple[str, dict[str, Any]]:
    """The request body to send: JSON if the operation takes it, else what it names first."""
    content = _mapping(_mapping(operation.get("requestBody")).get("content"))
    for name in (JSON_TYPE, *content):
        if name in content and _is_plain(name.replace(" ", "")):
            return name, _mapping(content[name])
    return "", {}


def _example(holder: Mapping[str, Any]) -> Any:
    """The example of a parameter or body, wherever OpenAPI lets it stand; None without one."""
    schema = _mapping(holder.get("schema"))
    examples = _mapping(holder.get("examples"))
    given = [holder.get("example"), *(_mapping(each).get("value") for each in examples.values())]
    given += [schema.get("example"), *_list(schema.get("examples"))]
    given += [schema.get("default"), *_list(schema.get("enum"))]
    found = next((value for value in given if value is not None), None)
    return found if found is not None else _from_properties(schema) or None


def _first(value: Any) -> Any:
    """Of a list, which every style of parameter joins in another way, what all write alike."""
    return next(iter(value), None) if isinstance(value, list) else value


def _typed(value: Any) -> str:
    """As it stands in a form: text as it is, nothing as nothing, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _form(values: Mapping[str, Any]) -> str:
    """As a form is sent: each entry of a list by itself."""
    pairs = (
        (name, _typed(each))
        for name, value in values.items()
        for each in (value if isinstance(value, list) else [value])
    )
    return urlencode([*pairs])


def _from_properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object of its properties' own examples."""
    properties = _mapping(schema.get("properties"))
    return {
        name: _mapping(entry)["example"]
        for name, entry in properties.items()
        if "example" in _mapping(entry)
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
