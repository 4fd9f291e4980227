"""How a handler's process ends: by itself, by its bounds, by a crash; and that nothing of it is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from handler_world import World, grows_no_more

from sluicegate.clients.handler_process import KILL_AFTER_SEC, HandlerProcess
from sluicegate.clients.judging import Terms

SHORT: float = 0.2
BRIEF = Terms(runtime_sec_max=SHORT)


def test_a_handler_runs_in_a_process_and_its_value_comes_back(either: World) -> None:
    """What it returns is the output, byte for byte as JSON writes it."""
    payload = {"n": 1, "word": "straße \u2028", "large": 2**70, "small": 1e-7, "list": [None, True, [], {}]}
    ran = either.run("noop", payload)
    assert (ran.word, ran.value) == ("finished", {"got": payload})


def test_a_coroutine_function_is_awaited(either: World) -> None:
    """A handler may be one."""
    assert either.run("coroutine", 3).value == {"waited": 3}


def test_a_handler_gets_the_whole_call(inside: World) -> None:
    """Names, constraints, credentials; a note comes out while it runs."""
    ran = inside.run("what_it_gets")
    assert ran.value == ["j1", "job.read", {}, 1, "a", None, {}]
    assert ran.notes == ["half of it"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("raises", "ValueError"),
        ("unprintable", "Mute"),
        ("exits", "SystemExit"),
        ("too_large", "OutputTooLarge"),
        ("not_json", "BadOutput"),
    ],
)
def test_what_a_handler_raises_is_its_failure(either: World, name: str, kind: str) -> None:
    """With its kind; what it returned and cannot be an output is one too."""
    ran = either.run(name)
    assert (ran.word, ran.error) == ("failed", kind)


def test_an_output_above_the_grant_s_own_limit_is_a_breach(inside: World) -> None:
    """It is refused, and told."""
    ran = inside.run("noop", "x" * 100, terms=Terms(output_bytes_max=50))
    assert (ran.word, ran.error) == ("failed", "OutputTooLarge")
    assert [(each.constraint, each.prevented) for each in ran.breaches] == [("max_output_bytes", True)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("segfaults", "SIGSEGV"),
        ("kills_itself", "SIGKILL"),
        ("leaves", "code 0 and without a result"),
    ],
)
def test_a_crash_is_a_failure_that_says_how(either: World, name: str, words: str) -> None:
    """The worker goes on, and the log has the signal or the code."""
    ran = either.run(name)
    assert (ran.word, ran.error) == ("failed", "Crashed")
    assert words in ran.value["error"]["message"]


@pytest.mark.parametrize(("name", "namespaces"), [("deaf", False), ("deaf", True), ("stops_itself", True)])
def test_what_overruns_is_asked_and_then_killed(inside: World, outside: World, name: str, namespaces: bool) -> None:
    """At `max_runtime_sec` it is asked, `KILL_AFTER_SEC` later it is gone, whatever it ignores meanwhile."""
    ran = (inside if namespaces else outside).run(name, terms=BRIEF)
    assert (ran.word, ran.error) == ("overran", "Overran")
    assert SHORT + KILL_AFTER_SEC <= ran.took_sec < SHORT + KILL_AFTER_SEC + 2
    assert [(each.constraint, each.prevented) for each in ran.breaches] == [("max_runtime_sec", False)]


def test_whoever_kills_it_cannot_be_stopped_from_inside(inside: World) -> None:
    """A signal to its parent has no effect: that is process 1 of the namespace."""
    ran = inside.run("frozen_parent", terms=BRIEF)
    assert (ran.word, ran.took_sec < SHORT + KILL_AFTER_SEC + 2) == ("overran", True)


def test_what_is_returned_after_the_bound_is_not_taken(either: World) -> None:
    """A handler that ends when it is asked to has overrun all the same, and is not waited for any longer."""
    ran = either.run("late", terms=BRIEF)
    assert (ran.word, ran.error) == ("overran", "Overran")
    assert ran.took_sec < SHORT + KILL_AFTER_SEC


def test_a_handler_within_its_bound_has_not_overrun(either: World) -> None:
    """The bound costs nothing."""
    ran = either.run("noop", terms=Terms(runtime_sec_max=20))
    assert (ran.word, ran.breaches) == ("finished", [])


@pytest.mark.parametrize(
    "name", ["detaches", "detaches_and_overruns", "detaches_and_crashes", "starts_a_program", "leaves_a_thread"]
)
def test_nothing_of_it_runs_on(either: World, tmp_path: Path, name: str) -> None:
    """A detached grandchild in its own session, a program, a thread: gone once the attempt has ended."""
    file = tmp_path / "ticks"
    either.run(name, str(file), terms=BRIEF)
    assert grows_no_more(file)


def test_a_fork_bomb_is_killed(either: World) -> None:
    """More processes than allowed end the attempt, and all of them."""
    ran = either.run("bomb", processes_max=40)
    assert ran.error == "TooManyProcesses"


def test_killing_everything_kills_the_handler_alone(inside: World) -> None:
    """What it can signal is what it made: the worker answers the next one."""
    inside.run("kills_everything")
    assert inside.run("noop").word == "finished"


def test_a_handler_that_is_asked_stops(either: World) -> None:
    """By `wait` and `check`; the output says that what it did stands."""
    ran = either.run("patient", during=lambda process: process.ask("`operator/olga` stopped `agent:a`"))
    assert (ran.word, ran.error, ran.value["error"]["message"]) == (
        "stopped",
        "Stopped",
        "`operator/olga` stopped `agent:a`; what it did outside is not undone",
    )


def test_every_process_of_a_handler_learns_that_it_should_stop(either: World) -> None:
    """Also one that it forked."""
    ran = either.run("patient_fork", during=lambda process: process.ask("over"))
    assert ran.value == [True, 7]


def test_a_handler_that_was_asked_before_it_began_stops(inside: World) -> None:
    """No stop is lost between a start and its process."""
    process = inside.process("patient")
    process.ask("too late")
    process.start()
    ending = process.wait()
    assert ending.said is not None
    assert ending.said.stopped  # type: ignore[union-attr]


def test_a_killed_handler_is_gone(either: World) -> None:
    """At once, without being asked."""
    ran = either.run("patient", during=HandlerProcess.kill)
    assert (ran.word, ran.error) == ("stopped", "Crashed")


def test_a_handler_dies_with_its_worker(inside: World, run_dir: Path, tmp_path: Path) -> None:
    """The end of the worker's zygote is the end of whatever it had begun."""
    file = tmp_path / "ticks"
    world = World(True, run_dir)
    process = world.process("ticks_and_notes", str(file), note=lambda _: world.zygote.close())
    process.start()
    assert process.wait().said is None
    until = time.monotonic() + 5  # here nobody waits for the kernel
    while not grows_no_more(file):
        assert time.monotonic() < until


def test_what_a_handler_prints_goes_where_the_worker_says(either: World) -> None:
    """Its own words and its children's; without a log nowhere."""
    printed: list[bytes] = []
    assert either.run("prints", log=printed.append).word == "finished"
    assert b"".join(printed).split(b"\n") == [b"said aloud", b"by a child", b"and as an error", b""]
    assert either.run("prints").word == "finished"
