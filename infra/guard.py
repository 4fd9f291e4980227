"""Stands between us and the broker's Java, so that no broker outlives whoever started it. Run as a script.

``guard.py LOCK_FD COMMAND...`` starts the command and prints its process id. It ends the command (SIGTERM, then
SIGKILL) when standard input closes, when its own parent is gone or on SIGTERM; if the guard itself is killed, the
kernel kills the command. Both hold the lock on the data folder while they live. It takes nothing but the standard
library, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

GRACE_SEC: Final = 20.0
_LOOK_SEC: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """The command's exit status, negative for a signal's number."""
    lock_fd, command = int(sys.argv[1]), sys.argv[2:]
    parent = os.getppid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, note)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(  # the log is our own standard error
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        pass_fds=(lock_fd,),
        preexec_fn=die_with_guard,  # noqa: PLW1509  # this process has one thread
    )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.close()
    while child.poll() is None and signal.SIGTERM not in told and os.getppid() == parent:
        readable, _, _ = select.select((0, woken), (), (), _LOOK_SEC)
        if woken in readable:
            os.read(woken, 64)
        if 0 in readable and not os.read(0, 64):
            break
    if child.poll() is None:
        child.terminate()
        deadline = time.monotonic() + GRACE_SEC
        while child.poll() is None and time.monotonic() < deadline:
            select.select((woken,), (), (), 0.05)
        child.kill()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main() & 0xFF)
