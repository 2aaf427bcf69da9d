"""A long answer is charged before its first byte, and the charge taken back if it breaks off.

Meanwhile the row of its channel has what was charged and the number of the process that gives
it, so that others can take it back when that process is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import NamedTuple

from sqlalchemy import Engine, text

from finance.ledger import Account, charge_key, entry, reversal_key
from finance.selling.answers import forget_streamed
from finance.store import Write

_AS_GIVEN = (
    " WHERE channel_id = :channel_id AND streaming_atoms = :streaming AND streaming_owner = :owner"
)
DELIVERED = text("UPDATE seller_channel SET streaming_atoms = 0" + _AS_GIVEN)
BROKEN = text(
    "UPDATE seller_channel SET streaming_atoms = 0, charged_atoms = charged_atoms - :streaming"
    + _AS_GIVEN
)
# The last charge of a channel is the one that is being streamed.
_STREAMING = text(
    "SELECT c.streaming_owner, c.channel_id, c.streaming_atoms,"
    " (SELECT l.call_id FROM ledger_entry l WHERE l.channel_id = c.channel_id"
    " AND l.account = 'charged' AND l.amount > 0 ORDER BY l.id DESC LIMIT 1)"
    " FROM seller_channel c WHERE c.streaming_atoms > 0"
)


class LongAnswer(NamedTuple):
    """One under way: given by process `owner`, charged `atoms`; `channel_id` is 0x hex."""

    owner: int
    channel_id: str
    atoms: int
    call_id: str


def stream_delivered(answer: LongAnswer) -> list[Write]:
    """It has left completely: the charge stands."""
    return [Write(DELIVERED, _given(answer))]


def stream_broken(answer: LongAnswer, at: int) -> list[Write]:
    """It broke off: the charge is taken back, its identifier is free again."""
    channel_id, call_id = answer.channel_id, answer.call_id
    key = reversal_key(charge_key(call_id))
    return [
        Write(BROKEN, _given(answer)),
        entry(key, Account.CHARGED, -answer.atoms, at, channel_id=channel_id, call_id=call_id),
        forget_streamed(call_id),
    ]


def _given(answer: LongAnswer) -> dict[str, str | int]:
    return {
        "channel_id": answer.channel_id,
        "streaming": answer.atoms,
        "owner": answer.owner,
    }


def broken_streams(engine: Engine, departed: Callable[[Set[int]], Set[int]]) -> list[LongAnswer]:
    """Those whose process is gone; `departed` tells which are. Blocking."""
    with engine.connect() as connection:
        found = [LongAnswer(*row) for row in connection.execute(_STREAMING)]
    gone = departed({each.owner for each in found})
    return [each for each in found if each.owner in gone]
