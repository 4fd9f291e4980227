"""Reads an agent's answers: one thread, on the partition of `job.decisions` and of `job.results` that has its key."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import SluicegateError, Unavailable, Undecodable
from sluicegate.schemas.events import Cause, Closed, Event, Result
from sluicegate.streams.kafka import POLL_SEC, Tail

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

DECISIONS: Final = "job.decisions"
RESULTS: Final = "job.results"
LOOK_BACK_FIRST: Final = 2_000
"""Records of the first window when an older answer is looked for; each further window is ten times as long."""

_LOGGER: Final = logging.getLogger("sluicegate.clients")


class Watcher(Protocol):
    """Somebody who waits for a job's events."""

    job_id: str

    def see(self, event: Event) -> None: ...

    def fail(self, error: SluicegateError) -> None: ...


class Answers:
    """Hands each event of the agent's key to those who wait for its job.

    The constructor contacts the broker and stands at the end of both topics; raises LoginRefused, NotPermitted or
    Unavailable. What ends the thread later is raised in everyone who waits.
    """

    def __init__(self, settings: Settings, user: str, agent_id: str, codec: Codec) -> None:
        self._settings, self._user, self._agent_id, self._codec = settings, user, agent_id, codec
        self._key = agent_id.encode()
        self._watchers: dict[str, weakref.WeakSet[Watcher]] = {}
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._ending = threading.Event()
        self.failure: SluicegateError | None = None
        self._tail = self._open()
        self._thread = threading.Thread(target=self._run, name=f"answers {agent_id}", daemon=True)
        self._thread.start()

    def _open(self) -> Tail:
        return Tail(self._settings, self._user, (DECISIONS, RESULTS), group=self._user, start="end", key=self._key)

    def positions(self) -> tuple[int, int]:
        """The next offsets to be read, of `job.decisions` and `job.results`."""
        found = {topic: offset for (topic, _), offset in self._tail.positions().items()}
        return found[DECISIONS], found[RESULTS]

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of its job's events from now on."""
        with self._lock:
            self._watchers.setdefault(watcher.job_id, weakref.WeakSet()).add(watcher)
        if self.failure is not None:
            watcher.fail(self.failure)

    def rewind(self, decisions_from: int, results_from: int) -> None:
        """Read again from these offsets on; everyone may be told the same thing twice."""
        self._requests.put((DECISIONS, decisions_from))
        self._requests.put((RESULTS, results_from))

    def forget(self, watcher: Watcher) -> None:
        """Tell ``watcher`` no more."""
        with self._lock:
            found = self._watchers.get(watcher.job_id)
            if found is not None:
                found.discard(watcher)
                if not found:
                    del self._watchers[watcher.job_id]

    def close(self) -> None:
        """End the thread and let the connection go."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self._rewind()
                for record in self._tail.poll(POLL_SEC):
                    if record.key == self._key:
                        self._tell(record.value)
        except Exception as error:  # noqa: BLE001  # whoever waits must hear of it, whatever it is
            text = f"reading the answers of `{self._agent_id}` ended ({type(error).__name__}: {error})"
            self.failure = (
                error if isinstance(error, SluicegateError) else Unavailable(f"{text}; submit or resume anew")
            )
            for watcher in self._everyone():
                watcher.fail(self.failure)
        finally:
            self._tail.close()

    def _rewind(self) -> None:
        wanted: dict[str, int] = {}
        while not self._requests.empty():
            topic, offset = self._requests.get()
            wanted[topic] = min(offset, wanted.get(topic, offset))
        for topic, partition in self._tail.positions() if wanted else ():
            if topic in wanted:
                self._tail.rewind(topic, partition, wanted[topic])

    def _everyone(self) -> list[Watcher]:
        with self._lock:
            return [watcher for found in self._watchers.values() for watcher in found]

    def _tell(self, value: bytes) -> None:
        try:
            event = self._codec.decode(value)
        except Undecodable as error:  # a newer build's event; what this build knows follows all the same
            _LOGGER.warning("an answer cannot be read: %s", error)
            return
        with self._lock:
            watchers = list(self._watchers.get(getattr(event, "job_id", None) or "", ()))
        for watcher in watchers:
            watcher.see(event)

    def look_back_closed(self, job_id: str) -> Closed | None:
        """The `Closed` of a job further back in the log, nearest windows first; reads on a connection of its own."""

        def of_job(event: Event) -> bool:
            return isinstance(event, Closed) and event.job_id == job_id and event.agent_id == self._agent_id

        tail = self._open()
        try:
            partition = next(part for topic, part in tail.positions() if topic == DECISIONS)
            low, upper = tail.span(DECISIONS, partition)
            window = LOOK_BACK_FIRST
            while upper > low:
                first = max(low, upper - window)
                closed = self._find(DECISIONS, partition, first, upper, of_job)
                if isinstance(closed, Closed):
                    return closed
                upper, window = first, window * 10
        finally:
            tail.close()
        return None

    def look_at_result(self, cause: Cause, job_id: str) -> Result | None:
        """The `Result` at a place, if it is this job's."""

        def of_job(event: Event) -> bool:
            return isinstance(event, Result) and event.job_id == job_id and event.agent_id == self._agent_id

        found = self._find(RESULTS, cause.partition, cause.offset, cause.offset + 1, of_job)
        return found if isinstance(found, Result) else None

    def _find(self, topic: str, partition: int, first: int, end: int, wanted: Callable[[Event], bool]) -> Event | None:
        """The last wanted event of [first, end); what is not committed yet is not looked for."""
        start = {(topic, partition): first}
        tail = Tail(self._settings, self._user, (), group=self._user, start=start)
        found: Event | None = None
        try:
            while not tail.at_end() and not self._ending.is_set():
                for record in tail.poll(POLL_SEC):
                    if record.offset >= end:
                        return found
                    if record.key == self._key:
                        event = self._codec.decode_or_none(record.value)
                        found = event if event is not None and wanted(event) else found
        finally:
            tail.close()
        return found
