"""What has only a long form is not collected without `make soak`."""

from __future__ import annotations

import os

collect_ignore = (
    []
    if os.environ.get("FAREBOX_SOAK") == "1"
    else ["test_backup_of_ten_million_calls.py", "test_catalog_speed.py"]
)
