"""How handlers get into a process of their own: by value or by name, and what cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handler_world import given

from sluicegate.clients.call import Call
from sluicegate.clients.frames import Returned
from sluicegate.clients.handler_log import HandlerLog
from sluicegate.clients.handler_process import HandlerProcess
from sluicegate.clients.handlers import Handlers
from sluicegate.clients.judging import Refuse, Start, Terms
from sluicegate.clients.worker import Worker
from sluicegate.clients.zygote_process import Zygote, isolation, pickled, scrubbed
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.settings import Settings


def value_of(handler: Callable[[Call], Any], payload: Any = None) -> bytes:
    """What a handler returns from a zygote of its own."""
    zygote = Zygote([("*", handler)], scrubbed(os.environ, {}))
    try:
        process = HandlerProcess(zygote, 0, given(payload), Terms())
        process.start()
        said = process.wait().said
    finally:
        zygote.close()
    assert isinstance(said, Returned), said
    return bytes(said.content)


def closure(factor: int) -> Callable[[Call], Any]:
    async def handler(call: Call) -> Any:
        return call.payload * factor

    return handler


@pytest.mark.parametrize("handler", [lambda call: call.payload * 3, closure(3)])
def test_a_lambda_and_a_closure_are_brought_by_value(handler: Callable[[Call], Any]) -> None:
    """With what they close over; a coroutine function too."""
    assert value_of(handler, 14) == b"42"


SCRIPT = textwrap.dedent(
    """
    import os, sys
    from sluicegate.clients.call import Call, Given
    from sluicegate.clients.handler_process import HandlerProcess
    from sluicegate.clients.judging import Terms
    from sluicegate.clients.zygote_process import Zygote, scrubbed

    print("begun")
    FACTOR = 2

    def twice(number: int) -> int:
        return number * FACTOR

    def handler(call: Call) -> int:
        return twice(call.payload)

    given = Given(
        job_id="j", topic="t", payload=21, constraints={}, attempt=1, agent_id="a", on_behalf_of=None, credentials={}
    )
    process = HandlerProcess(Zygote([("*", handler)], scrubbed(os.environ, {})), 0, given, Terms())
    process.start()
    print(bytes(process.wait().said.content).decode())
    """
)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    """What stands in `__main__` goes by value with all it names; the script is not run again in another process."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["begun", "42"]


def test_a_file_in_the_working_folder_stands_in_for_no_module(tmp_path: Path) -> None:
    """The process that handlers are forked from imports what is installed, not what lies where it was started."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('taken over')")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    run = [sys.executable, str(script)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=True, timeout=60)
    assert done.stdout.split() == ["begun", "42"]


def test_a_module_that_was_loaded_by_path_is_brought_by_value(tmp_path: Path) -> None:
    """It cannot be imported by its name."""
    import importlib.util

    file = tmp_path / "loaded_by_path.py"
    file.write_text("def inner(n):\n    return n + 1\n\n\ndef handler(call):\n    return inner(call.payload)\n")
    spec = importlib.util.spec_from_file_location("loaded_by_path", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loaded_by_path"] = module
    spec.loader.exec_module(module)
    try:
        assert value_of(module.handler, 41) == b"42"
    finally:
        del sys.modules["loaded_by_path"]


def test_a_handler_that_cannot_be_brought_is_named() -> None:
    """With what is in the way, and what to do."""
    lock = threading.Lock()

    def held(call: Call) -> Any:
        with lock:
            return 1

    with pytest.raises(BadInput, match=r"held \(job\.\*\)` cannot be brought .* inside the handler"):
        pickled([("job.*", held)])


def test_a_worker_with_such_a_handler_does_not_run(tmp_path: Path) -> None:
    """Nothing is taken, and nobody is logged in."""
    lock = threading.Lock()
    with pytest.raises(BadInput, match="cannot be brought"):
        Worker(Settings(run_dir=tmp_path, sealing="none"), "default", {"job.*": lambda _: lock.locked()}).run()


class Unloadable:
    """Can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))

    def __call__(self, call: Call) -> Any:
        return 1


def test_a_handler_that_cannot_be_loaded_there_is_named() -> None:
    """What its module raises is told by `ready`."""
    zygote = Zygote([("job.*", Unloadable())], {})
    with pytest.raises(BadInput, match=r"Unloadable \(job\.\*\)` cannot be loaded .* ValueError"):
        zygote.ready()
    zygote.close()


def test_a_zygote_that_was_killed_is_replaced() -> None:
    """The next attempt has a new one."""
    zygote = Zygote([("*", lambda call: call.payload)], scrubbed(os.environ, {}))
    zygote.ready()
    zygote._process.kill()
    zygote._process.wait()
    process = HandlerProcess(zygote, 0, given(7), Terms())
    process.start()
    said = process.wait().said
    zygote.close()
    assert isinstance(said, Returned)


def test_isolation_says_what_there_is() -> None:
    """The same for everyone who asks on this machine, with a reason where there is none."""
    found = isolation()
    assert found is isolation()
    assert found.namespaces is (found.why is None)


def test_a_worker_says_what_isolation_its_handlers_get(tmp_path: Path) -> None:
    """Before it runs too."""
    assert Worker(Settings(run_dir=tmp_path, sealing="none"), "default").isolation == isolation()


def test_a_grant_that_a_handler_cannot_be_held_to_is_refused() -> None:
    """Registered with `spends` the same grant starts, with the budget."""
    handlers = Handlers()
    handlers.add("job.a", lambda _: 1)
    handlers.add("job.b", lambda _: 1, spends=("max_affected_rows",))
    start = Start({}, {"max_affected_rows": 5, "max_runtime_sec": 9})
    refused = handlers.hold(0, start)
    assert isinstance(refused, Refuse)
    assert refused.code == "constraint_unenforceable"
    held = handlers.hold(1, start)
    assert isinstance(held, Start)
    assert (held.terms.runtime_sec_max, held.terms.budget) == (9, {"max_affected_rows": 5})
    assert [handlers.find(topic) for topic in ("job.a", "job.b", "job.c")] == [0, 1, None]


def test_a_true_constraint_chooses_the_credentials() -> None:
    """That set alone; the usual one otherwise."""
    handlers = Handlers(credentials={"": {"dsn": "rw"}, "read_only": {"dsn": "ro"}})
    handlers.add("*", lambda _: 1)
    for constraints, wanted in (({"read_only": True}, {"dsn": "ro"}), ({}, {"dsn": "rw"})):
        held = handlers.hold(0, Start({}, constraints))
        assert isinstance(held, Start)
        assert handlers.credentials_of(held) == wanted


def test_handlers_without_a_zygote_have_no_process() -> None:
    """Between `begin` and `end` alone."""
    handlers = Handlers()
    handlers.add("*", lambda _: 1)
    with pytest.raises(Unavailable):
        handlers.process(0, given(), Start({}, {}), lambda _: None)


def test_a_log_of_handlers_is_bounded_and_private(tmp_path: Path) -> None:
    """One file and one before it, of so many bytes each, for the worker's user alone."""
    log = HandlerLog(tmp_path / "handlers.log", bytes_max=100)
    for _ in range(50):
        log.write(b"0123456789\n" * 3)
    log.write(b"x" * 1_000)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["handlers.log", "handlers.log.1"]
    assert all(file.stat().st_size <= 100 and file.stat().st_mode & 0o077 == 0 for file in files)
