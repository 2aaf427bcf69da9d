"""A process like this one, killed with all it started: at some moment, or at a given step."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count

# What Python tells of before it does it: whatever changes files or starts something.
_STEPS = ("open", "os.", "shutil.", "subprocess.", "sqlite3.", "ctypes.dlsym")


def fork(work: Callable[[], None]) -> int:
    """A copy of this process in a session of its own that does `work` and ends; its process id.
    It has what this one has in memory, so nothing is derived or imported again."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def kill_after(work: Callable[[], None], seconds: float) -> bool:
    """Do `work` in a process and kill it and its children after so long; whether it was not done
    by then. Fails where the work failed by itself."""
    pid = fork(work)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, "the work failed by itself"
            return False
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def kill_at_each_step(work: Callable[[], None]) -> Iterator[int]:
    """Do `work` again and again, killed right before its first step, its second, and so on;
    yields after each, until one ran to its end."""
    for step in count():
        if not _killed_when(work, lambda seen, _, at=step: seen == at):  # type: ignore[misc]
            return
        yield step


def kill_before(work: Callable[[], None], name: str) -> None:
    """Do `work`, killed right before its step that has to do with `name`. Fails without one."""
    assert _killed_when(work, lambda _, what: name in what), f"there is no step {name}"


def _killed_when(work: Callable[[], None], due: Callable[[int, str], bool]) -> bool:
    pid = fork(lambda: _dying(work, due))
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


def _dying(work: Callable[[], None], due: Callable[[int, str], bool]) -> None:
    steps = count()

    def look(event: str, arguments: object) -> None:
        if event.startswith(_STEPS) and due(next(steps), f"{event} {arguments}"):
            os.killpg(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    work()
