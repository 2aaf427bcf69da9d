"""People write in their own script; nobody hides or reorders what others read."""

from __future__ import annotations

import pytest

from catalog.characters import cut, is_readable, readable
from node.alerts.text import one_line

WRITTEN = [
    "Wetter für São Paulo, 天気, 👍🏽",
    "👩\u200d💻 and 🏳️\u200d🌈 and 👩🏽\u200d🚀 and ❤️\u200d🔥",
    "क्\u200dष and क्\u200cष",  # Devanagari: half and whole forms
    "র\u200d্য",  # Bengali
    "می\u200cخواهم",  # Persian
    "ශ්\u200dරී",  # Sinhala
]
HIDDEN = [
    "pay\u200dpal",
    "pay\u200cpal",
    "рay\u200dрal",
    "\u200d👩",
    "👩\u200d",
    "👩\u200d\u200d💻",
    "a \u200d b",
    "price\u202e001",
    "\u2066inner\u2069",
    "zero\u200bwidth",
    "soft\u00adhyphen",
    "\ufeffmark",
    "blank\u3164",
    "tab\tand\nline",
    "null\x00",
    "🏴\U000e0067\U000e007f",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_scripts_and_emoji_keep_their_joiners(text: str) -> None:
    assert is_readable(text)
    assert readable(text) == text == one_line(text, 500)


@pytest.mark.parametrize("text", HIDDEN)
def test_what_hides_or_reorders_text_is_refused(text: str) -> None:
    assert not is_readable(text)
    assert is_readable(readable(text))


def test_line_breaks_are_only_where_they_were_asked_for() -> None:
    assert is_readable("two\r\nlines\tof it", "\r\n\t")
    assert not is_readable("two\u2028lines", "\r\n\t")


def test_a_text_is_never_cut_in_the_middle_of_a_joined_sign() -> None:
    assert cut("x👩\u200d💻 at work", 4) == "x👩…"
    assert cut("short", 5) == "short"
