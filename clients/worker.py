"""Runs granted jobs, each at most once.

    worker = Worker(settings, "default")

    @worker.handles("job.deploy.*")
    def deploy(call):
        return {"deployed": call.payload["version"]}

    worker.run()

One thread (`run`) owns the consumer and the transactions. It takes a grant in one transaction {`Started`, offset}, and
only after that has committed does the handler run, in a thread of its own; so whatever crashes or rebalances, an
attempt starts at most once, and a long job blocks nobody. What a handler returned goes out as `Output` and `Ended`
in one transaction. An attempt whose worker vanished is left to output review: nobody guesses.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sluicegate.clients.attempts import Attempt, Call, Finished, Handler, WorkerEvents
from sluicegate.clients.grants import Grants
from sluicegate.clients.intake import Waiting
from sluicegate.clients.judging import Judgement, Lapse, Refuse, Start, Wait, WorkerControl, judge_grant
from sluicegate.clients.stopping import Answer
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_reader import ControlConfig, ControlReader
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.engine import ControlSource, Out
from sluicegate.streams.keys import OPERATORS, keys_dir, trusted_operators
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import physical
from sluicegate.streams.transact import NothingWritten, Transactor

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

SEEN_MAX: Final = 100_000
"""Grant ids a worker remembers, the latest."""
POLL_SEC: Final = 0.02
ABORTING_SEC_MAX: Final = 30.0
"""How long transactions may go on aborting without a success in between."""
STOP_SEC_MAX: Final = 30.0
"""How long a stopping worker waits for its running jobs."""

_LOGGER: Final = logging.getLogger("sluicegate.worker")
H = TypeVar("H", bound=Handler)


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, as this machine knows them; the broker's append time has the last word."""
    return time.time_ns() // 1_000_000


def _pattern(glob: str) -> re.Pattern[str]:
    if not glob or any(sign in glob for sign in "?["):
        raise BadInput(
            f"topic pattern `{glob}` is not usable; `*` stands for any characters, `?` and `[` are not known"
        )
    return re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)


def _latest(source: ControlSource[WorkerControl]) -> WorkerControl:
    """The control state as last confirmed: nothing may start on it, but a stop that it holds does hold.

    Raises what ended its reader: who hears no command any more can neither be stopped nor paused.
    """
    return source.latest if isinstance(source, ControlReader) else source.current()


class Worker:
    """One worker of a pool. ``instance`` must be its own among the pool's workers and stay the same over restarts.

    ``control`` (by default a reader of its own) must be fresh whenever a job starts; when it cannot be confirmed the
    worker ends. ``jobs_max`` jobs run at once (by default the setting `handlers_max`). ``run`` blocks and raises what
    ended it; ``start`` and ``stop`` run it in a thread of the caller's process.
    """

    def __init__(
        self,
        settings: Settings,
        pool: str = "default",
        handlers: Mapping[str, Handler] | None = None,
        *,
        control: ControlSource[WorkerControl] | None = None,
        instance: str = "1",
        jobs_max: int | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.pool, self.worker_id = pool, f"{pool}.{instance}"
        self.jobs_max = settings.handlers_max if jobs_max is None else jobs_max
        if self.jobs_max < 1:
            raise BadInput(f"jobs_max `{jobs_max}` runs nothing; give 1 or more")
        self._settings, self._given_control = settings, control
        self._user, self._instance, self._clock_ms = f"worker.{pool}", instance, clock_ms
        self._handlers: list[tuple[re.Pattern[str], Handler]] = []
        for glob, handler in (handlers or {}).items():
            self.handles(glob)(handler)
        self._codec = Codec(registry_for(settings.registry_url))
        self._events = WorkerEvents(self._codec, self.worker_id)
        self._running: dict[str, Attempt] = {}
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._outbox: list[Out] = []
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lease_sec = settings.attempt_lease_sec  # until control says another
        self._stopping, self._ready = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._aborted_since: float | None = None
        self.failure: BaseException | None = None

    def handles(self, glob: str) -> Callable[[H], H]:
        """Register a handler for job topics; ``*`` is any characters; the first pattern that fits is taken."""
        pattern = _pattern(glob)

        def register(handler: H) -> H:
            self._handlers.append((pattern, handler))
            return handler

        return register

    def _handler(self, topic: str) -> Handler | None:
        return next((handler for pattern, handler in self._handlers if pattern.fullmatch(topic)), None)

    def run(self) -> None:
        """Work until `stop`. Raises LoginRefused, NotPermitted, Unavailable, StaleControl or IndeterminateCommit.

        After IndeterminateCommit the process should end and begin anew.
        """
        if not self._handlers:
            raise BadInput(f"the worker of pool `{self.pool}` has no handler; register one with `handles`")
        control = self._given_control or self._own_control()
        # First the producer: it fences an older self, and decides what that left open, before any offset is read.
        transactor = Transactor(
            kafka_config(self._settings, self._user),
            self._member,
            tenant=self._settings.tenant,
            transaction_timeout_ms=self._settings.transaction_timeout_ms,
        )
        grants = Grants(self._settings, self._user, self._group, self._member, self.pool, self._codec)
        try:
            while not self._stopping.is_set():
                self._tick(transactor, grants, control)
            self._drain(transactor, control)
        except SluicegateError:
            self._drain_quietly(transactor, control)
            raise
        finally:
            grants.close()
            transactor.close()
            if isinstance(control, ControlReader) and control is not self._given_control:
                control.stop()

    def _own_control(self) -> ControlReader[ControlState]:
        operators = trusted_operators(self._settings)
        if not operators:
            where = keys_dir(self._settings) / OPERATORS
            raise BadInput(
                f"`{where}` trusts no operator, so that nobody could pause this worker; copy it from the gate's host"
            )
        config = ControlConfig(
            connection=kafka_config(self._settings, self._user),
            group=self._group,
            instance=self._instance,
            tenant=self._settings.tenant,
            age_ms_max=self._settings.control_age_ms_max,
        )
        reader = ControlReader(config, ControlFold(self._codec, self._settings.tenant, operators), ControlState())
        reader.start()
        return reader

    @property
    def _group(self) -> str:
        return physical(self._settings.tenant, f"worker.{self.pool}")

    @property
    def _member(self) -> str:
        return f"{self._group}.{self._instance}"

    def start(self, timeout_sec: float = 30.0) -> None:
        """Run in a thread; returns once grants are assigned, or raises what ended it, or Unavailable."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run_quietly, name=f"worker {self.worker_id}", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + timeout_sec
        while not self._ready.wait(POLL_SEC):
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"worker `{self.worker_id}` got no grants assigned in {timeout_sec:g} s; is its instance unique?"
                )

    def _run_quietly(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001  # kept for `start` and `stop`, which raise it in the caller's thread
            self.failure = error
            _LOGGER.warning("worker %s ended: %s", self.worker_id, error)

    def stop(self) -> None:
        """Take no more grants, let running jobs end (30 s), say so in the log. Raises what ended the worker before."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.failure is not None:
                raise self.failure

    def _tick(self, transactor: Transactor, grants: Grants, source: ControlSource[WorkerControl]) -> None:
        """One turn. Whether or not grants can be taken, what runs is asked to stop and its end is reported."""
        grants.poll(POLL_SEC)
        if grants.assigned:
            self._ready.set()
        self._lease_sec = _latest(source).lease_sec
        aborted: NothingWritten | None = None
        try:
            self._take(transactor, grants, source)
        except NothingWritten as error:
            aborted = error
        self._ask_to_stop(_latest(source))
        try:
            self._report(transactor)
        except NothingWritten as error:
            aborted = error
        if aborted is None:
            self._aborted_since = None
        else:
            self._note_abort(aborted)

    def _note_abort(self, error: NothingWritten) -> None:
        """A rebalance, mostly: nothing was taken or reported, and the next poll says what is still ours.

        What aborts again and again (a missing right, say) is no rebalance and ends the worker.
        """
        _LOGGER.info("worker %s: %s", self.worker_id, error)
        now = time.monotonic()
        self._aborted_since = self._aborted_since or now
        if now - self._aborted_since > ABORTING_SEC_MAX:
            raise error

    def _take(self, transactor: Transactor, grants: Grants, source: ControlSource[WorkerControl]) -> None:
        waiting = grants.waiting
        if not waiting:
            return
        free = self.jobs_max - len(self._running)
        # Confirmed only when something may start: a full worker need not know that nothing is paused.
        control = source.current() if free > 0 else _latest(source)
        now_ms = self._clock_ms()
        taken: list[Waiting] = []
        starts: list[tuple[int, Waiting, Start]] = []
        outs: list[Out] = []
        in_batch: set[str] = set()
        for found in waiting:
            judgement = self._judge(found, now_ms, in_batch, control)
            if isinstance(judgement, Wait) or (isinstance(judgement, Start) and len(starts) >= free):
                continue
            taken.append(found)
            if found.grant is None or judgement is None:
                outs.append(self._events.unreadable(found.record))
                continue
            if isinstance(judgement, Start):
                in_batch.add(found.grant.grant_id)
                starts.append((len(outs), found, judgement))
                outs.append(self._events.started(found.grant, found.record.headers))
            elif isinstance(judgement, Lapse):
                outs.append(self._events.lapsed(found.grant, found.record.headers))
            elif isinstance(judgement, Refuse):
                _LOGGER.warning("grant %s refused: %s", found.grant.grant_id, judgement.message)
                outs.append(self._events.refused(found.grant, judgement.code, judgement.message, found.record))
        if not taken:
            return
        published = transactor.commit(outs, grants.offsets(taken), grants.metadata())
        grants.take(taken)
        for index, found, start in starts:
            self._launch(found, start, published[index].timestamp_ms, control.offset)

    def _judge(self, found: Waiting, now_ms: int, in_batch: set[str], control: WorkerControl) -> Judgement | None:
        grant = found.grant
        if grant is None:
            return None
        job = (grant.agent_id, grant.topic, grant.judged_tags, grant.job_id)
        revoked = control.revoked(grant.control_offset, *job)
        judgement = judge_grant(
            grant,
            now_ms,
            in_batch if grant.grant_id in in_batch else self._seen,
            control.paused(*job),
            tenant=self._settings.tenant,
            pool=self.pool,
            revoked=None if revoked is None else f"`{revoked.by}` revoked `{revoked.scope}` by `{revoked.command_id}`",
        )
        if isinstance(judgement, Start) and found.record.key != grant.job_id.encode():
            return Refuse("grant_misrouted", f"the grant's key is not its job id `{grant.job_id}`")
        if isinstance(judgement, Start) and self._handler(grant.topic) is None:
            return Refuse(
                "no_handler",
                f"no handler of pool `{self.pool}` takes topic `{grant.topic}`; register one, or route it elsewhere",
            )
        return judgement

    def _launch(self, found: Waiting, start: Start, started_ms: int, control_offset: int) -> None:
        grant = found.grant
        handler = None if grant is None else self._handler(grant.topic)
        if grant is None or handler is None:
            return
        self._seen[grant.grant_id] = None
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        if started_ms > grant.start_by_ms:
            # Started stands, but the broker took it too late: the attempt is over before anything ran.
            detail = f"appended {started_ms - grant.start_by_ms} ms after the start-by time; nothing ran"
            self._outbox.append(self._events.ended(grant, "lapsed", detail, found.record.headers))
            return
        attempt = Attempt(grant, found.record.headers, time.monotonic() + self._lease_sec / 3, control_offset)
        call = Call(
            job_id=grant.job_id,
            topic=grant.topic,
            payload=start.payload,
            constraints=start.constraints,
            attempt=grant.attempt,
            agent_id=grant.agent_id,
            on_behalf_of=grant.on_behalf_of,
            progress=attempt.progress,
            stopping=attempt.stopping,
        )
        self._running[grant.grant_id] = attempt
        attempt.run(handler, call, self._finished.put)

    def _ask_to_stop(self, control: WorkerControl) -> None:
        """Ask what runs in a stopped scope to stop; also while all slots are full, or the broker is away."""
        now = time.monotonic()
        for attempt in self._running.values():
            grant = attempt.grant
            job = (grant.agent_id, grant.topic, grant.judged_tags, grant.job_id)
            for stop in control.stops_after(attempt.control_offset, *job):
                attempt.stops.ask(stop, now)

    def _report(self, transactor: Transactor) -> None:
        """Write what has ended, and a sign of life of what runs. Nothing is lost when the transaction aborts."""
        now = time.monotonic()
        while not self._finished.empty():
            done = self._finished.get()
            attempt = self._running.pop(done.grant.grant_id)
            self._answer(attempt, attempt.stops.ended(stopped=done.stopped))
            self._outbox.extend(self._events.output(done, attempt.headers))
        for attempt in self._running.values():
            self._answer(attempt, attempt.stops.overdue(now))
        beats = self._beats(now)
        if self._outbox or beats:
            transactor.commit([*self._outbox, *beats])
            self._outbox.clear()

    def _answer(self, attempt: Attempt, answers: list[Answer]) -> None:
        self._outbox.extend([self._events.stop_answered(attempt.grant, each, attempt.headers) for each in answers])

    def _beats(self, now: float) -> list[Out]:
        beats: list[Out] = []
        for attempt in self._running.values():
            attempt.beat_by(now + self._lease_sec / 3)
            if attempt.beat_due(now):
                number, note = attempt.beat(now + self._lease_sec / 3)
                beats.append(self._events.progressed(attempt.grant, number, note, attempt.headers))
        return beats

    def _drain(self, transactor: Transactor, source: ControlSource[WorkerControl]) -> None:
        deadline = time.monotonic() + STOP_SEC_MAX
        while self._running or self._outbox or not self._finished.empty():
            with suppress(SluicegateError):  # when the reader of commands is what ended the worker, all else is told
                self._ask_to_stop(_latest(source))
            try:
                self._report(transactor)
            except NothingWritten as error:
                _LOGGER.info("worker %s: %s", self.worker_id, error)
            if time.monotonic() > deadline:
                _LOGGER.warning(
                    "worker %s leaves %d jobs running; output review will ask", self.worker_id, len(self._running)
                )
                return
            if self._running and self._finished.empty():
                threading.Event().wait(POLL_SEC)

    def _drain_quietly(self, transactor: Transactor, source: ControlSource[WorkerControl]) -> None:
        try:
            self._drain(transactor, source)
        except SluicegateError as error:
            _LOGGER.warning("worker %s could not report what it ran: %s", self.worker_id, error)
