"""The supervisor: processes of their own, restarted, ready, ended with their parent. No Kafka is needed for that."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sluicegate.infra import supervisor as module
from sluicegate.infra.supervisor import Supervisor, settings_environment
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.settings import Settings

CHILD = """
import json, os, pathlib, signal, sys, time
from sluicegate.infra.supervisor import die_with_parent
name, _, instance, _, parent = sys.argv[1:]
die_with_parent(int(parent))
how = name.partition("-")[0]
print(f"{how} says hello")
if how == "unusable":
    sys.exit(2)
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how != "mute":
    path = pathlib.Path(os.environ["SLUICEGATE_RUN_DIR"]) / "run" / f"{name}.{instance}.json"
    path.write_text(json.dumps({"pid": os.getpid(), "health_port": 1234, "ready": True}))
signal.signal(signal.SIGINT, signal.SIG_DFL)
while True:
    time.sleep(60)
"""

PARENT = """
import sys, time
from sluicegate.infra.supervisor import Supervisor
from sluicegate.streams.settings import Settings
found = Supervisor(Settings(run_dir={run_dir!r}), ["good"], command=[sys.executable, {script!r}])
found.start()
found.wait_ready(20)
print(found.pids()["good.0"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run folder of its own."""
    return Settings(run_dir=tmp_path / "run")


Make = Callable[..., Supervisor]


@pytest.fixture
def make(settings: Settings, tmp_path: Path) -> Iterator[Make]:
    """Supervisors over a small script; all are stopped."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    made: list[Supervisor] = []

    def start(*names: str, **more: object) -> Supervisor:
        found = Supervisor(settings, names, command=(sys.executable, str(script)), **more)  # type: ignore[arg-type]
        made.append(found)
        found.start()
        return found

    yield start
    for each in made:
        each.stop(timeout_sec=2)


def wait_until(true: Callable[[], bool], sec: float = 20.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + sec
    while not true():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_ready_means_that_this_very_process_said_so(make: Make, settings: Settings) -> None:
    """Readiness is what a process wrote about itself, with its own process id; an older file counts for nothing."""
    stale = settings.run_dir / "run" / "mute.0.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"pid": 1, "health_port": 1, "ready": true}')
    found = make("good", "mute")
    wait_until(lambda: found.status()[0].state == "ready")
    assert found.status()[0].health_port == 1234
    assert found.status()[1].state == "starting"
    with pytest.raises(Unavailable, match=r"`mute\.0` is not ready"):
        found.wait_ready(0.2)


def test_a_killed_process_is_restarted(make: Make) -> None:
    """After `kill -9` another process of the same instance becomes ready, and the restart is counted."""
    found = make("good")
    found.wait_ready(20)
    killed = found.kill("good")
    wait_until(lambda: found.pids().get("good.0") not in (None, killed))
    found.wait_ready(20)
    state = found.status()[0]
    assert (state.restarts, state.exit_code) == (1, -signal.SIGKILL)


def test_restarts_slow_down(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each quick end doubles the wait before the next start."""
    monkeypatch.setattr(module, "BACKOFF_FIRST_SEC", 0.1)
    found = make("good")
    started: list[float] = []
    for number in range(4):
        wait_until(lambda: "good.0" in found.pids())
        started.append(time.monotonic())
        if number < 3:
            found.kill("good")
            wait_until(lambda: "good.0" not in found.pids())
    gaps = [after - before for before, after in itertools.pairwise(started)]
    assert gaps[1] > 0.15
    assert gaps[2] > 0.35


def test_an_unusable_configuration_is_not_tried_again(make: Make) -> None:
    """Exit 2 means that starting again would not help: waiting ends at once and shows the log's last lines."""
    found = make("unusable")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="unusable says hello"):
        found.wait_ready(30)
    assert time.monotonic() - began < 15
    assert found.status()[0].restarts == 0


def test_stop_ends_every_process(make: Make) -> None:
    """SIGTERM for all, SIGKILL for the one that ignores it; nothing is left or restarted."""
    found = make("good", "stubborn", instances={"good": 2})
    found.wait_ready(20)
    pids = list(found.pids().values())
    assert len(pids) == 3
    found.stop(timeout_sec=1)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert {state.state for state in found.status()} == {"stopped"}
    found.stop()


def test_a_removed_process_stays_away(make: Make) -> None:
    """`remove` ends one process for good; the others go on."""
    found = make("good", "mute")
    wait_until(lambda: len(found.pids()) == 2)
    found.remove("mute")
    wait_until(lambda: list(found.pids()) == ["good.0"])
    assert [state.state for state in found.status()][1] == "stopped"
    found.wait_ready(20)


def test_processes_die_with_a_killed_parent(settings: Settings, tmp_path: Path) -> None:
    """When the supervisor's process is killed, its children are gone: no orphan holds a lock or a port."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    program = PARENT.format(run_dir=str(settings.run_dir), script=str(script))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_an_interrupt_of_the_terminal_reaches_the_parent_only(make: Make) -> None:
    """Children stand in process groups of their own, so Ctrl-C lets the supervisor end them in order."""
    found = make("good")
    found.wait_ready(20)
    assert os.getpgid(found.pids()["good.0"]) != os.getpgid(0)


def test_settings_travel_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child reads the very settings of its parent from its environment, whatever the file in its folder says."""
    settings = Settings(
        tenant="acme", run_dir=tmp_path / "r", pools=("deploy",), control_age_ms_max=2_000, attempts_max=7
    )
    (tmp_path / "sluicegate.yaml").write_text("tenant: other\nattempts_max: 2\n")
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert Settings() == settings


def test_a_log_does_not_grow_for_ever(make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log is cut, one older part is kept."""
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 10)
    found = make("good")
    log = settings.run_dir / "logs" / "good.0.log"
    wait_until(lambda: log.with_suffix(".log.1").exists(), sec=30)
    assert "hello" in log.with_suffix(".log.1").read_text() or log.stat().st_size < 20
    assert found.status()[0].pid is not None


def test_an_unknown_process_is_named(make: Make) -> None:
    """Killing what is not there says what there is."""
    with pytest.raises(BadInput, match=r"good\.0"):
        make("good").kill("gate")
