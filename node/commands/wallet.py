"""`farebox wallet`: show, export, import."""

from __future__ import annotations

import getpass
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from finance.errors import WalletError
from finance.wallet.keystore import Keystore
from node.accounts.audit import COMMAND
from node.commands.frame import (
    new_passphrase,
    open_database,
    passphrase,
    read_settings,
    require_wallet,
)
from node.commands.output import Json, show_facts, write_new
from node.errors import AlreadyRunning
from node.lock import prepare_data_dir, running_node

_STAY_BEHIND = (
    "The books have {used} under {before}, and only that wallet can claim, refund or close them."
    " Its file is kept beside the new one: import it again to end them first."
)

app = typer.Typer(help="The node's wallet.", no_args_is_help=True)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """The address to send USDC and ETH to. Needs no passphrase."""
    settings = read_settings(context)
    address = require_wallet(settings).address()
    chain = settings.chain
    facts = {"address": address, "network": chain.name, "chain": chain.caip2, "usdc": chain.usdc}
    if chain.explorer_url:
        facts["explorer"] = f"{chain.explorer_url}/address/{address}"
    show_facts(facts, as_json)


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None,
) -> None:
    """The wallet key as keystore v3 JSON, encrypted with the same passphrase."""
    settings = read_settings(context)
    text = require_wallet(settings).export(passphrase(settings))
    if out is None:
        sys.stdout.write(text + "\n")
        return
    try:
        write_new(out, text + "\n")
    except OSError as error:
        raise WalletError(f"{out} cannot be written: {error.strerror}.") from error


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Keystore v3 JSON, or a private key in hex.")],
    replace: Annotated[
        bool, typer.Option(help="Replace the wallet; the old file is kept.")
    ] = False,
    source_passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of FILE, if it has another one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take over a wallet made elsewhere."""
    settings = read_settings(context)
    if running_node(settings.data_dir):
        raise AlreadyRunning("The node is running with its wallet. Stop it before an import.")
    try:
        text = file.read_text()
        its = source_passphrase_file.read_text().rstrip("\r\n") if source_passphrase_file else None
    except (OSError, UnicodeDecodeError) as error:
        raise WalletError(f"The wallet to import cannot be read: {error}.") from error
    prepare_data_dir(settings.data_dir)
    keystore = Keystore(settings.keystore_dir)
    before = keystore.address() if keystore.exists() else ""
    engine = open_database(settings) if before else None  # for the audit log
    own = passphrase(settings) if before else new_passphrase(settings)
    if its is None:
        its = _ask_source(own) if text.lstrip().startswith("{") else ""
    address = keystore.import_wallet(text, its, own, replace=replace)
    if engine is not None:
        from node.treasury.wallet_file import books_of_wallet, note_import

        note_import(engine, before, address, COMMAND, int(time.time()))
        if address != before and (used := books_of_wallet(engine)):
            typer.echo(_STAY_BEHIND.format(used=", ".join(used), before=before), err=True)
    show_facts({"address": address}, as_json)


def _ask_source(own: str) -> str:
    """The passphrase of the file; Enter, or no terminal, means the same as the node's."""
    if not sys.stdin.isatty():
        return own
    return getpass.getpass("Passphrase of the file to import (Enter: the same): ") or own
