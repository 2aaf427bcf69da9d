"""`python -m node.demo.child`: run one part of the market for as long as its parent lives.

The parent holds the other end of standard input. When it is gone, however it went,
the read ends and the part stops as it would on Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from node.cli import main as farebox
from node.demo.upstream import serve


def _end_with_parent() -> None:
    while os.read(0, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.argv[1:] == ["upstream"]:
        serve()
    else:
        farebox()


if __name__ == "__main__":
    main()
