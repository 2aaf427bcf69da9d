"""Where the templates of pages and mails are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import node


def template_dir() -> Path:
    """`templates/` beside the packages in a checkout, inside `node` in a wheel."""
    package = Path(node.__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"
