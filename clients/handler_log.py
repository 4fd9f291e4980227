"""Where what handlers print goes, if anywhere: one bounded file of the worker's, never an event."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 1_000_000
"""When the file is this long it becomes `NAME.1`, in the place of an older one."""


class HandlerLog:
    """Appends what handlers print, for any thread. The file is readable for its owner only: it may hold what they had.

    Raises OSError if it cannot be made.
    """

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._path, self._bytes_max = path, bytes_max
        self._lock = threading.Lock()
        self._file = self._open()

    def _open(self) -> int:
        """A handler may see the folder, and make something else there: what is no file would hold the worker up."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        found = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise OSError(errno.EINVAL, "no file, but something else of that name")
        return found

    def write(self, data: bytes) -> None:
        """Append; what does not fit any more begins a new file."""
        with self._lock:
            if os.fstat(self._file).st_size + len(data) > self._bytes_max:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                full, self._file = self._file, self._open()
                os.close(full)  # not before: its number would be another file's next, and be written to
            os.write(self._file, data[: self._bytes_max])
