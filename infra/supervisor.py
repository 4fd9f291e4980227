"""Runs each processor as a process of its own: started, restarted with backoff, watched for readiness, ended cleanly.

A child is ``sluicegate run NAME`` with the supervisor's settings in its environment. It says that it is ready in
``<run_dir>/run/<name>.<instance>.json``, logs to ``<run_dir>/logs/<name>.<instance>.log``, and dies with its parent:
the kernel kills it when the thread that started it ends, so one thread starts them all and lives until `stop`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec

from sluicegate.schemas.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

PROCESSORS: Final = ("gate", "outputs", "desk", "watch", "oversight", "keys", "projector")
"""Every processor there is, in the order of the flow."""
READY_SEC_MAX: Final = 60.0
STOP_SEC_MAX: Final = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""
BACKOFF_FIRST_SEC: Final = 0.5
BACKOFF_MAX_SEC: Final = 30.0
STEADY_SEC: Final = 30.0
"""A process that ran this long begins with the first backoff again."""
UNUSABLE: Final = 2
"""The exit code of a process whose configuration cannot be used: starting it again would not help."""
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
LOG_LINES_SHOWN: Final = 8
_TICK_SEC: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1

State = Literal["starting", "ready", "waiting", "failed", "stopped"]


class ProcessState(msgspec.Struct, frozen=True):
    """What is known of one process. ``exit_code`` is that of its last end, negative for a signal."""

    name: str
    instance: str
    state: State
    pid: int | None
    restarts: int
    health_port: int | None
    up_sec: float
    exit_code: int | None
    log: str


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when the thread that started it ends; ends at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent_pid,), daemon=True).start()
    if os.getppid() != parent_pid:
        os._exit(1)


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    os._exit(1)


def ready_file(run_dir: Path, name: str, instance: str) -> Path:
    """Where a process says that it is ready: ``{"pid", "health_port", "ready"}``."""
    return run_dir / "run" / f"{name}.{instance}.json"


def health_url(port: int) -> str:
    """Where a process answers on its health, on loopback."""
    return f"http://127.0.0.1:{port}/health"


class _Child:
    """One process and its history; touched under the supervisor's lock."""

    def __init__(self, name: str, instance: str, run_dir: Path) -> None:
        self.name = name
        self.instance = instance
        self.wanted = True
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.backoff_sec = BACKOFF_FIRST_SEC
        self.restarts = -1
        self.exit_code: int | None = None
        self.failed = False
        self.log = run_dir / "logs" / f"{name}.{instance}.log"
        self.ready_file = ready_file(run_dir, name, instance)

    @property
    def label(self) -> str:
        return f"{self.name}.{self.instance}"

    def announced(self) -> dict[str, Any]:
        """What this very process wrote about itself; empty before, and for a file that another one left."""
        with suppress(OSError, ValueError):
            found = json.loads(self.ready_file.read_bytes())
            if self.process is not None and isinstance(found, dict) and found.get("pid") == self.process.pid:
                return found
        return {}

    def state(self) -> ProcessState:
        running = self.process is not None
        announced = self.announced() if running else {}
        word: State = "ready" if announced.get("ready") else "starting"
        if not running:
            word = "failed" if self.failed else "waiting" if self.wanted else "stopped"
        return ProcessState(
            name=self.name,
            instance=self.instance,
            state=word,
            pid=self.process.pid if self.process is not None else None,
            restarts=max(self.restarts, 0),
            health_port=announced.get("health_port"),
            up_sec=time.monotonic() - self.started_at if running else 0.0,
            exit_code=self.exit_code,
            log=str(self.log),
        )


class Supervisor:
    """Runs the named processors, ``instances`` of each (one by default). ``command`` is for tests: what to start."""

    def __init__(
        self,
        settings: Settings,
        names: Iterable[str] = PROCESSORS,
        *,
        instances: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "sluicegate.cli.main", "run"),
    ) -> None:
        self._run_dir = Path(settings.run_dir)
        self._command = tuple(command)
        self._environment = {**os.environ, **settings_environment(settings), **(environment or {})}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._children: dict[str, _Child] = {}
        for name in names:
            for number in range((instances or {}).get(name, 1)):
                child = _Child(name, str(number), self._run_dir)
                self._children[child.label] = child

    def start(self) -> None:
        """Begin to start the processes; returns at once. Raises BadInput when it was started before."""
        if self._thread is not None:
            raise BadInput("this supervisor was started before; make another one")
        for folder in ("run", "logs"):
            (self._run_dir / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_sec: float = READY_SEC_MAX) -> None:
        """Return once every process is ready. Raises Unavailable, with the last lines of the log of one that is not."""
        deadline = time.monotonic() + timeout_sec
        while True:
            states = [state for state in self.status() if state.state not in ("ready", "stopped")]
            if not states:
                return
            failed = [state for state in states if state.state == "failed"]
            if failed or time.monotonic() > deadline:
                raise Unavailable(_not_ready((failed or states)[0], timeout_sec))
            self._ending.wait(_TICK_SEC)

    def status(self) -> list[ProcessState]:
        """The state of every process, in the order of the names."""
        with self._lock:
            return [child.state() for child in self._children.values()]

    def pids(self) -> dict[str, int]:
        """Process ids by ``<name>.<instance>``, of those that run now."""
        with self._lock:
            return {label: child.process.pid for label, child in self._children.items() if child.process is not None}

    def kill(self, name: str, instance: str = "0") -> int:
        """``kill -9`` a process, which is then restarted; its process id. Raises BadInput when it does not run."""
        with self._lock:
            child = self._child(name, instance)
            if child.process is None:
                raise BadInput(f"`{child.label}` does not run now; wait until it is restarted")
            child.process.kill()
            return child.process.pid

    def remove(self, name: str, instance: str = "0") -> None:
        """End a process and keep it ended."""
        with self._lock:
            child = self._child(name, instance)
            child.wanted = False
            process = child.process
        if process is not None:
            _end([process], STOP_SEC_MAX)

    def stop(self, timeout_sec: float = STOP_SEC_MAX) -> None:
        """End all processes: SIGTERM, and SIGKILL for those that take longer than ``timeout_sec``. May be repeated."""
        with self._lock:
            for child in self._children.values():
                child.wanted = False
            processes = [child.process for child in self._children.values() if child.process is not None]
        _end(processes, timeout_sec)
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for child in self._children.values():
                self._reap(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _child(self, name: str, instance: str) -> _Child:
        child = self._children.get(f"{name}.{instance}")
        if child is None:
            raise BadInput(f"`{name}.{instance}` is none of {', '.join(self._children)}")
        return child

    def _watch(self) -> None:
        ticks = 0
        while not self._ending.wait(_TICK_SEC):
            ticks += 1
            with self._lock:
                for child in self._children.values():
                    self._reap(child)
                    idle = child.process is None and child.wanted and not child.failed
                    if idle and time.monotonic() >= child.start_at:
                        self._spawn(child)
                    if ticks % 100 == 0:
                        _trim(child.log)

    def _reap(self, child: _Child) -> None:
        if child.process is None or child.process.poll() is None:
            return
        child.exit_code = child.process.returncode
        lived = time.monotonic() - child.started_at
        child.process = None
        child.failed = child.exit_code == UNUSABLE and child.wanted
        child.backoff_sec = BACKOFF_FIRST_SEC if lived > STEADY_SEC else child.backoff_sec
        child.start_at = time.monotonic() + child.backoff_sec
        child.backoff_sec = min(child.backoff_sec * 2, BACKOFF_MAX_SEC)

    def _spawn(self, child: _Child) -> None:
        child.ready_file.unlink(missing_ok=True)
        descriptor = os.open(child.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            child.process = subprocess.Popen(
                [*self._command, child.name, "--instance", child.instance, "--with-parent", str(os.getpid())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                process_group=0,  # a Ctrl-C of the terminal reaches the supervisor only, which ends them in order
            )
        except OSError as error:
            child.failed = True
            os.write(descriptor, f"cannot be started: {error}\n".encode())
            return
        finally:
            os.close(descriptor)
        child.started_at = time.monotonic()
        child.restarts += 1


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment variables they can be read from."""
    found: dict[str, str] = {}
    for name, value in settings.model_dump(mode="json").items():
        if value is not None:
            text = (
                ",".join(value) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)
            )
            found[f"SLUICEGATE_{name.upper()}"] = text
    return found


def _end(processes: Sequence[subprocess.Popen[bytes]], timeout_sec: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + timeout_sec
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _not_ready(state: ProcessState, timeout_sec: float) -> str:
    tail = last_lines(Path(state.log), LOG_LINES_SHOWN)
    said = "".join([f"\n  {line}" for line in tail]) or " nothing"
    why = f"cannot use its configuration (exit {state.exit_code})" if state.state == "failed" else "is not ready"
    if state.state != "failed":
        why = f"{why} after {timeout_sec:g} s ({state.state}, restarted {state.restarts} times)"
    return f"`{state.name}.{state.instance}` {why}; its log `{state.log}` ends with:{said}"


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, from its last 16 KiB; none when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def _trim(log: Path) -> None:
    """Keep one older part of a log that has grown long; the process goes on appending to the emptied file."""
    with suppress(OSError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.with_suffix(".log.1").write_bytes(log.read_bytes())
            os.truncate(log, 0)
