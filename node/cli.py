"""The `farebox` command. Every failure ends with a sentence that says what to do.

Exit codes: 0 done · 1 done, and the answer is no (differences, an error answer, not
running) · 2 the command line cannot be read · 3 configuration, passphrase or input ·
4 this machine (ports, rights, another node) · 5 the chain · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from backups.errors import BackupError, FolderUnusable, WorkerDied
from catalog.errors import CatalogError
from finance.errors import ChainError, FinanceError
from node.accounts.errors import AccountsError
from node.commands.lazy import LazyGroup
from node.errors import NodeError

app = typer.Typer(
    name="farebox",
    cls=LazyGroup,
    help="A self-hosted control center for a marketplace of paid APIs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    context: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the node keeps its wallet and books.", show_default="~/.farebox"),
    ] = None,
) -> None:
    """A self-hosted control center for a marketplace of paid APIs."""
    context.obj = data_dir


def main() -> None:
    """Run the command line; the only place that turns errors into exit codes."""
    _open_streams()
    # A data directory that was there may let everybody in; SQLite's files have no mode of ours.
    os.umask(0o077)
    try:
        _require_text(sys.argv[1:])
        app()
    except SystemExit:
        raise
    except (NodeError, AccountsError, BackupError, CatalogError, FinanceError) as error:
        _end(str(error), exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _end(f"This machine refuses: {error}.", 4)
    except _database_error() as error:
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        _end(f"The database cannot be used: {reason}.", 4)


def _open_streams() -> None:
    """Streams that whoever started this has closed lead nowhere; Python leaves None for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _require_text(arguments: list[str]) -> None:
    """Bytes that are no text reach Python as surrogates, which nothing can store or compare."""
    for each in arguments:
        if each.encode(errors="ignore").decode() != each:
            _end(f"{each!r} is no text in UTF-8.", 2)


def _database_error() -> type[Exception]:
    """Asked for when a command failed only: it takes longer to load than the list of commands."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _end(sentence: str, code: int) -> NoReturn:
    Console(stderr=True).print(
        f"farebox: {sentence}", highlight=False, markup=False, soft_wrap=True
    )
    sys.exit(code)


def exit_code(
    error: NodeError | AccountsError | BackupError | CatalogError | FinanceError,
) -> int:
    """What the process ends with for an error it could name."""
    match error:
        case NodeError():
            return error.exit_code
        case FolderUnusable() | WorkerDied():
            return 4
        case ChainError():
            return 5
        case _:
            return 3


if __name__ == "__main__":
    main()
