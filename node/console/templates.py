"""Where the templates are, in a checkout and in an installed wheel, and how they render."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import node


def template_dir() -> Path:
    """`templates/` beside the packages in a checkout, inside `node` in a wheel."""
    package = Path(node.__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"


def open_environment() -> Environment:
    """Autoescaped, and a name that is missing is an error instead of an empty place."""
    return Environment(
        loader=FileSystemLoader(template_dir()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
