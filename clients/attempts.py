"""One running attempt, and the events a worker writes about grants and attempts."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sluicegate.clients.agent import json_bytes
from sluicegate.clients.stopping import Answer, StopAnswers, Stopped, Stopping
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadPayload
from sluicegate.schemas.events import (
    Ended,
    EndWord,
    Event,
    Grant,
    GrantRefused,
    Lapsed,
    Output,
    Progressed,
    Started,
    StopAnswered,
)
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.payload import SALT_BYTES, seal
from sluicegate.streams.engine import Headers, Out, Record
from sluicegate.streams.kafka import event_headers
from sluicegate.streams.topics import MESSAGE_BYTES_MAX

OUTPUT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 100_000
"""What a handler's JSON may weigh: review adds to it, and the result must still fit into a record."""
ERROR_CHARS_MAX: Final = 2_000
STARTS: Final = "job.starts"
OUTPUTS: Final = "job.outputs"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler gets. ``progress(note)`` is a sign of life with a word for people, at any time.

    A handler that runs for long looks at ``stopping`` now and then: `is_set`, `wait` in place of a sleep, or `check`,
    which raises `Stopped`.
    """

    job_id: str
    topic: str
    payload: Any
    constraints: dict[str, Any]
    attempt: int
    agent_id: str
    on_behalf_of: str | None = None
    progress: Callable[[str], None]
    stopping: Stopping = msgspec.field(default_factory=Stopping)


Handler = Callable[[Call], Any]
"""Returns JSON (a coroutine function is awaited); what it raises is the job's failure."""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a handler's run. ``detail`` names the kind of failure, never its data."""

    grant: Grant
    succeeded: bool
    content: bytes
    detail: str | None = None
    stopped: bool = False

    @property
    def word(self) -> EndWord:
        """How the attempt ended, in the log's word."""
        return "finished" if self.succeeded else "stopped" if self.stopped else "failed"


def _failure(grant: Grant, kind: str, message: str) -> Finished:
    content = json_bytes(
        {"error": {"type": kind, "message": message.encode(errors="replace").decode()[:ERROR_CHARS_MAX]}}
    )
    return Finished(grant=grant, succeeded=False, content=content, detail=kind)


def run_handler(grant: Grant, handler: Handler, call: Call) -> Finished:
    """Run a handler to its end; whatever it does, there is an answer."""
    try:
        value = handler(call)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except Stopped as error:
        failure = _failure(grant, "Stopped", f"{str(error) or 'asked to stop'}; what it did outside is not undone")
        # Raised when nobody asked it is a failure like any other.
        return msgspec.structs.replace(failure, stopped=call.stopping.is_set())
    except BaseException as error:  # noqa: BLE001  # SystemExit of a handler must not end the worker without a word
        # What fails while it is asked to stop is cut short by that, as far as anyone can tell: it did not finish.
        failure = _failure(grant, type(error).__name__, str(error))
        return msgspec.structs.replace(failure, stopped=call.stopping.is_set())
    try:
        content = json_bytes(value)
    except BadPayload as error:
        return _failure(grant, "BadOutput", f"the handler returned {error}")
    if len(content) > OUTPUT_BYTES_MAX:
        message = f"the handler returned {len(content)} bytes, at most {OUTPUT_BYTES_MAX}; store it and return a link"
        return _failure(grant, "OutputTooLarge", message)
    return Finished(grant=grant, succeeded=True, content=content)


class Attempt:
    """A running attempt: its thread, when its next sign of life is due, and what asked it to stop.

    ``control_offset`` is the one it was started under: stops after it cover it.
    """

    def __init__(self, grant: Grant, headers: Headers, first_beat_at: float, control_offset: int = -1) -> None:
        self.grant, self.headers, self.control_offset = grant, headers, control_offset
        self.stopping = Stopping()
        self.stops = StopAnswers(self.stopping)
        self._beat_at, self._beats = first_beat_at, 0
        self._note: str | None = None
        self._noted = False

    def run(self, handler: Handler, call: Call, done: Callable[[Finished], None]) -> None:
        """Start the handler's thread; it is a daemon, so that a handler that hangs does not keep the process."""
        name = f"job {self.grant.job_id}"
        threading.Thread(target=lambda: done(run_handler(self.grant, handler, call)), name=name, daemon=True).start()

    def progress(self, note: str) -> None:
        """Called by the handler: the next sign of life is due at once."""
        self._note, self._noted = note[:ERROR_CHARS_MAX], True

    def beat_due(self, now: float) -> bool:
        """Whether a sign of life is due; times are of the monotonic clock."""
        return self._noted or now >= self._beat_at

    def beat_by(self, at: float) -> None:
        """The next sign of life is due then, unless it is due before: a lease that became shorter is kept."""
        self._beat_at = min(self._beat_at, at)

    def beat(self, next_at: float) -> tuple[int, str | None]:
        """The number and note of the sign of life that is written now."""
        self._beat_at, self._beats, self._noted = next_at, self._beats + 1, False
        return self._beats, self._note


def _traced(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if pair[0] == "traceparent")


class WorkerEvents:
    """Builds the records a worker writes, under the agent's key."""

    def __init__(self, codec: Codec, worker_id: str) -> None:
        self._codec, self._worker_id = codec, worker_id

    def _out(self, topic: str, grant: Grant, event: Event, record_id: str, headers: Headers) -> Out:
        source = f"worker/{self._worker_id}"
        built = event_headers(event, source, record_id, _traced(headers))
        return Out(topic, grant.agent_id.encode(), self._codec.encode(event), built)

    def started(self, grant: Grant, headers: Headers) -> Out:
        """The worker takes the grant. Its hash is the one the worker computed: `judge_grant` found the two equal."""
        event = Started(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            pool=grant.pool,
            worker_id=self._worker_id,
            job_hash=grant.job_hash,
            granted_seq=grant.granted_seq,
            plan_hash=grant.plan_hash,
        )
        return self._out(STARTS, grant, event, derived_id("started", grant.grant_id), headers)

    def lapsed(self, grant: Grant, headers: Headers) -> Out:
        """The worker met the grant too late."""
        event = Lapsed(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            granted_seq=grant.granted_seq,
            start_by_ms=grant.start_by_ms,
        )
        return self._out(STARTS, grant, event, derived_id("lapsed", grant.grant_id), headers)

    def refused(self, grant: Grant, code: str, message: str, record: Record) -> Out:
        """The worker refuses the grant in this record."""
        event = GrantRefused(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            granted_seq=grant.granted_seq,
            code=code,
            message=message,
        )
        # The same grant may be refused twice, as two records: the place tells them apart.
        record_id = derived_id("grant_refused", grant.grant_id, record.topic, record.partition, record.offset)
        return self._out(STARTS, grant, event, record_id, record.headers)

    def unreadable(self, record: Record) -> Out:
        """The worker refuses a record that is no grant. Whose job it would be is unknown: the worker's id stands in."""
        source = f"worker/{self._worker_id}"
        where = f"{record.topic}/{record.partition}/{record.offset}"
        event = GrantRefused(
            job_id=record.key.decode("utf-8", errors="replace"),
            agent_id=source,
            grant_id="",
            attempt=0,
            worker_id=self._worker_id,
            granted_seq=0,
            code="grant_unreadable",
            message=f"the record at {where} is no grant of this build; it was passed over",
        )
        record_id = derived_id("grant_refused", "", record.topic, record.partition, record.offset)
        built = event_headers(event, source, record_id)
        return Out(STARTS, source.encode(), self._codec.encode(event), built)

    def progressed(self, grant: Grant, number: int, note: str | None, headers: Headers) -> Out:
        """A sign of life."""
        event = Progressed(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            note=note,
        )
        return self._out(STARTS, grant, event, derived_id("progressed", grant.grant_id, number), headers)

    def ended(self, grant: Grant, outcome: EndWord, detail: str | None, headers: Headers) -> Out:
        """The attempt is over."""
        event = Ended(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            outcome=outcome,
            detail=detail,
        )
        return self._out(STARTS, grant, event, derived_id("ended", grant.grant_id), headers)

    def output(self, done: Finished, headers: Headers) -> list[Out]:
        """What the handler returned, sealed, and that the attempt is over."""
        grant = done.grant
        event = Output(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            succeeded=done.succeeded,
            output=seal(done.content, os.urandom(SALT_BYTES)),
            output_hash=hashlib.sha256(done.content).hexdigest(),
            output_size_bytes=len(done.content),
        )
        out = self._out(OUTPUTS, grant, event, derived_id("output", grant.grant_id), headers)
        return [out, self.ended(grant, done.word, done.detail, headers)]

    def stop_answered(self, grant: Grant, answer: Answer, headers: Headers) -> Out:
        """What became of the attempt that a command told to stop."""
        event = StopAnswered(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            command_id=answer.command_id,
            answer=answer.word,
            detail=answer.detail,
        )
        return self._out(STARTS, grant, event, derived_id("stop", grant.grant_id, answer.command_id), headers)
