"""The process that handlers are forked from: `python -m sluicegate.clients.zygote DESCRIPTOR`.

A worker has threads and descriptors, logins and keys, and none of it belongs into a handler's process; and starting a
Python for every job takes long. So one clean process with one thread is started first. It gets the handlers once, on
standard input, and forks a keeper (`keeper`) for each attempt that it is asked for. It ends with the worker.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from sluicegate.clients import sandbox
from sluicegate.clients.call import Handler
from sluicegate.clients.keeper import DESCRIPTORS, Request, keep, probe

REQUEST_BYTES_MAX: Final = 200_000
LOOK_SEC: Final = 1.0
"""How often it looks whether its worker is still there, besides being told so by the end of their socket."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first word of the zygote. ``failed``: the handler that could not be loaded here, and why."""

    isolation: sandbox.Isolation
    failed: str | None = None
    threads: int = 1


class Brought(msgspec.Struct, frozen=True):
    """What it gets on standard input: where to import from, and the handlers with their names, pickled."""

    path: list[str]
    handlers: list[tuple[str, bytes]]
    namespaces: bool = True


def _load(brought: Brought) -> tuple[list[Handler], str | None]:
    sys.path[:] = brought.path
    handlers: list[Handler] = []
    for name, pickled in brought.handlers:
        try:
            handlers.append(pickle.loads(pickled))  # noqa: S301  # from the worker that started this process
        except BaseException as error:  # noqa: BLE001  # a module of the user's may raise anything while it is imported
            return [], f"handler `{name}` cannot be loaded in a process of its own: {type(error).__name__}: {error}"
    return handlers, None


def _serve(control: socket.socket, handlers: list[Handler], parent: int) -> None:
    control.settimeout(LOOK_SEC)
    while os.getppid() == parent:
        try:
            words, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES_MAX, DESCRIPTORS)
        except TimeoutError:
            continue
        if not words:
            return
        request = msgspec.json.decode(words, type=Request)
        if os.fork() == 0:
            control.close()
            keep(request, handlers[request.handler], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> int:
    """Serve one worker."""
    parent = os.getppid()
    control = socket.socket(fileno=int(sys.argv[1]))
    brought = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Brought)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    isolation = sandbox.Isolation(namespaces=False, why="not asked for")
    if brought.namespaces:
        isolation = probe(Path("/var/empty") if Path("/var/empty").is_dir() else Path("/tmp"))  # noqa: S108  # covered
    handlers, failed = _load(brought)
    if not isolation.namespaces:
        with suppress(ImportError):
            __import__("psutil")  # once here, not in every keeper
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1  # noqa: PTH112, PTH208
    control.send(msgspec.json.encode(Hello(isolation=isolation, failed=failed, threads=threads)))
    if failed is not None:
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the keepers
    with suppress(OSError):
        sandbox.let_be_inspected(False)
    gc.collect()
    gc.freeze()  # what is there now is never looked through again, so forks go on sharing it
    _serve(control, handlers, parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
