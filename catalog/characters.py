"""Which characters a text of people may have: those that can be seen, and what joins them.

Controls, direction marks and blanks that look like nothing could hide or reorder what is
read, so they are refused (or, in texts of strangers, replaced by a space). The two joiners
are as invisible, but Indic and Arabic scripts and emoji are not written right without
them: they stay where they join, as IDNA has it for names of hosts (RFC 5892, appendix
A.1 and A.2, and emoji besides).
"""

from __future__ import annotations

import unicodedata

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_JOINERS = (_NON_JOINER, _JOINER)
# Letters and signs by their category that show nothing.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_VIRAMA = 9  # the combining class of signs that join consonants


def is_readable(text: str, breaks: str = "") -> bool:
    """Whether all of it can be seen; `breaks` are controls that may be in it as well."""
    return all(each in breaks or _shows(text, at) for at, each in enumerate(text))


def readable(text: str) -> str:
    """On one line, with a space for what cannot be seen."""
    shown = "".join(each if _shows(text, at) else " " for at, each in enumerate(text))
    return " ".join(shown.split())


def cut(text: str, most: int) -> str:
    """At most `most` characters, an ellipsis for the rest."""
    return text if len(text) <= most else text[: most - 1].rstrip(" \u200c\u200d") + "…"


def _shows(text: str, at: int) -> bool:
    character = text[at]
    if character in _JOINERS:
        return 0 < at < len(text) - 1 and _joins(text[at - 1], character, text[at + 1])
    return character.isprintable() and character not in _BLANK


def _joins(before: str, joiner: str, after: str) -> bool:
    if _VIRAMA in (unicodedata.combining(before), unicodedata.combining(after)):
        return True
    if _is_arabic(before) and _is_arabic(after):
        return True
    return joiner == _JOINER and _is_emoji(before) and _is_emoji(after)


def _is_arabic(character: str) -> bool:
    """A letter of a script whose letters join by themselves."""
    return unicodedata.bidirectional(character) == "AL"


def _is_emoji(character: str) -> bool:
    """Or what follows one: its colour of skin, or that it is to be a picture."""
    return character == "\ufe0f" or (
        character >= "\u2000" and unicodedata.category(character) in ("So", "Sm", "Sk")
    )
