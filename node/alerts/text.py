"""Text from strangers, made fit for one line of a list, a log or a mail's subject."""

from __future__ import annotations

import unicodedata


def one_line(text: str, characters: int) -> str:
    """`text` without line breaks, control or invisible characters, at most `characters` long."""
    clean = "".join(" " if _breaks(each) else each for each in text)
    line = " ".join(clean.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _breaks(character: str) -> bool:
    """Controls (Cc), invisible and direction marks (Cf), halves of pairs (Cs), line and
    paragraph separators (Zl, Zp)."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
