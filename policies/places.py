"""Where something stands in a document, as text: `a.b[0].c`, and `$` for the whole of it. Pure.

A key that is more than letters, digits, `_` and `-` stands in brackets and quotes, `a["b.c"]`, so that no two places
read alike. The same text, in `output-policy.yaml`, names what is to be removed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

ROOT: Final = "$"
PLACE_CHARS_MAX: Final = 400
"""A place's text is cut here: keys come from outputs, and one may be as long as an output may."""
STEPS_MAX: Final = 64
"""How many steps a place may have: outputs nest no deeper."""

Place = tuple[str | int, ...]

_PLAIN: Final = re.compile(r"[\w-]+")
_STEP: Final = re.compile(
    r'(?:^|\.)(?P<key>[\w-]+)|\[(?P<index>0|[1-9][0-9]{0,8})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]', re.DOTALL
)


def place_text(place: Sequence[str | int]) -> str:
    """The text of a place, cut at its limit."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif len(step) <= PLACE_CHARS_MAX and _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step[:PLACE_CHARS_MAX])}]"
        if len(text) > PLACE_CHARS_MAX:
            return text[:PLACE_CHARS_MAX] + "..."
    return text or ROOT


def place_steps(text: str) -> Place | None:
    """The steps of a place's text, after an optional `$.`; None when it is no place, or the whole document."""
    rest = text.removeprefix("$.") if text.startswith("$.") else text.removeprefix(ROOT)
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = None if rest.startswith(".") else _STEP.match(rest, at)
        if found is None:
            return None
        if found["index"] is not None:
            steps.append(int(found["index"]))
        elif found["quoted"] is not None:
            try:
                steps.append(str(json.loads(found["quoted"])))
            except ValueError:
                return None
        else:
            steps.append(found["key"])
        at = found.end()
    return tuple(steps) if 0 < len(steps) <= STEPS_MAX else None


def is_name(text: str) -> bool:
    """Whether a text names a key wherever it stands, not a place."""
    return _PLAIN.fullmatch(text) is not None


def plain_key(key: str) -> str:
    """A key without what spellings differ in: `internal_notes`, `internalNotes` and `Internal-Notes` are one."""
    if not key.isascii():
        normal = unicodedata.normalize("NFKC", key)
        key = "".join([sign for sign in normal if unicodedata.category(sign) != "Cf"]).casefold()
    return key.lower().replace("_", "").replace("-", "").replace(" ", "")
