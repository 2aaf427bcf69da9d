"""`farebox demo`: a whole market on one machine."""

from __future__ import annotations

from typing import Annotated

import typer

from node.commands.output import Json


def demo(
    calls: Annotated[int, typer.Option(min=1, help="Paid calls to make.")] = 200,
    exit_: Annotated[
        bool, typer.Option("--exit", help="End afterwards; exit code 0 only if all held.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a chain, an API, a seller and a buyer; make paid calls; compare the books."""
    from node.demo.run import run_demo

    raise typer.Exit(run_demo(calls, stay=not exit_, as_json=as_json))
