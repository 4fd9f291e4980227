"""Where the marks of the report's plots stand: numbers for a template that draws them. Pure.

Positions are in the units of a drawing `WIDTH` wide: names left, a scale in the middle, what is told right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from sluicegate.cli.audit_words import at_least, at_most, percent
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.processors.audit_allocation import Share
    from sluicegate.processors.audit_report import Rate

WIDTH: Final = 680
NAMES: Final = 170
"""Where the scale begins."""
SCALE: Final = 320
"""How long the scale is."""
ROW: Final = 22
HEAD: Final = 26
NAME_CHARS_MAX: Final = 26
ROWS_MAX: Final = 40
"""How many rows a plot has; its table has all."""
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)


class Tick(msgspec.Struct, frozen=True):
    """A line of the scale and what stands above it."""

    x: float
    label: str


class Whisker(msgspec.Struct, frozen=True):
    """One rate between its bounds; ``dot`` is None where nothing was judged."""

    name: str
    y: float
    low: float
    high: float
    dot: float | None
    told: str


class Bars(msgspec.Struct, frozen=True):
    """The jobs of a stratum, those drawn and those judged, as widths."""

    name: str
    y: float
    widths: tuple[float, float, float]
    told: str


class Move(msgspec.Struct, frozen=True):
    """From the rate in force to the suggested one."""

    name: str
    y: float
    now: float
    then: float
    told: str


class Plot(msgspec.Struct, frozen=True):
    """One drawing: a scale and its rows."""

    title: str
    height: float
    ticks: list[Tick]
    whiskers: list[Whisker] = []
    bars: list[Bars] = []
    moves: list[Move] = []
    left_out: int = 0


def whiskers_of(title: str, rates: Sequence[Rate]) -> Plot:
    """Rates with their exact bounds, on a scale from 0."""
    shown = rates[:ROWS_MAX]
    top, ticks = _scale(max((each.high for each in shown), default=1.0), lambda share: percent(share, 0))
    rows = [
        Whisker(
            name=visible(each.name, NAME_CHARS_MAX),
            y=_y(place),
            low=_x(each.low, top),
            high=_x(each.high, top),
            dot=None if each.rate is None else _x(each.rate, top),
            told=_told(each),
        )
        for place, each in enumerate(shown)
    ]
    return Plot(title, _height(len(shown), ROW), ticks, whiskers=rows, left_out=len(rates) - len(shown))


def bars_of(title: str, rates: Sequence[Rate]) -> Plot:
    """Jobs, samples and findings."""
    shown = rates[:ROWS_MAX]
    most = max((each.jobs for each in shown), default=1)
    step = _counting_step(most)
    ticks = [Tick(_x(count, most), f"{count:,}") for count in range(0, most + 1, step)]
    rows = [
        Bars(
            name=visible(each.name, NAME_CHARS_MAX),
            y=_y(place, 2 * ROW),
            widths=(_wide(each.jobs, most), _wide(each.drawn, most), _wide(each.judged, most)),
            told=f"{each.jobs:,} / {each.drawn:,} / {each.judged:,}",
        )
        for place, each in enumerate(shown)
    ]
    return Plot(title, _height(len(shown), 2 * ROW), ticks, bars=rows, left_out=len(rates) - len(shown))


def moves_of(title: str, shares: Sequence[Share]) -> Plot:
    """Rates in force and those suggested."""
    shown = shares[:ROWS_MAX]
    top, ticks = _scale(
        max((max(each.rate, each.suggested) for each in shown), default=1.0), lambda share: percent(share, 0)
    )
    rows = [
        Move(
            name=visible(each.stratum, NAME_CHARS_MAX),
            y=_y(place),
            now=_x(each.rate, top),
            then=_x(each.suggested, top),
            told=f"{percent(each.rate)} → {percent(each.suggested)}",
        )
        for place, each in enumerate(shown)
    ]
    return Plot(title, _height(len(shown), ROW), ticks, moves=rows, left_out=len(shares) - len(shown))


def _told(rate: Rate) -> str:
    bounds = f"{at_least(rate.low, 1).removesuffix(' %')} to {at_most(rate.high, 1)}"
    return f"unknown ({bounds})" if rate.rate is None else f"{percent(rate.rate, 1)} ({bounds})"


def _scale(highest: float, label: Callable[[float], str]) -> tuple[float, list[Tick]]:
    """The end of a scale that holds the highest share, at most 1, and its lines."""
    step = next((each for each in _STEPS if highest <= 5 * each), _STEPS[-1])
    count = min(round(1 / step), max(1, -int(-highest // step)))
    top = count * step
    return top, [Tick(_x(each * step, top), label(each * step)) for each in range(count + 1)]


def _counting_step(most: int) -> int:
    size: int = 10 ** max(0, len(str(most)) - 1)
    return next((each for each in (size // 5, size // 2, size) if each and most // each <= 5), 2 * size)


def _x(value: float, top: float) -> float:
    return round(NAMES + SCALE * min(1.0, value / top if top else 0.0), 1)


def _wide(count: int, most: int) -> float:
    return round(SCALE * count / most, 1) if most else 0.0


def _y(place: int, row: int = ROW) -> float:
    return HEAD + row * place + row / 2


def _height(rows: int, row: int) -> float:
    return HEAD + row * rows + 6
