"""What both engines promise a step; each rule runs in memory and on Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from engine_worlds import (
    EVENTS,
    FIRED,
    REQUESTS,
    RESOLUTIONS,
    VERDICTS,
    KafkaWorld,
    MemoryWorld,
    World,
    assert_exactly_once,
    bodies,
    counting_step,
)

from sluicegate.schemas.errors import InvariantBroken, RecordTooLarge, StaleControl
from sluicegate.streams.engine import RECORD_BYTES_MAX, STATE_BYTES_MAX, Out, Record, Store


@pytest.fixture(params=["memory", "kafka"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kafka = request.param == "kafka"
    found = KafkaWorld(request.getfixturevalue("kafka_site")) if kafka else MemoryWorld()
    yield found
    found.close()


class _Once:
    """A step that runs another one, but raises at its n-th call."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def __call__(self, store: Store, record: Record, control: object) -> Sequence[Out]:
        outs = counting_step(store, record, control)
        self.calls += 1
        if self.calls == self.at:
            raise ArithmeticError("a bug in the step")
        return outs


class _Stale:
    """A control that goes stale at the n-th question."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.asked = 0

    def current(self) -> None:
        self.asked += 1
        if self.asked >= self.at:
            raise StaleControl("control is stale")


def test_inputs_of_a_key_are_met_in_order_and_share_one_state(world: World) -> None:
    """A key's state is one over all inputs, and each partition is met in its order."""
    for number in range(60):
        world.produce((REQUESTS, VERDICTS, FIRED)[number % 3], b"key-%d" % (number % 5), b"%d" % number)
    world.start()
    found = world.outputs(EVENTS, 60)
    assert_exactly_once(found, 60)
    for said in bodies(found).values():
        for topic in (REQUESTS, VERDICTS, FIRED):
            offsets = [body["cause"][2] for body in said if body["cause"][0] == topic]
            assert offsets == sorted(offsets)


def test_outputs_go_to_their_own_topics_keys_and_headers(world: World) -> None:
    """An output is written under its own key with its own headers, in the partition its key belongs to."""
    world.produce(REQUESTS, b"key", b"value", (("trace", b"\x00\xff"), ("empty", b"")))
    world.start()
    (event,) = world.outputs(EVENTS, 1)
    (resolution,) = world.outputs(RESOLUTIONS, 1)
    assert event.key == b"key"
    assert event.headers == (("seq", b"1"), ("trace", b"\x00\xff"), ("empty", b""))
    assert resolution.key == b"reply-key"
    assert resolution.headers == ()
    assert event.value == resolution.value


def test_a_failing_step_leaves_nothing_behind(world: World) -> None:
    """What the step raises ends the engine; the outputs, state and offsets of its transaction never appear."""
    for number in range(20):
        world.produce(REQUESTS, b"key-%d" % (number % 3), b"%d" % number)
    world.start(_Once(13))
    assert isinstance(world.failure(), ArithmeticError)
    world.start()
    assert_exactly_once(world.outputs(EVENTS, 20), 20)
    assert_exactly_once_replies(world)


def assert_exactly_once_replies(world: World) -> None:
    """The second topic holds exactly what the first one holds."""
    first = sorted(record.value for record in world.outputs(EVENTS, 0))
    assert sorted(record.value for record in world.outputs(RESOLUTIONS, len(first))) == first


def test_stale_control_ends_the_engine_before_it_commits(world: World) -> None:
    """A record whose control state is not fresh is not judged; after a restart it is, once."""
    for number in range(10):
        world.produce(VERDICTS, b"key", b"%d" % number)
    world.start(control=_Stale(5))
    assert isinstance(world.failure(), StaleControl)
    world.start()
    assert_exactly_once(world.outputs(EVENTS, 10), 10)


def test_state_comes_back_from_the_log(world: World) -> None:
    """An engine that lost its disk knows what it knew: the state is in the changelog, and readable to its login."""
    for number in range(12):
        world.produce(REQUESTS, b"key-%d" % (number % 3), b"%d" % number)
    world.start()
    world.outputs(EVENTS, 12)
    world.stop()
    world.forget()
    for number in range(12):
        world.produce(FIRED, b"key-%d" % (number % 3), b"%d" % number)
    world.start()
    assert_exactly_once(world.outputs(EVENTS, 24), 24)


def _state_step(store: Store, record: Record, control: object) -> Sequence[Out]:
    """Does with the state what the value says, and answers with what it then finds."""
    verb, _, rest = record.value.decode().partition(" ")
    name, _, value = rest.partition("=")
    if verb == "set":
        store.set(name, value.encode())
    elif verb == "delete":
        store.delete(name)
    found = store.get(name)
    return [Out(EVENTS, record.key, b"absent" if found is None else b"found " + found)]


def _answers(world: World, count: int) -> list[bytes]:
    return [record.value for record in world.outputs(EVENTS, count)]


def test_absent_empty_and_deleted_entries_differ(world: World) -> None:
    """An empty value is a value, a deleted entry is absent, and a recovery changes neither."""
    for value in (b"get a", b"set a=", b"set b=1", b"delete b", b"get b"):
        world.produce(REQUESTS, b"key", value)
    world.start(_state_step)
    assert _answers(world, 5) == [b"absent", b"found ", b"found 1", b"absent", b"absent"]
    world.stop()
    world.forget()
    world.produce(REQUESTS, b"key", b"get a")
    world.produce(REQUESTS, b"key", b"get b")
    world.start(_state_step)
    assert _answers(world, 7)[5:] == [b"found ", b"absent"]


def test_no_choice_of_keys_and_names_lets_two_entries_meet(world: World) -> None:
    """Keys are chosen by whoever writes an input; entries of different keys are different."""
    world.produce(REQUESTS, b"a|b", b"set c=1")
    world.start(_state_step)
    world.outputs(EVENTS, 1)
    for key, name in ((b"a", b"b|c"), (b"a|b|c", b""), (b"", b"a|b|c"), (b"a|", b"b|c")):
        world.produce(REQUESTS, key, b"get " + name)
    assert sorted(_answers(world, 5)) == [b"absent"] * 4 + [b"found 1"]


def test_a_record_delivered_twice_is_met_twice(world: World) -> None:
    """The engine does not guess which records are the same; that is the step's judgement."""
    for _ in range(2):
        world.produce(REQUESTS, b"key", b"same", (("id", b"1"),))
    world.start()
    assert_exactly_once(world.outputs(EVENTS, 2), 2)


def test_an_open_transaction_on_one_input_delays_no_other(world: World) -> None:
    """A writer that hangs in a transaction stops the readers of its partition, and nobody else."""
    close = world.open_transaction(VERDICTS, b"key", b"held back")
    world.start()
    for number in range(20):
        world.produce(REQUESTS, b"key", b"%d" % number)
    found = world.outputs(EVENTS, 20)
    assert_exactly_once(found, 20)
    assert {body["value"] for body in bodies(found)[b"key"]} == {str(number) for number in range(20)}
    close(True)
    assert bodies(world.outputs(EVENTS, 21))[b"key"][-1]["value"] == "held back"


def test_an_aborted_record_is_never_met(world: World) -> None:
    """What a writer took back was never there."""
    world.open_transaction(REQUESTS, b"key", b"taken back")(False)
    world.produce(REQUESTS, b"key", b"said")
    world.start()
    assert [body["value"] for body in bodies(world.outputs(EVENTS, 1))[b"key"]] == ["said"]


def test_instances_share_the_work_and_take_over_from_each_other(world: World) -> None:
    """Whichever instance meets a key, its state is the same; one that ends cleanly has committed all it did."""
    world.start(instance="0")
    for number in range(30):
        world.produce(REQUESTS, b"key-%d" % (number % 10), b"%d" % number)
    world.start(instance="1")
    world.outputs(EVENTS, 30)
    world.stop("0")
    for number in range(30):
        world.produce(VERDICTS, b"key-%d" % (number % 10), b"%d" % number)
    assert_exactly_once(world.outputs(EVENTS, 60), 60)


@pytest.mark.parametrize("size", [RECORD_BYTES_MAX + 1, 2 * RECORD_BYTES_MAX])
def test_an_output_above_its_limit_is_refused_before_it_is_produced(world: World, size: int) -> None:
    """The engine ends instead of handing the broker what it would refuse after the fact."""
    world.produce(REQUESTS, b"key", b"value")
    world.start(lambda *_: [Out(EVENTS, b"", b"x" * size)])
    assert isinstance(world.failure(), RecordTooLarge)


def test_outputs_and_state_at_their_limits_fit(world: World) -> None:
    """The limits are those that the broker takes: the largest output and entry are written, and recovered."""

    def step(store: Store, record: Record, control: object) -> Sequence[Out]:
        known = store.get("large")
        store.set("large", b"x" * STATE_BYTES_MAX)
        said = b"%d" % len(known or b"")
        return [Out(EVENTS, b"key", said.ljust(RECORD_BYTES_MAX - len(b"key")))]

    world.produce(REQUESTS, b"key", b"value")
    world.start(step)
    world.outputs(EVENTS, 1)
    world.stop()
    world.forget()
    world.produce(REQUESTS, b"key", b"value")
    world.start(step)
    assert [int(record.value) for record in world.outputs(EVENTS, 2)] == [0, STATE_BYTES_MAX]


def test_an_entry_above_its_limit_is_refused(world: World) -> None:
    """State that the changelog could not carry is an error of the step, found before anything is committed."""

    def step(store: Store, record: Record, control: object) -> Sequence[Out]:
        store.set("large", b"x" * (STATE_BYTES_MAX + 1))
        return []

    world.produce(REQUESTS, b"key", b"value")
    world.start(step)
    assert isinstance(world.failure(), RecordTooLarge)


def test_an_application_writes_only_where_the_topic_table_lets_it(world: World) -> None:
    """A step that writes a grant from the desk ends its process."""
    world.produce(REQUESTS, b"key", b"value")
    world.start(lambda *_: [Out("job.grants.default", b"key", b"grant")])
    assert isinstance(world.failure(), InvariantBroken)
