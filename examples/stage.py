"""The demo's stage: reads the whole log as the auditor, and prints a line only when its event has come back from it.

What was expected and did not come is remembered, and makes the demo fail; nothing is printed from memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sluicegate.cli.sentences import sentence
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.streams.engine import Record
from sluicegate.streams.kafka import Tail
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings

POLL_SEC = 0.1
EXPECT_SEC = 20.0
T = TypeVar("T")


class Stage:
    """Everything that was read back so far, and what was missed."""

    def __init__(self, settings: Settings, topics: list[str], expect_sec: float = EXPECT_SEC) -> None:
        self.settings = settings
        self.codec = Codec(registry_for(settings.registry_url))
        self._tail = Tail(settings, "auditor", topics, group="auditor", start="beginning")
        self._seen: list[tuple[Record, Any]] = []
        self.missed: list[str] = []
        self.expect_sec = expect_sec
        self.began = time.monotonic()

    def close(self) -> None:
        self._tail.close()

    def _read(self) -> None:
        for record in self._tail.poll(POLL_SEC):
            try:
                self._seen.append((record, self.codec.decode(record.value)))
            except Undecodable:
                continue

    def title(self, text: str) -> None:
        """A heading; the only text that is not read from somewhere."""
        print(f"\n{text}", flush=True)

    def line(self, place: str, text: str) -> None:
        """One line of the story: where it was read, and what it says."""
        print(f"  {time.monotonic() - self.began:6.1f} s  {place:<28} {text}", flush=True)

    def expect(self, what: str, cls: type[T], fits: Callable[[T], bool], *, longer_sec: float = 0) -> T | None:
        """Wait until such an event stands in the log, and print it from there; None, and a failed demo, if not."""
        found = self.await_one(what, cls, fits, longer_sec=longer_sec)
        if found is None:
            return None
        record, event = found
        self.line(f"{record.topic}/{record.partition}/{record.offset}", sentence(event))  # type: ignore[arg-type]
        return event

    def await_one(
        self, what: str, cls: type[T], fits: Callable[[T], bool], *, longer_sec: float = 0
    ) -> tuple[Record, T] | None:
        """As `expect`, with its record and without a line."""
        deadline = time.monotonic() + self.expect_sec + longer_sec
        checked = 0
        while True:
            for record, event in self._seen[checked:]:
                if isinstance(event, cls) and fits(event):
                    return record, event
            checked = len(self._seen)
            if time.monotonic() > deadline:
                self.miss(what)
                return None
            self._read()

    def all(self, cls: type[T], fits: Callable[[T], bool]) -> list[tuple[Record, T]]:
        """All such records read so far."""
        return [(record, event) for record, event in self._seen if isinstance(event, cls) and fits(event)]

    def miss(self, what: str) -> None:
        """Something of the story did not happen."""
        self.missed.append(what)
        print(f"  {'':6}    DID NOT HAPPEN: {what}", flush=True)

    def find(self, cls: type[T], fits: Callable[[T], bool]) -> tuple[Record, T] | None:
        """The last such record read so far."""
        for record, event in reversed(self._seen):
            if isinstance(event, cls) and fits(event):
                return record, event
        return None
