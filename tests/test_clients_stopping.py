"""How a running handler learns that it should stop, and what its command is answered; without Kafka."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clients_events import grant
from clients_world import Control

from sluicegate.clients.attempts import Attempt, Finished, WorkerEvents, finished
from sluicegate.clients.call import Call, run_call
from sluicegate.clients.frames import Note, Spend
from sluicegate.clients.handler_process import Ending
from sluicegate.clients.judging import Terms
from sluicegate.clients.keeper import Ended as ProcessEnded
from sluicegate.clients.stopping import KILLED_WITHIN_SEC, STOP_WITHIN_SEC, Answer, StopAnswers, Stopped, Stopping
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Ended, Output, StopAnswered
from sluicegate.streams.control_scopes import Stop
from sluicegate.streams.registry import registry_for

STOP = Stop("c1", "agent:a", 5, 0, "operator/olga", "drill")


def call(stopping: Stopping) -> Call:
    return Call(
        job_id="j1",
        topic="job.read",
        payload={},
        constraints={},
        attempt=1,
        agent_id="a",
        progress=lambda _: None,
        stopping=stopping,
    )


def nothing() -> None:
    """Kills nobody."""


def asked(kill: Any = nothing) -> tuple[Stopping, StopAnswers]:
    """A handler that was asked to stop at 100 s."""
    stopping = Stopping()
    answers = StopAnswers(stopping.ask, kill)
    answers.ask(STOP, 100.0)
    return stopping, answers


def words(answers: list[Answer]) -> list[tuple[str, str]]:
    return [(each.command_id, each.word) for each in answers]


def ran(handler: Any, stopping: Stopping) -> Finished:
    said = run_call(handler, call(stopping))
    assert not isinstance(said, Note | Spend)
    ending = Ending(said=said, ended=ProcessEnded(code=0), overran=False)
    return finished(grant(), ending, Terms(), asked=stopping.is_set())


def test_a_handler_learns_that_it_should_stop_and_why() -> None:
    """`is_set` and `wait` tell; the reason names who, what and why."""
    stopping, _ = asked()
    assert stopping.is_set()
    assert stopping.wait(0.0)
    assert stopping.reason == "`operator/olga` stopped `agent:a`: drill"


def test_nobody_is_asked_without_a_command() -> None:
    """A fresh handler runs on, and `check` raises nothing."""
    stopping = Stopping()
    stopping.check()
    assert not stopping.is_set()
    assert not stopping.wait(0.0)


def test_a_handler_that_raises_stopped_is_answered_as_stopped() -> None:
    """The job's output says so, and that what it did outside stands."""
    stopping, answers = asked()
    done = ran(lambda each: each.stopping.check(), stopping)
    assert (done.succeeded, done.stopped, done.word) == (False, True, "stopped")
    assert json.loads(done.content)["error"]["type"] == "Stopped"
    assert "not undone" in json.loads(done.content)["error"]["message"]
    assert words(answers.ended(stopped=done.stopped)) == [("c1", "stopped")]


def test_stopped_that_nobody_asked_for_is_a_failure() -> None:
    """A handler does not choose how its attempt is named."""

    def handler(_: Call) -> None:
        raise Stopped

    done = ran(handler, Stopping())
    assert (done.stopped, done.word) == (False, "failed")


def paid_thrice(each: Call) -> Any:
    """Does its whole work, with `wait` in the place of a sleep."""
    for _ in range(3):
        each.stopping.wait(0.001)
    return {"paid": 3}


@pytest.mark.parametrize("handler", [lambda _: {"whole": True}, lambda each: each.stopping.is_set(), paid_thrice])
def test_a_handler_that_returned_had_finished(handler: Any) -> None:
    """Whether or not it looked, its work is done: nobody may say that it was stopped."""
    stopping, answers = asked()
    done = ran(handler, stopping)
    assert (done.succeeded, done.word) == (True, "finished")
    assert words(answers.ended(stopped=done.stopped)) == [("c1", "already_finished")]


def test_a_handler_that_fails_while_it_is_asked_to_stop_is_answered_as_stopped() -> None:
    """It did not finish, by whatever exception it ended; without a stop the same is a failure."""

    def handler(_: Call) -> None:
        raise InterruptedError

    stopping, answers = asked()
    done = ran(handler, stopping)
    assert (done.stopped, done.word, done.detail) == (True, "stopped", "InterruptedError")
    assert words(answers.ended(stopped=done.stopped)) == [("c1", "stopped")]
    assert ran(handler, Stopping()).word == "failed"


def test_a_handler_that_does_not_end_in_time_is_killed() -> None:
    """Exactly once, after `STOP_WITHIN_SEC`; its end answers the command, and says how it came."""
    kills: list[str] = []
    _, answers = asked(lambda: kills.append("killed"))
    assert answers.overdue(100.0 + STOP_WITHIN_SEC - 0.001) == []
    assert kills == []
    assert answers.overdue(100.0 + STOP_WITHIN_SEC) == answers.overdue(101.0 + STOP_WITHIN_SEC) == []
    assert kills == ["killed"]
    (answer,) = answers.ended(stopped=True)
    assert (answer.word, "was killed with its children" in answer.detail) == ("stopped", True)


def test_a_handler_that_even_killing_does_not_end_is_unknown() -> None:
    """Exactly once, `KILLED_WITHIN_SEC` later; what it does later is told by its end."""
    _, answers = asked()
    last = 100.0 + STOP_WITHIN_SEC + KILLED_WITHIN_SEC
    assert answers.overdue(last - 0.001) == []
    assert words(answers.overdue(last)) == [("c1", "unknown")]
    assert answers.overdue(200.0) == []
    assert answers.ended(stopped=True) == []


def test_each_command_is_answered_once() -> None:
    """The same stop, met at every turn of the worker, asks once; another one is answered for itself."""
    _, answers = asked()
    answers.ask(STOP, 105.0)
    answers.ask(Stop("c2", "everything", 6, 0, "operator/olga", None), 105.0)
    assert words(answers.overdue(115.0)) == [("c1", "unknown")]
    assert words(answers.ended(stopped=True)) == [("c2", "stopped")]


def test_an_attempt_is_covered_by_stops_after_its_start_only() -> None:
    """What is started once a stopped scope goes on again is none of that stop's business."""
    attempt = Attempt(grant(), (), 0.0, control_offset=5)
    assert attempt.control_offset == 5
    control = Control().state.__class__(stops=(STOP,))
    job: tuple[str, str, list[str], str] = ("a", "job.read", [], "j1")
    assert control.stops_after(5, *job) == ()
    assert control.stops_after(4, *job) == (STOP,)


@pytest.mark.parametrize(("stopped", "outcome"), [(True, "stopped"), (False, "failed")])
def test_a_stopped_attempt_ends_so_in_the_log(stopped: bool, outcome: str) -> None:
    """An output that did not succeed, and an end in its own word."""
    codec = Codec(registry_for(""))
    done = Finished(grant=grant(), succeeded=False, content=b"{}", detail="Stopped", stopped=stopped)
    output, ended = (codec.decode(out.value) for out in WorkerEvents(codec, "w1").output(done, ()))
    assert isinstance(output, Output)
    assert isinstance(ended, Ended)
    assert (output.succeeded, ended.outcome) == (False, outcome)


def test_an_answer_is_written_under_the_agent_and_named_by_grant_and_command() -> None:
    """Written twice it is the same record."""
    codec = Codec(registry_for(""))
    events = WorkerEvents(codec, "w1")
    first, again = (events.stop_answered(grant(), Answer("c1", "stopped", "x"), ()) for _ in range(2))
    assert first == again
    event = codec.decode(first.value)
    assert isinstance(event, StopAnswered)
    assert (first.topic, first.key, event.command_id, event.answer) == ("job.starts", b"a", "c1", "stopped")
