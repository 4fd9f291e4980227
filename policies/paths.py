"""Paths into a payload: keys joined by dots, `[n]` for the n-th entry, `#` at the end for how many there are.

`order.lines[0].price`, `recipients.#`; a leading `$.` is allowed. No wildcards and no filters: what a path finds is one
value or nothing, so that a fact never depends on how many places a payload offers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

PATH_CHARS_MAX: Final = 200
STEPS_MAX: Final = 16
"""How many steps a path may have."""
COUNT: Final = "#"
MISSING: Final = object()
"""What `read_path` gives where there is nothing."""

_STEP: Final = re.compile(
    r"(?:^|\.)(?P<key>[^.\[\]#$\s][^.\[\]#\s]*)|\[(?P<index>0|[1-9][0-9]{0,5})\]|(?:^|\.)(?P<count>#)$"
)


def path_problem(path: str) -> tuple[str, str] | None:
    """(message, fix) when ``path`` is no path into a payload, else None."""
    if not path or len(path) > PATH_CHARS_MAX:
        return f"a path has 1 to {PATH_CHARS_MAX} characters", "write keys joined by dots, like `order.total`"
    steps = _steps(path)
    if steps is None:
        fix = "write keys joined by dots, like `order.lines[0].price`; `#` at the end counts the entries"
        return f"`{path}` is no path into a payload", fix
    if len(steps) > STEPS_MAX:
        return f"the path has more than {STEPS_MAX} steps", "shorten it"
    return None


def compile_path(path: str) -> tuple[str | int, ...]:
    """The steps of a path that has passed ``path_problem``: keys, indexes, and `#` for a count."""
    return _steps(path) or ()


def read_path(payload: Any, steps: Sequence[str | int]) -> Any:
    """What stands in ``payload`` where the steps lead; `MISSING` when they lead nowhere."""
    here = payload
    for step in steps:
        if step.__class__ is int:
            if not isinstance(here, list) or step >= len(here):
                return MISSING
            here = here[step]
        elif step == COUNT:
            return len(here) if isinstance(here, list) else MISSING
        elif isinstance(here, dict) and step in here:
            here = here[step]
        else:
            return MISSING
    return here


def write_path(payload: Any, steps: Sequence[str | int], value: Any) -> bool:
    """Put another value where the steps lead; False, and nothing changed, where nothing stands there."""
    parent = read_path(payload, steps[:-1])
    if read_path(payload, steps) is MISSING or not isinstance(parent, dict | list) or steps[-1] == COUNT:
        return False
    parent[steps[-1]] = value  # type: ignore[index]  # what reads by a step is written by it
    return True


def _steps(path: str) -> tuple[str | int, ...] | None:
    text = path.removeprefix("$.")
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        found = None if text.startswith(".") else _STEP.match(text, at)
        if found is None:
            return None
        steps.append(int(found["index"]) if found["index"] is not None else found["key"] or COUNT)
        at = found.end()
    return tuple(steps) or None
