"""The process that writes and reads backups, so that the node's own never waits for it.

One request as a line on standard input, lines of progress and then one result on standard
output. It yields to everything else on the machine unless somebody waits in front of it, leaves no
core dump, and ends with the process that started it: standard input closes then.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import threading
import time
from typing import Any, BinaryIO

import msgspec

from backups.errors import BackupError
from backups.tasks import decode_request, is_waited_for, perform, unlock

_NICE = 19
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # linux: of a call that libc has no name for
_IOPRIO_IDLE = 3 << 13
_EVERY_SECONDS = 0.25


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process says: how far it is, its result, or why there is none."""

    stage: str = ""
    done: int = 0
    total: int = 0
    result: msgspec.Raw = msgspec.Raw(b"")
    code: str = ""
    message: str = ""


class Teller:
    """Progress, at most a few lines a second."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._stage, self._next = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._next:
            return
        self._stage, self._next = stage, now + _EVERY_SECONDS
        self.say({"stage": stage, "done": done, "total": total})

    def say(self, line: Any) -> None:
        self._output.write(msgspec.json.encode(line) + b"\n")
        self._output.flush()


def main() -> None:
    """Serve one request."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, teller = sys.stdin.buffer, Teller(sys.stdout.buffer)
    request = decode_request(source.readline())
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    try:
        request = unlock(request)
        if not is_waited_for(request):
            _yield_to_others()
        result = perform(request, teller)
    except BackupError as error:
        teller.say({"code": error.code, "message": str(error)})
    else:
        teller.say({"result": result})


def _yield_to_others() -> None:
    """The last to get processor and disk. Not the idle class of the scheduler: a machine that is
    never idle would never have a backup."""
    os.nice(_NICE)
    if platform.system() == "Linux" and (number := _IOPRIO_SET.get(platform.machine())):
        ctypes.CDLL(None).syscall(number, 1, 0, _IOPRIO_IDLE)  # best effort: 1, 0 is this process


def _end_with_parent(source: BinaryIO) -> None:
    while os.read(source.fileno(), 1):  # not by its buffer, whose lock the end of Python waits for
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
