"""A forward proxy, servers on loopback behind it, and the crude client of somebody who wants to get out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from sluicegate.clients.proxy import ForwardProxy

SOCKET_SEC_MAX = 10
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Server:
    """Accepts connections on a loopback address, keeps all that it hears, answers once a head is whole."""

    def __init__(self, answer: bytes = ANSWER, host: str = "127.0.0.1", *, echo: bool = False) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind((host, 0))
        self._socket.listen()
        self.host, self.port = host, self._socket.getsockname()[1]
        self.heard: list[bytearray] = []
        self._answer, self._echo = answer, echo
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                found, _ = self._socket.accept()
            except OSError:
                return
            found.settimeout(SOCKET_SEC_MAX)
            heard = bytearray()
            self.heard.append(heard)
            threading.Thread(target=self._converse, args=(found, heard), daemon=True).start()

    def _converse(self, found: socket.socket, heard: bytearray) -> None:
        with closing(found):
            try:
                while data := found.recv(65_536):
                    heard += data
                    if self._echo:
                        found.sendall(data)
                    elif b"\r\n\r\n" in heard:
                        found.sendall(self._answer)
                        return
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


class World:
    """A proxy with what it told, what it looked up, and a way to say anything to it."""

    def __init__(self, allow: Sequence[str], names: dict[str, Any], **more: Any) -> None:
        self.told: list[str] = []
        self.looked_up: list[str] = []
        self._names = names
        self.proxy = ForwardProxy(allow, self.told.append, resolve=self._addresses, **more)
        self.proxy.start()

    def _addresses(self, name: str, port: int) -> Sequence[str]:
        self.looked_up.append(name)
        found = self._names.get(name)
        if found is None:
            raise OSError("no such name")
        addresses: Sequence[str] = found() if callable(found) else found
        return addresses

    def connection(self) -> socket.socket:
        if self.proxy.path is not None:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            found.connect(str(self.proxy.path))
        else:
            found = socket.create_connection(("127.0.0.1", self.proxy.port or 0))
        found.settimeout(SOCKET_SEC_MAX)
        return found

    def say(self, raw: bytes) -> bytes:
        """All that comes back until the proxy closes; what is said is `raw`, byte for byte."""
        with closing(self.connection()) as found:
            found.sendall(raw)
            return read_all(found)

    def connect(self, asked: str, host: str | None = None) -> bytes:
        """The answer's head to a CONNECT."""
        with closing(self.connection()) as found:
            found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {host or asked}\r\n\r\n".encode())
            return read_head(found)


def read_all(found: socket.socket) -> bytes:
    said = b""
    with suppress(ConnectionError):
        while data := found.recv(65_536):
            said += data
    return said


def read_head(found: socket.socket) -> bytes:
    said = b""
    while b"\r\n\r\n" not in said and (data := found.recv(65_536)):
        said += data
    return said


def status(said: bytes) -> int:
    """The status of an answer; 0 for none."""
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.") else 0


@contextmanager
def served(**more: Any) -> Iterator[Server]:
    server = Server(**more)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def world(allow: Sequence[str], names: dict[str, Any] | None = None, **more: Any) -> Iterator[World]:
    made = World(allow, names or {}, **more)
    try:
        yield made
    finally:
        made.proxy.stop()
