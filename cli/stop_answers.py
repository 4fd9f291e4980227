"""What workers answer to a stop: reads their records from a little before the command on.

Every running attempt gives a sign of life within a third of its lease, so the last lease of `job.starts` names all
that run; an attempt that gave none is lost, and output review says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.cli.configuration import READER
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import Ended, Event, Progressed, Started, StopAnswered
from sluicegate.streams.kafka import Tail
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

STARTS: Final = "job.starts"
POLL_SEC: Final = 0.1
SETTLE_SEC: Final = 1.0
"""How long after the control's freshness limit a start may still come: one transaction."""


class Running(msgspec.Struct, frozen=True):
    """An attempt that runs, as far as its worker has said."""

    job_id: str
    agent_id: str
    worker_id: str


class Answers(msgspec.Struct):
    """What workers said to one stop. ``silent`` run and did not answer; ``unclear`` may lie outside the scope."""

    answers: list[StopAnswered] = []
    silent: list[Running] = []
    unclear: list[Running] = []

    @property
    def all_ended(self) -> bool:
        """Whether nothing that was to stop may still run. What perhaps lies in the scope may."""
        return not self.silent and not self.unclear and all(each.answer != "unknown" for each in self.answers)


class AnswerFold:
    """Which attempts run and what was answered, folded from `job.starts`. Pure.

    Only the worker whose start, or sign of life, was met first speaks for an attempt: what another says of it, or
    that it refuses the grant of what runs already, ends nothing and answers nothing.
    """

    def __init__(self) -> None:
        self.running: dict[str, Running] = {}
        self.answered: dict[tuple[str, str], StopAnswered] = {}
        self._workers: dict[str, str] = {}

    def see(self, event: Event) -> None:
        """Fold one worker's record."""
        if not isinstance(event, Started | Progressed | Ended | StopAnswered):
            return  # a grant that lapsed or was refused never ran by that worker's hand
        if isinstance(event, Started | Progressed):
            if event.grant_id not in self._workers:
                self._workers[event.grant_id] = event.worker_id
                self.running[event.grant_id] = Running(event.job_id, event.agent_id, event.worker_id)
        elif self._workers.get(event.grant_id) != event.worker_id:
            return
        elif isinstance(event, Ended):
            self.running.pop(event.grant_id, None)
        else:
            self.answered[event.command_id, event.grant_id] = event

    def answers(self, command_id: str, scope: str) -> Answers:
        """What is known of one command. Topic and tags of a running attempt do not stand in its worker's records."""
        found = Answers([each for (asked, _), each in self.answered.items() if asked == command_id])
        kind, _, value = scope.partition(":")
        for grant_id, each in self.running.items():
            if (command_id, grant_id) in self.answered:
                continue
            if kind in ("topic", "tag"):
                found.unclear.append(each)
            elif scope == "everything" or value == (each.agent_id if kind == "agent" else each.job_id):
                found.silent.append(each)
        return found


class StopWatch:
    """Reads the workers' records; open it before the command is written. Raises NotPermitted or Unavailable."""

    def __init__(self, settings: Settings, lease_sec: int) -> None:
        self._settings = settings
        self._codec = Codec(registry_for(settings.registry_url))
        self._fold = AnswerFold()
        self._tail = Tail(settings, READER, (STARTS,), group=READER, start=self._recent(lease_sec))

    def _recent(self, lease_sec: int) -> dict[tuple[str, int], int]:
        """Per partition the first record of the last lease, or the end of the log."""
        from confluent_kafka import KafkaException, TopicPartition
        from confluent_kafka.admin import AdminClient, OffsetSpec

        from sluicegate.cli.log_reading import log_topics, spans
        from sluicegate.streams.connection import LOGGER
        from sluicegate.streams.kafka import METADATA_TIMEOUT_SEC, error_for
        from sluicegate.streams.logins import kafka_config

        places = [(STARTS, partition) for partition in range(log_topics(self._settings)[STARTS])]
        _, ends = spans(self._settings, places)
        since = OffsetSpec.for_timestamp(time.time_ns() // 1_000_000 - lease_sec * 1000)
        kafka = physical(self._settings.tenant, STARTS)
        client = AdminClient(kafka_config(self._settings, READER), logger=LOGGER)
        asked = {TopicPartition(kafka, partition): since for _, partition in places}
        try:
            found = client.list_offsets(asked, request_timeout=METADATA_TIMEOUT_SEC)
            offsets = {place.partition: answer.result().offset for place, answer in found.items()}
        except KafkaException as error:
            raise error_for(error.args[0], READER, f"ask where `{kafka}` was a lease ago") from None
        # Nothing that young: -1, and the log's end is where what comes will stand.
        return {place: offsets[place[1]] if offsets[place[1]] >= 0 else ends[place] for place in places}

    def wait(self, command_id: str, scope: str, wait_sec: float, told: Callable[[StopAnswered], Any]) -> Answers:
        """Wait until everything that runs in the scope has answered or ended, at most ``wait_sec``."""
        began, told_of = time.monotonic(), 0
        settled_sec = self._settings.control_age_ms_max / 1000 + SETTLE_SEC
        while True:
            for record in self._tail.poll(POLL_SEC):
                try:
                    self._fold.see(self._codec.decode(record.value))
                except Undecodable:
                    continue
            found = self._fold.answers(command_id, scope)
            for each in found.answers[told_of:]:
                told(each)
            told_of = len(found.answers)
            waited = time.monotonic() - began
            done = not found.silent and not found.unclear and self._tail.at_end()
            if waited >= wait_sec or (done and waited >= min(settled_sec, wait_sec)):
                return found

    def close(self) -> None:
        """Let the connection go."""
        self._tail.close()
