"""How the templates of pages render."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from node.template_dir import template_dir


@cache  # what it has compiled is compiled once
def open_environment() -> Environment:
    """Autoescaped, and a name that is missing is an error instead of an empty place."""
    return Environment(
        loader=FileSystemLoader(template_dir()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
