"""Texts that strangers choose, on every page, in every file and answer: shown, never run.

Each column of a table that somebody outside can fill gets a text of its own that would be
HTML, an attribute's end and a spreadsheet's formula at once. An admin then opens everything
the access table has. The texts must turn up, or a line of the table below proves nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Table, insert

from node.accounts.access import Role
from node.db.engine import open_engine, writer
from node.db.migrations import metadata, upgrade
from tests.console_world import Console, serve_console
from tests.http.test_access_table import read_table

NOW = int(time.time())
OWN, REMOTE = "lst_own", "lst_remote"
CHANNEL = "0x" + "c4" * 32
ADDRESS = "0x" + "5e" * 20

# Rows by table: what has to be right for the row to be shown. A value that is TEXT (or has
# it inside) is the stranger's; JSON and lists stand as a stranger would have sent them.
TEXT = "…"
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": TEXT, "version": TEXT, "description": TEXT},
    "paths": {
        "/a": {
            "get": {
                "summary": TEXT,
                "description": TEXT,
                "parameters": [{"name": TEXT, "in": "query", "description": TEXT}],
                "responses": {"200": {"description": TEXT}},
            }
        }
    },
}
LISTED = {"name": TEXT, "description": TEXT, "tags": [TEXT], "spec": SPEC, "updated_at": NOW}
PARTIES = {"payer": ADDRESS, "receiver": ADDRESS, "token": ADDRESS, "chain_id": 31337}
SUMMED = {"listing_id": TEXT, "slot": NOW // 3600 * 3600 - 3600, "status": 200, "calls": 1}
OFFERED = {"listing_id": OWN, "price_atoms": 0, "beyond": "stop", "grace_days": 3}
ASKING = {"name": TEXT, "email": TEXT, "key_hash": "0" * 64}
ORDERED = {
    "kind": "first",
    "plan_id": "pln_1",
    "plan_name": TEXT,
    "beyond": "stop",
    "starts_at": NOW - 60,
    "ends_at": NOW + 86_400,
    "price_atoms": 0,
    "month_price_atoms": 0,
}
SAID = {"text": TEXT, "answer": TEXT, "answered_by": TEXT, "state": "answered"}
MORE = {"meter": "calls", "cap": 5, "until": NOW + 900, "text": TEXT}
LIFTED = {"starts_at": NOW - 60, "ends_at": NOW + 900, "granted_by": TEXT}
BILLED = {
    "number": TEXT,
    "listing_name": TEXT,
    "plan_name": TEXT,
    "buyer_name": TEXT,
    "buyer_email": TEXT,
    "subscription_id": "sub_1",
    "lines": [{"text": TEXT, "amount_atoms": 1}],
}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("listing", {"id": OWN, "origin": "own", "slug": "own", "base_url": "http://x", **LISTED}),
    ("listing", {"id": REMOTE, "origin": "remote", "slug": "re", "base_url": "http://y", **LISTED}),
    ("remote_listing", {"listing_id": REMOTE, "peer_id": "peer_1", "base_url": "http://y"}),
    ("peer", {"id": "peer_1", "name": TEXT, "url": "http://p", "error": TEXT}),
    (
        "sample",
        {
            "id": "smp_1",
            "listing_id": OWN,
            "method": "GET",
            "template": "/a",
            "target": "/a?q=" + TEXT,
            "request_headers": [],
            "request_body": TEXT,
            "headers": [["content-type", "text/html"], ["x-note", TEXT]],
            "body": TEXT,
            "status": 200,
        },
    ),
    ("listing_health", {"listing_id": OWN, "note": TEXT, "failures": 3, "checked_at": NOW}),
    ("call", {"id": "c1", "side": "served", "method": TEXT, "path": TEXT, "payer": TEXT}),
    ("call", {"id": "c2", "side": "bought", "path": TEXT, "error": TEXT, "listing_id": TEXT}),
    ("call_rollup", {"side": "served", "key_id": "", "route": "GET /*", **SUMMED}),
    ("call_rollup", {"side": "bought", "key_id": "key_1", "route": TEXT, **SUMMED}),
    ("event", {"type": "catalog_synced", "severity": "error", "message": TEXT}),
    ("notification", {"id": 1, "rule": "peer_unreachable", "subject": TEXT, "message": TEXT}),
    ("delivery", {"id": "d1", "notification_id": 1, "channel": "webhook", "last_error": TEXT}),
    ("mail", {"id": 1, "state": "failed", "recipients": [TEXT], "subject": TEXT, "text": TEXT}),
    ("user_session", {"id": "s1", "user_agent": TEXT, "address": TEXT, "expires_at": 2 * NOW}),
    ("audit_entry", {"actor_name": TEXT, "subject": TEXT, "after": {"name": TEXT}}),
    ("buyer_channel", {"channel_id": CHANNEL, "origin": TEXT, "stop_reason": TEXT, **PARTIES}),
    ("seller_channel", {"channel_id": CHANNEL, "state": "open", **PARTIES}),
    ("chain_tx", {"id": 1, "chain_id": 31337, "purpose": "claim", "ref": "1", "error": TEXT}),
    ("reconciliation", {"id": 1, "error": TEXT, "differences": [], "open_items": []}),
    ("consumer_key", {"id": "key_1", "name": TEXT, "owner_email": TEXT, "integrator": True}),
    (
        "bought_subscription",
        {
            "id": "sub_1",
            "listing_id": REMOTE,
            "base_url": "http://y",
            "state": "active",
            "plan": {"id": "p", "name": TEXT, "description": TEXT},
            "next_plan": {"id": "q", "name": TEXT},
            "seller_id": TEXT,
            "sync_failed": TEXT,
            "created_by": TEXT,
            "paid_until": 2 * NOW,
            "synced_at": NOW,
        },
    ),
    (
        "bought_order",
        {"id": "ord_1", "subscription_id": "sub_1", "kind": "renewal", "detail": TEXT},
    ),
    (
        "bought_request",
        {
            "id": "req_1",
            "subscription_id": "sub_1",
            "kind": "support",
            "seller_id": "1",
            "text": TEXT,
            "state": TEXT,
            "answer": TEXT,
            "asked_by": TEXT,
        },
    ),
    ("bought_change", {"id": 1, "subscription_id": "sub_1", "text": TEXT, "by": TEXT}),
    ("plan", {"id": "pln_1", **OFFERED, "name": TEXT, "description": TEXT}),
    ("subscription", {"id": "sub_1", "listing_id": OWN, "payer": ADDRESS, **ASKING}),
    ("subscription_period", {"subscription_id": "sub_1", "number": 1, **ORDERED}),
    ("subscription_request", {"id": 1, "subscription_id": "sub_1", "kind": "support", **SAID}),
    ("subscription_request", {"id": 2, "subscription_id": "sub_1", "kind": "override", **MORE}),
    ("quota_override", {"subject": "sub:sub_1", "meter": "calls", "reason": TEXT, **LIFTED}),
    ("invoice", {"id": 1, "side": "sold", "seller": ADDRESS, "buyer": ADDRESS, **BILLED}),
]
IDS = {
    "listing_id": (OWN, REMOTE),
    "sample_id": ("smp_1",),
    "peer_id": ("peer_1",),
    "channel_id": (CHANNEL,),
    "notification_id:int": ("1",),
    "notification_id": ("1",),
    "mail_id:int": ("1",),
    "mail_id": ("1",),
    "run_id:int": ("1",),
    "run_id": ("1",),
    "key_id": ("key_1",),
    "subscription_id": ("sub_1",),
    "plan_id": ("pln_1",),
    "customer_id": ("sub_1", ADDRESS),
    "request_id:int": ("1", "2"),
    "invoice_id:int": ("1",),
    "invoice_id": ("1",),
}
# What no browser makes a page of.
HARMLESS = ("application/json", "application/problem+json", "application/octet-stream", "")


def hostile(number: int) -> str:
    return f"=1+{number}<img src=x{number} onerror=alert(1)>\"'>"


class Filler:
    """Puts a text of its own into every place that is TEXT; `where` says which is whose."""

    def __init__(self) -> None:
        self.where: dict[int, str] = {}

    def fill(self, value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {key: self.fill(each, f"{place}.{key}") for key, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each, place) for each in value]
        if isinstance(value, str) and TEXT in value:
            number = 7000 + len(self.where)
            self.where[number] = place
            return value.replace(TEXT, hostile(number))
        return value


def complete(table: Table, given: dict[str, Any], user_id: str) -> dict[str, Any]:
    """The row with every other column set to something harmless."""
    row: dict[str, Any] = {}
    for column in table.columns:
        kind = getattr(column.type, "impl", column.type).python_type
        value = given.get(column.name)
        if column.name in given:
            if isinstance(value, dict | list):
                value = json.dumps(value)
            row[column.name] = value.encode() if kind is bytes else value
        elif column.name == "user_id":
            row[column.name] = user_id
        elif column.name in ("resolved_at", "revoked_at", "withdraw_requested_at"):
            row[column.name] = 0 if not column.nullable else None
        elif column.default is not None or column.primary_key or column.nullable:
            continue
        elif kind is int:
            stamp = column.name.endswith("_at") or column.name == "at"
            row[column.name] = NOW if stamp else NOW * 1000 if column.name == "at_ms" else 1
        else:
            row[column.name] = {bytes: b"", bool: True}.get(kind, f"{table.name}-{column.name}")
    return row


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Console, Filler]]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    engine = open_engine(f"sqlite:///{folder / 'farebox.db'}")
    upgrade(engine)
    filler = Filler()
    with serve_console(engine, folder) as console:
        with writer(engine).begin() as connection:
            for name, given in ROWS:
                table = metadata().tables[name]
                row = complete(table, filler.fill(given, name), console.users[Role.ADMIN])
                connection.execute(insert(table), row)
        yield console, filler
    engine.dispose()


def addresses() -> list[str]:
    """Everything that can be read, with the ids of the rows above."""
    found: list[str] = []
    for method, path in read_table():
        if method == "GET":
            paths = [path]
            for name, ids in IDS.items():
                paths = [each.replace(f"{{{name}}}", id_) for each in paths for id_ in ids]
            found += [each for each in paths if "{" not in each]
    found += ["/?side=buyer", "/calls?side=bought", "/calls.csv?side=bought"]
    found += ["/api/calls?side=buyer", "/breakdown.csv?side=buyer", "/?severity=error"]
    return list(dict.fromkeys(found))


class Page(HTMLParser):
    """What a browser would make of it: nothing of the strangers' may be an element."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or re.match(r"\s*(javascript|data):", value or "", re.I):
                self.faults.append(f"<{tag} {name}={value!r}>")
            if name == "src" and re.fullmatch(r"x\d+", value or ""):
                self.faults.append(f"<{tag} src={value!r}>")


def faults_of(path: str, answer: httpx.Response) -> list[str]:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    faults = [] if answer.headers["x-content-type-options"] == "nosniff" else ["may be sniffed"]
    if "attachment" not in answer.headers.get("content-disposition", ""):
        if kind == "text/html":
            page = Page()
            page.feed(answer.text)
            faults += page.faults
        elif kind not in HARMLESS:
            faults.append(f"{kind} shown in place")
    elif kind == "text/csv":
        cells = [cell for row in csv.reader(io.StringIO(answer.text)) for cell in row]
        faults += [f"runs {cell!r}" for cell in cells if cell[:1] in ("=", "+", "@", "\t", "\r")]
    return [f"{path}: {fault}" for fault in faults]


def test_what_strangers_write_is_shown_everywhere_and_runs_nowhere(
    world: tuple[Console, Filler],
) -> None:
    console, filler = world
    seen: set[int] = set()
    faults: list[str] = []
    with console.client(Role.ADMIN) as pages, console.api(Role.ADMIN) as api:
        for path in addresses():
            answer = (api if path.startswith("/api/") else pages).get(path, timeout=60)
            assert answer.status_code < 500 or answer.status_code == 503, (path, answer.text)
            faults += faults_of(path, answer)
            seen |= {int(number) for number in re.findall(r"=1\+(7\d\d\d)", answer.text)}
    assert faults == []
    unseen = sorted({filler.where[number] for number in set(filler.where) - seen})
    assert not unseen, unseen
