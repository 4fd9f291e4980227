"""A worker's turn without a broker: what it does while nothing can be taken, and once no command is heard any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients_events import grant
from clients_world import Control
from handler_world import World

from sluicegate.clients.attempts import Attempt, Finished
from sluicegate.clients.intake import Waiting
from sluicegate.clients.judging import Refuse, Start, Terms
from sluicegate.clients.worker import Worker
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import LoginRefused
from sluicegate.schemas.events import Event, StopAnswered
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_reader import ControlConfig, ControlReader
from sluicegate.streams.control_scopes import Stop
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier
from sluicegate.streams.kafka import signed_headers
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical
from sluicegate.streams.transact import NothingWritten

CODEC = Codec(registry_for(""))
GATE = Ed25519Signer("gate/g", b"g" * 32)
Running = Callable[[Worker], tuple[Attempt, threading.Event]]


class Grants:
    """Grants that wait, as many as a test says; none can be taken for good."""

    def __init__(self, *waiting: Waiting) -> None:
        self.waiting, self.assigned = list(waiting), True

    def poll(self, _: float) -> None:
        pass

    def offsets(self, _: list[Waiting]) -> list[Any]:
        return []

    def metadata(self) -> None:
        return None

    def take(self, taken: list[Waiting]) -> None:
        self.waiting = [each for each in self.waiting if each not in taken]


class Written:
    """A transactor that remembers; one that takes grants aborts."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def commit(self, outs: list[Out], *taking: Any) -> list[Any]:
        if taking:
            raise NothingWritten("a rebalance")
        self.events += [CODEC.decode(out.value) for out in outs]
        return []


def worker(control: Any) -> Worker:
    return Worker(Settings(sealing="none"), "default", {"job.*": lambda _: {}}, control=control)


def turn(of: Worker, grants: Grants, control: Any, written: Written | None = None) -> Written:
    """One turn of the worker."""
    given: Any = Written() if written is None else written
    with_grants: Any = grants
    of._tick(given, with_grants, control)
    found: Written = given
    return found


@pytest.fixture
def running(inside: World) -> Iterator[Running]:
    """Gives a worker an attempt whose handler ends when it is asked to; and what says that it has ended."""
    begun: list[tuple[Attempt, threading.Event]] = []

    def run(of: Worker) -> tuple[Attempt, threading.Event]:
        attempt, ended = Attempt(grant(), (), 1e12), threading.Event()

        def done(finished: Finished) -> None:
            of._finished.put(finished)
            ended.set()

        of._running[attempt.grant.grant_id] = attempt
        attempt.run(inside.process("patient"), Terms(), done)
        begun.append((attempt, ended))
        return attempt, ended

    yield run
    for attempt, ended in begun:
        attempt.stops.ask(Stop("over", "everything", 5, 0, "test", None), 0.0)
        assert ended.wait(30)


def dead_reader() -> ControlReader[ControlState]:
    """A reader whose login was refused after it had begun."""
    config = ControlConfig(connection={}, group="g", instance="1")
    reader = ControlReader(config, ControlFold(CODEC, "default", {}), ControlState())
    reader._failure = LoginRefused("password changed")
    return reader


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_whose_reader_of_commands_has_died_ends(running: Running, busy: bool) -> None:
    """Also while all its slots are full or no grant waits: nobody could pause or stop it any more."""
    reader = dead_reader()
    of = worker(reader)
    if busy:
        running(of)
    with pytest.raises(LoginRefused, match="password changed"):
        turn(of, Grants(), reader)


def signed(offset: int = 0, *, partition: int = 0, misplaced: bool = False) -> Waiting:
    """A sound grant in a record that the test's gate has signed."""
    made, key = grant(), b"j1"
    value, topic = CODEC.encode(made), "job.grants.default"
    headers = signed_headers(GATE, physical("default", topic), made, "r", 1, key, value)
    return Waiting(Record(topic, partition, offset, key, value, headers, 1), made, misplaced)


def test_a_grant_that_stands_in_another_place_runs_nothing() -> None:
    """A signed grant that is copied to another partition would be met by another worker, which has not seen it."""
    of, control = worker(Control()), ControlState()
    of._gates = {GATE.key_id: Ed25519Verifier(GATE.public())}
    assert isinstance(of._judge(signed(), 0, set(), control), Start)
    found = of._judge(signed(partition=1, misplaced=True), 0, set(), control)
    assert isinstance(found, Refuse)
    assert found.code == "grant_misrouted"


def test_what_runs_is_stopped_and_told_while_nothing_can_be_taken(running: Running) -> None:
    """Transactions that take grants abort, turn after turn; stops and ends go on."""
    control = Control()
    of = worker(control)
    waiting = Grants(Waiting(Record("job.grants.default", 0, 0, b"j1", b"no grant", (), 0), None))
    _, ended = running(of)
    control.state = ControlState(stops=(Stop("c1", "everything", 5, 0, "operator/olga", None),))
    turn(of, waiting, control)
    assert ended.wait(30)
    written = turn(of, waiting, control)
    assert [event.answer for event in written.events if isinstance(event, StopAnswered)] == ["stopped"]
    assert of._aborted_since is not None


def test_a_shorter_lease_holds_at_once_without_a_waiting_grant(running: Running) -> None:
    """A sign of life that was due by the old lease would come after the new one had ended the attempt."""
    control = Control()
    of = worker(control)
    attempt, _ = running(of)
    control.state = ControlState(shortest_lease_sec=1)
    turn(of, Grants(), control)
    assert of._lease_sec == 1
    assert attempt._beat_at < 1e12
