"""What reads control and writes transactions beside the engine, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from engine_processes import END_TXN, Proxy
from engine_worlds import KafkaSite

from sluicegate.schemas.errors import (
    IndeterminateCommit,
    InvariantBroken,
    LoginRefused,
    RecordTooLarge,
    StaleControl,
    Unavailable,
)
from sluicegate.streams.connection import await_broker
from sluicegate.streams.control_reader import COMMANDS, SNAPSHOTS, ControlConfig, ControlReader
from sluicegate.streams.engine import RECORD_BYTES_MAX, Out, Record
from sluicegate.streams.kafka import NotPermitted
from sluicegate.streams.topics import physical
from sluicegate.streams.transact import NothingWritten, Transactor

State = tuple[str, ...]
STARTS = "job.starts"


def _fold(state: State, record: Record) -> State:
    return (*state, record.value.decode())


def _complete(state: State) -> bool:
    """Whatever is activated was published."""
    return all(said.removeprefix("activate ") in state for said in state if said.startswith("activate "))


Make = Callable[..., ControlReader[State]]


@pytest.fixture
def reader(kafka_site: KafkaSite) -> Iterator[Make]:
    """Makes readers for the gate, and ends them with the test."""
    made: list[ControlReader[State]] = []

    def make(acknowledge: Any = None, **changes: Any) -> ControlReader[State]:
        told: dict[str, Any] = {"connection": kafka_site.connection("gate"), "wait_sec_max": 20.0, "age_ms_max": 2_000}
        config = ControlConfig(
            group=physical(kafka_site.tenant, "gate"), instance="0", tenant=kafka_site.tenant, **{**told, **changes}
        )
        begun: State = ()
        found = ControlReader(config, _fold, begun, complete=_complete, acknowledge=acknowledge)
        made.append(found)
        found.start()
        return found

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def proxy(kafka_site: KafkaSite) -> Iterator[Proxy]:
    found = Proxy(kafka_site.connection("gate")["bootstrap.servers"])
    yield found
    found.close()


def _command(site: KafkaSite, text: str, topic: str = COMMANDS) -> None:
    site.produce_all([(topic, b"scope", text.encode())])


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline


def test_nothing_is_judged_before_the_first_full_read(kafka_site: KafkaSite, reader: Make) -> None:
    """The first answer already holds every command that was in the log."""
    for number in range(5):
        _command(kafka_site, f"pause {number}")
    assert reader().current() == tuple(f"pause {number}" for number in range(5))


def test_quiet_topics_stay_fresh(reader: Make) -> None:
    """Without any command ever the state is confirmed again and again."""
    found = reader(age_ms_max=500)
    assert found.current() == ()
    confirmed = found._fresh_until
    _until(lambda: found._fresh_until > confirmed)
    assert found.current() == ()
    assert found.age_ms < 500


def test_a_command_holds_within_the_control_age(kafka_site: KafkaSite, reader: Make) -> None:
    """Once a command is in the log, no answer is older than the control age."""
    found = reader(age_ms_max=5_000)
    found.current()
    _command(kafka_site, "pause")
    written = time.monotonic()
    _until(lambda: found.current() == ("pause",))
    assert time.monotonic() - written < 5.0


def test_commands_in_a_transaction_do_not_hold_the_reader_up(kafka_site: KafkaSite, reader: Make) -> None:
    """A transaction's marker is an offset that no record shows; the reader is past it all the same."""
    transactor = Transactor(kafka_site.connection("admin"), "test-control", tenant=kafka_site.tenant)
    transactor.commit([Out(SNAPSHOTS, b"s1", b"s1"), Out(COMMANDS, b"everything", b"activate s1")])
    assert reader().current() == ("s1", "activate s1")


def test_a_snapshot_that_has_not_arrived_is_waited_for(kafka_site: KafkaSite, reader: Make) -> None:
    """A command may name a snapshot that is still on its way; until it is there nothing is judged."""
    _command(kafka_site, "activate s1")
    found = reader(wait_sec_max=0.5)
    _until(lambda: found._caught_up)
    with pytest.raises(StaleControl, match="snapshot"):
        found.current()
    _command(kafka_site, "s1", SNAPSHOTS)
    _until(lambda: found.age_ms < 2_000)
    assert set(found.current()) == {"activate s1", "s1"}


def test_a_broker_that_does_not_answer_makes_control_stale(kafka_site: KafkaSite, reader: Make, proxy: Proxy) -> None:
    """Who cannot ask for the end of the commands may not judge: first it waits, then it says so."""
    through = {**kafka_site.connection("gate"), "bootstrap.servers": proxy.address}
    found = reader(connection=through, age_ms_max=500, wait_sec_max=1.5)
    assert found.current() == ()
    proxy.freeze()
    _until(lambda: found.age_ms > 500)
    with pytest.raises(StaleControl, match="does not answer"):
        found.current()
    proxy.thaw()
    _until(lambda: found.age_ms < 500)
    assert found.current() == ()


def test_each_command_is_acknowledged_once_it_holds(kafka_site: KafkaSite, reader: Make) -> None:
    """Of the commands that were there at the start only the last is acknowledged, of the later ones each, in order."""

    def acknowledge(state: State, record: Record) -> Out:
        return Out("job.decisions", b"gate/0", b"%d %d" % (record.offset, len(state)))

    _command(kafka_site, "old")
    _command(kafka_site, "last")
    found = reader(acknowledge)
    found.current()
    _command(kafka_site, "new")
    _command(kafka_site, "newer")
    records = kafka_site.read("job.decisions", 3)
    assert [record.value for record in records] == [b"1 2", b"2 3", b"3 4"]
    assert {record.key for record in records} == {b"gate/0"}


def test_deleted_commands_end_the_reader(kafka_site: KafkaSite, reader: Make) -> None:
    """A log of commands that does not begin at its beginning may hide a pause: nothing is judged on it."""
    _command(kafka_site, "pause")
    admin = AdminClient(dict(kafka_site.connection("admin")))
    name = physical(kafka_site.tenant, COMMANDS)
    for answer in admin.delete_records([TopicPartition(name, 0, -1)]).values():
        answer.result()
    with pytest.raises(InvariantBroken, match="deleted"):
        reader().current()


def test_a_reader_that_ends_wakes_who_waits(kafka_site: KafkaSite, reader: Make) -> None:
    """Stopping a process does not wait for control that will not come."""
    _command(kafka_site, "activate s1")
    found = reader()
    raised: list[Exception] = []

    def ask() -> None:
        try:
            found.current()
        except StaleControl as exc:
            raised.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    found.stop()
    thread.join(10)
    assert len(raised) == 1


def test_asking_for_fresh_control_costs_little(reader: Make) -> None:
    """It is asked before each record, so it must be a look at the clock and not a question to the broker."""
    found = reader(age_ms_max=5_000)
    found.current()
    look = min(_timed(time.monotonic) for _ in range(20))
    assert min(_timed(found.current) for _ in range(20)) < 100 * look


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(1_000):
        call()
    return time.perf_counter() - begun


@pytest.fixture
def transactor(kafka_site: KafkaSite) -> Transactor:
    return _transactor(kafka_site)


def _transactor(site: KafkaSite, **changes: str) -> Transactor:
    connection = {**site.connection("worker.default"), **changes}
    return Transactor(connection, physical(site.tenant, "worker.default.0"), tenant=site.tenant)


def test_records_and_offsets_are_written_together(kafka_site: KafkaSite, transactor: Transactor) -> None:
    """One commit writes all records, moves the group's offset, and tells where and when each was appended."""
    consumer = Consumer(
        {**kafka_site.connection("worker.default"), "group.id": physical(kafka_site.tenant, "worker.default")}
    )
    grant = TopicPartition(physical(kafka_site.tenant, "job.grants.default"), 0, 5)
    written = transactor.commit(
        [Out(STARTS, b"a", b"1"), Out(STARTS, b"b", b"2")], [grant], consumer.consumer_group_metadata()
    )
    found = {record.value: record for record in kafka_site.read(STARTS, 2)}
    for at, value in zip(written, (b"1", b"2"), strict=True):
        record = found[value]
        assert (at.topic, at.partition, at.offset) == (STARTS, record.partition, record.offset)
        assert at.timestamp_ms == record.timestamp_ms
    (committed,) = consumer.committed([grant], timeout=10)
    consumer.close()
    assert committed.offset == 5


def test_the_younger_transactor_fences_the_elder(kafka_site: KafkaSite, transactor: Transactor) -> None:
    """Two workers of one name: the elder can write nothing more."""
    transactor.commit([Out(STARTS, b"a", b"1")])
    younger = _transactor(kafka_site)
    with pytest.raises(IndeterminateCommit):
        transactor.commit([Out(STARTS, b"a", b"zombie")])
    with pytest.raises(IndeterminateCommit):
        transactor.commit([Out(STARTS, b"a", b"zombie")])
    younger.commit([Out(STARTS, b"a", b"2")])
    assert [record.value for record in kafka_site.read(STARTS, 2)] == [b"1", b"2"]


def test_what_the_rights_forbid_is_not_written(transactor: Transactor, kafka_site: KafkaSite) -> None:
    """A worker that writes a decision is told that it may not, and nothing of the transaction is in the log."""
    with pytest.raises(NotPermitted):
        transactor.commit([Out(STARTS, b"a", b"1"), Out("job.decisions", b"a", b"forged")])
    transactor.commit([Out(STARTS, b"a", b"2")])
    assert [record.value for record in kafka_site.read(STARTS, 1)] == [b"2"]
    assert kafka_site.read("job.decisions", 0) == []


def test_an_offset_of_a_stranger_aborts_the_whole(transactor: Transactor, kafka_site: KafkaSite) -> None:
    """A member that has lost its place in the group commits nothing: neither offsets nor records."""
    group = {**kafka_site.connection("worker.default"), "group.id": physical(kafka_site.tenant, "worker.default")}
    consumer = Consumer({**group, "group.instance.id": "lost"})
    stale = consumer.consumer_group_metadata()
    member = Consumer(group)
    member.subscribe([physical(kafka_site.tenant, "job.grants.default")])
    _until(lambda: member.poll(0.1) is not None or len(member.assignment()) > 0)
    grant = TopicPartition(physical(kafka_site.tenant, "job.grants.default"), 0, 5)
    with pytest.raises(NothingWritten):
        transactor.commit([Out(STARTS, b"a", b"1")], [grant], stale)
    member.close()
    consumer.close()
    transactor.commit([Out(STARTS, b"a", b"2")])
    assert [record.value for record in kafka_site.read(STARTS, 1)] == [b"2"]


def test_a_record_above_the_limit_is_refused_before_anything_is_written(transactor: Transactor) -> None:
    """Size is checked before the transaction begins."""
    with pytest.raises(RecordTooLarge):
        transactor.commit([Out(STARTS, b"a", b"1"), Out(STARTS, b"a", b"x" * (RECORD_BYTES_MAX + 1))])
    assert len(transactor.commit([Out(STARTS, b"a", b"1")])) == 1


def test_a_lost_connection_costs_a_transactor_only_its_producer(kafka_site: KafkaSite, proxy: Proxy) -> None:
    """A request that was sent twice is on its way to a producer that is no more; the next commit takes a new one."""
    transactor = _transactor(kafka_site, **{"bootstrap.servers": proxy.address})
    before = transactor._producer
    proxy.hold_next(END_TXN, cut=True)
    transactor.commit([Out(STARTS, b"a", b"1")])
    transactor.commit([Out(STARTS, b"a", b"2")])
    assert transactor._producer is not before
    proxy.release()
    transactor.commit([Out(STARTS, b"a", b"3")])
    assert [record.value for record in kafka_site.read(STARTS, 3)] == [b"1", b"2", b"3"]


def test_a_wrong_password_is_told_at_once(kafka_site: KafkaSite) -> None:
    """Whoever connects learns that the login is refused, and by which name."""
    with pytest.raises(LoginRefused, match=r"worker\.default"):
        _transactor(kafka_site, **{"sasl.password": "wrong"})


def test_a_broker_that_is_not_there_is_told_with_its_address() -> None:
    """Nothing listens: the text names the address."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await_broker({"bootstrap.servers": "127.0.0.1:1"}, wait_sec=0.1)
