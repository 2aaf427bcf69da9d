"""What commands print: tables on a terminal, JSON when piped or asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """A list: a table with the first row's fields as columns, or a JSON array."""
    if wants_json(as_json):
        print_json(list(rows))
        return
    console = Console()
    if not rows:
        console.print(empty)
        return
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in rows[0]:
        table.add_column(name.replace("_", " ").capitalize(), overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console.print(table)


def show_facts(facts: Mapping[str, Any], as_json: bool, *, hint: str = "") -> None:
    """One thing: its fields line by line, or a JSON object; `hint` only on a terminal."""
    if wants_json(as_json):
        print_json(facts)
        return
    console = Console()
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name.replace("_", " ").capitalize(), _text(value))
    console.print(table)
    if hint:
        console.print()
        console.print(hint, highlight=False)


def wants_json(as_json: bool) -> bool:
    return as_json or not sys.stdout.isatty()


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def _text(value: Any) -> str:
    match value:
        case None:
            return "—"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(str(part) for part in value)
        case _:
            return str(value)


def format_time(at_seconds: int) -> str:
    """A moment in UTC, e.g. `2026-11-21 10:45:00 UTC`."""
    return datetime.fromtimestamp(at_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
