"""`farebox listing`: what this node sells, and what it buys."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from sqlalchemy import Engine

from catalog.drafts import (
    Draft,
    DraftCredential,
    parse_priced,
    parse_route,
    price_text,
    slug_of,
)
from catalog.editing import find_listings, read_listings
from catalog.errors import AddressInvalid, ListingInvalid
from catalog.models import Listing, ListingMode, ListingOrigin, PriceUnit, RoutePrice
from finance.money import Usdc
from node.accounts.audit import COMMAND
from node.commands.frame import database_of, open_database, read_settings, require_node, unlock
from node.commands.output import Json, show_facts, show_rows
from node.db.engine import writer
from node.lock import running_node
from node.settings import Settings

# What reads addresses, asks them and publishes takes seconds to load: the commands that need
# it import it when they run.
if TYPE_CHECKING:
    from catalog.discovery import FoundListing
    from node.market.publisher import Publisher

app = typer.Typer(help="APIs this node sells or buys.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name, address part or id.")]


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="3 to 80 characters.")],
    upstream: Annotated[str | None, typer.Option(help="Sell the API at this address.")] = None,
    buy: Annotated[str | None, typer.Option(help="Buy from this paid (x402) address.")] = None,
    price: Annotated[
        str, typer.Option(help="USDC per call, e.g. 0.001; of streams per minute: 0.02/minute.")
    ] = "0",
    route: Annotated[
        list[str] | None,
        typer.Option(
            help='A route\'s own price: "GET /forecast/{city}=0.01", "GET /live=0.02/minute".'
        ),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="OpenAPI 3.0 or 3.1 document, JSON or YAML.")
    ] = None,
    description: Annotated[str, typer.Option(help="At most 500 characters.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Repeat for more, at most 20.")] = None,
    auth_header: Annotated[
        str | None, typer.Option(help="Header with the upstream's credential.")
    ] = None,
    auth_query: Annotated[
        str | None, typer.Option(help="Query parameter with the upstream's credential.")
    ] = None,
    auth_value_stdin: Annotated[
        bool, typer.Option("--auth-value-stdin", help="Read the credential from standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sell an API (--upstream URL --price 0.001), or add one to buy from (--buy URL)."""
    if (upstream is None) == (buy is None):
        raise ListingInvalid("base_url", "Say either --upstream URL (to sell) or --buy URL.")
    from catalog.specs import parse_spec

    settings = read_settings(context)
    require_node(settings)
    atoms, unit = parse_priced(price)
    draft = Draft(
        name=name,
        slug=slug_of(name),
        base_url=upstream or buy or "",
        origin=ListingOrigin.OWN if upstream else ListingOrigin.REMOTE,
        price=atoms,
        unit=unit,
        routes=tuple(parse_route(text) for text in route or ()),
        description=description,
        tags=tuple(tag or ()),
        credential=_credential(auth_header, auth_query, auth_value_stdin),
        spec=parse_spec(_read(spec)) if spec else "",
    )
    listing_id = _store(settings, draft)
    show_facts(_added(settings, draft, listing_id), as_json, hint=_hint(settings, draft))


def _store(settings: Settings, draft: Draft) -> str:
    """The id under which it stands in the database now."""
    from node.commands.buying import add_bought
    from node.market.publishing import sell

    seal = unlock(settings).seal if draft.credential.secret else _nothing_to_seal
    publisher, now = _publisher(settings, seal), int(time.time())
    found = _look(publisher.engine, settings, draft)
    if found is None:
        return sell(publisher, draft, ListingMode.LIVE, COMMAND, now)
    with writer(publisher.engine).begin() as connection:
        return add_bought(connection, found, draft, settings, now)


def _look(engine: Engine, settings: Settings, draft: Draft) -> FoundListing | None:
    """What a bought address says of itself; None for one that is sold, described by the
    operator, or not answering: that is said, and it is added as it was given."""
    described = draft.price or draft.routes or draft.spec or draft.credential.secret
    if draft.origin is ListingOrigin.OWN or described:
        return None
    from node.commands.buying import look_at

    try:
        return look_at(engine, settings, draft)
    except AddressInvalid as error:
        typer.echo(f"Added without having seen a price: {error}", err=True)
        return None


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All listings with their prices in USDC."""
    rows = [_row(*entry) for entry in read_listings(database_of(context))]
    empty = "No listings yet. Add one with: farebox listing add NAME --upstream URL --price 0.001"
    show_rows("Listings", rows, as_json, empty)


@app.command()
def pause(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Stop selling or buying it for now."""
    _set_paused(context, name, True, as_json)


@app.command()
def resume(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Go on after a pause."""
    _set_paused(context, name, False, as_json)


@app.command()
def remove(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Take it out of the catalog. What was earned or spent with it stays in the books."""
    from node.market import publishing

    settings = read_settings(context)
    require_node(settings)
    removed = publishing.remove(_publisher(settings), name, COMMAND, int(time.time()))
    show_facts({"removed": removed}, as_json)


@app.command()
def mode(
    context: typer.Context,
    name: Name,
    mode: Annotated[ListingMode, typer.Argument(help="live (paid) or demo (recorded, free).")],
    as_json: Json = False,
) -> None:
    """Sell for money, or answer every call from recorded samples."""
    from node.market.publishing import switch_mode

    settings = read_settings(context)
    require_node(settings)
    changed = switch_mode(_publisher(settings), name, mode, COMMAND, int(time.time()))
    show_facts({mode.value: changed}, as_json)


@app.command()
def record(
    context: typer.Context,
    name: Name,
    target: Annotated[
        list[str], typer.Argument(help='One to three requests: "/forecast/lisbon?days=3".')
    ],
    method: Annotated[str, typer.Option(help="Of all of them.")] = "GET",
    body: Annotated[str, typer.Option(help="JSON to send with each.")] = "",
    as_json: Json = False,
) -> None:
    """Ask the upstream and keep its answers for demo mode."""
    from catalog.samples import SampleRequest
    from node.market.samples import record_samples

    settings = read_settings(context)
    keys = unlock(settings)
    publisher = _publisher(settings, keys.seal, keys.unseal)
    with publisher.engine.connect() as connection:
        [listing_id, *_] = find_listings(connection, name)
    kind = "application/json" if body else ""
    requests = [
        SampleRequest(method.upper(), each.partition("?")[0], each, (), body, kind)
        for each in target
    ]
    done = asyncio.run(record_samples(publisher, listing_id, requests, COMMAND, int(time.time())))
    rows = [
        {"request": f"{each.method} {each.target}", "status": each.status, "problem": each.problem}
        for each in done
    ]
    show_rows("Recorded", rows, as_json, "")
    if any(each.problem for each in done):
        raise typer.Exit(1)


def _set_paused(context: typer.Context, name: str, paused: bool, as_json: bool) -> None:
    from node.market import publishing

    settings = read_settings(context)
    require_node(settings)
    changed = publishing.pause(_publisher(settings), name, paused, COMMAND, int(time.time()))
    show_facts({"paused" if paused else "resumed": changed}, as_json)


def _credential(header: str | None, query: str | None, from_stdin: bool) -> DraftCredential:
    if header is None and query is None:
        return DraftCredential()
    if header is not None and query is not None:
        raise ListingInvalid("credential", "Give either --auth-header or --auth-query.")
    if not from_stdin:
        raise ListingInvalid(
            "credential",
            "Give the credential on standard input with --auth-value-stdin, so that it stays out"
            " of the process list and the shell's history.",
        )
    secret = sys.stdin.readline().rstrip("\r\n")
    return DraftCredential("header" if header else "query", header or query or "", secret)


def _publisher(
    settings: Settings,
    seal: Callable[[bytes], str] | None = None,
    unseal: Callable[[str], bytes] = bytes.fromhex,
) -> Publisher:
    """Without keys for what needs none: then nobody is asked for the passphrase."""
    from node.egress import EgressPolicy
    from node.market.network import NetworkChoices
    from node.market.publisher import Publisher
    from node.preferences import read_preference

    egress = EgressPolicy(settings.allowed_hosts)
    engine = open_database(settings)
    egress.allow_also(read_preference(engine, NetworkChoices).extra_hosts)
    return Publisher(engine, seal or _nothing_to_seal, unseal, lambda: egress)


def _nothing_to_seal(_secret: bytes) -> str:
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ListingInvalid("spec", f"{path} cannot be read: {error}.") from error


def _added(settings: Settings, draft: Draft, listing_id: str) -> dict[str, Any]:
    node = running_node(settings.data_dir)
    if draft.origin is ListingOrigin.OWN:
        url = f"{node.get('gateway_url', settings.gateway_url)}/v1/{draft.slug}/"
    else:
        url = f"{node.get('console_url', settings.console_url)}/call/{draft.slug}/"
    return {"id": listing_id, "name": draft.name, "slug": draft.slug, "url": url}


def _hint(settings: Settings, draft: Draft) -> str:
    """What to do about a host that was not named; nothing about one that was."""
    from node.egress import EgressPolicy

    address = urlsplit(draft.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    if EgressPolicy(settings.allowed_hosts).allows(address.hostname or "", port):
        return ""
    host = address.netloc
    return (
        f"If {host} is a private address of yours, allow it: add"
        f' allowed_hosts = ["{host}"] to farebox.toml and restart the node.'
    )


def _row(listing: Listing, prices: tuple[RoutePrice, ...]) -> dict[str, Any]:
    return {
        "id": listing.id,
        "name": listing.name,
        "slug": listing.slug,
        "origin": str(listing.origin),
        "base_url": listing.base_url,
        "price": price_text(Usdc(listing.price_atoms), PriceUnit(listing.price_unit)),
        "routes": [
            f"{p.method} {p.path}={price_text(Usdc(p.price_atoms), PriceUnit(p.price_unit))}"
            for p in prices
        ],
        "mode": str(listing.mode),
        "paused": listing.paused,
    }
