"""The rows of closings and the statements that move them; each names the step it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, text, update

from finance.buying.channels import Channel
from finance.models import BuyerChannel, ChannelState
from finance.operations import Closing, ClosingStep
from finance.store import Write

_ROWS = Closing.__table__  # type: ignore[attr-defined]
_CHANNEL = BuyerChannel.__table__  # type: ignore[attr-defined]
_OPEN = (ClosingStep.ASKING, ClosingStep.LEAVING, ClosingStep.WAITING)

_BEGIN = text(
    "INSERT INTO closing (channel_id, attempt, step, before, unspent_atoms, finalize_after,"
    " note, started_at, updated_at)"
    " VALUES (:channel_id, 1, 'asking', :before, :unspent, 0, '', :now, :now)"
    " ON CONFLICT (channel_id) DO UPDATE SET attempt = closing.attempt + 1, step = 'asking',"
    " before = excluded.before, unspent_atoms = excluded.unspent_atoms, finalize_after = 0,"
    " note = '', started_at = excluded.started_at, updated_at = excluded.updated_at"
    " WHERE closing.step IN ('closed', 'failed')"
)
# Guarded by what was signed: a voucher given out at this moment is not forgotten.
_SET_ASIDE = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.state == bindparam("seen_state"),
        _CHANNEL.c.signed_atoms == bindparam("seen_signed"),
        _CHANNEL.c.charged_atoms == bindparam("seen_charged"),
    )
    .values(state=ChannelState.REFUNDING.value, updated_at=bindparam("now"))
)
_STEP = (
    update(_ROWS)
    .where(_ROWS.c.channel_id == bindparam("id"), _ROWS.c.step == bindparam("was"))
    .values(
        step=bindparam("next"),
        note=bindparam("why"),
        finalize_after=bindparam("after"),
        updated_at=bindparam("now"),
    )
)
_END_CHANNEL = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.state == ChannelState.REFUNDING.value,
    )
    .values(state=bindparam("next"), updated_at=bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class ClosingRow:
    """One closing as it stands; see finance.operations.Closing."""

    channel_id: str
    attempt: int
    step: ClosingStep
    before: str
    unspent_atoms: int
    finalize_after: int
    note: str
    started_at: int
    updated_at: int


def begin_writes(channel: Channel, before: ChannelState, unspent: int, now: int) -> list[Write]:
    """Set the channel aside and begin; refused while another closing of it runs."""
    row = {"channel_id": channel.id_hex, "before": before.value, "unspent": unspent, "now": now}
    seen = {
        "id": channel.id_hex,
        "seen_state": before.value,
        "seen_signed": channel.signed,
        "seen_charged": channel.charged,
        "now": now,
    }
    return [Write(_BEGIN, row), Write(_SET_ASIDE, seen)]


def step_write(
    row: ClosingRow, step: ClosingStep, note: str, finalize_after: int, now: int
) -> Write:
    params = {
        "id": row.channel_id,
        "was": row.step.value,
        "next": step.value,
        "why": note[:500],
        "after": finalize_after or row.finalize_after,
        "now": now,
    }
    return Write(_STEP, params)


def end_writes(
    row: ClosingRow, step: ClosingStep, state: ChannelState, note: str, now: int
) -> list[Write]:
    """The last step, and what the channel is from now on."""
    ended = {"id": row.channel_id, "next": state.value, "now": now}
    return [step_write(row, step, note, 0, now), Write(_END_CHANNEL, ended, rows=None)]


def open_closings(engine: Engine) -> list[str]:
    """Channels whose closing has not ended (blocking)."""
    query = select(_ROWS.c.channel_id).where(_ROWS.c.step.in_(_OPEN))
    with engine.connect() as connection:
        return list(connection.scalars(query))


def read_closing(engine: Engine, channel_id: str) -> ClosingRow | None:
    """One closing (blocking)."""
    with engine.connect() as connection:
        return closings_in(connection, [channel_id]).get(channel_id)


def closings_in(connection: Connection, channel_ids: list[str]) -> dict[str, ClosingRow]:
    """The closings of these channels, as far as there are any (blocking)."""
    query = select(_ROWS).where(_ROWS.c.channel_id.in_(channel_ids))
    rows: Any = connection.execute(query).mappings()
    return {
        row["channel_id"]: ClosingRow(**{**row, "step": ClosingStep(row["step"])}) for row in rows
    }
