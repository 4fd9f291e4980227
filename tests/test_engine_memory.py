"""The engine in memory under injected faults, and the partitioner both engines share."""

from __future__ import annotations

import pytest
from engine_worlds import (
    DESK,
    EVENTS,
    FIRED,
    REQUESTS,
    RESOLUTIONS,
    VERDICTS,
    NoControl,
    assert_exactly_once,
    counting_step,
)

from sluicegate.schemas.errors import InvariantBroken
from sluicegate.streams.engine import Record
from sluicegate.streams.memory import EPOCH_MS, Crashed, Fault, Faults, MemoryEngine, MemoryLog, run_until_idle
from sluicegate.streams.partitioner import murmur2, partition_for

INPUTS = 8


def _log(faults: Faults | None = None, inputs: int = INPUTS) -> MemoryLog:
    log = MemoryLog(faults=faults)
    for number in range(inputs):
        log.produce((REQUESTS, VERDICTS, FIRED)[number % 3], b"key-%d" % (number % 3), b"%d" % number)
    return log


def _engine(log: MemoryLog, faults: Faults | None = None, instance: str = "0") -> MemoryEngine[None]:
    return MemoryEngine(log, DESK, counting_step, NoControl(), instance=instance, faults=faults, batch_records=3)


def _effects() -> int:
    faults = Faults()
    log = _log()
    _engine(log, faults).run_until_idle()
    return faults.effects


@pytest.mark.parametrize("fault", ["crash", "stale_control", "rebalance", "clock_jump"])
def test_a_fault_between_any_two_effects_loses_and_doubles_nothing(fault: Fault) -> None:
    """Wherever an engine is struck, its transaction is whole or absent; after it goes on, each input counted once."""
    for at in range(_effects()):
        faults = Faults(script={at: fault})
        log = _log()
        run_until_idle(log, _engine(log, faults))
        assert faults.struck == [(at, fault)]
        assert_exactly_once(log.records(EVENTS), INPUTS)
        assert_exactly_once(log.records(RESOLUTIONS), INPUTS)


def _storm(seed: int) -> tuple[list[Record], int, Faults]:
    foreign = Faults(seed=seed, rates={"duplicate": 0.05, "delay": 0.1})
    log = _log(foreign, 200)
    faults = Faults(
        seed=seed,
        rates={"crash": 0.01, "rebalance": 0.01, "stale_control": 0.005, "clock_jump": 0.01},
        shuffled=True,
    )
    run_until_idle(log, *(_engine(log, faults, instance) for instance in ("0", "1")))
    doubled = sum(1 for _, fault in foreign.struck if fault == "duplicate")
    return log.records(EVENTS), 200 + doubled, faults


@pytest.mark.parametrize("seed", range(10))
def test_many_faults_at_once_lose_and_double_nothing(seed: int) -> None:
    """Crashes, rebalances, stale control, jumping clocks, late and doubled records, topics met in any order."""
    records, inputs, faults = _storm(seed)
    assert {fault for _, fault in faults.struck} >= {"crash", "rebalance"}
    assert_exactly_once(records, inputs)


def test_a_seed_says_everything() -> None:
    """Two runs with one seed give the same bytes; another seed gives others."""
    assert _storm(1)[0] == _storm(1)[0]
    assert _storm(1)[0] != _storm(2)[0]


def test_a_transaction_that_a_rebalance_overtook_is_fenced() -> None:
    """The zombie's work is void: it commits nothing, and whoever owns the partition does it."""
    log = _log()
    engine = _engine(log, Faults(script={1: "rebalance"}))
    assert engine.run_once() == 0
    assert log.records(EVENTS) == []
    engine.run_until_idle()
    assert_exactly_once(log.records(EVENTS), INPUTS)


def test_a_dead_engine_must_be_restarted() -> None:
    """After a crash nothing runs until somebody begins a new process."""
    log = _log()
    engine = _engine(log, Faults(script={2: "crash"}))
    for _ in range(2):
        with pytest.raises(Crashed):
            engine.run_once()
    engine.restart()
    assert engine.run_once() == 3


def test_append_times_are_the_logs_own_and_offsets_have_gaps() -> None:
    """The clock ticks at each append and follows jumps; a transaction's end takes an offset, as on Kafka."""
    log = MemoryLog()
    first = log.produce(REQUESTS, b"key", b"")
    log.advance(-5_000)
    second = log.produce(REQUESTS, b"key", b"")
    assert (first.timestamp_ms, second.timestamp_ms) == (EPOCH_MS + 1, EPOCH_MS - 4_998)
    for _ in range(2):
        _engine_commits(log)
    assert [record.offset for record in log.records(EVENTS)] == [0, 1, 3]


def _engine_commits(log: MemoryLog) -> None:
    engine = _engine(log)
    engine.run_until_idle()
    engine.leave()
    log.produce(REQUESTS, b"key", b"")


def test_one_instance_name_runs_once() -> None:
    """Two engines of one name would be one zombie too many."""
    log = _log()
    _engine(log)
    with pytest.raises(InvariantBroken, match="`0`"):
        _engine(log)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    """The values are those that Kafka's own test of its hash expects."""
    assert murmur2(key) == expected & 0xFFFFFFFF
    assert partition_for(key, 7) == (expected & 0x7FFFFFFF) % 7
