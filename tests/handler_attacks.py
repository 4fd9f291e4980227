"""What a handler may try to get out of its bounds; run in handlers' processes. Each returns what it got."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sluicegate.clients.call import Call

TRY_SEC = 1.0


def tried(attempt: Callable[[], Any]) -> str:
    """`got` and what, or the name of what stopped it."""
    try:
        return f"got {attempt()!r}"
    except Exception as error:  # noqa: BLE001  # whatever stops it is what is asked
        number = getattr(error, "errno", None)
        return f"{type(error).__name__} {os.strerror(number) if isinstance(number, int) and number > 0 else ''}".strip()


# What ordinary handlers do.


def noop(call: Call) -> Any:
    return {"got": call.payload}


async def coroutine(call: Call) -> Any:
    await asyncio.sleep(0)
    return {"waited": call.payload}


def what_it_gets(call: Call) -> Any:
    call.progress("half of it")
    return [call.job_id, call.topic, call.constraints, call.attempt, call.agent_id, call.on_behalf_of, call.credentials]


def prints(call: Call) -> Any:
    print("said aloud")  # noqa: T201
    os.system("echo by a child; echo and as an error >&2")  # noqa: S605
    return {}


def patient(call: Call) -> Any:
    call.progress("waiting")
    call.stopping.wait(30)
    call.stopping.check()
    return {}


def patient_fork(call: Call) -> Any:
    """Both processes learn that they should stop."""
    if os.fork() == 0:
        os._exit(7 if call.stopping.wait(30) else 1)
    call.progress("waiting")
    seen = call.stopping.wait(30)
    return [seen, os.waitstatus_to_exitcode(os.wait()[1])]


def raises(call: Call) -> Any:
    raise ValueError("no such table")


def unprintable(call: Call) -> Any:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise Mute


def exits(call: Call) -> Any:
    sys.exit("enough")


def too_large(call: Call) -> Any:
    return "x" * 1_000_000


def not_json(call: Call) -> Any:
    return {"at": object()}


# Ends that are no answer.


def segfaults(call: Call) -> Any:
    ctypes.string_at(0)


def leaves(call: Call) -> Any:
    os._exit(0)


def kills_itself(call: Call) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


# Time.


def overruns(call: Call) -> Any:
    while True:
        time.sleep(60)


def deaf(call: Call) -> Any:
    for word in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(word, signal.SIG_IGN)
    while True:
        try:
            while True:
                call.stopping.check()
        except BaseException:  # noqa: BLE001, S110
            pass


def late(call: Call) -> Any:
    call.stopping.wait(30)
    return {"late": True}


def stops_itself(call: Call) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)


def frozen_parent(call: Call) -> Any:
    """Stop or kill whoever would kill it."""
    for word in (signal.SIGSTOP, signal.SIGKILL):
        tried(lambda word=word: os.kill(os.getppid(), word))  # type: ignore[misc]
    return overruns(call)


def _ticks(file: str) -> None:
    with Path(file).open("ab", buffering=0) as ticking:
        while True:
            ticking.write(b".")
            time.sleep(0.005)


def _detached(file: str) -> None:
    """A grandchild in a session of its own, with nothing open, that ignores what it can."""
    ready, telling = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for word in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(word, signal.SIG_IGN)
            os.write(telling, b".")
            os.closerange(0, 64)
            _ticks(file)
        os._exit(0)
    os.read(ready, 1)
    _await_ticks(file)


def detaches(call: Call) -> Any:
    _detached(call.payload)
    return {"left": "behind"}


def detaches_and_overruns(call: Call) -> Any:
    _detached(call.payload)
    return overruns(call)


def detaches_and_crashes(call: Call) -> Any:
    _detached(call.payload)
    os._exit(3)


def starts_a_program(call: Call) -> Any:
    subprocess.Popen(
        ["sh", "-c", f"trap '' TERM HUP; while :; do printf . >> {call.payload}; sleep 0.005; done"],
        start_new_session=True,
    )
    _await_ticks(call.payload)
    return {}


def ticks_and_notes(call: Call) -> Any:
    starts_a_program(call)
    call.progress("ticking")
    return overruns(call)


def leaves_a_thread(call: Call) -> Any:
    threading.Thread(target=_ticks, args=(call.payload,)).start()
    _await_ticks(call.payload)
    return {}


def _await_ticks(file: str) -> None:
    while not Path(file).exists() or Path(file).stat().st_size == 0:
        time.sleep(0.001)


def bomb(call: Call) -> Any:
    while True:
        try:
            if os.fork() == 0:
                time.sleep(60)
        except OSError:
            time.sleep(0.01)


def kills_everything(call: Call) -> Any:
    """Only where there is a namespace of processes: else it would."""
    return tried(lambda: os.kill(-1, signal.SIGKILL))


# Frames.


def _up() -> int:
    """The pipe to the worker: the first of the three that are a handler's own."""
    return own_pipes()[0]


def _own_descriptors() -> list[int]:
    return [number for number in range(3, 4096) if "got" in tried(lambda number=number: os.fstat(number))]  # type: ignore[misc]


def own_pipes() -> list[int]:
    return [number for number in _own_descriptors() if stat.S_ISFIFO(os.fstat(number).st_mode)]


def _frame(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def says(call: Call) -> Any:
    """Say what the payload says, and wait."""
    os.write(_up(), bytes.fromhex(call.payload))
    return overruns(call)


def answers_twice(call: Call) -> Any:
    """In one breath, so that nobody can be killed in between."""
    os.write(_up(), b"".join(_frame(b'{"type":"returned","content":%d}' % number) for number in (1, 2)))
    return overruns(call)


def answers_in_its_own_words(call: Call) -> Any:
    os.write(_up(), _frame(b'{"type":"returned","content":' + call.payload.encode() + b"}"))
    return overruns(call)


def chatters(call: Call) -> Any:
    while True:
        call.progress("still here")


def asks_and_does_not_listen(call: Call) -> Any:
    question = _frame(b'{"type":"spend","budget":"max_affected_rows","amount":"0"}') * 100
    while True:
        os.write(_up(), question)


def child_answers_after(call: Call) -> Any:
    """A child goes on talking once the handler has returned."""
    if os.fork() == 0:
        while True:
            os.write(_up(), _frame(b'{"type":"returned","content":"a forgery"}'))
            time.sleep(0.001)
    return {"honest": True}


# What was left open, and what can be seen.


def descriptors(call: Call) -> Any:
    return sorted(str(Path(f"/proc/self/fd/{number}").readlink()).split(":")[0] for number in _own_descriptors())


def environment(call: Call) -> Any:
    return {"now": dict(os.environ), "first": Path("/proc/self/environ").read_bytes().decode()}


def run_folder(call: Call) -> Any:
    """Every way to a file of the run folder that a path can be."""
    folder, file = Path(call.payload), "secret"
    link = Path(f"{call.payload}-{os.getpid()}.link")
    link.symlink_to(folder)
    ways = [
        folder / file,
        Path("secret"),  # the worker was started in the folder
        Path("../") / folder.name / file,
        link / file,
        Path("/proc/self/cwd") / file,
        Path("/proc/self/root") / str(folder / file).lstrip("/"),
        Path("/proc/1/root") / str(folder / file).lstrip("/"),
        Path("/proc/1/cwd") / file,
        *[Path("/proc/self/fd") / str(number) / file for number in range(16)],
    ]
    got = [str(way) for way in ways if "got" in tried(way.read_bytes)]
    link.unlink()
    written = tried(lambda: (folder / "new").write_text("x"))
    return {"got": got, "listed": [found.name for found in folder.iterdir()], "written": written}


def reads(call: Call) -> Any:
    return Path(call.payload).read_text()


def rights_outside(call: Call) -> Any:
    status = Path("/proc/self/status").read_text()
    kept = next(line for line in status.splitlines() if line.startswith("NoNewPrivs"))
    return {"no new": kept.split("\t")[1], "core": resource.getrlimit(resource.RLIMIT_CORE)[1]}


def uncover(call: Call) -> Any:
    """Take the cover off, as it is and from a user namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = call.payload.encode()

    def done(result: int) -> str:
        return "done" if result == 0 else os.strerror(ctypes.get_errno())

    found = {
        "umount": done(libc.umount2(where, 2)),
        "bind": done(libc.mount(b"/", b"/mnt", None, ctypes.c_ulong(4096), None)),
        "user namespace": done(libc.unshare(0x1000_0000)),
        "mounts": done(libc.unshare(0x0002_0000)),
        "chroot": done(libc.chroot(b"/mnt")),
        "pivot": done(libc.syscall(155, b"/", b"/mnt")),
    }
    return found | {"secret": tried((Path(call.payload) / "secret").read_text)}


def rights(call: Call) -> Any:
    """What a program that is executed holds, and what this process can take back."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    words = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return {
        "held": [words[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no new": words["NoNewPrivs"],
        "core": [hard, tried(lambda: resource.setrlimit(resource.RLIMIT_CORE, (2, 2)))],
        "node": tried(lambda: os.mknod("/tmp/node", 0o600 | 0o020000, os.makedev(1, 1))),  # noqa: S108
        "host name": tried(lambda: socket.sethostname("mine")),
    }


def kernel_settings(call: Call) -> Any:
    """Write, as the user the worker is, where the whole machine would feel it. Nothing is changed if it works."""
    files = ["/proc/sys/kernel/core_pattern", "/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward"]
    found = {name: tried(lambda name=name: os.close(os.open(name, os.O_WRONLY))) for name in files}  # type: ignore[misc]
    trigger = "/proc/sysrq-trigger"
    found[trigger] = tried(lambda: os.close(os.open(trigger, os.O_WRONLY)))
    writable = [
        os.path.join(at, name)  # noqa: PTH118
        for at, _, names in os.walk("/sys/kernel")
        for name in names
        if os.access(os.path.join(at, name), os.W_OK)  # noqa: PTH118
    ]
    return found | {"/sys/kernel": writable[:3]}


def other_processes(call: Call) -> Any:
    """What is to be seen of the worker, and done to it and to process 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    attach = 16
    mem = {pid: tried(lambda pid=pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY)) for pid in (1, call.payload)}  # type: ignore[misc]
    return {
        "seen": sorted(int(found.name) for found in Path("/proc").iterdir() if found.name.isdigit()),
        "signal": tried(lambda: os.kill(call.payload, 0)),
        "pidfd": tried(lambda: os.pidfd_open(call.payload)),
        "mem": list(mem.values()),
        "environ": tried(lambda: Path("/proc/1/environ").read_bytes()),
        "traced": [libc.ptrace(attach, pid, 0, 0) for pid in (1, call.payload)],
        "kill 1": tried(lambda: os.kill(1, signal.SIGKILL)),
    }


def shared_memory(call: Call) -> Any:
    """System V shared memory of the worker's by its id."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.shmget(call.payload, 0, 0)
