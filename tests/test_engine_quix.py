"""The traps of Quix and Kafka that memory does not have: killed, suspended and starved processes, names, poison."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from engine_poison import produce_poison
from engine_processes import END_TXN, EngineProcess, Proxy
from engine_worlds import (
    DESK,
    EVENTS,
    FIRED,
    REQUESTS,
    VERDICTS,
    KafkaSite,
    KafkaWorld,
    NoControl,
    assert_exactly_once,
    bodies,
    counting_step,
)

from sluicegate.schemas.errors import IndeterminateCommit, LoginRefused
from sluicegate.streams.changelog import changelog_name
from sluicegate.streams.engine import Out, Record, Store
from sluicegate.streams.messages import UNREADABLE_HEADERS
from sluicegate.streams.quix import QuixEngine
from sluicegate.streams.topics import APPLICATIONS, physical

Begin = Callable[..., EngineProcess]


@pytest.fixture
def begin(kafka_site: KafkaSite) -> Iterator[Begin]:
    """Begins processes, and ends at the test's end what it left."""
    begun: list[EngineProcess] = []

    def make(instance: str = "0", **changes: Any) -> EngineProcess:
        process = EngineProcess(kafka_site.config(instance=instance, **changes))
        begun.append(process)
        return process

    yield make
    for process in begun:
        process.kill()


@pytest.fixture
def proxy(kafka_site: KafkaSite) -> Iterator[Proxy]:
    found = Proxy(kafka_site.connection("desk")["bootstrap.servers"])
    yield found
    found.close()


def _inputs(begin: int, count: int) -> list[tuple[str, bytes, bytes]]:
    return [
        ((REQUESTS, VERDICTS, FIRED)[at % 3], b"key-%d" % (at % 7), b"%d" % at) for at in range(begin, begin + count)
    ]


def test_the_changelog_has_the_name_that_was_made_for_it(kafka_site: KafkaSite) -> None:
    """State lives under one name, made of the sorted inputs: a change of it would begin with empty state."""
    kafka_site.produce_all(_inputs(0, 3))
    world = KafkaWorld(kafka_site)
    world.start()
    world.outputs(EVENTS, 3)
    (application,) = (engine._app for engine in world._engines.values())
    assert application is not None
    names = [topic.name for topic in application._topic_manager.changelog_topics_list]
    world.stop()
    assert names == [changelog_name(kafka_site.tenant, DESK)]
    assert changelog_name("default", APPLICATIONS["gate"]) == (
        "changelog__gate--agent.incidents--approval.resolutions--job.intents--job.results--timer.fired.gate--default"
    )


def test_a_killed_process_loses_and_doubles_nothing(kafka_site: KafkaSite, begin: Begin) -> None:
    """Kill -9 in the middle of the work; the next process under the same name goes on at once, without a time-out."""
    session_sec = 45
    for round_ in range(3):
        kafka_site.produce_all(_inputs(round_ * 300, 300))
        begun = time.monotonic()
        process = begin(session_timeout_ms=session_sec * 1000)
        kafka_site.read(EVENTS, round_ * 300 + 100)
        assert time.monotonic() - begun < session_sec - 5
        process.kill()
    begin(session_timeout_ms=session_sec * 1000)
    assert_exactly_once(kafka_site.read(EVENTS, 900), 900)


def test_a_suspended_process_that_wakes_spoils_nothing(kafka_site: KafkaSite, begin: Begin) -> None:
    """One process hangs, another takes its partitions over; when the first one wakes, what it had begun is void."""
    first, second = begin("0"), begin("1")
    assert (first.said(), second.said()) == ("ready", "ready")
    kafka_site.produce_all(_inputs(0, 200))
    kafka_site.read(EVENTS, 100)
    first.signal(signal.SIGSTOP)
    kafka_site.produce_all(_inputs(200, 200))
    kafka_site.read(EVENTS, 400)
    first.signal(signal.SIGCONT)
    assert first.ended() == 1
    kafka_site.produce_all(_inputs(400, 200))
    assert_exactly_once(kafka_site.read(EVENTS, 600), 600)


@pytest.mark.parametrize("cut", [False, True], ids=["delayed", "sent twice"])
def test_a_delayed_end_of_a_transaction_ends_nothing_else(
    kafka_site: KafkaSite, begin: Begin, proxy: Proxy, cut: bool
) -> None:
    """A commit without a clean answer ends the process, also where a second try succeeded; the late one is fenced."""
    through = {**kafka_site.connection("desk"), "bootstrap.servers": proxy.address}
    first = begin(connection=through, transaction_timeout_ms=3_000)
    assert first.said() == "ready"
    kafka_site.produce_all(_inputs(0, 50))
    kafka_site.read(EVENTS, 50)
    proxy.hold_next(END_TXN, cut=cut)
    kafka_site.produce_all(_inputs(50, 50))
    assert (first.said() or "").startswith(IndeterminateCommit.__name__)
    assert first.ended() == 1
    assert proxy.holding.is_set()
    second = begin()
    kafka_site.read(EVENTS, 100)
    kafka_site.produce_all(_inputs(100, 400))
    proxy.release()
    assert_exactly_once(kafka_site.read(EVENTS, 500), 500)
    second.signal(signal.SIGTERM)
    assert second.ended() == 0


def test_the_younger_of_two_processes_with_one_name_goes_on(kafka_site: KafkaSite, begin: Begin) -> None:
    """An instance name belongs to one process; the elder is fenced and ends, nothing is doubled."""
    elder = begin()
    assert elder.said() == "ready"
    younger = begin(state_dir=kafka_site.run_dir / "state" / "elsewhere")
    assert younger.said() == "ready"
    kafka_site.produce_all(_inputs(0, 100))
    assert elder.ended() == 1
    assert_exactly_once(kafka_site.read(EVENTS, 100), 100)


def test_a_signal_ends_a_process_cleanly(kafka_site: KafkaSite, begin: Begin) -> None:
    """SIGTERM: what was processed is committed, the exit code is 0, and a successor finds nothing to repeat."""
    process = begin(interval_ms=5_000)
    kafka_site.produce_all(_inputs(0, 30))
    assert process.said() == "ready"
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    begin()
    assert_exactly_once(kafka_site.read(EVENTS, 30), 30)


def test_a_refused_login_ends_the_engine_at_once(kafka_site: KafkaSite) -> None:
    """A wrong password is an error with a name, not an endless wait."""
    wrong = {**kafka_site.connection("desk"), "sasl.password": "wrong"}
    with pytest.raises(LoginRefused, match="desk"):
        QuixEngine(kafka_site.config(connection=wrong), counting_step, NoControl()).run()


def test_the_status_says_what_is_processed_and_what_waits(kafka_site: KafkaSite) -> None:
    """Health and metrics come from one snapshot: ready, counts, the last commit, the lag per partition."""
    kafka_site.produce_all(_inputs(0, 21))
    world = KafkaWorld(kafka_site)
    world.start()
    world.outputs(EVENTS, 21)
    (engine,) = world._engines.values()
    _until(lambda: engine.status.processed_count == 21)
    status = engine.status
    assert status.ready
    assert status.commit_count >= 1
    assert abs(status.committed_at_ms - time.time() * 1000) < 60_000
    assert set(status.lag_records) == {f"{topic}/{at}" for topic in DESK.inputs for at in range(3)}
    assert sum(status.lag_records.values()) == 0
    world.stop()
    assert not engine.status.ready


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline


def test_headers_that_are_no_text_do_not_end_the_engine(kafka_site: KafkaSite) -> None:
    """Any writer can put bytes that are not UTF-8 into a header's name; such a record is met, its headers are not."""
    produce_poison(kafka_site.connection("admin"), physical(kafka_site.tenant, REQUESTS), "key", "poison")
    kafka_site.produce_all([(REQUESTS, b"key", b"after")])
    world = KafkaWorld(kafka_site)
    world.start()
    found = world.outputs(EVENTS, 2)
    world.stop()
    assert [body["value"] for body in bodies(found)[b"key"]] == ["poison", "after"]
    assert found[0].headers == (("seq", b"1"), *UNREADABLE_HEADERS)


def test_expired_inputs_move_the_offset_and_keep_the_state(kafka_site: KafkaSite) -> None:
    """Raw outputs are kept for 30 days; when they go, the group's offset follows, and no state is lost."""
    outputs = APPLICATIONS["outputs"]

    def step(store: Store, record: Record, control: object) -> list[Out]:
        seq = int(store.get("seq") or 0) + 1
        store.set("seq", b"%d" % seq)
        return [Out(outputs.journal, record.key, b"%d" % seq)]

    def run(count: int) -> list[int]:
        engine = QuixEngine(kafka_site.config(outputs), step, NoControl())
        with _running(engine):
            return [int(record.value) for record in kafka_site.read(outputs.journal, count)]

    kafka_site.produce_all([("job.outputs", b"key", b"early")] * 3)
    assert run(3) == [1, 2, 3]
    kafka_site.produce_all([("job.outputs", b"key", b"never read")] * 3)
    _expire(kafka_site, "job.outputs")
    kafka_site.produce_all([("job.outputs", b"key", b"late")] * 2)
    assert run(5) == [1, 2, 3, 4, 5]


def _expire(site: KafkaSite, topic: str) -> None:
    """What retention does: every record so far goes."""
    admin = AdminClient(dict(site.connection("admin")))
    name = physical(site.tenant, topic)
    for answer in admin.delete_records([TopicPartition(name, at, -1) for at in range(3)]).values():
        answer.result()


@contextmanager
def _running(engine: QuixEngine[None]) -> Iterator[None]:
    """Runs an engine in a thread for the length of a block."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join(20)
