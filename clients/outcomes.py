"""What becomes of one job, folded from the records an agent may read. Pure.

Outcomes are values, never exceptions: denied, expired and withdrawn are three different answers. A record counts
only if it is about the very submission that is waited for: a refusal by the place of the record it refuses (which
the broker told the submitter), a decision by the job's hash. So nobody can make an agent believe that its job
was refused by writing rubbish under its job id.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import msgspec

from sluicegate.schemas.errors import BadInput, KeyErased
from sluicegate.schemas.events import (
    Cause,
    Closed,
    Decision,
    DecisionWord,
    Event,
    Granted,
    Held,
    JobOutcome,
    Noted,
    Quarantined,
    RedactionDetail,
    Refused,
    Repeated,
    Result,
    SafetyWord,
)
from sluicegate.schemas.sealing import Keyring, NoKeyring

RESULTS: Final = "job.results"
INTENTS: Final = "job.intents"
UNKNOWN_PLACE: Final = -1
NOT_WITHDRAWN: Final = "not_withdrawn"
"""The kind of the gate's note on a withdrawal that came too late; any other is followed by the job's end."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What policy said of a job. ``rules`` are ``layer/id``; ``code`` is set when the submission was refused."""

    job_id: str
    decision: DecisionWord
    reason: str
    rules: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    constraints: dict[str, Any] = {}
    request_id: str | None = None
    policy_snapshot: str | None = None
    mode: str = "enforce"
    code: str | None = None
    again: bool = False
    """True when this is the answer that an earlier submission of the same job got."""
    break_glass: str | None = None
    """The command that broke the glass under which it runs without the person it would wait for."""
    done: bool = True


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended. ``value`` is the handler's JSON as review let it out; None unless it ran."""

    job_id: str
    outcome: JobOutcome
    value: Any = None
    reason: str | None = None
    by: str | None = None
    code: str | None = None
    review: SafetyWord | None = None
    redactions: tuple[RedactionDetail, ...] = ()
    done: bool = True

    @property
    def succeeded(self) -> bool:
        """Whether the job ran and its handler returned."""
        return self.outcome == "succeeded"


class NotCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The gate refused a cancellation, such as of a job that already started."""

    job_id: str
    code: str
    reason: str
    done: bool = True


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has not ended yet: keep it (`text`) and give it to `Agent.resume`, in any process."""

    agent_id: str
    job_id: str
    job_hash: str = ""
    partition: int = UNKNOWN_PLACE
    offset: int = UNKNOWN_PLACE
    decisions_from: int = 0
    results_from: int = 0
    done: bool = False

    @property
    def text(self) -> str:
        """The handle as one word."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    def at(self, partition: int, offset: int) -> Handle:
        """The same, now that the broker has put the intent there."""
        return msgspec.structs.replace(self, partition=partition, offset=offset)

    @staticmethod
    def parse(text: str) -> Handle:
        """The inverse of ``text``; raises BadInput."""
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Handle)
        except (ValueError, msgspec.MsgspecError):
            raise BadInput(
                f"`{text[:40]}` is no handle of a pending job; give the text that `Handle.text` gave"
            ) from None

    @staticmethod
    def of_job(agent_id: str, job_id: str) -> Handle:
        """A handle of a job submitted elsewhere; reads the agent's whole history, and trusts the job's id alone."""
        return Handle(agent_id=agent_id, job_id=job_id)


def _is(cause: Cause, topic: str, partition: int, offset: int) -> bool:
    return cause.topic == topic and cause.partition == partition and cause.offset == offset


class JobFold:
    """The fold over one job's records. Order between topics does not matter, and a record met twice changes nothing."""

    def __init__(self, handle: Handle, keys: Keyring | None = None) -> None:
        self.handle = handle
        self._keys: Keyring = NoKeyring() if keys is None else keys
        self._opened: tuple[Result, Any, str | None] | None = None
        self._decision: Decision | None = None
        self._repeated: Repeated | None = None
        self._refused: Refused | None = None
        self._closed: Closed | None = None
        self._result: Result | None = None
        self._held: str | None = None
        self._granted = self._quarantined = False
        self._withdrawals: dict[tuple[int, int], NotCancelled | None] = {}

    def _mine(self, cause: Cause) -> bool:
        return _is(cause, INTENTS, self.handle.partition, self.handle.offset)

    def withdrawal_sent(self, partition: int, offset: int) -> None:
        """Remember where a withdrawal of this job stands."""
        self._withdrawals.setdefault((partition, offset), None)

    def see(self, event: Event) -> bool:
        """Fold one event; True when it was about this job."""
        if getattr(event, "job_id", None) != self.handle.job_id or event.agent_id != self.handle.agent_id:  # type: ignore[union-attr]
            return False
        match event:
            case Decision():
                if self._is_ours(event):
                    newer = self._decision is None or event.seq >= self._decision.seq
                    self._decision, self._held = (event, None) if newer else (self._decision, self._held)
            case Repeated() if self._mine(event.cause):
                self._repeated = event
            case Refused():
                self._see_refusal(event)
            case Noted():
                self._see_note(event)
            case Held() if self.handle.job_hash in ("", event.job_hash):
                self._held = event.scope
            case Granted() if self._is_ours(event):
                self._granted, self._held = True, None
            case Closed():
                self._closed = event
            case Quarantined():
                self._quarantined = True
            case Result():
                if self._result is None or event.seq >= self._result.seq:
                    self._result = event
            case _:
                return False
        return True

    def _is_ours(self, event: Decision | Granted) -> bool:
        """Whether it is about what was submitted here, even where a person edited it since."""
        return self.handle.job_hash in ("", event.submitted_hash or event.job_hash)

    def _see_refusal(self, event: Refused) -> None:
        place = (event.cause.partition, event.cause.offset)
        if self._mine(event.cause):
            self._refused = event
        elif event.cause.topic == INTENTS and place in self._withdrawals:
            self._withdrawals[place] = NotCancelled(job_id=event.job_id, code=event.code, reason=event.message)

    def _see_note(self, event: Noted) -> None:
        place = (event.cause.partition, event.cause.offset)
        if event.cause.topic == INTENTS and place in self._withdrawals and event.kind == NOT_WITHDRAWN:
            reason = event.detail or "the job is past the point where it could be cancelled"
            self._withdrawals[place] = NotCancelled(job_id=self.handle.job_id, code=event.kind, reason=reason)

    def adopt_closed(self, closed: Closed) -> None:
        """Take a `Closed` found further back in the log."""
        self._closed = self._closed or closed

    def adopt_result(self, result: Result) -> None:
        """Take a `Result` found further back in the log."""
        self._result = self._result or result

    @property
    def accepted(self) -> bool:
        """Whether the gate took this submission as the job of this id (and not another content's)."""
        return self._refused is None and (self._decision is not None or self._repeated is not None)

    @property
    def state(self) -> str:
        """For people: submitted, held, waiting for approval, granted, output held for review, or the outcome."""
        ended = self.outcome
        if ended is not None:
            return ended.outcome
        if self._held is not None:
            return "held"
        if self._quarantined:
            return "output held for review"
        if self._decision is None:
            return "submitted"
        return "granted" if self._granted else "waiting for approval" if self._decision.request_id else "decided"

    @property
    def held_scope(self) -> str | None:
        """The paused scope the job waits in, if it does."""
        return self._held

    @property
    def judged(self) -> Judged | None:
        """What policy said, as far as it is known."""
        job_id = self.handle.job_id
        if self._refused is not None:
            return Judged(job_id=job_id, decision="DENY", reason=self._refused.message, code=self._refused.code)
        if self._decision is not None:
            found = self._decision
            return Judged(
                job_id=job_id,
                decision=found.decision,
                reason=found.reason,
                rules=tuple(f"{rule.layer}/{rule.id}" for rule in found.rules),
                missing=tuple(found.missing),
                constraints=json.loads(found.constraints),
                request_id=found.request_id,
                policy_snapshot=found.policy_snapshot,
                mode=found.mode,
                break_glass=found.break_glass,
                again=self._repeated is not None,
            )
        if self._repeated is not None:
            reason = "the same job was submitted before; its first answer stands"
            return Judged(job_id=job_id, decision=self._repeated.decision, reason=reason, again=True)
        return None

    @property
    def not_cancelled(self) -> NotCancelled | None:
        """The gate's refusal of the latest withdrawal, if there is one."""
        return next((refusal for refusal in reversed(self._withdrawals.values()) if refusal is not None), None)

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended, or None while that is unknown."""
        job_id, closed, decision = self.handle.job_id, self._closed, self._decision
        if self._refused is not None:
            return Outcome(
                job_id=job_id, outcome="denied", reason=self._refused.message, by="gate", code=self._refused.code
            )
        if not self.accepted:
            return None
        if self._result is not None and (self._result.output is not None or closed is not None):
            return self._with_result(self._result)
        if closed is not None and self.wanted_result is None:
            return Outcome(job_id=job_id, outcome=closed.outcome, reason=closed.reason, by=closed.by)
        if decision is not None and decision.decision == "DENY" and decision.mode == "enforce":
            return Outcome(job_id=job_id, outcome="denied", reason=decision.reason, by="policy")
        return None

    def _with_result(self, result: Result) -> Outcome:
        value, erased = self._value_of(result)
        failure = value.get("error") if isinstance(value, dict) and not result.succeeded else None
        reason = self._closed.reason if self._closed is not None else None
        if reason is None and isinstance(failure, dict):
            reason = f"{failure.get('type')}: {failure.get('message')}"
        if erased is not None:
            reason = erased
        elif result.output is None:
            reason = f"its output was kept back: {result.reason or 'quarantined'}"
        return Outcome(
            job_id=self.handle.job_id,
            outcome="succeeded" if result.succeeded else "failed",
            value=value,
            reason=reason,
            by=result.worker_id,
            review=result.output_safety_decision,
            redactions=tuple(result.redaction_details),
        )

    def _value_of(self, result: Result) -> tuple[Any, str | None]:
        """What may leave, opened once; None, and why, where its key was erased. Raises Unavailable."""
        if result.output is None:
            return None, None
        if self._opened is None or self._opened[0] is not result:
            value, erased = None, None
            try:
                value = json.loads(self._keys.open(result.output)[0])
            except KeyErased as error:
                erased = f"its output can no longer be opened: {error}"
            self._opened = result, value, erased
        return self._opened[1], self._opened[2]

    @property
    def wanted_result(self) -> Cause | None:
        """Where the result stands that a `Closed` speaks of and that was not met; None when nothing is missing."""
        closed = self._closed
        if closed is None or self._result is not None or closed.cause.topic != RESULTS:
            return None
        return closed.cause if closed.outcome in ("succeeded", "failed") else None

    @property
    def wants_closed(self) -> bool:
        """Whether an earlier submission's end is known to be in the log, before where this reader began."""
        ended = self._repeated is not None and self._repeated.outcome is not None
        return ended and self._closed is None and self._result is None

    def result_absent(self) -> None:
        """What stands where the result should be is none of this job: the `Closed` alone is the answer."""
        if self._closed is not None:
            self._closed = msgspec.structs.replace(self._closed, cause=Cause(topic="", partition=0, offset=0))
