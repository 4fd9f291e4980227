"""One running attempt, and the events a worker writes about grants and attempts."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec

from sluicegate.clients.call import Call, Handler
from sluicegate.clients.capabilities import OUTPUT, RUNTIME
from sluicegate.clients.frames import ERROR_CHARS_MAX, OUTPUT_BYTES_MAX, Raised, Returned
from sluicegate.clients.handler_process import KILL_AFTER_SEC, PROCESSES_MAX, Breach, Ending, HandlerProcess
from sluicegate.clients.judging import Terms
from sluicegate.clients.keeper import Ended as ProcessEnded
from sluicegate.clients.stopping import Answer, StopAnswers
from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadPayload, SealingError
from sluicegate.schemas.events import (
    Breached,
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
from sluicegate.schemas.payload import SALT_BYTES
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.engine import Headers, Out, Record
from sluicegate.streams.kafka import event_headers

__all__ = ["Attempt", "Breach", "Call", "Finished", "Handler", "WorkerEvents", "finished"]

STARTS: Final = "job.starts"
OUTPUTS: Final = "job.outputs"
_LOGGER: Final = logging.getLogger("sluicegate.worker")


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a handler's run. ``detail`` names the kind of failure, never its data.

    ``overran``: it had not ended at its `max_runtime_sec`. What it returned after that is not taken.
    """

    grant: Grant
    succeeded: bool
    content: bytes
    detail: str | None = None
    stopped: bool = False
    overran: bool = False
    breaches: tuple[Breach, ...] = ()

    @property
    def word(self) -> EndWord:
        """How the attempt ended, in the log's word."""
        if self.overran:
            return "overran"
        return "finished" if self.succeeded else "stopped" if self.stopped else "failed"


def _failure(grant: Grant, kind: str, message: str, **more: Any) -> Finished:
    content = json_bytes(
        {"error": {"type": kind, "message": message.encode(errors="replace").decode()[:ERROR_CHARS_MAX]}}
    )
    return Finished(grant=grant, succeeded=False, content=content, detail=kind, **more)


def finished(grant: Grant, ending: Ending, terms: Terms, *, asked: bool) -> Finished:
    """What the log says of a process that has ended; ``asked``: a command had asked it to stop."""
    word = ending.said
    if ending.overran:
        return _overran(grant, ending, terms)
    if ending.broken is not None:
        return _failure(grant, "BadFrame", f"the handler's process said what it may not say: {ending.broken}")
    if isinstance(word, Raised):
        # Stopped that nobody asked for is a failure like any other; and what fails while it is asked to stop is cut
        # short by that, as far as anyone can tell: it did not finish.
        message = (
            f"{word.message or 'asked to stop'}; what it did outside is not undone" if word.stopped else word.message
        )
        return _failure(grant, word.kind, message, stopped=asked)
    if isinstance(word, Returned):
        return _returned(grant, bytes(word.content), terms)
    kind, message = _crash(ending.ended)
    return _failure(grant, kind, message, stopped=asked and kind == "Crashed")


def _overran(grant: Grant, ending: Ending, terms: Terms) -> Finished:
    limit = f"`{RUNTIME}` of {terms.runtime_sec_max:g} s"
    killed = ending.said is None and ending.ended.why != "itself"
    how = (
        f"was killed with its children {KILL_AFTER_SEC:g} s after" if killed else "ended only after it was asked to at"
    )
    detail = f"it {how} {limit}"
    breach = Breach(RUNTIME, detail, prevented=False)
    message = f"{detail}; what it did outside is not undone, and what it returned is not taken"
    # What it is ended for is no data of the job, so the log may say it.
    failure = _failure(grant, "Overran", message, overran=True, breaches=(breach,))
    return msgspec.structs.replace(failure, detail=detail)


def _returned(grant: Grant, content: bytes, terms: Terms) -> Finished:
    try:
        content = json_bytes(content)
    except BadPayload as error:
        return _failure(grant, "BadOutput", f"the handler returned {error}")
    most = OUTPUT_BYTES_MAX if terms.output_bytes_max is None else min(terms.output_bytes_max, OUTPUT_BYTES_MAX)
    if len(content) > most:
        message = f"the handler returned {len(content)} bytes, at most {most}; store it and return a link"
        breach = () if most == OUTPUT_BYTES_MAX else (Breach(OUTPUT, message, prevented=True),)
        return _failure(grant, "OutputTooLarge", message, breaches=breach)
    return Finished(grant=grant, succeeded=True, content=content)


def _crash(ended: ProcessEnded) -> tuple[str, str]:
    """The kind and words of an end without an answer."""
    if ended.why == "sandbox":
        return "NoProcess", f"the handler could not be given, or kept in, a process with its bounds: {ended.detail}"
    if ended.why == "processes":
        return (
            "TooManyProcesses",
            f"the handler had more than {PROCESSES_MAX} processes and threads and was killed with all of them",
        )
    if ended.signal is not None:
        with suppress(ValueError):
            return "Crashed", f"the handler's process was ended by {signal.Signals(ended.signal).name}"
        return "Crashed", f"the handler's process was ended by signal {ended.signal}"
    return "Crashed", f"the handler's process ended with code {ended.code} and without a result"


class Attempt:
    """A running attempt: its process, when its next sign of life is due, and what asked it to stop.

    ``control_offset`` is the one it was started under: stops after it cover it.
    """

    def __init__(self, grant: Grant, headers: Headers, first_beat_at: float, control_offset: int = -1) -> None:
        self.grant, self.headers, self.control_offset = grant, headers, control_offset
        self.stops = StopAnswers(self._ask, self._kill)
        self.process: HandlerProcess | None = None
        self._asked: str | None = None
        self._breached = 0
        self.broken: dict[str, None] = {}
        """The constraints that it went, or tried to go, beyond, as far as they were told."""
        self._beat_at, self._beats = first_beat_at, 0
        self._note: str | None = None
        self._noted = False

    def run(self, process: HandlerProcess, terms: Terms, done: Callable[[Finished], None]) -> None:
        """Start the handler's process, and wait for its end in a thread; whatever happens, ``done`` is told of it."""
        self.process = process
        if self._asked is not None:
            process.ask(self._asked)
        name = f"job {self.grant.job_id}"
        threading.Thread(target=lambda: done(self._run(process, terms)), name=name, daemon=True).start()

    def _run(self, process: HandlerProcess, terms: Terms) -> Finished:
        try:
            process.start()
            done = finished(self.grant, process.wait(), terms, asked=self._asked is not None)
            for breach in done.breaches:
                process.breaches.put(breach)
            return done
        except Exception as error:  # a slot must never stay taken for want of an answer
            _LOGGER.exception("job %s: its process could not be served", self.grant.job_id)
            process.kill()
            return _failure(self.grant, "NoProcess", f"the handler's process could not be served: {error}")

    def _ask(self, reason: str) -> None:
        self._asked = self._asked or reason
        if self.process is not None:
            self.process.ask(reason)

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def breaches(self) -> list[tuple[int, Breach]]:
        """What the handler was kept from since the last call, with its number."""
        found: list[tuple[int, Breach]] = []
        while self.process is not None and not self.process.breaches.empty():
            self._breached += 1
            breach = self.process.breaches.get()
            self.broken[breach.constraint] = None
            found.append((self._breached, breach))
        return found

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

    def __init__(self, codec: Codec, worker_id: str, keys: Keyring | None = None) -> None:
        self._codec, self._worker_id = codec, worker_id
        self._keys: Keyring = NoKeyring() if keys is None else keys

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

    def breached(self, grant: Grant, number: int, breach: Breach, headers: Headers) -> Out:
        """What ran went, or tried to go, beyond a constraint."""
        event = Breached(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            constraint=breach.constraint,
            detail=breach.detail[:ERROR_CHARS_MAX],
            prevented=breach.prevented,
        )
        return self._out(STARTS, grant, event, derived_id("breached", grant.grant_id, number), headers)

    def output(self, done: Finished, headers: Headers, broken: Iterable[str] = ()) -> list[Out]:
        """What the handler returned, sealed, and that the attempt is over. Raises Unavailable while no key is had.

        What overran, or whose key was erased meanwhile, has no output.
        ``broken`` are the constraints that the attempt went, or tried to go, beyond: the output says so itself, since
        whoever reviews it may read it first.
        """
        if done.overran:
            return [self.ended(done.grant, done.word, done.detail, headers)]
        grant, salt = done.grant, os.urandom(SALT_BYTES)
        try:
            sealed = self._keys.seal(done.content, salt, grant.payload.key_id, f"output/{grant.grant_id}")
        except SealingError as error:
            return [self.ended(grant, "failed", f"its output is gone, for it cannot be sealed: {error}", headers)]
        event = Output(
            job_id=grant.job_id,
            agent_id=grant.agent_id,
            grant_id=grant.grant_id,
            attempt=grant.attempt,
            worker_id=self._worker_id,
            succeeded=done.succeeded,
            output=sealed,
            output_hash=hashlib.sha256(done.content).hexdigest(),
            output_size_bytes=len(done.content),
            breached=list(broken),
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
