"""Outputs: follows every grant from start to result, and lets nothing leave that was not granted and reviewed.

It reads the gate's journal, the workers' starts and their raw outputs, which may reach it in any order: what names a
grant it has not met yet is parked until the grant comes or a timer says that there is none.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sluicegate.processors.outputs_review import on_output, on_resolution
from sluicegate.processors.outputs_state import (
    BREACHES_MAX,
    WORKER_EVENTS,
    Attempt,
    OutputsCard,
    WorkerEvent,
    entry_name,
    ids_of,
    note,
    over,
    refuse,
)
from sluicegate.processors.plane import Plane, Turn
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import (
    AttemptEnded,
    AttemptOpened,
    AttemptWord,
    Breached,
    Ended,
    Event,
    Granted,
    GrantRefused,
    Lapsed,
    Noted,
    Output,
    Progressed,
    Resolution,
    Started,
    StopAnswered,
    TimerFired,
)

LATE_MS_MAX: Final = 5_000
"""A lease's firing later than this says that outputs or the watch was away: the lease is counted anew from it."""
JOB_ID_CHARS_MAX: Final = 200
"""No intent with a longer one is judged."""
COMMAND_ID_CHARS_MAX: Final = 200
STOP_DETAIL_CHARS_MAX: Final = 1_000
"""What a worker's answer to a stop may say; it is copied into the journal."""
WORKER_SAYS_CHARS_MAX: Final = 200
"""How much of a worker's words about a revocation is passed on; they are nobody else's."""
NOT_TAKEN: Final = ("no_handler", "constraint_unenforceable")
"""Why a worker refuses a grant that is as the gate wrote it: nothing ran, and the attempt is over."""
EXCEEDED: Final = "constraint_exceeded"
"""Why a worker refuses a grant whose own arguments are beyond a constraint of it: nothing ran, and no other may."""
REVOKED: Final = "revoked"
"""Why a worker refuses a grant that an operator has voided: nothing ran, and nothing more may run under it.

It is the worker's word alone. A worker that lies only ends an attempt whose grant it has seen and that did not start;
it could as well have let it lapse.
"""


class Parked(msgspec.Struct, kw_only=True):
    """Worker events of one job that came before what they follow from, encoded, in their order.

    The wait has two halves. The first is counted from when the event was appended, so it may be over before outputs,
    having been away, has read the grants of that time; the second (``again`` is False) is counted from a firing.
    """

    until_ms: int
    again: bool = True
    events: list[bytes] = []


def addressed(topic: str, event: Event) -> bool:
    """Of the gate's journal only grants; of resolutions only its own."""
    if topic == "job.decisions":
        return isinstance(event, Granted)
    if topic == "approval.resolutions":
        return not isinstance(event, Resolution) or event.origin == "outputs"
    return True


def handle(turn: Turn, event: Event) -> None:
    """One turn of outputs."""
    topic = turn.record.topic
    if topic == "job.decisions" and isinstance(event, Granted):
        on_granted(turn, event)
    elif topic == "approval.resolutions" and isinstance(event, Resolution):
        on_resolution(turn, event)
    elif topic == "timer.fired.outputs" and isinstance(event, TimerFired):
        on_timer(turn, event)
    elif isinstance(event, Output if topic == "job.outputs" else WORKER_EVENTS[:-1]) and topic in (
        "job.outputs",
        "job.starts",
    ):
        on_worker_event(turn, event)
    else:
        turn.misplaced(event)


# --- grants


def on_granted(turn: Turn, event: Granted) -> None:
    """A grant is out: from now on its start and its output are expected."""
    turn.card.granted_seq = max(turn.card.granted_seq, event.seq)
    known = turn.get(entry_name(event.job_id), Attempt)
    if known is not None and known.grant_id == event.grant_id:
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="grant", detail="known")
        return
    attempt = Attempt(
        phase="open",
        grant_id=event.grant_id,
        attempt=event.attempt,
        job_hash=event.job_hash,
        topic=event.topic,
        run_id=event.run_id,
        correlation_id=event.correlation_id,
    )
    turn.journal(AttemptOpened, **ids_of(event), job_hash=event.job_hash)
    turn.put(entry_name(event.job_id), attempt)
    _unpark(turn, event.job_id, attempt)


def _unpark(turn: Turn, job_id: str, attempt: Attempt) -> None:
    """Meet again, in their order, the worker events that came too early."""
    name = f"parked/{job_id}"
    parked = turn.get(name, Parked)
    if parked is None:
        return
    turn.drop(name)
    turn.card.parked -= len(parked.events)
    for raw in parked.events:
        event = turn.codec.decode(raw)
        if not isinstance(event, WORKER_EVENTS):
            raise InvariantBroken("something else than a worker's event was parked; run `sluicegate verify`")
        on_worker_event(turn, event)


# --- what workers send


def on_worker_event(turn: Turn, event: WorkerEvent) -> None:
    """Match a worker's event with the live attempt; park what is early, refuse what has no grant."""
    if turn.key != event.agent_id:
        refuse(turn, event, "misrouted", f"written under key `{turn.key}`; the key is the agent's id")
        return
    if len(event.job_id) > JOB_ID_CHARS_MAX:
        refuse(turn, event, "malformed", f"a job id has at most {JOB_ID_CHARS_MAX} characters")
        return
    if isinstance(event, StopAnswered) and (
        len(event.command_id) > COMMAND_ID_CHARS_MAX or len(event.detail or "") > STOP_DETAIL_CHARS_MAX
    ):
        limits = f"{COMMAND_ID_CHARS_MAX} and {STOP_DETAIL_CHARS_MAX} characters"
        refuse(turn, event, "malformed", f"the command id and the detail of an answer have at most {limits}")
        return
    if isinstance(event, Breached) and len(event.constraint) + len(event.detail) > STOP_DETAIL_CHARS_MAX:
        limit = f"{STOP_DETAIL_CHARS_MAX} characters"
        refuse(turn, event, "malformed", f"the constraint and the detail of a breach have at most {limit} together")
        return
    if isinstance(event, GrantRefused) and event.code not in (*NOT_TAKEN, EXCEEDED, REVOKED):
        refuse(turn, event, event.code, event.message)
        return
    attempt = turn.get(entry_name(event.job_id), Attempt)
    if attempt is not None and attempt.phase == "ended" and attempt.forget_at_ms <= turn.at_ms:
        attempt = None
    if attempt is None or event.attempt > attempt.attempt:
        if _must_be_known(turn, event):
            refuse(turn, event, "no_grant", f"no grant for attempt {event.attempt} of job `{event.job_id}`")
        else:
            _park(turn, event)
    elif event.attempt < attempt.attempt:
        refuse(turn, event, "late", f"attempt {attempt.attempt} is live; this one is over", incident=False)
    elif event.grant_id != attempt.grant_id:
        refuse(turn, event, "no_grant", f"`{event.grant_id}` is not the grant of this attempt")
    else:
        _meet(turn, event, attempt)


def _must_be_known(turn: Turn, event: WorkerEvent) -> bool:
    """Whether the grant the event claims would have been met by now: then there is none."""
    claimed = getattr(event, "granted_seq", None)
    return claimed is not None and claimed <= turn.card.granted_seq


def _park(turn: Turn, event: WorkerEvent) -> None:
    settings = turn.control.settings
    if turn.card.parked >= settings.parked_max:
        refuse(
            turn, event, "parked_max", f"{turn.card.parked} events wait for their grants, limit {settings.parked_max}"
        )
        return
    name = f"parked/{event.job_id}"
    parked = turn.get(name, Parked)
    if parked is None:
        parked = Parked(until_ms=turn.at_ms + settings.unmatched_wait_sec * 1000 // 2)
        turn.arm(name, parked.until_ms)
    parked.events.append(turn.codec.encode(event))
    turn.card.parked += 1
    turn.put(name, parked)
    note(turn, event, "parked", type(event).__name__)


def _meet(turn: Turn, event: WorkerEvent, attempt: Attempt) -> None:
    if isinstance(event, Started):
        _started(turn, event, attempt)
    elif isinstance(event, (GrantRefused, Lapsed)):
        _not_started(turn, event, attempt)
    elif attempt.phase == "open":
        _park(turn, event)
    elif isinstance(event, Output):
        on_output(turn, event, attempt)
    elif isinstance(event, Breached) and event.worker_id == attempt.worker_id:
        _breached(turn, event, attempt)
    elif isinstance(event, StopAnswered) and event.worker_id == attempt.worker_id:
        # Written with the attempt's end, and topics have no order between them: the output may have been first.
        note(turn, event, "stop", f"{event.answer} upon {event.command_id}")
    elif attempt.phase in ("held", "ended") or event.worker_id != attempt.worker_id:
        note(turn, event, "late", type(event).__name__)
    elif isinstance(event, Progressed):
        attempt.lease_until_ms = turn.at_ms + turn.control.settings.attempt_lease_sec * 1000
        turn.put(entry_name(event.job_id), attempt)
        note(turn, event, "progress", event.note)
    elif isinstance(event, Ended):
        if event.outcome in ("lapsed", "overran"):
            _end(turn, event, attempt, "lapsed" if event.outcome == "lapsed" else "overran", event.detail)
        else:
            note(turn, event, "ended", event.outcome)


def _breached(turn: Turn, event: Breached, attempt: Attempt) -> None:
    """An incident; the output of the attempt will be held. Where it was met first it says so itself."""
    if attempt.phase == "started" and event.constraint not in attempt.breached[:BREACHES_MAX]:
        attempt.breached = [*attempt.breached, event.constraint][: BREACHES_MAX + 1]
        turn.put(entry_name(event.job_id), attempt)
    done = "kept from it" if event.prevented else "not kept from it"
    refuse(turn, event, "constraint_broken", f"`{event.constraint}`, {done}: {event.detail}")


def _not_started(turn: Turn, event: GrantRefused | Lapsed, attempt: Attempt) -> None:
    """Nothing ran: the attempt is over, if it has not started."""
    if isinstance(event, GrantRefused) and event.code in NOT_TAKEN:
        refuse(turn, event, event.code, event.message, incident=False)
        if attempt.phase == "open":
            _end(turn, event, attempt, "lapsed", event.message)
    elif isinstance(event, GrantRefused) and event.code == EXCEEDED and attempt.phase == "open":
        refuse(turn, event, event.code, event.message)
        _end(turn, event, attempt, "exceeded", f"worker says: {event.message[:WORKER_SAYS_CHARS_MAX]}")
    elif attempt.phase != "open":
        refuse(turn, event, "already_started", "this attempt has started; it can neither lapse nor be revoked")
    elif isinstance(event, GrantRefused):
        _end(turn, event, attempt, "revoked", f"worker says: {event.message[:WORKER_SAYS_CHARS_MAX]}")
    else:
        _end(turn, event, attempt, "lapsed", "met after its start-by time")


def _started(turn: Turn, event: Started, attempt: Attempt) -> None:
    if attempt.phase != "open":
        refuse(turn, event, "already_started", f"attempt {event.attempt} was started by `{attempt.worker_id}`")
        return
    if event.job_hash != attempt.job_hash:
        refuse(turn, event, "grant_altered", "the started job has another hash than the granted one")
        return
    attempt.phase = "started"
    attempt.worker_id = event.worker_id
    attempt.lease_until_ms = turn.at_ms + turn.control.settings.attempt_lease_sec * 1000
    turn.put(entry_name(event.job_id), attempt)
    turn.arm(f"lease/{event.job_id}/{event.attempt}", attempt.lease_until_ms)
    note(turn, event, "started", event.worker_id)
    _unpark(turn, event.job_id, attempt)


def _end(turn: Turn, event: WorkerEvent, attempt: Attempt, outcome: AttemptWord, detail: str | None) -> None:
    over(turn, event.job_id, attempt)
    turn.journal(AttemptEnded, **ids_of(event), outcome=outcome, worker_id=event.worker_id, detail=detail)


# --- time


def on_timer(turn: Turn, event: TimerFired) -> None:
    """A lease ran out, or something waited too long for its grant."""
    kind, _, rest = event.timer_id.partition("/")
    if kind == "lease":
        job_id, _, number = rest.rpartition("/")
        _lease_over(turn, job_id, number, turn.record.timestamp_ms - event.fire_at_ms)
    elif kind == "parked":
        _parked_over(turn, rest)
    else:
        turn.journal(Noted, job_id=None, agent_id=turn.key, kind="timer", detail="not armed")


def _lease_over(turn: Turn, job_id: str, number: str, late_ms: int) -> None:
    attempt = turn.get(entry_name(job_id), Attempt)
    if attempt is None or attempt.phase != "started" or str(attempt.attempt) != number:
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="not armed")
    elif turn.at_ms < attempt.lease_until_ms:
        turn.arm(f"lease/{job_id}/{number}", attempt.lease_until_ms)
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="lease renewed")
    elif late_ms > LATE_MS_MAX:
        # Signs of life and the output itself may stand in the log unread: they are met before the next firing.
        attempt.lease_until_ms = turn.at_ms + turn.control.settings.attempt_lease_sec * 1000
        turn.put(entry_name(job_id), attempt)
        turn.arm(f"lease/{job_id}/{number}", attempt.lease_until_ms)
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="fired late")
    else:
        over(turn, job_id, attempt)
        turn.journal(
            AttemptEnded,
            job_id=job_id,
            agent_id=turn.key,
            grant_id=attempt.grant_id,
            attempt=attempt.attempt,
            outcome="lost",
            worker_id=attempt.worker_id,
            detail="no sign of life within the lease",
        )


def _parked_over(turn: Turn, job_id: str) -> None:
    name = f"parked/{job_id}"
    parked = turn.get(name, Parked)
    if parked is None:
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="not armed")
        return
    if turn.at_ms < parked.until_ms:
        turn.arm(name, parked.until_ms)
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="early")
        return
    if parked.again:
        parked.again = False
        parked.until_ms = turn.at_ms + turn.control.settings.unmatched_wait_sec * 1000 // 2
        turn.put(name, parked)
        turn.arm(name, parked.until_ms)
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="once more")
        return
    turn.drop(name)
    turn.card.parked -= len(parked.events)
    for raw in parked.events:
        event = turn.codec.decode(raw)
        if isinstance(event, WORKER_EVENTS):
            refuse(turn, event, "no_grant", f"no grant or start for attempt {event.attempt} of job `{job_id}` has come")


PLANE: Final = Plane("outputs", "job.results", OutputsCard, addressed, handle)
