"""The explorer's part of a listing's page: one operation, its form, and what a call brought."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from catalog.errors import SampleInvalid
from catalog.models import PriceUnit
from catalog.samples import SampleRequest
from finance.money import Usdc
from node.console.format import Amount, exact_amount, latency, per, size
from node.console.forms import Form
from node.market.explore import METHODS, Answer, Explained, Shape
from node.market.plain_json import NotJson, decode
from node.market.try_it import Left, TryResult, Wanted, make_wanted

_SHOWN = 64 * 1024
_SCOPES = {
    "call": "One call",
    "listing": "This API today",
    "key": "Calls from the console today",
    "day": "All calls today",
}


@dataclass(frozen=True, slots=True)
class OperationLink:
    """An operation in the list."""

    key: str
    method: str
    path: str
    summary: str
    price: str
    current: bool


@dataclass(frozen=True, slots=True)
class Input:
    """One value of the form; `name` is the field's."""

    name: str
    label: str
    place: str
    required: bool
    about: str


@dataclass(frozen=True, slots=True)
class LimitLine:
    """What a spending limit still allows."""

    label: str
    left: Amount
    limit: Amount
    short: bool


@dataclass(frozen=True, slots=True)
class OperationView:
    """The operation that is open, with its form."""

    key: str
    title: str
    summary: str
    description: str
    price: Amount
    unit: str
    unpriced: bool
    inputs: tuple[Input, ...]
    request: tuple[Shape, ...]
    answers: tuple[Answer, ...]
    open_: bool
    methods: tuple[tuple[str, str], ...]
    limits: tuple[LimitLine, ...]
    once: str


@dataclass(frozen=True, slots=True)
class ResultView:
    """What a call brought, safe to show: text, cut to what a page can bear."""

    call_id: str
    request: str
    status: int
    good: bool
    demo: bool
    source: str
    charged: Amount
    scheme: str
    latency: str
    size: str
    error: str
    detail: str
    recorded: bool
    headers: tuple[tuple[str, str], ...]
    body: str
    cut: bool
    binary: bool
    download: str


def operation_links(operations: tuple[Explained, ...], current: str) -> tuple[OperationLink, ...]:
    """Every operation with its price."""
    return tuple(
        OperationLink(
            each.key,
            each.method,
            each.path,
            each.summary,
            _price(each),
            each.key == current,
        )
        for each in operations
    )


def _price(operation: Explained) -> str:
    if not operation.price_atoms:
        return ""
    text = exact_amount(Usdc(operation.price_atoms)).text
    return text if operation.unit is PriceUnit.CALL else f"{text} {per(operation.unit)}"


def operation_view(operation: Explained, limits: tuple[Left, ...]) -> OperationView:
    return OperationView(
        key=operation.key,
        title=f"{operation.method} {operation.path}".strip() or operation.summary,
        summary=operation.summary,
        description=operation.description,
        price=exact_amount(Usdc(operation.price_atoms)),
        unit=per(operation.unit),
        unpriced=operation.price_atoms == 0,
        inputs=tuple(
            _input(each.place, each.name, each.required, each.description)
            for each in operation.fields
        ),
        request=operation.request,
        answers=operation.answers,
        open_=operation.open_,
        methods=tuple((method, method) for method in METHODS),
        limits=tuple(limit_line(each, operation.price_atoms) for each in limits),
        once=f"console-{secrets.token_hex(12)}",
    )


def filled(operation: Explained) -> dict[str, str]:
    """The form with the examples of the specification in it."""
    values = {f"{each.place}.{each.name}": each.example for each in operation.fields}
    return {**values, "method": "GET", "path": "/"} if operation.open_ else values


def wanted_of(operation: Explained, form: Form) -> Wanted:
    """What was filled in."""
    values = {
        (each.place, each.name): form.value(f"{each.place}.{each.name}")
        for each in operation.fields
    }
    once = form.value("once")
    return Wanted(
        operation=operation.key,
        values={key: value.strip() if key[0] != "body" else value for key, value in values.items()},
        method=form.value("method") or "GET",
        path=form.value("path") or "/",
        body=form.value("body"),
        once=once if 16 <= len(once) <= 128 and once.isascii() and once.isprintable() else "",
    )


def curl_of(operation: Explained, form: Form, address: str, own: bool) -> str:
    """The same call as an app makes it; what is needed and not filled in stands there by its
    name. Shell signs of strangers stay inside quotes."""
    needed = {
        (each.place, each.name): "BODY" if each.place == "body" else each.name.upper()
        for each in operation.fields
        if each.required
    }
    wanted = wanted_of(operation, form)
    given = {key: value for key, value in wanted.values.items() if value}
    try:
        request = make_wanted((operation,), replace(wanted, values=needed | given))
    except SampleInvalid:  # the page says what is wrong with it
        request = SampleRequest(operation.method or "GET", operation.path, operation.path or "/")
    # A HEAD given by -X is waited for: its answer never ends.
    word = "--head" if request.method == "HEAD" else f"-X {request.method}"
    headers = [each for each in request.headers if each[0].lower() != "authorization"]
    if request.body:
        headers.append(("Content-Type", request.content_type))
    lines = [f"curl {word} {shlex.quote(address + request.target)}"]
    lines.append("-H 'Farebox-Demo: 1'" if own else '-H "Authorization: Bearer $FAREBOX_SECRET"')
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if request.body:  # raw: an example that begins with @ names no file
        lines.append(f"--data-raw {shlex.quote(request.body)}")
    return " \\\n  ".join(lines)


def result_view(result: TryResult, download: str) -> ResultView:
    body, binary = _readable(result)
    return ResultView(
        call_id=result.call_id,
        request=f"{result.method} {result.target}",
        status=result.status,
        good=result.status < 400,
        demo=result.demo,
        source=result.source,
        charged=exact_amount(Usdc(result.charged_atoms)),
        scheme=result.scheme,
        latency=latency(result.latency_us),
        size=size(len(result.body)) + ("" if result.whole else " and more"),
        error=result.error,
        detail=result.detail,
        recorded=result.recorded,
        headers=result.headers,
        body=body[:_SHOWN],
        cut=len(body) > _SHOWN or not result.whole,
        binary=binary,
        download=download,
    )


def media_type(headers: Mapping[str, str]) -> str:
    """The content type without parameters, lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _readable(result: TryResult) -> tuple[str, bool]:
    """(the body as text, whether it is none). JSON is indented when all of it is there."""
    try:
        text = result.body.decode()
    except UnicodeDecodeError:
        kind = media_type(dict(result.headers))
        if result.whole and not kind.startswith("text/"):
            return "", True
        text = result.body.decode(errors="replace")
    if not result.whole or not text.lstrip().startswith(("{", "[")):
        return text, "\x00" in text
    try:
        return json.dumps(decode(result.body), indent=2, ensure_ascii=False), False
    except NotJson:
        return text, False


def _input(place: str, name: str, required: bool, about: str) -> Input:
    label = f"Body ({name})" if place == "body" else name
    return Input(f"{place}.{name}", label, place, required, about)


def limit_line(left: Left, price: int) -> LimitLine:
    """What a limit leaves, and whether it is too little for a price."""
    return LimitLine(
        _SCOPES[left.scope],
        exact_amount(Usdc(left.left_atoms)),
        exact_amount(Usdc(left.limit_atoms)),
        left.left_atoms < price,
    )
