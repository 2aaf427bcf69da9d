"""The wallet as a file: taken out encrypted, or replaced by another one on an empty node."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import Engine, func, select

from finance.errors import PassphraseWrong, WalletError
from finance.models import BuyerChannel, ChainTx, OnchainPayment, Purchase, SellerChannel
from finance.wallet.keystore import Keystore
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.treasury.errors import NotPossible, TreasuryInvalid
from node.treasury.guard import Seen
from node.usage.events import event

_IN_USE: tuple[tuple[Any, str], ...] = (
    (SellerChannel, "buyers' channels"),
    (BuyerChannel, "channels to sellers"),
    (OnchainPayment, "payments taken"),
    (Purchase, "calls bought"),
    (ChainTx, "transactions sent"),
)


async def export_wallet(
    engine: Engine, keystore: Keystore, passphrase: str, actor: Actor, now: int
) -> str:
    """Keystore v3 JSON, encrypted with the wallet's passphrase, which is asked for anew.

    Raises TreasuryInvalid for a wrong one, WalletError when the file cannot be read.
    """
    try:
        text = await asyncio.to_thread(keystore.export, passphrase)
    except PassphraseWrong:
        raise TreasuryInvalid("passphrase", "This passphrase does not open the wallet.") from None
    await asyncio.to_thread(_note, engine, actor, "wallet.export", now, "The wallet was exported.")
    return text


async def why_no_import(engine: Engine, seen: Seen) -> str:
    """What keeps this node from taking another wallet; empty when nothing does."""
    used = await asyncio.to_thread(books_of_wallet, engine)
    if used:
        return (
            f"This node's books have {', '.join(used)} under its wallet: with another one it"
            " could neither claim nor refund them. Set up a second node for the other wallet,"
            " or withdraw from this one to it."
        )
    if seen.usdc is None or seen.wei is None:
        return "The wallet's balance is not known at the moment; it has to be empty first."
    if seen.usdc or seen.wei:
        return "There is money in the wallet. Withdraw all of it first."
    return ""


async def import_wallet(
    engine: Engine,
    keystore: Keystore,
    content: str,
    its_passphrase: str,
    passphrase: str,
    seen: Seen,
    actor: Actor,
    now: int,
) -> str:
    """Replace the wallet; its address. The node uses it from its next start on; the old file
    stays beside it. Raises NotPossible, TreasuryInvalid."""
    if why := await why_no_import(engine, seen):
        raise NotPossible(why, "wallet_in_use")
    before = await asyncio.to_thread(keystore.address)
    try:
        address = await asyncio.to_thread(
            lambda: keystore.import_wallet(content, its_passphrase, passphrase, replace=True)
        )
    except PassphraseWrong as error:
        own = str(keystore.path) in str(error)
        field = "passphrase" if own else "its_passphrase"
        raise TreasuryInvalid(field, "This passphrase does not open it.") from None
    except WalletError as error:
        raise TreasuryInvalid("file", str(error)) from error
    await asyncio.to_thread(note_import, engine, before, address, actor, now)
    return address


def note_import(engine: Engine, before: str, address: str, actor: Actor, now: int) -> None:
    """The wallet `address` has taken the place of `before` (blocking)."""
    sentence = f"Wallet {address} was imported; it is used from the next start on."
    _note(engine, actor, "wallet.import", now, sentence, before, address)


def books_of_wallet(engine: Engine) -> list[str]:
    """What the books have under the node's wallet, in words (blocking)."""
    with engine.connect() as connection:
        return [
            words
            for table, words in _IN_USE
            if connection.execute(select(func.count()).select_from(table)).scalar_one()
        ]


def _note(
    engine: Engine,
    actor: Actor,
    action: str,
    now: int,
    sentence: str,
    before: str | None = None,
    after: str | None = None,
) -> None:
    with writer(engine).begin() as connection:
        record(connection, actor, action, "wallet", now, before, after)
        event(action.replace(".", "_"), "warning", sentence, int(time.time())).make(connection)
