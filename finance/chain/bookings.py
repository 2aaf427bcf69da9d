"""Ledger keys of what the chain may take back: booked, reversed, booked again, …

A reorg removes a movement and may bring the same one back. Ledger rows are never
edited, so each turn is a row of its own: `key`, `reversal:key`, `reversal:reversal:key`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import Engine, select
from sqlmodel import col

from finance.ledger import reversal_key
from finance.models import LedgerEntry

_MAX_TURNS = 32


async def next_turns(engine: Engine, keys: Sequence[str]) -> dict[str, str]:
    """For each key, the one under which its next booking or reversal is written."""
    chains = {key: _turns(key) for key in keys}
    wanted = [turn for chain in chains.values() for turn in chain]
    taken = await asyncio.to_thread(_existing, engine, wanted)
    return {key: next(t for t in chain if t not in taken) for key, chain in chains.items()}


def _turns(key: str) -> list[str]:
    turns = [key]
    while len(turns) < _MAX_TURNS:
        turns.append(reversal_key(turns[-1]))
    return turns


def _existing(engine: Engine, keys: Sequence[str]) -> set[str]:
    found: set[str] = set()
    with engine.connect() as connection:
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            query = select(col(LedgerEntry.key)).where(col(LedgerEntry.key).in_(some))
            found.update(connection.execute(query).scalars())
    return found
