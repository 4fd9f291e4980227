"""The gate, the desk and the auditor as a client meets them: their logins write and read by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clients_events import grant

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Event, Grant
from sluicegate.schemas.ids import derived_id
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.kafka import Published, Publisher, Tail, event_headers, signed_headers
from sluicegate.streams.keys import gate_signer
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

WAIT_SEC = 30.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Control:
    """A control source whose pauses a test sets."""

    def __init__(self, *pauses: str) -> None:
        self.state = ControlState(pauses=pauses)

    def current(self) -> ControlState:
        return self.state

    def pause(self, *pauses: str) -> None:
        self.state = ControlState(pauses=pauses)


class Hand:
    """Writes and reads events under one login."""

    def __init__(self, settings: Settings, user: str) -> None:
        self._settings, self._user = settings, user
        self._codec = Codec(registry_for(""))
        self._publisher = Publisher(settings, user)

    def write(self, topic: str, key: str, event: Event) -> Published:
        headers = event_headers(event, self._user, derived_id("test", time.time_ns()))
        return self._publisher.publish(topic, key.encode(), self._codec.encode(event), headers)

    def grant(self, grant_id: str, *, agent_id: str = "a", start_by_ms: int | None = None, **more: Any) -> Grant:
        """Write a sound grant under its job's id; ``more`` alters it."""
        due = now_ms() + 60_000 if start_by_ms is None else start_by_ms
        made = grant(grant_id=grant_id, start_by_ms=due, tenant=self._settings.tenant, agent_id=agent_id, **more)
        key, value, topic = made.job_id.encode(), self._codec.encode(made), "job.grants.default"
        where = physical(self._settings.tenant, topic)
        record_id = derived_id("test", time.time_ns())
        headers = signed_headers(gate_signer(self._settings), where, made, record_id, now_ms(), key, value)
        self._publisher.publish(topic, key, value, headers)
        return made

    def read_until(self, topics: tuple[str, ...], enough: Callable[[list[Event]], bool]) -> list[Event]:
        """Everything of these topics from the beginning on, until it is enough; fails after 30 s."""
        tail = Tail(self._settings, self._user, topics, group=self._user, start="beginning")
        found: list[Event] = []
        deadline = time.monotonic() + WAIT_SEC
        try:
            while not enough(found):
                assert time.monotonic() < deadline, f"not enough: {[type(event).__name__ for event in found]}"
                found += [self._codec.decode(record.value) for record in tail.poll(0.05)]
        finally:
            tail.close()
        return found


def of_grant(events: list[Event], grant_id: str) -> list[str]:
    """The names of a grant's events, in order of each topic."""
    return [type(event).__name__ for event in events if getattr(event, "grant_id", "") == grant_id]


class Release:
    """Lets handlers go on that wait, in whatever process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self) -> None:
        self._file.touch()

    def is_set(self) -> bool:
        return self._file.exists()


class Calls:
    """A handler that remembers its calls, in a folder, and can be made to wait."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "jobs"
        self._file.touch()
        self.release = Release(folder / "release")

    @property
    def jobs(self) -> list[str]:
        return self._file.read_text().split()

    def __call__(self, call: Any) -> Any:
        with self._file.open("a") as jobs:
            jobs.write(f"{call.job_id}\n")
        if call.topic == "job.long":
            while not self.release.is_set() and not call.stopping.wait(0.01):
                pass
        if call.topic == "job.fail":
            raise ValueError("no such table")
        if call.topic == "job.large":
            return "x" * 1_000_000
        return {"got": call.payload}
