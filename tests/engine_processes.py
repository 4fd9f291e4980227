"""Processes of `engine_process.py`, and a proxy between them and the broker that can hold a request back."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from engine_worlds import WAIT_SEC_MAX

from sluicegate.streams.quix import EngineConfig

END_TXN: Final = 26
"""Kafka's API key of the request that ends a transaction."""
_HEAD: Final = struct.Struct(">ih")


class EngineProcess:
    """One instance in a process of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("engine_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(config, enc_hook=str).decode() + "\n")
        self._process.stdin.close()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def said(self) -> str | None:
        """The next line it prints; None at its end."""
        return self._lines.get(timeout=WAIT_SEC_MAX)

    def ended(self) -> int:
        """Its exit code; waits for it."""
        return self._process.wait(WAIT_SEC_MAX)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, if it still runs."""
        self._process.kill()
        self._process.wait(WAIT_SEC_MAX)


class Proxy:
    """Passes Kafka requests on to a broker of this machine, except what it was told to hold.

    It writes its own port over the broker's in what the broker says, so that clients stay with it.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._said = host.encode() + struct.pack(">i", int(port))
        self._written = host.encode() + struct.pack(">i", self._listener.getsockname()[1])
        self._armed: int | None = None
        self._cuts = False
        self.holding = threading.Event()
        self.passed = threading.Event()
        self._released = threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_next(self, api_key: int, *, cut: bool = False) -> None:
        """Holds the next such request until `release`; ``cut`` also ends the client's connection, as networks do."""
        self._cuts = cut
        self._armed = api_key

    def release(self) -> None:
        """Sends the held request on, whether or not its client still waits, and waits for the broker's answer."""
        self._released.set()
        assert self.passed.wait(WAIT_SEC_MAX)

    def freeze(self) -> None:
        """Nothing gets to the broker any more, no connection ends."""
        self._flows.clear()

    def thaw(self) -> None:
        """Everything flows again, what waited first."""
        self._flows.set()

    def close(self) -> None:
        self._flows.set()
        self._released.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._upstream)
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, broker), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for frame in _frames(client):
                held = _HEAD.unpack_from(frame)[1] == self._armed
                if held:
                    self._armed = None
                    if self._cuts:
                        client.shutdown(socket.SHUT_RDWR)
                    self.holding.set()
                    self._released.wait()
                self._flows.wait()
                broker.sendall(frame)
        # A held request outlives its client: the broker's side closes only after it has answered.
        with contextlib.suppress(OSError):
            broker.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for frame in _frames(broker):
                if self._released.is_set():
                    self.passed.set()
                with contextlib.suppress(OSError):
                    client.sendall(frame.replace(self._said, self._written))
        self.passed.set() if self._released.is_set() else None
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _frames(source: socket.socket) -> Iterator[bytes]:
    read: Callable[[int], bytes] = source.makefile("rb").read
    while len(head := read(4)) == 4:
        yield head + read(struct.unpack(">i", head)[0])
