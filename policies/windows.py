"""Sums and counts over the last minutes, hours or days, so that one large thing cannot be split into many small ones.

`amount_usd_24h` is the sum of what is positive in `amount_usd`, `count_1h` the number of intents. A window is kept in
`BUCKETS` slices of its length and one more for the slice in progress, so it reaches back between its length and one
slice more: never less than was asked for. The arithmetic is on whole millionths, so that neither the order of additions
nor the machine changes a sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

import msgspec

BUCKETS: Final = 24
"""Into how many slices a window is cut."""
MILLIS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
COUNT: Final = "count"
WINDOW_MS_MAX: Final = 366 * 86_400_000
"""The longest window: a year."""
UNITS: Final = 1_000_000
"""A sum is kept in whole millionths."""
SUM_MAX: Final = 2**63 - 1
"""Sums stop here, in millionths; one that has stopped counts as `BEYOND`."""
BEYOND: Final = 2.0**70
"""More than any threshold that a document can hold."""

_WINDOW: Final = re.compile(r"(?P<fact>[a-z][a-z0-9_]*)_(?P<number>[1-9][0-9]{0,3})(?P<unit>[mhd])")
_LIKE_A_WINDOW: Final = re.compile(r"(?P<fact>[a-z][a-z0-9_]*?)_(?P<number>[0-9]+)(?P<unit>[a-z]*)")


class Window(msgspec.Struct, frozen=True):
    """A window over a fact: ``fact`` is what is summed, or `count`."""

    name: str
    fact: str
    length_ms: int

    @property
    def slice_ms(self) -> int:
        """The length of one slice; rounded up, so that the slices cover the window."""
        return -(-self.length_ms // BUCKETS)


def window_of(fact: str) -> Window | None:
    """The window that a fact's name spells, or None."""
    found = _WINDOW.fullmatch(fact)
    if found is None:
        return None
    length_ms = int(found["number"]) * MILLIS[found["unit"]]
    return Window(fact, found["fact"], length_ms) if length_ms <= WINDOW_MS_MAX else None


def window_problem(fact: str, bases: Iterable[str]) -> str | None:
    """What to write instead of a name that looks like a window over one of ``bases`` and is none; None otherwise."""
    if fact == COUNT:
        return "write over what time, like `count_1h_above`"
    found = _LIKE_A_WINDOW.fullmatch(fact)
    if found is None or found["fact"] not in bases or window_of(fact) is not None:
        return None
    if found["unit"] in MILLIS and not found["number"].startswith("0"):
        return "shorten it: a window is at most a year, `366d`"
    return f"write minutes, hours or days, like `{found['fact']}_24h`"


def windows_among(facts: Iterable[str]) -> tuple[Window, ...]:
    """The windows among names of facts, by name."""
    return tuple(window for fact in sorted(set(facts)) if (window := window_of(fact)) is not None)


def millionths(value: float) -> int:
    """The positive part of a number in whole millionths, rounded up: nothing is too small to add up."""
    if not value > 0:
        return 0
    if value >= SUM_MAX // UNITS:  # infinity, and whole numbers that no float holds, too
        return SUM_MAX
    return math.ceil(round(value * UNITS, 3))  # 1.1 is not exactly 1.1: noise below a thousandth of it is none


def value_of(amount: int) -> float:
    """A sum as rules compare it."""
    return BEYOND if amount >= SUM_MAX else amount / UNITS


Slices = dict[int, int]
"""Number of the slice since the epoch to its sum in millionths."""


def oldest_of(window: Window, at_ms: int) -> int:
    """The number of the oldest slice that a window still holds at a time."""
    return (at_ms - window.length_ms) // window.slice_ms


def sum_of(slices: Slices, window: Window, at_ms: int) -> int:
    """What the window holds at a time, in millionths."""
    oldest = oldest_of(window, at_ms)
    return min(SUM_MAX, sum(amount for number, amount in slices.items() if number >= oldest))


def add(slices: Slices, window: Window, at_ms: int, amount: int) -> Slices:
    """The slices with an amount added, without those that the window has left behind."""
    now = at_ms // window.slice_ms
    oldest = oldest_of(window, at_ms)
    kept = {number: held for number, held in slices.items() if number >= oldest}
    kept[now] = min(SUM_MAX, kept.get(now, 0) + amount)
    return kept
