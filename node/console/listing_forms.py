"""What people type about a listing, read into typed values and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catalog.drafts import (
    Draft,
    DraftCredential,
    DraftRoute,
    parse_priced,
    parse_route,
    parse_tags,
    price_text,
)
from catalog.errors import ListingInvalid, SampleInvalid
from catalog.listings import ANY, REST
from catalog.models import PriceUnit
from catalog.operations import spec_operations, written_path
from catalog.samples import Field, SampleRequest, check_request, fields_of, make_request
from finance.money import Usdc
from node.console.forms import Form
from node.console.visit import Visit
from node.market.drafts import Details, DraftView
from node.market.publisher import Publisher
from node.market.specs import decode, fetch_spec

KEEP = "keep"
_PRICE = "price-"
MOST_PRICED = 100  # operations with a field of their own; the others are priced as lines
MOST_OFFERED = 40  # operations offered at a time for recording

Operation = tuple[str, str]  # (METHOD, path)


def credential_options(kind: str, name: str) -> tuple[tuple[str, str], ...]:
    """Choices for the upstream's credential; what is stored can stay, unseen."""
    fresh = (("none", "None"), ("header", "In a header"), ("query", "In the query"))
    if kind == "none":
        return fresh
    return ((KEEP, f"Keep the stored one ({kind} {name})"), *fresh)


def read_credential(form: Mapping[str, str]) -> DraftCredential | None:
    """None: the stored one stays."""
    kind = form.get("credential_kind", "none")
    if kind == KEEP:
        return None
    if kind == "none":
        return DraftCredential()
    return DraftCredential(
        kind, form.get("credential_name", "").strip(), form.get("credential", "").strip()
    )


async def read_spec(visit: Visit, publisher: Publisher) -> str:
    """The specification from the file, else the address, else the text field.

    Raises ListingInvalid.
    """
    content = await visit.upload("spec_file")
    if content is not None:
        return decode(content, "spec_file")
    if address := visit.form.get("spec_url", "").strip():
        return await fetch_spec(publisher.egress(), address)
    text = visit.form.get("spec", "").strip()
    if not text:
        raise ListingInvalid("spec", "Upload a specification, give its address, or paste it.")
    return text


def read_details(form: Mapping[str, str], spec_text: str) -> Details:
    """The first step's fields; they are checked where they are stored."""
    return Details(
        name=" ".join(form.get("name", "").split()),
        base_url=form.get("base_url", "").strip(),
        spec_text=spec_text,
        description=form.get("description", "").strip(),
        tags=parse_tags(form.get("tags", "")),
        health_path=form.get("health_path", "").strip(),
        credential=read_credential(form),
    )


def details_form(draft: DraftView) -> Form:
    """A draft as it was typed."""
    kind = draft.credential_kind
    return Form(
        {
            "name": draft.name,
            "base_url": draft.base_url,
            "description": draft.description,
            "tags": ", ".join(draft.tags),
            "health_path": draft.health_path,
            "credential_kind": "none" if kind == "none" else KEEP,
            "spec": draft.spec_text,
        }
    )


def operations_of(spec: str) -> list[Operation]:
    """Every operation of a specification; reading ones first."""
    keys = spec_operations(spec)
    return sorted(keys, key=lambda key: (key[0] != "GET", key[1], key[0]))


def priced_operations(spec: str) -> list[Operation]:
    """Those that may have a price of their own; HEAD costs what GET does."""
    return [key for key in operations_of(spec) if key[0] != "HEAD"]


def price_fields(spec: str) -> dict[Operation, str]:
    """The operations that have a price field of their own, with its name."""
    return {key: price_field(*key) for key in priced_operations(spec)[:MOST_PRICED]}


def price_field(method: str, path: str) -> str:
    """The name of an operation's price in a form."""
    return _PRICE + operation_key(method, path)


def operation_key(method: str, path: str) -> str:
    """Names an operation in a form by what it is, not by its place: a form that was open while
    the specification was changed must not price, or ask for, another one."""
    return hashlib.sha256(f"{method} {path}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Prices:
    """A listing's own price, and those of single routes."""

    price: Usdc
    unit: PriceUnit
    routes: tuple[DraftRoute, ...]


def read_prices(form: Mapping[str, str], spec: str) -> Prices:
    """Prices as they were typed. Raises ListingInvalid with the field at fault."""
    unit = PriceUnit.MINUTE if form.get("unit") == PriceUnit.MINUTE else PriceUnit.CALL
    price, unit = parse_priced(form.get("price", ""), unit)
    routes, fields = [], price_fields(spec)
    if any(name.startswith(_PRICE) and name not in fields.values() for name in form):
        raise ListingInvalid("", "The specification was changed meanwhile. Check the prices anew.")
    for (method, path), name in fields.items():
        if text := form.get(name, "").strip():
            try:
                routes.append(DraftRoute(method, path, *parse_priced(text)))
            except ListingInvalid as error:
                raise ListingInvalid(name, str(error)) from error
    lines = (line.strip() for line in form.get("routes", "").splitlines())
    routes += [parse_route(line) for line in lines if line]
    return Prices(price, unit, tuple(routes))


def prices_form(draft: Draft) -> dict[str, str]:
    """The prices of a listing as they are typed."""
    fields, values, lines = price_fields(draft.spec), {}, []
    for route in draft.routes:
        name = fields.get((route.method, "/" + route.path.strip("/")))
        if name is None:
            lines.append(str(route))
        else:
            values[name] = price_text(route.price, route.unit)
    own = {"price": str(draft.price), "unit": draft.unit.value}
    return {**own, "routes": "\n".join(lines), **values}


def field_name(key: str, field: Field) -> str:
    """The name of an example value's input; `key` of its operation."""
    return f"op-{key}-{field.place}-{field.name}"


def read_requests(form: Mapping[str, str], chosen: Sequence[str], spec: str) -> list[SampleRequest]:
    """The requests for the operations that were ticked. Raises SampleInvalid."""
    described, requests = spec_operations(spec), []
    operations = {operation_key(*each): each for each in described}
    for key in chosen:
        if key not in operations:
            raise SampleInvalid("The specification has changed; choose again.")
        method, template = operations[key]
        operation = described[method, template]
        path, fields = written_path(template, operation), fields_of(operation)
        values = {(f.place, f.name): form.get(field_name(key, f), "") for f in fields}
        requests.append(make_request(method, path, fields, values))
    return requests


def read_free_request(form: Mapping[str, str]) -> SampleRequest:
    """A request that no specification describes. Raises SampleInvalid."""
    method = form.get("method", "GET").upper()
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise SampleInvalid("Choose a method.")
    target, body = form.get("target", "").strip(), form.get("body", "")
    kind = form.get("content_type", "").strip() or "application/json"
    path = target.partition("?")[0] or "/"
    request = SampleRequest(method, path, target, (), body, kind if body else "")
    check_request(request)
    return request


def is_rest(method: str, path: str) -> bool:
    """The route that stands for everything no operation describes."""
    return (method, path) == (ANY, REST)
