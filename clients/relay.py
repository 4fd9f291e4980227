"""Carries connections from an attempt's own loopback to its forward proxy, which no other process can reach by name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

CHUNK_BYTES: Final = 65_536
CONNECTIONS_MAX: Final = 64


class Relay:
    """Accepts from ``listener``, a socket of the attempt's network; ``connect`` opens the way to the proxy."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener, self._connect = listener, connect
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = False
        listener.setblocking(True)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._keep(client):
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client,), name="relay", daemon=True).start()

    def _keep(self, one: socket.socket) -> bool:
        with self._lock:
            if self._ended or len(self._open) >= 2 * CONNECTIONS_MAX:
                return False
            self._open.add(one)
            return True

    def _carry(self, client: socket.socket) -> None:
        try:
            with self._connect() as proxy:
                if self._keep(proxy):
                    back = threading.Thread(target=_pump, args=(proxy, client), name="relay", daemon=True)
                    back.start()
                    _pump(client, proxy)
                    back.join()
                    self._forget(proxy)
        except OSError:
            return
        finally:
            self._forget(client)
            _close(client)

    def _forget(self, one: socket.socket) -> None:
        with self._lock:
            self._open.discard(one)

    def stop(self) -> None:
        """End every connection, and take no more."""
        with self._lock:
            self._ended = True
            ending = list(self._open)
        for one in (self._listener, *ending):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
