"""What commands speak of, and what they leave behind: scopes, stops, revocations, break-glass. Pure."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from sluicegate.streams.topics import DAY_MS

EVERYTHING: Final = "everything"
SCOPES: Final = ("agent", "topic", "tag", "job")
STOPS_KEPT_MS: Final = 2 * DAY_MS
STOPS_MAX: Final = 1_000
"""Stops that are kept; see `with_stop` for one more."""
REVOCATIONS_KEPT_MS: Final = 8 * DAY_MS
"""How long a revocation is kept as it was given: a day longer than a grant stands in its topic."""
REVOCATIONS_MAX: Final = 1_000
"""Revocations that are kept as they were given; see `kept_revocations` for what becomes of the others."""
GLASSES_MAX: Final = 100
"""Break-glass commands that may be open at once; one more is refused."""


class Stop(msgspec.Struct, frozen=True):
    """A command to stop what runs in a scope. It covers attempts that were started before it."""

    command_id: str
    scope: str
    offset: int
    appended_at_ms: int
    by: str
    reason: str | None


class Revocation(msgspec.Struct, frozen=True):
    """A command that voids every grant of a scope that was given before it."""

    command_id: str
    scope: str
    offset: int
    appended_at_ms: int
    by: str
    reason: str | None


class Glass(msgspec.Struct, frozen=True):
    """What waits for a person in this scope may run at once, until ``until_ms``; every run is reviewed afterwards."""

    command_id: str
    scope: str
    offset: int
    appended_at_ms: int
    until_ms: int
    by: str
    reason: str


def covers(scope: str, agent_id: str, topic: str, tags: Collection[str], job_id: str) -> bool:
    """Whether a scope covers a job.

    ``tags`` are those it was judged by, which the agent may add to, where the scope forbids (pause, stop, revoke);
    the action's own where it permits (`ControlState.glass`), since agents choose what they add. They choose their
    job ids too, so `glass_scope_fault` knows no glass over a job.
    """
    kind, _, value = scope.partition(":")
    return (
        scope == EVERYTHING
        or (kind == "agent" and value == agent_id)
        or (kind == "topic" and fnmatchcase(topic, value))
        or (kind == "tag" and value in tags)
        or (kind == "job" and value == job_id)
    )


def scope_fault(scope: str) -> str | None:
    """What is wrong with a scope, or None."""
    if scope == EVERYTHING:
        return None
    kind, _, value = scope.partition(":")
    if kind not in SCOPES or not value:
        return f"scope `{scope}` is not known; give `everything`, `agent:ID`, `topic:GLOB`, `tag:TAG` or `job:ID`"
    if kind == "topic" and any(sign in value for sign in "?["):
        return f"scope `{scope}` uses `?` or `[`; only `*` stands for any characters"
    return None


def glass_scope_fault(scope: str) -> str | None:
    """Why no glass can be broken over a scope that is known, or None."""
    if scope.startswith("job:"):
        return f"`{scope}` is the agent's choice, as every job id is; give `agent:`, `topic:`, `tag:` or `everything`"
    return None


def kept_stops(stops: tuple[Stop, ...], at_ms: int) -> tuple[Stop, ...]:
    """Those a running attempt may still have to answer: of the last 48 hours of log time."""
    return tuple(stop for stop in stops if stop.appended_at_ms + STOPS_KEPT_MS >= at_ms)


def with_stop(stops: tuple[Stop, ...], stop: Stop) -> tuple[Stop, ...] | None:
    """The stops and one more, at most `STOPS_MAX`; None when there is no room for it.

    A worker may meet a burst all at once, so none is dropped for being old. When they are too many, a new one takes
    the place of those of its own scope, and one of everything that of all: it covers every attempt that they do.
    """
    if len(stops) < STOPS_MAX:
        return (*stops, stop)
    left = () if stop.scope == EVERYTHING else tuple(each for each in stops if each.scope != stop.scope)
    return (*left, stop) if len(left) < STOPS_MAX else None


def kept_revocations(revocations: tuple[Revocation, ...], at_ms: int) -> tuple[Revocation, ...]:
    """The revocations, at most `REVOCATIONS_MAX` and one more.

    What is too old or too many is not forgotten, since nobody here knows how long a grant may still start: it
    becomes one revocation of everything, so that it voids more than it did, and never less.
    """
    aged = sum(each.appended_at_ms + REVOCATIONS_KEPT_MS < at_ms for each in revocations)
    cut = max(aged, len(revocations) - REVOCATIONS_MAX)
    if cut <= 0:
        return revocations
    return (msgspec.structs.replace(revocations[cut - 1], scope=EVERYTHING), *revocations[cut:])
