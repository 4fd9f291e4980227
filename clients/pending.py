"""A submitted job that is waited for, in a thread or in asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from sluicegate.clients.answers import Answers
from sluicegate.clients.outcomes import Handle, JobFold, Judged, NotCancelled, Outcome
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.events import Event

if TYPE_CHECKING:
    from sluicegate.clients.agent import Agent

WAIT_SEC: Final = 55.0
"""Many callers (tool protocols, gateways) drop a call after 60 seconds: by then they hold a handle."""

Answer = TypeVar("Answer")


class Pending:
    """One submitted job. Waiting never raises for what became of the job, only when the log cannot be read."""

    def __init__(self, agent: Agent, answers: Answers, handle: Handle) -> None:
        self._agent, self._answers, self._handle = agent, answers, handle
        self.job_id = handle.job_id
        self._fold = JobFold(handle, agent.keys)
        self._changed = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()
        self._failure: SluicegateError | None = None
        self._held_back: list[Event] | None = None
        answers.watch(self)

    @property
    def handle(self) -> Handle:
        """What `Agent.resume` takes, here or in another process."""
        return self._handle

    @property
    def state(self) -> str:
        """One word for people: submitted, held, waiting for approval, decided, granted, or the outcome."""
        with self._changed:
            return self._fold.state

    def see(self, event: Event) -> None:
        """Take an event; called by the reader's thread."""
        with self._changed:
            if self._held_back is not None:
                self._held_back.append(event)
                return
            if self._fold.see(event):
                self._tell()

    def hold_back(self) -> None:
        """Keep events unread until `let_through`: the place of a record that is being written is not known yet."""
        with self._changed:
            self._held_back = []

    def let_through(self, handle: Handle | None = None) -> None:
        """Fold what was kept; ``handle`` now says where the intent stands."""
        with self._changed:
            self._handle = handle or self._handle
            self._fold.handle = self._handle
            events, self._held_back = self._held_back or [], None
            for event in events:
                self._fold.see(event)
            self._tell()

    def fail(self, error: SluicegateError) -> None:
        """The reader ended; called by its thread."""
        with self._changed:
            self._failure = error
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def decision(self, timeout_sec: float = WAIT_SEC) -> Judged | Handle:
        """What policy says; after ``timeout_sec`` the handle. A held job (paused scope) has none yet."""
        return self._wait(self._judged, timeout_sec)

    def result(self, timeout_sec: float = WAIT_SEC) -> Outcome | Handle:
        """How the job ended; after ``timeout_sec`` the handle (``done`` tells the two apart)."""
        return self._wait(self._outcome, timeout_sec)

    def cancel(self, reason: str | None = None, timeout_sec: float = WAIT_SEC) -> Outcome | NotCancelled | Handle:
        """Withdraw the job; its end (mostly ``withdrawn``) or the gate's refusal; after ``timeout_sec`` the handle."""
        self.withdraw(reason)
        return self._wait(self._cancelled, timeout_sec)

    def withdraw(self, reason: str | None = None) -> None:
        """Write the withdrawal and do not wait for the gate."""
        self.hold_back()
        try:
            place = self._agent.publish_withdrawal(self.job_id, reason)
            self._fold.withdrawal_sent(place.partition, place.offset)
        finally:
            self.let_through()

    def _judged(self) -> Judged | None:
        with self._changed:
            return self._fold.judged

    def _outcome(self) -> Outcome | None:
        with self._changed:
            return self._fold.outcome

    def _cancelled(self) -> Outcome | NotCancelled | None:
        with self._changed:
            return self._fold.outcome or self._fold.not_cancelled

    def _complete(self) -> None:
        """Fetch what stands in the log before where the reader began (an earlier submission's end)."""
        with self._changed:
            wants_closed = self._fold.wants_closed
        if wants_closed:
            closed = self._answers.look_back_closed(self.job_id)
            with self._changed:
                if closed is not None:
                    self._fold.adopt_closed(closed)
        with self._changed:
            cause = self._fold.wanted_result
        if cause is not None:
            result = self._answers.look_at_result(cause, self.job_id)
            with self._changed:
                if result is not None:
                    self._fold.adopt_result(result)
                else:
                    self._fold.result_absent()

    def _incomplete(self) -> bool:
        return self._fold.wants_closed or self._fold.wanted_result is not None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wait(self, ask: Callable[[], Answer | None], timeout_sec: float) -> Answer | Handle:
        deadline = time.monotonic() + timeout_sec
        while True:
            if self._incomplete():
                self._complete()
            with self._changed:
                answer = ask()
                if answer is not None:
                    return answer
                self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return self._handle
                if not self._incomplete():
                    self._changed.wait(left)


class AsyncPending:
    """`Pending` for asyncio: no thread waits while a job does."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self.job_id = pending.job_id

    @property
    def handle(self) -> Handle:
        """As `Pending.handle`."""
        return self._pending.handle

    @property
    def state(self) -> str:
        """As `Pending.state`."""
        return self._pending.state

    async def decision(self, timeout_sec: float = WAIT_SEC) -> Judged | Handle:
        """As `Pending.decision`."""
        return await self._wait(self._pending._judged, timeout_sec)

    async def result(self, timeout_sec: float = WAIT_SEC) -> Outcome | Handle:
        """As `Pending.result`."""
        return await self._wait(self._pending._outcome, timeout_sec)

    async def cancel(self, reason: str | None = None, timeout_sec: float = WAIT_SEC) -> Outcome | NotCancelled | Handle:
        """As `Pending.cancel`."""
        await asyncio.to_thread(self._pending.withdraw, reason)
        return await self._wait(self._pending._cancelled, timeout_sec)

    async def _wait(self, ask: Callable[[], Answer | None], timeout_sec: float) -> Answer | Handle:
        loop, changed, pending = asyncio.get_running_loop(), asyncio.Event(), self._pending

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        deadline = loop.time() + timeout_sec
        with pending._changed:
            pending._listeners.add(listener)
        try:
            while True:
                changed.clear()
                if pending._incomplete():
                    await asyncio.to_thread(pending._complete)
                answer = await asyncio.to_thread(ask)  # what has ended is opened, and the key service asked for its key
                if answer is not None:
                    return answer
                pending._check()
                try:
                    async with asyncio.timeout_at(deadline):
                        await changed.wait()
                except TimeoutError:
                    return pending.handle
        finally:
            with pending._changed:
                pending._listeners.discard(listener)
