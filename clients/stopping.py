"""How a running attempt is asked to stop, and what is answered to the command that asked.

A handler is asked, by `Call.stopping`, and has `STOP_WITHIN_SEC` to end by itself; then its process is killed with all
its children. What it did outside by then is not undone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from sluicegate.schemas.events import StopWord
from sluicegate.streams.control_scopes import Stop

STOP_WITHIN_SEC: Final = 10.0
"""How long a handler may take to end once a command asks it to; then it is killed."""
KILLED_WITHIN_SEC: Final = 5.0
"""How long the kernel may take over that; then the command is answered with `unknown`."""


class Stopped(Exception):
    """Raise it in a handler that ends because it was asked to stop: the job then ends as failed, not run again."""


class Stopping:
    """Whether a handler is asked to stop; like a `threading.Event` that only a command sets.

    ``reason`` says why, for people. That a handler looked says nothing of what it did then: one that returns has done
    its work, whatever it saw; one that ends unfinished raises.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason: str | None = None

    def is_set(self) -> bool:
        """Whether to end now."""
        return self._event.is_set()

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Wait until it is set, at most ``timeout_sec``; whether it is. Good in the place of a sleep."""
        return self._event.wait(timeout_sec)

    def check(self) -> None:
        """Raise `Stopped` if the handler is to end now."""
        if self.is_set():
            raise Stopped(self.reason or "asked to stop")

    def ask(self, reason: str) -> None:
        """Set it. The first reason stays."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()


class Answer(msgspec.Struct, frozen=True):
    """What is answered to one stop command for one attempt."""

    command_id: str
    word: StopWord
    detail: str


class StopAnswers:
    """The stop commands that one attempt was asked by, and which are not yet answered. Times are monotonic seconds.

    ``ask`` asks the handler with a reason; ``kill`` kills it.
    """

    def __init__(self, ask: Callable[[str], None], kill: Callable[[], None]) -> None:
        self._ask, self._kill = ask, kill
        self._due: dict[str, float] = {}
        self._asked: set[str] = set()
        self.killed = False

    def ask(self, stop: Stop, now: float) -> None:
        """Ask the handler to stop, once per command."""
        if stop.command_id in self._asked:
            return
        self._asked.add(stop.command_id)
        self._due[stop.command_id] = now + STOP_WITHIN_SEC
        because = f": {stop.reason}" if stop.reason else ""
        self._ask(f"`{stop.by}` stopped `{stop.scope}`{because}")

    def ended(self, *, stopped: bool) -> list[Answer]:
        """The answers now that the handler has ended; ``stopped`` says that it did not return."""
        word: StopWord = "stopped" if stopped else "already_finished"
        how = "the handler stopped" if stopped else "the handler ended by itself and its output stands"
        if stopped and self.killed:
            how = f"the handler did not end within {STOP_WITHIN_SEC:g} s and was killed with its children"
        due, self._due = self._due, {}
        return [Answer(command_id, word, how) for command_id in due]

    def overdue(self, now: float) -> list[Answer]:
        """Kill what has not ended in time; `unknown` for each command if even that shows no effect."""
        if not self.killed and any(now >= due for due in self._due.values()):
            self.killed = True
            self._kill()
        late = [command_id for command_id, due in self._due.items() if now >= due + KILLED_WITHIN_SEC]
        for command_id in late:
            del self._due[command_id]
        how = f"the handler did not end within {STOP_WITHIN_SEC:g} s, was killed, and has not gone"
        return [Answer(command_id, "unknown", how) for command_id in late]
