"""Where the node's keys are, for those who need not open them: the libraries of keys take a
while to load."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "wallet.json"


def has_wallet(directory: Path) -> bool:
    """Whether keys were made in this directory."""
    return (directory / FILE_NAME).exists()
