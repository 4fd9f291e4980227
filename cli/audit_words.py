"""How reports on audits speak, on a terminal and on paper: shares, times, and what a count means."""

from __future__ import annotations

import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sluicegate.processors.audit_report import GlassUse, Rate

_MONTHS: Final = "January February March April May June July August September October November December".split()
_UNITS: Final = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"))


def percent(share: float | None, digits: int = 2) -> str:
    """A share as people read it: `1.25 %`; `-` for none."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def at_least(share: float, digits: int = 2) -> str:
    """A lower bound, rounded down: what is said must be no narrower than what is known."""
    return _bound(share, digits, ROUND_FLOOR)


def at_most(share: float, digits: int = 2) -> str:
    """An upper bound, rounded up."""
    return _bound(share, digits, ROUND_CEILING)


def _bound(share: float, digits: int, rounding: str) -> str:
    return f"{(100 * Decimal(repr(share))).quantize(Decimal(1).scaleb(-digits), rounding)} %"


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 job`, `2 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(at_ms: int | None) -> str:
    """A time to the minute in UTC: `1 November 2026, 08:00 UTC`."""
    if at_ms is None:
        return "at an unknown time"
    try:
        at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"at {at_ms} ms"  # a signed command may name any number
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"


def short_moment(at_ms: int | None) -> str:
    """A time to the minute in UTC, for columns: `2026-11-01 08:00`."""
    if at_ms is None:
        return "unknown"
    try:
        return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def day_moment(at_ms: int | None) -> str:
    """A time to the minute in UTC, for columns on paper: `1 Nov 2026, 08:00`."""
    day, _, rest = moment(at_ms).removesuffix(" UTC").partition(" ")
    month, _, time = rest.partition(" ")
    return f"{day} {month[:3]} {time}" if month in _MONTHS else f"{day} {rest}"


def lasted(span_ms: int) -> str:
    """A span in its largest whole unit: `3 days`."""
    for unit_ms, noun in _UNITS:
        if span_ms >= unit_ms:
            return counted(span_ms // unit_ms, noun)
    return "less than a minute"


def meaning(rate: Rate) -> str:
    """What the counts of a rate mean, in words. A zero is a bound, not a promise."""
    if rate.jobs == 0:
        return "no job finished"
    if rate.rate is None:
        why = f"{counted(rate.waiting, 'sample')} still waiting" if rate.waiting else "none was drawn"
        return f"nothing is known: no sample has been judged ({why})"
    reach = f"at least {at_least(rate.low)} and at most {at_most(rate.high)} at 95 %"
    if rate.wrong == 0:
        return f"none found; at most {at_most(rate.high)} at 95 %"
    return f"an estimated {percent(rate.rate)} were wrong or harmful; {reach}"


def caution(rate: Rate) -> str:
    """What a reader must know of the samples that wait, or nothing."""
    if not rate.waiting or rate.rate is None:
        return ""
    return (
        f"{counted(rate.waiting, 'sample')} without a finding: the bounds take each of them as right below and as "
        "wrong above; the estimate rests on the others"
    )


def reviews(glass: GlassUse) -> str:
    """What the reviews of the jobs under a glass have come to."""
    if not glass.jobs_count:
        return "no job ran under it"
    states = [each.review for each in glass.jobs]
    known = sorted({*states})
    return ", ".join([f"{states.count(state)} {REVIEWED[state]}" for state in known])


REVIEWED: Final = {
    "approved": "reviewed: right to run",
    "denied": "reviewed: WRONG to run",
    "expired": "review EXPIRED unanswered",
    "withdrawn": "review withdrawn",
    "open": "review OPEN",
    "nobody_asked": "nobody asked",
}
"""How a review of a job that ran under break-glass ended."""
