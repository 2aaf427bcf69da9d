"""Channels as their owner looks at them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, insert
from sqlmodel import SQLModel

from finance.buying.closing_rows import end_writes, read_closing
from finance.chain.rpc import Rpc
from finance.channel_views import bought_channel, bought_channels, sold_channel
from finance.models import BuyerChannel, ChannelState, SellerChannel
from finance.operations import Closing, ClosingStep
from finance.selling.channels import SellerChannels
from finance.selling.mirror import Mirror
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from tests.treasury.wallet_world import NETWORK

CHANNEL, CHAIN_ID = "0x" + "11" * 32, 31337


def _store(engine: Engine, row: SQLModel) -> None:
    with writer(engine).begin() as connection:
        connection.execute(insert(type(row)).values(row.model_dump()))


_WORDS = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "salt")


async def test_a_channel_of_a_network_that_the_node_has_left_is_not_there(
    migrated_engine: Engine,
) -> None:
    """What is done with it would be done on the other network, whose state would become its."""
    words = dict.fromkeys(_WORDS, "0x" + "22" * 32) | {"channel_id": CHANNEL}
    channel: dict[str, Any] = words | {"chain_id": CHAIN_ID + 1, "withdraw_delay": 900}
    _store(migrated_engine, SellerChannel(state="open", **channel))
    _store(migrated_engine, BuyerChannel(state=ChannelState.OPEN.value, **channel))
    for chain_id, there in ((CHAIN_ID, False), (CHAIN_ID + 1, True)):
        assert (sold_channel(migrated_engine, chain_id, CHANNEL) is not None) == there
        assert (bought_channel(migrated_engine, chain_id, CHANNEL) is not None) == there
        journal, network = Journal(migrated_engine), replace(NETWORK, chain_id=chain_id)
        mirror = Mirror(journal, Rpc(["http://127.0.0.1:9"], chain_id), network)
        assert (await SellerChannels(journal, mirror).get(CHANNEL) is not None) == there
        journal.close()


def test_a_channel_that_is_closed_while_it_is_read_is_closed_in_all_of_it_or_in_nothing(
    migrated_engine: Engine,
) -> None:
    channel: dict[str, Any] = {"chain_id": CHAIN_ID, "withdraw_delay": 900, "balance_atoms": 5}
    channel |= dict.fromkeys(_WORDS, "0x") | {"state": ChannelState.REFUNDING.value}
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
