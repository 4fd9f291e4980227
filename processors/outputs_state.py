"""What outputs keep of a job between its grant and its result, and the few things all their modules do with it."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from sluicegate.processors.plane import REMEMBERED_MS, Card, Turn
from sluicegate.schemas.events import (
    Breached,
    Ended,
    Granted,
    GrantRefused,
    Lapsed,
    Noted,
    Output,
    Progressed,
    Started,
    StopAnswered,
)

WorkerEvent = Started | Lapsed | GrantRefused | Progressed | Ended | StopAnswered | Breached | Output
WORKER_EVENTS: Final = (Started, Lapsed, GrantRefused, Progressed, Ended, StopAnswered, Breached, Output)
SUBJECTS: Final = {"Output": "output", "GrantRefused": "grant", "Breached": "constraint"}
BREACH: Final = "breach"
"""The name of the rule that holds the output of an attempt that went beyond a constraint."""
DESTROY: Final = "destroy"
"""What people choose of a held output that shall never leave."""
BREACHES_MAX: Final = 20
"""How many different broken constraints of one attempt are remembered; more change nothing."""


class OutputsCard(Card, kw_only=True):
    """Bounded, one per agent. ``granted_seq``: up to where the gate's journal of this agent is known here."""

    granted_seq: int = 0
    parked: int = 0


class Attempt(msgspec.Struct, kw_only=True):
    """The live attempt of one job."""

    phase: Literal["open", "started", "held", "ended"]
    grant_id: str
    attempt: int
    job_hash: str
    topic: str
    worker_id: str | None = None
    lease_until_ms: int = 0
    run_id: str | None = None
    correlation_id: str | None = None
    breached: list[str] = []
    """Constraints that the worker says it went, or tried to go, beyond."""
    forget_at_ms: int = 0
    """Set when it ends: what has not ended is not forgotten, however long a pool is down or a job runs."""


def entry_name(job_id: str) -> str:
    """The name of a job's entry."""
    return f"job/{job_id}"


def ids_of(event: WorkerEvent | Granted) -> dict[str, Any]:
    """The fields that name an attempt."""
    return {
        "job_id": event.job_id,
        "agent_id": event.agent_id,
        "grant_id": event.grant_id,
        "attempt": event.attempt,
    }


def note(turn: Turn, event: WorkerEvent, kind: str, detail: str | None = None) -> None:
    """Journal a worker's event that changes nothing others see."""
    turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind=kind, detail=detail)


def refuse(turn: Turn, event: WorkerEvent, code: str, message: str, *, incident: bool = True) -> None:
    """Journal that a worker's event is refused, or tells of an incident."""
    turn.refuse(
        job_id=event.job_id,
        agent_id=event.agent_id,
        subject=SUBJECTS.get(type(event).__name__, "start"),
        code=code,
        message=message,
        incident=incident,
        principal=f"worker/{event.worker_id}",
        ref=event.grant_id,
    )


def over(turn: Turn, job_id: str, attempt: Attempt) -> None:
    """The attempt has ended: what comes later of it is late."""
    attempt.phase = "ended"
    attempt.forget_at_ms = turn.at_ms + REMEMBERED_MS
    turn.put(entry_name(job_id), attempt)
    turn.retire(entry_name(job_id), attempt.forget_at_ms)
