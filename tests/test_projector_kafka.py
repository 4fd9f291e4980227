from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Producer
from fixtures_clickhouse import CODEC, rows, sample
from fixtures_kafka import TenantFactory

from sluicegate.clients.auditor import Auditor
from sluicegate.processors.projector import Projector
from sluicegate.schemas.errors import InvariantBroken, Unavailable
from sluicegate.streams.clickhouse import ReadingRoom
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

DRAIN_SEC: Final = 60.0
TOPICS_AND_TABLES: Final = {"job.intents": "intents", "job.starts": "started", "job.results": "results"}
PROCESS: Final = Path(__file__).with_name("projector_process.py")


@contextmanager
def running(settings: Settings, room: ReadingRoom) -> Iterator[Projector]:
    """A projector at work under the login `projector`, in a thread."""
    projector = Projector(kafka_config(settings, "projector"), settings.tenant, room, CODEC)
    stop = threading.Event()
    thread = threading.Thread(target=projector.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield projector
    finally:
        stop.set()
        thread.join(DRAIN_SEC)


class Writer:
    """Writes whatever it is told into a tenant's topics, as the admin."""

    def __init__(self, settings: Settings) -> None:
        self._tenant = settings.tenant
        self._config = {**kafka_config(settings, "admin"), "linger.ms": 5}
        self._plain = Producer(self._config)

    def write(self, topic: str, value: bytes, producer: Producer | None = None, partition: int = 0) -> None:
        (producer or self._plain).produce(physical(self._tenant, topic), value, b"agent-1", partition=partition)

    def flush(self) -> None:
        assert self._plain.flush(30) == 0

    def transaction(self, fill: Callable[[Producer], None], *, commit: bool) -> None:
        producer = Producer({**self._config, "transactional.id": f"{self._tenant}.test"})
        producer.init_transactions(30)
        producer.begin_transaction()
        fill(producer)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


def test_the_store_holds_what_is_committed_and_nothing_else(tenant: TenantFactory, room: ReadingRoom) -> None:
    """Committed records of every topic are projected, junk too; aborted ones never; coverage reaches the log's end."""
    settings = tenant()
    writer = Writer(settings)
    with running(settings, room) as projector:
        for commit in (True, False, True):
            writer.transaction(
                lambda one: writer.write("job.intents", CODEC.encode(sample("Intent")), one), commit=commit
            )
        for partition in range(3):
            writer.write("job.decisions", CODEC.encode(sample("Decision")), partition=partition)
        writer.write("job.grants.default", CODEC.encode(sample("Grant")))
        writer.write("dead.letters", b"junk")
        writer.flush()
        assert projector.drain(DRAIN_SEC)
        found = rows(room, "SELECT topic, type, count() FROM events GROUP BY topic, type ORDER BY topic")
        assert found == [
            ["dead.letters", "undecodable", 1],
            ["job.decisions", "Decision", 3],
            ["job.grants.default", "Grant", 1],
            ["job.intents", "Intent", 2],
        ]
        covered = rows(room, "SELECT sum(behind), countIf(topic = 'job.decisions'), sum(log_end > 0) FROM coverage")
        assert covered == [[0, 3, 6]]
        status = projector.status()
        assert (status.ready, status.events, status.undecodable, status.behind) == (True, 7, 1, 0)


def test_a_new_projector_goes_on_where_events_end(tenant: TenantFactory, room: ReadingRoom) -> None:
    """No offsets are kept in Kafka: the next projector reads on from what ClickHouse holds, each record once."""
    settings = tenant()
    writer = Writer(settings)
    for _ in range(2):
        writer.write("job.intents", CODEC.encode(sample("Intent")))
        writer.flush()
        with running(settings, room) as projector:
            assert projector.drain(DRAIN_SEC)
            assert projector.status().events == 1
    assert rows(room, "SELECT groupArray(offset) FROM events") == [[[0, 1]]]
    assert rows(room, "SELECT count() FROM intents") == [[2]]


def test_a_store_takes_one_log_only(tenant: TenantFactory, room: ReadingRoom) -> None:
    """Another tenant's log is refused, and so is a log that ends before what was projected of it."""
    first, second = tenant(), tenant()
    with running(first, room) as projector:
        assert projector.drain(DRAIN_SEC)
    with pytest.raises(InvariantBroken, match="holds the log of cluster"):
        Projector(kafka_config(second, "projector"), second.tenant, room, CODEC).run(threading.Event())
    room.insert("events", ["topic", "partition", "offset"], [["job.intents"], [0], [7]])
    with pytest.raises(InvariantBroken, match=r"`job\.intents/0` is projected to 8 but its log ends at 0"):
        Projector(kafka_config(first, "projector"), first.tenant, room, CODEC).run(threading.Event())


def test_waiting_for_an_ended_projector_is_an_error(tenant: TenantFactory, room: ReadingRoom) -> None:
    """Nobody waits for a projection that has ended: that is said at once."""
    settings = tenant()
    with running(settings, room) as projector:
        assert projector.drain(DRAIN_SEC)
    assert not projector.status().ready
    writer = Writer(settings)
    writer.write("job.intents", b"later")
    writer.flush()
    with pytest.raises(Unavailable, match="has ended"):
        projector.drain(DRAIN_SEC)


@contextmanager
def process(settings_file: Path, die_at_write: int) -> Iterator[subprocess.Popen[bytes]]:
    """The crash program; killed at the end if it still lives."""
    command = [sys.executable, str(PROCESS), str(settings_file), str(die_at_write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as found:
        try:
            assert found.stdout is not None
            assert found.stdout.readline() == b"ready\n"
            yield found
        finally:
            found.kill()


def test_killed_between_typed_rows_and_events_it_counts_as_the_log_does(
    tenant: TenantFactory, kafka_dir: Path, tmp_path: Path
) -> None:
    """Four processes die by `kill -9` right before they write `events`; the fifth makes each count the log's."""
    settings = tenant()
    given = {
        "tenant": settings.tenant,
        "bootstrap": settings.servers,
        "logins_file": str(kafka_dir / "logins.json"),
        "run_dir": str(tmp_path / "run"),
    }
    settings_file = tmp_path / "settings.json"
    settings_file.write_text(json.dumps(given))
    writer = Writer(settings)
    for die_at_write in (1, 2, 1, 2):
        for at in range(300):
            writer.write("job.intents", CODEC.encode(sample("Intent", job_id=f"j{at}")), partition=at % 3)
            writer.write("job.starts", CODEC.encode(sample("Started", job_id=f"j{at}")), partition=at % 3)
        writer.flush()
        with process(settings_file, die_at_write) as child:
            while child.poll() is None:  # the second write needs something new to be written
                writer.write("job.results", CODEC.encode(sample("Result")))
                writer.flush()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
            assert child.returncode == -9
    with process(settings_file, 0):
        auditor = Auditor(Settings(**given))
        ends = auditor.coverage(wait_sec=DRAIN_SEC).dicts()
        written = {topic: sum(row["log_end"] for row in ends if row["topic"] == topic) for topic in TOPICS_AND_TABLES}
        assert written["job.intents"] == written["job.starts"] == 1_200
        assert [row for row in ends if row["behind"]] == []
        for topic, table in TOPICS_AND_TABLES.items():
            sql = f"SELECT count(), uniqExact(partition, offset) FROM events WHERE topic = '{topic}'"
            assert auditor.query(sql).rows == [[written[topic]] * 2]
            sql = f"SELECT count(), uniqExact(log_partition, log_offset) FROM {table}"
            assert auditor.query(sql).rows == [[written[topic]] * 2]
