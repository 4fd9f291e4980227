"""Topic patterns: `*` is zero or more of any characters, dots too; everything else stands for itself.

Topics come from agents, so matching must not be made slow by a clever one: no regular expressions, one forward scan.
"""

from __future__ import annotations

from typing import Final

PATTERN_CHARS_MAX: Final = 256
"""The longest pattern, in characters."""


class Glob:
    """One compiled pattern. Matches the whole text; case matters."""

    __slots__ = ("_first", "_last", "_middle", "_whole", "pattern")

    def __init__(self, pattern: str) -> None:
        """``pattern`` has passed ``pattern_problem``."""
        parts = pattern.split("*")
        self.pattern = pattern
        self._whole = len(parts) == 1
        self._first = parts[0]
        self._last = parts[-1]
        self._middle = tuple(part for part in parts[1:-1] if part)

    def matches(self, text: str) -> bool:
        """Whether the pattern fits the whole of ``text``."""
        if self._whole:
            return text == self.pattern
        first, last = self._first, self._last
        if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
            return False
        at, end = len(first), len(text) - len(last)
        for part in self._middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


def pattern_problem(pattern: str) -> tuple[str, str] | None:
    """(message, fix) when ``pattern`` is no topic pattern, else None."""
    if not pattern:
        return "an empty pattern matches nothing", 'write a topic, or `"*"` for all'
    if len(pattern) > PATTERN_CHARS_MAX:
        return f"the pattern is longer than {PATTERN_CHARS_MAX} characters", "shorten it"
    for letter in pattern:
        if letter in "?[]":
            return f"`{letter}` means nothing in a pattern", "`*` is the only wildcard; list several patterns instead"
        if letter.isspace():
            return "a topic has no spaces", "remove the space"
    return None
