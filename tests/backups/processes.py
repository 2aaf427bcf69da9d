"""The worker processes of a node, as the machine sees them."""

from __future__ import annotations

import os
from pathlib import Path


def children_at_work(parent: int | None = None) -> list[int]:
    """Process ids of workers that this process, or `parent`, started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and b"backups.worker" in (folder / "cmdline").read_bytes():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                found += [int(folder.name)] if int(stat[1]) == (parent or os.getpid()) else []
        except OSError:
            continue
    return found
