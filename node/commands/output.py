"""What commands print: tables on a terminal, JSON when piped or asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]


_WRITTEN = {"api": "API", "id": "ID", "pid": "PID", "url": "URL", "usdc": "USDC"}


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """A list: a table with the first row's fields as columns, or a JSON array. Row below row on
    a terminal that is too narrow for it."""
    if wants_json(as_json):
        print_json(list(rows))
        return
    console = _terminal()
    if not rows:
        _print(console, empty)
        return
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in rows[0]:
        table.add_column(_label(name))
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    if Measurement.get(console, console.options, table).maximum < console.width:
        console.print(table)
        return
    console.print(title, style="italic")
    for row in rows:
        _print_facts(console, row)
        console.print()


def show_facts(facts: Mapping[str, Any], as_json: bool, *, hint: str = "") -> None:
    """One thing: its fields line by line, or a JSON object; `hint` only on a terminal."""
    if wants_json(as_json):
        print_json(facts)
        return
    console = _terminal()
    _print_facts(console, facts)
    if hint:
        console.print()
        _print(console, hint)


def wants_json(as_json: bool) -> bool:
    return as_json or not sys.stdout.isatty()


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def write_new(path: Path, text: str) -> None:
    """A file that only its owner reads, whole or not at all. Raises OSError, also where one is."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
    except OSError:
        path.unlink()
        raise


def _terminal() -> Console:
    """What it prints is what was stored: names of ours and others may look like markup."""
    return Console(markup=False, emoji=False, highlight=False)


def _print(console: Console, text: str) -> None:
    """Uncut: what is copied from the terminal, a secret or a command, is whole."""
    console.print(text, soft_wrap=True)


def _print_facts(console: Console, facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        _print(console, f"{_label(name):<{width}}  {_text(value)}")


def _label(name: str) -> str:
    first, *rest = (_WRITTEN.get(word, word) for word in name.split("_"))
    return " ".join((first if first.isupper() else first.capitalize(), *rest))


def _text(value: Any) -> str:
    match value:
        case None | "" | [] | ():
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
