"""Answers that were paid for are kept for whoever asks again; not for ever."""

from __future__ import annotations

from sqlalchemy import Engine, text
from sqlmodel import col

from finance.models import FORGOTTEN_ONE_DAY, StoredAnswer
from node.db.sweep import sweep

_AT_ONCE = 20  # each may be megabytes


def forget_answers(engine: Engine, before: int) -> int:
    """Delete those stored before `before` (Unix seconds), but for the last one of each channel;
    how many (blocking). What they were paid with still buys nothing else."""
    old = text(FORGOTTEN_ONE_DAY) & (col(StoredAnswer.created_at) < before)
    return sweep(engine, col(StoredAnswer.key), old, _AT_ONCE)
