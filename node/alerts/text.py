"""Text from strangers, made fit for one line of a list, a log or a mail's subject."""

from __future__ import annotations

from catalog.characters import cut, readable


def one_line(text: str, characters: int) -> str:
    """`text` without line breaks, control or invisible characters, at most `characters` long."""
    return cut(readable(text), characters)
