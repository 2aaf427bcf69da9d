"""JSON of strangers, refused when it is nested deeper than any honest document.

Decoders count on the interpreter's recursion limit, and libraries raise that limit
until the stack is too small for it: then a page of brackets ends the process.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 100
# A string (closed or not), or a bracket; possessive, so that no text takes long.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class NotJson(ValueError):
    """It is no JSON, or nested too deep."""


def decode(body: bytes) -> Any:
    """The document. Raises NotJson."""
    depth = 0
    for token in _TOKEN.finditer(body):
        sign = token[0]
        if sign in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise NotJson("It is nested too deep.")
        elif sign in (b"]", b"}"):
            depth -= 1
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(str(error)) from error
