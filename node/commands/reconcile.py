"""`farebox reconcile`: the books against the chain, atom by atom."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer
from sqlalchemy import Engine

from finance.chain.rpc import Rpc
from finance.networks import Network
from finance.reconcile import Report
from finance.reconcile import reconcile as compare_books
from node.commands.frame import open_database, read_settings, require_wallet
from node.commands.output import Json, print_json, show_facts, show_rows, wants_json
from node.db.journal import Journal


def reconcile(context: typer.Context, as_json: Json = False) -> None:
    """Compare every balance, channel and transfer with the chain, also while the node runs.

    Exit code 0 when the books equal the chain, 1 with the differences when they do not.
    """
    settings = read_settings(context)
    address = require_wallet(settings).address()
    report = asyncio.run(_compare(open_database(settings), settings.chain, address))
    _show(report, as_json)
    if not report.balanced:
        raise typer.Exit(1)


async def _compare(engine: Engine, network: Network, address: str) -> Report:
    journal = Journal(engine)
    try:
        async with Rpc(network.rpc_urls, network.chain_id) as rpc:
            return await compare_books(journal, rpc, address, network)
    finally:
        await asyncio.to_thread(journal.close)


def _show(report: Report, as_json: bool) -> None:
    if wants_json(as_json):
        print_json({"balanced": report.balanced, **asdict(report)})
        return
    facts = {
        "block": report.block_number,
        "compared": report.checked,
        "differences": len(report.differences),
        "still_open": len(report.open),
    }
    show_facts(facts, as_json)
    if report.differences:
        show_rows("Differences", [asdict(each) for each in report.differences], as_json, "")
    if report.open:
        show_rows("Still open", [asdict(each) for each in report.open], as_json, "")
