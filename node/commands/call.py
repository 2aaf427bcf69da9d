"""`farebox call`: one paid call through the running node."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console

from node.commands.frame import read_settings
from node.commands.output import Json, print_json, wants_json
from node.errors import NodeNotRunning, SettingsInvalid
from node.lock import running_node

TIMEOUT_SECONDS = 180


def call(
    context: typer.Context,
    listing: Annotated[str, typer.Argument(help="The listing's part in URLs.")],
    path: Annotated[str, typer.Argument(help="Path and query below it.")] = "/",
    method: Annotated[str, typer.Option("--method", "-X")] = "GET",
    data: Annotated[str | None, typer.Option("--data", "-d", help="Request body.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="FAREBOX_KEY", help="Secret of a consumer key.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key gives the stored answer, never pays twice.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Call a listing and pay for it. Exit code 1 when the answer is an error (400 and above)."""
    settings = read_settings(context)
    if not key:
        raise SettingsInvalid(
            "Calls need a key: make one with `farebox key create NAME` and give its secret as"
            " FAREBOX_KEY."
        )
    console_here = running_node(settings.data_dir).get("console_here")
    if not console_here:
        raise NodeNotRunning(f"No node is running on {settings.data_dir}. Start it: farebox up")
    headers = _headers(header or (), key, idempotency_key)
    answer = _send(method.upper(), _url(console_here, listing, path), headers, data)
    _show(answer, as_json)
    if answer.status_code >= 400:
        raise typer.Exit(1)


def _url(console_here: str, listing: str, path: str) -> httpx.URL:
    """Below the listing: dots may not lead to another one, or out of the proxy."""
    below = f"/call/{quote(listing, safe='')}/"
    try:
        url = httpx.URL(f"{console_here}{below}{path.lstrip('/')}")
    except httpx.InvalidURL as error:
        raise _unsendable(error) from error
    if not url.raw_path.startswith(below.encode()):
        raise _unsendable(f"{path!r} is not below {listing!r}")
    return url


def _unsendable(why: object) -> SettingsInvalid:
    return SettingsInvalid(f"This call cannot be written as HTTP, nothing was sent: {why}")


def _headers(given: tuple[str, ...] | list[str], key: str, idempotency: str | None) -> list[Any]:
    headers = []
    for line in given:
        name, colon, value = line.partition(":")
        if not colon:
            raise SettingsInvalid(f"{line!r} is no header; write it as 'Name: value'.")
        if name.strip().lower() in ("content-length", "transfer-encoding"):
            raise _unsendable(f"{name.strip()} follows from the body")
        headers.append((name.strip(), value.strip()))
    headers.append(("Authorization", f"Bearer {key}"))
    if idempotency:
        headers.append(("Idempotency-Key", idempotency))
    return headers


def _send(method: str, url: httpx.URL, headers: list[Any], data: str | None) -> httpx.Response:
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            return client.request(method, url, headers=headers, content=data)
    except (httpx.LocalProtocolError, UnicodeError) as error:
        raise _unsendable(error) from error
    except httpx.HTTPError as error:
        raise NodeNotRunning(
            f"The node did not answer ({error}). Whether the call was paid is in its books; repeat"
            " it with the same --idempotency-key to be safe."
        ) from error


def _show(answer: httpx.Response, as_json: bool) -> None:
    facts = {
        "status": answer.status_code,
        "cost": answer.headers.get("farebox-cost"),
        "scheme": answer.headers.get("farebox-scheme"),
        "call_id": answer.headers.get("farebox-call-id"),
    }
    if as_json:
        print_json({**facts, "body": answer.text})
        return
    sys.stdout.buffer.write(answer.content)
    sys.stdout.buffer.flush()
    if not wants_json(as_json):
        cost = f"{facts['cost'] or 0} USDC"
        scheme, call_id = facts["scheme"] or "free", facts["call_id"] or "—"
        line = f"\n{facts['status']} · {cost} · {scheme} · call {call_id}"
        Console(stderr=True).print(line, highlight=False, style="dim")
