"""Channels as their owner looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, insert
from sqlmodel import SQLModel

from finance.buying.closing_rows import end_writes, read_closing
from finance.channel_views import bought_channels
from finance.models import BuyerChannel, ChannelState
from finance.operations import Closing, ClosingStep
from node.db.engine import open_engine, writer

CHANNEL, CHAIN_ID = "0x" + "11" * 32, 31337


def _store(engine: Engine, row: SQLModel) -> None:
    with writer(engine).begin() as connection:
        connection.execute(insert(type(row)).values(row.model_dump()))


def test_a_channel_that_is_closed_while_it_is_read_is_closed_in_all_of_it_or_in_nothing(
    migrated_engine: Engine,
) -> None:
    words = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "salt")
    channel: dict[str, Any] = {"chain_id": CHAIN_ID, "withdraw_delay": 900, "balance_atoms": 5}
    channel |= dict.fromkeys(words, "0x") | {"state": ChannelState.REFUNDING.value}
    _store(migrated_engine, BuyerChannel(channel_id=CHANNEL, **channel))
    times = dict.fromkeys(("unspent_atoms", "started_at", "updated_at"), 0)
    _store(migrated_engine, Closing(channel_id=CHANNEL, before="open", **times))
    beside, ended = open_engine(f"sqlite:///{Path(str(migrated_engine.url.database))}"), []

    def end(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        """Between its channel and its closing."""
        if ended or "FROM buyer_channel" not in statement:
            return
        ended.append(CHANNEL)
        row = read_closing(beside, CHANNEL)
        assert row is not None
        with writer(beside).begin() as connection:
            for write in end_writes(row, ClosingStep.CLOSED, ChannelState.CLOSED, "", 1):
                write.make(connection)

    event.listen(migrated_engine, "after_cursor_execute", end)
    seen = [bought_channels(migrated_engine, CHAIN_ID, 10)[0] for _ in range(2)]
    beside.dispose()
    assert ended == [CHANNEL]
    for each, word in zip(seen, ("asking", "closed"), strict=True):
        assert each.closing is not None and each.closing.step == word
    assert [each.state for each in seen] == [ChannelState.REFUNDING, ChannelState.CLOSED]
