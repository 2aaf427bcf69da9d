"""What commands print on a terminal is whole, and what was stored."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from node.commands.backup import _progress
from node.commands.output import show_facts, show_rows

NAMES = ("[/x] :smile: [red]z", "http://[fe80::1]:9000/[bold]")
SECRET = "fbx_" + "s" * 43


class Terminal(io.StringIO):
    """Of so many columns; `facts` and `rows` are what it shows of them."""

    def isatty(self) -> bool:
        return True

    def facts(self, facts: Mapping[str, Any], hint: str = "") -> str:
        with redirect_stdout(self):
            show_facts(facts, False, hint=hint)
        return self.getvalue()

    def rows(self, *rows: Mapping[str, Any]) -> str:
        with redirect_stdout(self):
            show_rows("List", rows, False, "Nothing.")
        return self.getvalue()


@pytest.fixture(params=[40, 80, 200])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "dumb")
    return Terminal()


def words(shown: str) -> Sequence[Sequence[str]]:
    return [line.split() for line in shown.splitlines()]


def test_a_secret_and_what_to_do_next_are_never_cut_nor_broken(terminal: Terminal) -> None:
    hint = "Run: farebox key create NAME, and then: farebox up, and so on, and so on"
    shown = terminal.facts({"base_url": "http://127.0.0.1/call", "secret": SECRET}, hint)
    assert words(shown) == [
        ["Base", "URL", "http://127.0.0.1/call"],
        ["Secret", SECRET],
        [],
        hint.split(),
    ]


def test_names_that_look_like_markup_are_shown_as_they_are(terminal: Terminal) -> None:
    shown = terminal.rows(*({"id": "lst_1", "name": name} for name in NAMES))
    shown += terminal.facts({"name": NAMES[0]}, f"Next: {NAMES[1]}")
    for name in (*NAMES, f"Next: {NAMES[1]}"):
        assert name in shown


def test_a_list_too_wide_for_its_terminal_is_written_row_below_row(terminal: Terminal) -> None:
    addresses = [f"http://{'a' * 250}/{number}" for number in range(2)]
    shown = words(terminal.rows(*({"base_url": each, "paused": False} for each in addresses)))
    assert [line[-1] for line in shown if line[:2] == ["Base", "URL"]] == addresses


def test_a_list_that_fits_is_a_table(terminal: Terminal) -> None:
    shown = terminal.rows({"id": "key_1", "email": ""}, {"id": "key_2", "email": None})
    assert words(shown) == [["List"], ["ID", "Email"], ["key_1", "—"], ["key_2", "—"]]


def test_nothing_is_a_sentence(terminal: Terminal) -> None:
    assert terminal.rows() == "Nothing.\n"


def test_the_line_that_follows_the_work_is_gone_when_it_ends(terminal: Terminal) -> None:
    with redirect_stdout(terminal), redirect_stderr(terminal), _progress(False) as show:
        assert show is not None
        show("checking", 0, 0)
    assert terminal.facts({"file": "good"}).endswith("\r\x1b[KFile  good\n")
