"""Handlers' processes as a test starts them: one zygote with all that handlers may try, with and without namespaces."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import handler_attacks
import handler_budgets
import handler_hostile
import handler_network
import pytest
from clients_events import grant

from sluicegate.clients.attempts import Breach, Finished, finished
from sluicegate.clients.call import Call, Given
from sluicegate.clients.handler_process import HandlerProcess
from sluicegate.clients.judging import Terms
from sluicegate.clients.sandbox import place
from sluicegate.clients.zygote_process import Zygote, scrubbed

HANDLERS: dict[str, Callable[[Call], Any]] = {
    name: found
    for module in (handler_attacks, handler_budgets, handler_hostile, handler_network)
    for name, found in vars(module).items()
    if callable(found) and getattr(found, "__module__", "") == module.__name__ and not name.startswith("_")
}
NAMES = list(HANDLERS)
WAIT_SEC = 30.0


def given(payload: Any = None, **more: Any) -> Given:
    values: dict[str, Any] = {
        "job_id": "j1",
        "topic": "job.read",
        "payload": payload,
        "constraints": {},
        "attempt": 1,
        "agent_id": "a",
        "on_behalf_of": None,
        "credentials": {},
    }
    return Given(**{**values, **more})


class Ran:
    """A handler that ran: how the log would say that it ended, and what else came of it."""

    def __init__(self, done: Finished, breaches: list[Breach], took_sec: float, notes: list[str]) -> None:
        import json

        self.done, self.breaches, self.took_sec, self.notes = done, breaches, took_sec, notes
        self.value = json.loads(done.content)
        self.word = done.word

    @property
    def error(self) -> str:
        """The kind of its failure."""
        return str(self.value["error"]["type"])


class World:
    """Runs handlers by their names."""

    def __init__(self, namespaces: bool, run_dir: Path) -> None:
        self.namespaces, self.run_dir = namespaces, run_dir
        given_environment = {"HANDED_ON": "yes"}
        handlers = [(name, HANDLERS[name]) for name in NAMES]
        self.zygote = Zygote(handlers, scrubbed(os.environ, given_environment), namespaces=namespaces)

    def process(self, name: str, payload: Any = None, *, terms: Terms | None = None, **more: Any) -> HandlerProcess:
        return HandlerProcess(
            self.zygote, NAMES.index(name), given(payload), terms or Terms(), hidden=[place(self.run_dir)], **more
        )

    def run(
        self,
        name: str,
        payload: Any = None,
        *,
        terms: Terms | None = None,
        during: Callable[[HandlerProcess], None] | None = None,
        **more: Any,
    ) -> Ran:
        """Run it to its end; ``during`` is called with its process at each sign of life."""
        notes: list[str] = []
        made: list[HandlerProcess] = []

        def note(text: str) -> None:
            notes.append(text)
            if during is not None:
                during(made[0])

        process = self.process(name, payload, terms=terms, note=note, **more)
        made.append(process)
        began = time.monotonic()
        process.start()
        ending = process.wait()
        took_sec = time.monotonic() - began
        done = finished(grant(), ending, terms or Terms(), asked=during is not None)
        breaches = list(done.breaches)
        while not process.breaches.empty():
            breaches.append(process.breaches.get())
        return Ran(done, breaches, took_sec, notes)


def grows_no_more(file: Path) -> bool:
    """Whether nobody appends to a file any more, who did so every 5 ms."""
    before = file.stat().st_size
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        if file.stat().st_size != before:
            return False
    return before > 0


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("run")
    (found / "secret").write_text("a key")
    return found


@pytest.fixture(scope="module")
def inside(run_dir: Path) -> Iterator[World]:
    """With namespaces; started inside the run folder, as a worker may be."""
    before = Path.cwd()
    os.chdir(run_dir)
    try:
        world = World(True, run_dir)
        assert world.zygote.ready().isolation.namespaces, world.zygote.ready()
    finally:
        os.chdir(before)
    yield world
    world.zygote.close()


@pytest.fixture(scope="module")
def outside(run_dir: Path) -> Iterator[World]:
    """Without namespaces, as where the kernel does not give them."""
    world = World(False, run_dir)
    yield world
    world.zygote.close()


@pytest.fixture(scope="module", params=["namespaces", "none"])
def either(request: pytest.FixtureRequest, inside: World, outside: World) -> World:
    """Each of the two."""
    return inside if request.param == "namespaces" else outside
