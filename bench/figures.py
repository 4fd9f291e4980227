"""What a measurement hands back: medians with their spread, each against a baseline of the same run."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The median of several rounds, and the least and the greatest of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}..{_short(self.high)})"


class Figure(msgspec.Struct, frozen=True):
    """One measured figure. ``ratio`` is this over ``against``, round by round; ``aim`` is what it should reach."""

    name: str
    unit: str
    rounds: int
    value: Spread
    against: str
    baseline: Spread | None = None
    ratio: Spread | None = None
    aim: float | None = None


class Text(msgspec.Struct, frozen=True):
    """Lines that stand as they are."""

    name: str
    lines: list[str]


class Findings(msgspec.Struct):
    """All that one run found."""

    measured_at: str
    machine: dict[str, str]
    versions: dict[str, str]
    figures: list[Figure] = []
    texts: list[Text] = []


def spread(values: Sequence[float]) -> Spread:
    """The median and the ends of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def figure(
    name: str,
    unit: str,
    values: Sequence[float],
    against: str,
    baseline: Sequence[float] = (),
    aim: float | None = None,
) -> Figure:
    """A figure from the rounds' values, and the baseline's of the same rounds in the same order."""
    ratio = spread([value / base for value, base in zip(values, baseline, strict=True)]) if baseline else None
    return Figure(
        name=name,
        unit=unit,
        rounds=len(values),
        value=spread(values),
        against=against,
        baseline=spread(baseline) if baseline else None,
        ratio=ratio,
        aim=aim,
    )


def begin() -> Findings:
    """Empty findings that say when and where they were made. The load is that of others, before we begin."""
    return Findings(
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine={
            "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "load_before": f"{os.getloadavg()[0]:.1f}",
        },
        versions={name: version(name) for name in ("quixstreams", "confluent-kafka", "fastavro", "msgspec")},
    )


def table(findings: Findings) -> str:
    """The findings as text."""
    machine = ", ".join(f"{name} {value}" for name, value in findings.machine.items())
    lines = [f"measured {findings.measured_at} on {machine}; median (lowest..highest)", ""]
    for each in findings.figures:
        lines.append(f"{each.name}: {each.value} {each.unit}, {each.rounds} rounds")
        if each.ratio is None or each.baseline is None:
            lines.append(f"    {each.against}")
        else:
            aim = "" if each.aim is None else f", aim {each.aim:g}"
            lines.append(f"    {each.ratio} times {each.against} at {each.baseline}{aim}")
    for text in findings.texts:
        lines += ["", f"{text.name}:", *[f"    {line}" for line in text.lines]]
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
