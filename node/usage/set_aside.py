"""Calls are shown of one network at a time: what they cost on another is not this one's money.

They name no network themselves. When a node starts on another one than before, the calls of
the former are set aside, whole and with their sums, until it is back there.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, true, update
from sqlmodel import col

from finance.networks import Network
from node.accounts.audit import SYSTEM
from node.db.engine import writer
from node.db.locks import number_in_turn
from node.preferences import Preference, read_preference, store_preference
from node.usage.events import INSERT_EVENT
from node.usage.models import Call, CallHistory, CallRollup, CallTotal, Side, UsageHour

_TABLES = (Call, CallRollup, CallHistory, CallTotal, UsageHour)
_log = logging.getLogger("farebox.calls")


class ShownCalls(Preference, frozen=True, tag="shown_calls"):
    """Of which network the calls are that are shown; 0 before the first start."""

    chain_id: int = 0
    network: str = ""


def of_shown_network(connection: Connection, chain_id: Any) -> ColumnElement[bool]:
    """Whether rows with that column are of this network; all are before the first start."""
    shown = read_preference(connection, ShownCalls).chain_id
    return chain_id == shown if shown else true()


def show_calls_of(engine: Engine, network: Network, now: int) -> None:
    """Call it at every start, before anything is journaled (blocking). It takes as long as the
    network differs from the last start's, and there are calls: some seconds for a million."""
    with writer(engine).begin() as connection:
        number_in_turn(connection)
        shown = read_preference(connection, ShownCalls)
        if shown.chain_id == network.chain_id:
            return
        present = ShownCalls(chain_id=network.chain_id, network=network.name)
        store_preference(connection, present, SYSTEM, now)
        if shown.chain_id:
            _exchange(connection, shown.chain_id, network.chain_id)
            _tell(connection, shown.network, network.name, now)


def _exchange(connection: Connection, former: int, present: int) -> None:
    for table in _TABLES:
        for side in Side:
            for was, becomes in (
                (side.value, _aside(side, former)),
                (_aside(side, present), side.value),
            ):
                connection.execute(update(table).where(col(table.side) == was).values(side=becomes))


def _aside(side: Side, chain_id: int) -> str:
    return f"{side.value}@{chain_id}"


def _tell(connection: Connection, former: str, present: str, now: int) -> None:
    sentence = (
        f"This node is on {present} now. Calls and what they cost are those of {present};"
        f" those of {former} are kept, and shown again once it is back there."
    )
    _log.info(sentence)
    row = {"at": now, "type": "network_changed", "severity": "info", "message": sentence}
    connection.execute(INSERT_EVENT, row)
