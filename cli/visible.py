"""Text from others, made safe for a terminal and for one line."""

from __future__ import annotations

import unicodedata
from typing import Final

HIDDEN: Final = frozenset(("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))
"""Unicode categories that show nothing, move the cursor or turn the reading direction."""
LINE_CHARS_MAX: Final = 300
"""How much of one text stands in a line for people; the whole is in ``--json``."""


def visible(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    """The text with everything invisible spelt out (escapes, line ends, bidirectional and zero-width signs)."""
    cut = text[:chars_max]
    shown = cut if cut.isascii() and cut.isprintable() else "".join([_shown(sign) for sign in cut])
    return shown if len(text) <= chars_max else f"{shown}..."


def _shown(sign: str) -> str:
    if unicodedata.category(sign) not in HIDDEN:
        return sign
    return sign.encode("unicode_escape").decode("ascii") if ord(sign) != 0xAD else "\\xad"
