"""Runs granted jobs, each at most once.

    worker = Worker(settings, "default")

    @worker.handles("job.deploy.*")
    def deploy(call):
        return {"deployed": call.payload["version"]}

    worker.run()

One thread (`run`) owns the consumer and the transactions. It takes a grant in one transaction {`Started`, offset}, and
only after that has committed does the handler run, in a process of its own that is held to the grant's constraints
(`handler_process`); so whatever crashes or rebalances, an attempt starts at most once, and a long job blocks nobody.
What a handler returned goes out as `Output` and `Ended` in one transaction. An attempt whose worker vanished is left
to output review: nobody guesses.

Handlers are brought into a process that was there before the worker had a login or a thread, and forked from it. So a
handler shares no memory with the program that started the worker, nor with another attempt: it opens its connections
itself, and what it has to say it returns. It sees neither the run folder nor the worker's environment but for paths and
locale; ``environment`` adds to that. What it prints is discarded, or appended to ``handler_log``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sluicegate.clients.attempts import Attempt, Finished, WorkerEvents
from sluicegate.clients.call import Given, Handler
from sluicegate.clients.capabilities import manifest
from sluicegate.clients.grants import Grants, signature_fault
from sluicegate.clients.handlers import Credentials, Handlers
from sluicegate.clients.intake import Waiting
from sluicegate.clients.judging import Judgement, Lapse, Refuse, Start, Wait, WorkerControl, judge_grant
from sluicegate.clients.key_client import POOL_ANSWER_SEC_MAX, keyring_of
from sluicegate.clients.sandbox import Isolation
from sluicegate.clients.stopping import Answer
from sluicegate.clients.worker_control import believed_gates, own_control
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable
from sluicegate.streams.control_reader import ControlReader
from sluicegate.streams.engine import ControlSource, Out
from sluicegate.streams.identity import Verifier
from sluicegate.streams.keys import pool_signer
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


def _latest(source: ControlSource[WorkerControl]) -> WorkerControl:
    """The control state as last confirmed: nothing may start on it, but a stop that it holds does hold.

    Raises what ended its reader: who hears no command any more can neither be stopped nor paused.
    """
    return source.latest if isinstance(source, ControlReader) else source.current()


class Worker:
    """One worker of a pool. ``instance`` must be its own among the pool's workers and stay the same over restarts.

    ``control`` (by default a reader of its own) must be fresh whenever a job starts; when it cannot be confirmed the
    worker ends. ``jobs_max`` jobs run at once (by default the setting `handlers_max`). ``credentials`` has a set for
    each combination of true constraints (`capabilities`). ``run`` blocks and raises what ended it; ``start`` and
    ``stop`` run it in a thread of the caller's process.
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
        credentials: Credentials | None = None,
        environment: Mapping[str, str] | None = None,
        handler_log: Path | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.pool, self.worker_id = pool, f"{pool}.{instance}"
        self.jobs_max = settings.handlers_max if jobs_max is None else jobs_max
        if self.jobs_max < 1:
            raise BadInput(f"jobs_max `{jobs_max}` runs nothing; give 1 or more")
        self._settings, self._given_control = settings, control
        self._user, self._instance, self._clock_ms = f"worker.{pool}", instance, clock_ms
        self._handlers = Handlers(
            environment=environment,
            credentials=credentials,
            hidden=(settings.run_dir, settings.logins_path),
            log_path=handler_log,
        )
        for glob, handler in (handlers or {}).items():
            self.handles(glob)(handler)
        self._codec = Codec(registry_for(settings.registry_url))
        self._gates: Mapping[str, Verifier] = {}
        self._keys = keyring_of(settings, lambda: pool_signer(settings, pool), answer_sec_max=POOL_ANSWER_SEC_MAX)
        self._events = WorkerEvents(self._codec, self.worker_id, self._keys)
        self._running: dict[str, Attempt] = {}
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._outbox: list[Out] = []
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lease_sec = settings.attempt_lease_sec  # until control says another
        self._stopping, self._ready = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._aborted_since: float | None = None
        self.failure: BaseException | None = None

    def handles(
        self,
        glob: str,
        *,
        limits: Mapping[str, str] | None = None,
        spends: Collection[str] = (),
        enforces: Collection[str] = (),
    ) -> Callable[[H], H]:
        """Register a handler for job topics; ``*`` is any characters; the first pattern that fits is taken.

        Which constraints it can be held to, besides those of every handler, say ``limits`` (name to path in the
        payload), ``spends`` (it takes from `call.budget`) and ``enforces`` (it keeps to them itself). It may be any
        function that can be pickled by value, also of the script itself; if not, ``run`` raises BadInput.
        """

        def register(handler: H) -> H:
            self._handlers.add(glob, handler, limits=limits, spends=spends, enforces=enforces)
            return handler

        return register

    @property
    def isolation(self) -> Isolation:
        """Whether handlers get namespaces of their own on this machine, and if not, why."""
        return self._handlers.isolation

    def manifest(self) -> dict[str, Any]:
        """What this worker can enforce, as `sluicegate policy check --workers` reads it in a list."""
        return manifest(self.pool, self._handlers.capabilities, self._handlers.credential_sets)

    def run(self) -> None:
        """Work until `stop`. Raises LoginRefused, NotPermitted, Unavailable, StaleControl or IndeterminateCommit.

        After IndeterminateCommit the process should end and begin anew.
        """
        if not self._handlers:
            raise BadInput(f"the worker of pool `{self.pool}` has no handler; register one with `handles`")
        self._handlers.begin()
        try:
            self._work()
        finally:
            self._handlers.end()

    def _work(self) -> None:
        settings = self._settings
        self._gates = believed_gates(settings)
        control = self._given_control or own_control(settings, self._user, self._group, self._instance, self._codec)
        # First the producer: it fences an older self, and decides what that left open, before any offset is read.
        transactor = Transactor(
            kafka_config(self._settings, self._user),
            self._member,
            tenant=self._settings.tenant,
            transaction_timeout_ms=self._settings.transaction_timeout_ms,
        )
        grants = Grants(self._settings, self._user, self._group, self._member, self.pool, self._codec)
        try:
            self._say(self._handlers.ready())
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

    def _say(self, found: Isolation) -> None:
        how = "in namespaces of their own" if found.namespaces else f"without namespaces: {found.why}"
        _LOGGER.info("worker %s runs handlers in processes %s", self.worker_id, how)

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
        fault = signature_fault(found.record, self._settings.tenant, self._gates)
        if fault is not None:
            return Refuse(*fault)
        judgement = judge_grant(
            grant,
            now_ms,
            in_batch if grant.grant_id in in_batch else self._seen,
            control.paused(*job),
            tenant=self._settings.tenant,
            pool=self.pool,
            keys=self._keys,
            revoked=None if revoked is None else f"`{revoked.by}` revoked `{revoked.scope}` by `{revoked.command_id}`",
        )
        if isinstance(judgement, Start) and found.record.key != grant.job_id.encode():
            return Refuse("grant_misrouted", f"the grant's key is not its job id `{grant.job_id}`")
        if isinstance(judgement, Start) and found.misplaced:
            where = f"partition {found.record.partition} is not that of job `{grant.job_id}`"
            return Refuse(
                "grant_misrouted", f"{where}: another worker of the pool may have run it; one grant, one place"
            )
        number = self._handlers.find(grant.topic)
        if isinstance(judgement, Start) and number is None:
            return Refuse(
                "no_handler",
                f"no handler of pool `{self.pool}` takes topic `{grant.topic}`; register one, or route it elsewhere",
            )
        if isinstance(judgement, Start) and number is not None:
            return self._handlers.hold(number, judgement)
        return judgement

    def _launch(self, found: Waiting, start: Start, started_ms: int, control_offset: int) -> None:
        grant = found.grant
        number = None if grant is None else self._handlers.find(grant.topic)
        if grant is None or number is None:
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
        given = Given(
            job_id=grant.job_id,
            topic=grant.topic,
            payload=start.payload,
            constraints=start.constraints,
            attempt=grant.attempt,
            agent_id=grant.agent_id,
            on_behalf_of=grant.on_behalf_of,
            credentials=self._handlers.credentials_of(start),
        )
        for name in start.terms.by_handler:
            _LOGGER.info("job %s: only its handler's own word keeps to `%s`", grant.job_id, name)
        self._running[grant.grant_id] = attempt
        attempt.run(self._handlers.process(number, given, start, attempt.progress), start.terms, self._finished.put)

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
        for _ in range(self._finished.qsize()):
            done = self._finished.get()
            attempt = self._running[done.grant.grant_id]
            self._tell_breaches(attempt)
            try:
                outs = self._events.output(done, attempt.headers, attempt.broken)
            except Unavailable:  # it goes on giving signs of life until its output can be sealed
                self._finished.put(done)
                continue
            del self._running[done.grant.grant_id]
            self._answer(attempt, attempt.stops.ended(stopped=done.stopped))
            self._outbox.extend(outs)
        for attempt in self._running.values():
            self._tell_breaches(attempt)
            self._answer(attempt, attempt.stops.overdue(now))
        beats = self._beats(now)
        if self._outbox or beats:
            transactor.commit([*self._outbox, *beats])
            self._outbox.clear()

    def _answer(self, attempt: Attempt, answers: list[Answer]) -> None:
        self._outbox.extend([self._events.stop_answered(attempt.grant, each, attempt.headers) for each in answers])

    def _tell_breaches(self, attempt: Attempt) -> None:
        for number, breach in attempt.breaches():
            self._outbox.append(self._events.breached(attempt.grant, number, breach, attempt.headers))

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
                    "worker %s ends %d jobs that still run; output review will ask", self.worker_id, len(self._running)
                )
                return
            if self._running:
                threading.Event().wait(POLL_SEC)

    def _drain_quietly(self, transactor: Transactor, source: ControlSource[WorkerControl]) -> None:
        try:
            self._drain(transactor, source)
        except SluicegateError as error:
            _LOGGER.warning("worker %s could not report what it ran: %s", self.worker_id, error)
