"""The worker's side of the zygote: pickles the handlers, starts the process, asks it for attempts."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import cloudpickle
import msgspec

from sluicegate.clients.call import Handler
from sluicegate.clients.keeper import Request
from sluicegate.clients.sandbox import Isolation
from sluicegate.clients.zygote import Brought, Hello
from sluicegate.schemas.errors import BadInput, Unavailable

STARTING_SEC_MAX: Final = 60.0
"""How long the handlers' own modules may take to be imported."""
ENDING_SEC_MAX: Final = 5.0
HELLO_BYTES_MAX: Final = 65_536
_KEPT: Final = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR VIRTUAL_ENV LD_LIBRARY_PATH "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE".split()
)
_KEPT_PREFIXES: Final = ("LC_", "PYTHON")


def scrubbed(environment: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """What a handler gets of the worker's environment: where things are and how to write, no setting, no secret.

    ``given`` is added as it is. No proxy of the worker's is handed on: where there is one to use, the attempt's is set.
    """
    kept = {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | dict(given)


def name_of(handler: Handler, glob: str) -> str:
    """A handler for people: its name and the pattern it is registered for."""
    return f"{getattr(handler, '__qualname__', type(handler).__qualname__)} ({glob})"


@contextlib.contextmanager
def _by_value(handler: Any) -> Iterator[None]:
    """Also what stands in a module that cannot be imported by its name, such as a file that was loaded by path."""
    module = sys.modules.get(getattr(handler, "__module__", None) or type(handler).__module__)
    name = "" if module is None else module.__name__
    if module is None or name == "__main__" or _importable(name):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _importable(name: str) -> bool:
    top = name.partition(".")[0]
    try:
        loaded = sys.modules.pop(name, None) if name == top else None
        try:
            return importlib.util.find_spec(name) is not None
        finally:
            if loaded is not None:
                sys.modules[name] = loaded
    except (ImportError, ValueError):
        return False


def pickled(handlers: Sequence[tuple[str, Handler]]) -> list[tuple[str, bytes]]:
    """Each handler with its name, as the zygote gets it; what stands in `__main__` by value. Raises BadInput."""
    found: list[tuple[str, bytes]] = []
    for glob, handler in handlers:
        name = name_of(handler, glob)
        try:
            with _by_value(handler):
                found.append((name, cloudpickle.dumps(handler)))
        except Exception as error:  # a handler's own objects may raise anything here
            raise BadInput(
                f"handler `{name}` cannot be brought into a process of its own: {error}; open connections, locks and "
                "files inside the handler"
            ) from error
    return found


class Zygote:
    """The process that handlers are forked from. Raises BadInput for a handler that it cannot be given.

    ``environment`` is the whole one of every handler. Started at once; `ready` waits until the handlers are loaded.
    """

    def __init__(
        self, handlers: Sequence[tuple[str, Handler]], environment: Mapping[str, str], *, namespaces: bool = True
    ) -> None:
        brought = Brought(list(sys.path), pickled(handlers), namespaces)
        self._brought, self.environment = msgspec.msgpack.encode(brought), dict(environment)
        self._lock = threading.Lock()
        self._hello: Hello | None = None
        self._start()

    def _start(self) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                # -P: a file in the working folder must not stand in for a module; what to import from is brought.
                [sys.executable, "-P", "-m", "sluicegate.clients.zygote", str(other.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                env=self.environment,
                start_new_session=True,
            )
        stdin = self._process.stdin
        assert stdin is not None
        # In a thread: it reads only after its own imports, and the worker has to log in meanwhile.
        threading.Thread(target=_bring, args=(stdin, self._brought), daemon=True).start()

    def ready(self) -> Hello:
        """Wait until it is. Raises BadInput for a handler that cannot be loaded there, Unavailable."""
        if self._hello is None:
            self._control.settimeout(STARTING_SEC_MAX)
            try:
                words = self._control.recv(HELLO_BYTES_MAX)
            except (TimeoutError, OSError) as error:
                raise Unavailable(f"the process for handlers did not start: {error}") from None
            finally:
                self._control.settimeout(None)
            if not words:
                code = self._process.wait(ENDING_SEC_MAX)
                raise Unavailable(
                    f"the process for handlers ended at once with code {code}; can `{sys.executable} -m "
                    "sluicegate.clients.zygote` be run here?"
                )
            self._hello = msgspec.json.decode(words, type=Hello)
        if self._hello.failed is not None:
            raise BadInput(self._hello.failed)
        return self._hello

    def fork(self, request: Request, descriptors: Sequence[int]) -> None:
        """Have one attempt begun; begins with a new zygote if this one is gone. Raises Unavailable."""
        words = msgspec.json.encode(request)
        with self._lock:
            for again in (True, False):
                try:
                    self.ready()
                    socket.send_fds(self._control, [words], descriptors)
                    return
                except OSError as error:
                    if not again:
                        raise Unavailable(f"the process for handlers is gone: {error}; start the worker anew") from None
                    self._end()
                    self._hello = None
                    self._start()

    def _end(self) -> None:
        self._control.close()
        try:
            self._process.wait(ENDING_SEC_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it, and every attempt that still runs."""
        with self._lock:
            self._end()


def _bring(stdin: Any, brought: bytes) -> None:
    with contextlib.suppress(OSError), stdin:
        stdin.write(brought)


@functools.cache
def isolation() -> Isolation:
    """What a handler's process gets on this machine; probed once, in a process that is thrown away."""
    zygote = Zygote([], scrubbed(os.environ, {}))
    try:
        return zygote.ready().isolation
    finally:
        zygote.close()
