"""What is wrong with a policy document, said so that its author can mend it without asking anyone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from sluicegate.schemas.errors import SluicegateError

Severity = Literal["error", "warning"]

FAULTS_SHOWN_MAX = 20
"""How many faults the exception's own text lists; all of them are in ``PolicyFaults.faults``."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """One fault of one file.

    ``line`` and ``column`` count from 1 and are 0 where the document has no text any more (it came back from
    the log). ``text`` is what stands there, ``fix`` what to do. A ``warning`` does not refuse the bundle.
    """

    file: str
    line: int
    column: int
    text: str
    message: str
    fix: str
    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.severity}: {self.message}; {self.fix}"


class PolicyFaults(SluicegateError):
    """The documents are refused. ``faults`` are all faults of all files, errors and warnings, in file order."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(faults))
        shown = [str(fault) for fault in self.faults[:FAULTS_SHOWN_MAX]]
        rest = len(self.faults) - len(shown)
        if rest > 0:
            shown.append(f"and {rest} more")
        super().__init__("\n".join(shown))


class PolicyUnreadable(SluicegateError):
    """The folder or file of policies cannot be read at all."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like ``name``, or None when none is like it."""
    found = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def suggest(name: str, known: Sequence[str] | Iterable[str], listed_max: int = 12) -> str:
    """The fix for an unknown name: the nearest one, else the ones there are."""
    names = sorted(known)
    found = nearest(name, names)
    if found is not None:
        return f"did you mean `{found}`?"
    if not names:
        return "remove it"
    shown = ", ".join(f"`{each}`" for each in names[:listed_max])
    return f"use one of {shown}" + (", ..." if len(names) > listed_max else "")
