"""QR codes as one SVG path, drawn by `_partials/qr.html` without markup from here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import segno


@dataclass(frozen=True, slots=True)
class Qr:
    """`size` modules a side with the quiet zone; `path` draws the dark ones; `text` is its
    content."""

    size: int
    path: str
    text: str


def qr(text: str) -> Qr:
    """The code of a text, medium error correction."""
    code = segno.make(text, error="m", micro=False)
    border = code.default_border_size
    rows = [bytes(row) for row in code.matrix]
    parts = [
        f"M{start + border} {y + border}h{length}v1h-{length}z"
        for y, row in enumerate(rows)
        for start, length in _dark_runs(row)
    ]
    return Qr(len(rows) + 2 * border, "".join(parts), text)


def _dark_runs(row: bytes) -> list[tuple[int, int]]:
    """(start, length) of each run of dark modules."""
    runs, at = [], 0
    for dark, group in groupby(row):
        length = len(list(group))
        if dark:
            runs.append((at, length))
        at += length
    return runs
