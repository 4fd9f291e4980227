"""Events of control, of time, and of what could not be processed.

One class per Avro schema in `avro/`, field for field; a test keeps the two equal.
"""

from __future__ import annotations

import msgspec

from sluicegate.schemas.records import (
    Cause,
    CommandKind,
    Sealed,
)


class Acknowledged(msgspec.Struct, kw_only=True):
    """One gate process has folded one record of a control topic: a command, or a snapshot."""

    instance: str
    control_offset: int
    command_id: str
    accepted: bool
    code: str | None = None
    policy_snapshot: str | None = None
    topic: str = "control.commands"


class TimerRequest(msgspec.Struct, kw_only=True):
    """Wake the owner for this key at this time; the same timer again replaces it."""

    owner: str
    key: str
    timer_id: str
    fire_at_ms: int


class TimerFired(msgspec.Struct, kw_only=True):
    """A timer's time has come."""

    owner: str
    key: str
    timer_id: str
    fire_at_ms: int


class Command(msgspec.Struct, kw_only=True):
    """A command to every process; signed by an operator, or by a person where policy names a role for it."""

    command_id: str
    kind: CommandKind
    scope: str
    policy_snapshot: str | None = None
    policy_digest: str | None = None
    settings: str = "{}"
    reason: str | None = None
    by: str
    previous: str | None = None
    difference: list[str] = []
    ref: str | None = None
    until_ms: int | None = None
    level: int | None = None
    epoch: int | None = None
    commitment: str | None = None
    scale: str | None = None
    revealed: str | None = None
    domain: str | None = None


class SnapshotPublished(msgspec.Struct, kw_only=True):
    """One immutable bundle."""

    name: str
    digest: str
    documents: str = "{}"
    publisher: str
    git_commit: str | None = None
    git_dirty: bool


class DeadLetter(msgspec.Struct, kw_only=True):
    """An input that could not be processed; kept whole, sealed."""

    application: str
    cause: Cause
    reason: str
    message: str
    key: bytes
    value: Sealed
    headers: dict[str, bytes]
    appended_at_ms: int
