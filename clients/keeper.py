"""One attempt's keeper: forks the handler's process, outlasts it, and ends all of it.

    zygote ── keeper ── init (process 1 inside: covers what is hidden, collects the dead) ── handler ── its children
    zygote ── keeper ── handler ── its children                                         (where there are no namespaces)

The keeper never hears the handler, only the worker, so that nothing a handler does keeps it from killing in time. When
process 1 of a namespace is killed the kernel kills everything inside. Without namespaces the keeper adopts orphans and
kills all its descendants until none is left. Each dies with the one before it, and the zygote ends with the worker.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final, Literal, NoReturn

import msgspec

from sluicegate.clients import sandbox
from sluicegate.clients.call import Handler, serve_call
from sluicegate.schemas.errors import SluicegateError

LOOK_SEC: Final = 0.1
"""How often process 1 of a namespace counts the others."""
COUNTING_SEC: Final = 0.5
"""How often a keeper counts its descendants; it reads all processes of the machine for that."""
REPORT_BYTES_MAX: Final = 4_096
KILLING_SEC_MAX: Final = 5.0
WAIT_SEC_MAX: Final = 3_600.0
"""How long one wait takes at most: a poll of more than 24 days is an error."""
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
DESCRIPTORS_MAX: Final = 1 << 20
UNSAID: Final = 70
"""The exit code of a process that could not even say what went wrong."""
DESCRIPTORS: Final = 5
"""How many come with a request: status, up, down, bell, log."""

Why = Literal["itself", "asked", "deadline", "processes", "sandbox"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker asks of the zygote: one attempt."""

    handler: int
    namespaces: bool
    network: bool
    """Whether the process gets a network of its own, whose only way out the worker listens on."""
    hidden: tuple[sandbox.Place, ...] = ()
    environment: dict[str, str] = {}
    processes_max: int
    kill_after_sec: float | None = None


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """The inner loopback is up; the listening socket comes along."""

    port: int


class Ended(msgspec.Struct, frozen=True, tag="ended", kw_only=True):
    """Everything of the attempt is gone. ``code`` or ``signal`` are those of the handler's own process."""

    why: Why = "itself"
    code: int | None = None
    signal: int | None = None
    detail: str = ""


Report = Listening | Ended
report_of: Final = msgspec.json.Decoder(Report).decode


def _ended(status: int, why: Why = "itself") -> Ended:
    code = os.waitstatus_to_exitcode(status)
    return Ended(why=why, code=code) if code >= 0 else Ended(why=why, signal=-code)


def keep(request: Request, handler: Handler, descriptors: list[int]) -> NoReturn:
    """Run an attempt in a process of its own that was forked for it; tells the worker what became of it."""
    status = socket.socket(fileno=descriptors[0])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        ended = _keep(request, handler, status, descriptors[1:])
    except Exception as error:  # noqa: BLE001  # whatever fails here, the handler does not run without its bounds
        ended = Ended(why="sandbox", detail=f"{type(error).__name__}: {error}"[: REPORT_BYTES_MAX // 2])
    with suppress(OSError):
        status.send(msgspec.json.encode(ended))
    os._exit(0)


def _keep(request: Request, handler: Handler, status: socket.socket, pipes: list[int]) -> Ended:
    sandbox.adopt_orphans()
    if request.namespaces:  # without them the keeper must live to kill what is left: it ends as the worker does
        sandbox.die_with_parent()
    environment = dict(request.environment)
    if request.namespaces:
        sandbox.let_be_inspected(True)  # else the kernel keeps its own files from it, such as the map of users
        sandbox.enter(network=request.network)
        if request.network:
            port = _listen(status)
            environment |= dict.fromkeys(PROXIES, f"http://127.0.0.1:{port}")
    sandbox.let_be_inspected(False)
    told, telling = os.pipe()
    alive, living = os.pipe()
    first = _init if request.namespaces else _handler
    deadline = None if request.kill_after_sec is None else time.monotonic() + request.kill_after_sec
    pid = os.fork()
    if pid == 0:
        os.close(living)
        _run(lambda: first(request, handler, environment, [alive, telling, *pipes]), telling)
    for descriptor in (*pipes, telling, alive):
        os.close(descriptor)
    try:
        why, code = _watch(request, pid, status, deadline)
    finally:  # whatever fails here, nothing of the handler runs on
        if not request.namespaces:
            _kill_descendants()
    os.set_blocking(told, False)
    with suppress(BlockingIOError):
        if words := os.read(told, REPORT_BYTES_MAX):
            inner = msgspec.json.decode(words, type=Ended)
            return inner if why == "itself" else msgspec.structs.replace(inner, why=why)
    return _ended(code, why)


def _listen(status: socket.socket) -> int:
    """Listen on the inner loopback, and give the worker the listening socket: it stays in the network it is from."""
    sandbox.raise_loopback()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        socket.send_fds(status, [msgspec.json.encode(Listening(port))], [listener.fileno()])
    return port


def _run(work: Callable[[], None], telling: int) -> NoReturn:
    """What a forked process does, and then ends, whatever happens."""
    code = UNSAID
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001  # nothing may run on in the keeper's code
        report = Ended(why="sandbox", detail=f"{type(error).__name__}: {error}"[: REPORT_BYTES_MAX // 2])
        with suppress(OSError):
            os.write(telling, msgspec.json.encode(report))
    finally:
        os._exit(code)


def _watch(request: Request, pid: int, status: socket.socket, deadline: float | None) -> tuple[Why, int]:
    """Wait until the process ends, and kill it when it must; why it ended, and its status."""
    why: Why = "itself"
    ending = os.pidfd_open(pid)
    looking = select.poll()
    looking.register(ending, select.POLLIN)
    looking.register(status, select.POLLIN)
    counts = not request.namespaces  # inside a namespace its process 1 counts
    while True:
        waits = [COUNTING_SEC if counts else WAIT_SEC_MAX]
        if deadline is not None:
            waits.append(max(deadline - time.monotonic(), 0) + 0.001)
        ready = {descriptor for descriptor, _ in looking.poll(min(waits) * 1_000)}
        if ending in ready:
            return why, os.waitpid(pid, 0)[1]
        if ready:  # the worker says so, or is gone
            looking.unregister(status)
            status.recv(REPORT_BYTES_MAX)
            why = "asked" if why == "itself" else why
        elif deadline is not None and time.monotonic() >= deadline:
            why, deadline = "deadline" if why == "itself" else why, None
        elif counts and _threads(_descendants()) > request.processes_max:
            why, counts = "processes", False
        else:
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants() -> list[int]:
    import psutil

    return [process.pid for process in psutil.Process().children(recursive=True)]


def _kill_descendants() -> None:
    """Kill and collect until there is no child: orphans become children of this process."""
    until = time.monotonic() + KILLING_SEC_MAX
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        found = _descendants()
        for word in (signal.SIGSTOP, signal.SIGKILL):  # first stopped, so that none forks on meanwhile
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, word)
    raise SluicegateError(f"processes {_descendants()} of the handler are still there {KILLING_SEC_MAX:g} s after kill")


def _die_with_keeper(alive: int) -> None:
    sandbox.die_with_parent()
    looking = select.poll()
    looking.register(alive, select.POLLIN)
    if looking.poll(0):  # its end is closed: it ended before
        os._exit(1)


def _init(request: Request, handler: Handler, environment: dict[str, str], descriptors: list[int]) -> None:
    """Process 1 of the namespace: nothing inside can signal or trace it, and everything ends with it."""
    alive, telling, *pipes = descriptors
    _die_with_keeper(alive)
    os.setsid()  # a signal to the handler's process group must not reach the keeper, nor other attempts
    sandbox.cover(request.hidden)
    sandbox.give_up_rights()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        _run(lambda: _handler(request, handler, environment, descriptors), telling)
    for descriptor in pipes:
        os.close(descriptor)
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, LOOK_SEC)
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == pid:
                    os.write(telling, msgspec.json.encode(_ended(found[1])))
                    return
        if _process_count() > request.processes_max:
            os.write(telling, msgspec.json.encode(Ended(why="processes")))
            return


def _process_count() -> int:
    """How many processes this namespace holds, each with its threads; 0 where /proc had to be hidden."""
    return _threads(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _threads(pids: Iterable[int]) -> int:
    """The kernel bounds threads and processes as one, but not for a worker that is root: so they are counted as one."""
    count = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            count += os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116
    return count


def _handler(request: Request, handler: Handler, environment: dict[str, str], descriptors: list[int]) -> None:
    """The handler's own process: everything is taken from it that is not its own, then it is called."""
    alive, _, up, down, bell, log = descriptors
    if not request.namespaces:
        _die_with_keeper(alive)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for standard in (1, 2):
        os.dup2(log, standard)
    code = UNSAID
    try:
        _close_all_but(up, down, bell)
        os.environ.clear()
        os.environ.update(environment)
        sandbox.limit(request.processes_max if request.namespaces else None)
        sandbox.no_new_privileges()
        with nullcontext() if request.namespaces else suppress(OSError):  # a machine that is not known has none
            sandbox.no_kernel_keys()
        if request.namespaces and request.network:
            sandbox.only_inner_sockets()
        sandbox.let_be_inspected(True)
        sandbox.go_first()
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the zygote's own
        serve_call(handler, up, down, bell)
        code = 0
    finally:
        os._exit(code)  # the pipe to the keeper is closed: nothing of this may end where that is written to


def _close_all_but(*kept: int) -> None:
    last = 2
    for descriptor in sorted(kept):
        os.closerange(last + 1, descriptor)
        last = descriptor
    # A limit that was lowered says nothing of what was opened before.
    os.closerange(last + 1, max(os.sysconf("SC_OPEN_MAX"), DESCRIPTORS_MAX))


def probe(folder: Path) -> sandbox.Isolation:
    """Whether all of it works here, tried in a child of this process that ends at once."""
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run(lambda: _try(str(folder), telling), telling)
    os.close(telling)
    os.waitpid(pid, 0)
    words = os.read(told, REPORT_BYTES_MAX)
    os.close(told)
    if not words:
        return sandbox.Isolation(namespaces=False, why="the process that tried ended without a word")
    ended = msgspec.json.decode(words, type=Ended)
    return sandbox.Isolation(namespaces=ended.why == "itself", why=None if ended.why == "itself" else ended.detail)


def _try(folder: str, telling: int) -> None:
    sandbox.enter(network=True)
    sandbox.raise_loopback()
    pid = os.fork()
    if pid == 0:
        _run(lambda: _try_inside(folder, telling), telling)
    os.waitpid(pid, 0)


def _try_inside(folder: str, telling: int) -> None:
    sandbox.cover([sandbox.place(Path(folder))])
    sandbox.give_up_rights()
    sandbox.no_new_privileges()
    sandbox.no_kernel_keys()
    sandbox.only_inner_sockets()
    os.write(telling, msgspec.json.encode(Ended()))
