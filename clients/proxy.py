"""The only way out of an attempt: a forward proxy that lets through what the grant's `network_allowlist` names.

    with ForwardProxy(["api.example.com"], refused=note) as proxy:
        proxy.path   # a Unix socket in a folder of mode 0700; a forwarder on the job's own loopback reaches it

It takes CONNECT, and plain requests for absolute `http://` addresses, one a connection. The name is judged as written,
and one that is not listed is never looked up, so that a question to DNS carries nothing out. A listed one is resolved
here, once; if any address of it may not be reached, none is tried; and the connection is made to exactly an address
that was judged, so that no second answer of DNS counts (rebinding). A redirect is the client's business and comes back
as a request of its own. What goes through a tunnel is not looked into: which name a TLS handshake asks for there, or
what is said to a listed host, is not limited but in bytes.

Where no network namespace is to be had it listens on 127.0.0.1 (``over="tcp"``) and wants a token of its own in
`Proxy-Authorization`. Who has not got the token is not this attempt: that is answered and logged, but not told of it.

It is our own because what must be strict, how a request is read and which address is taken, would be ours anyway:
`mitmproxy` is many times the size and ends TLS, `pproxy` resolves where it connects, `proxy.py` can be given an address
but is processes with flags, not an object for one attempt.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import os
import re
import secrets
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from sluicegate.clients.allowlist import Allowlist, printable
from sluicegate.clients.proxy_reach import Resolve, connected, judged_addresses, system_addresses
from sluicegate.clients.proxy_requests import Denied, Request, parse_request
from sluicegate.schemas.errors import BadInput, Unavailable

CHUNK_BYTES: Final = 65_536
STARTING_SEC_MAX: Final = 10.0
ENDING_SEC_MAX: Final = 5.0
LINGERING_SEC_MAX: Final = 1.0
"""How long a refused client may take to read its answer."""
REFUSAL_CHARS_MAX: Final = 400
USER: Final = "job"
"""The user name of `Proxy-Authorization`; the token is the password."""

_LOGGER: Final = logging.getLogger("sluicegate.worker")
_AUTHORIZATION: Final = re.compile(rb"(?i:\r\nproxy-authorization):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")
_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class ProxyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt may ask of its proxy. ``transfer_bytes_max`` counts all connections in both directions."""

    header_bytes_max: int = 32_768
    header_sec_max: float = 10.0
    connect_sec_max: float = 10.0
    idle_sec_max: float = 300.0
    connections_max: int = 64
    transfer_bytes_max: int = 1 << 30
    refusals_max: int = 100
    """How many refusals are told one by one; then one word says that more are not told."""


class ForwardProxy:
    """One attempt's proxy, in a thread of the worker. Raises BadInput for an allowlist that cannot be read.

    ``refused`` is called in the proxy's thread, once for each refusal, with one line of printable text of at most
    ``REFUSAL_CHARS_MAX`` characters, as `CONNECT evil.example:443: not in the allowlist`. After ``start`` one of
    ``path`` (a Unix socket) and ``url`` (with the token) says where it is.
    """

    def __init__(
        self,
        allow: Sequence[str],
        refused: Callable[[str], None],
        *,
        over: Literal["unix", "tcp"] = "unix",
        limits: ProxyLimits | None = None,
        resolve: Resolve = system_addresses,
    ) -> None:
        self._allowlist, self._told, self._over = Allowlist(allow), refused, over
        self._limits, self._resolve = limits or ProxyLimits(), resolve
        self._token = secrets.token_urlsafe(32)
        self._authorization = b"Basic " + base64.b64encode(f"{USER}:{self._token}".encode())
        self._folder: Path | None = None
        self.path: Path | None = None
        self.port: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._refusals = self._transferred_bytes = 0
        self._spent = False

    @property
    def url(self) -> str | None:
        """`http://job:TOKEN@127.0.0.1:PORT` for `HTTPS_PROXY`; None over a Unix socket."""
        return None if self.port is None else f"http://{USER}:{self._token}@127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. Raises Unavailable."""
        if self._thread is not None:
            raise BadInput("the proxy of an attempt is started once")
        if self._over == "unix":
            self._folder = Path(tempfile.mkdtemp(prefix="sluicegate-proxy-"))  # of mode 0700
            self.path = self._folder / "socket"
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="forward proxy", daemon=True)
        self._thread.start()
        try:
            ready.result(STARTING_SEC_MAX)
        except (OSError, TimeoutError) as error:
            self.stop()
            raise Unavailable(f"the forward proxy cannot listen: {error}; the job cannot start without it") from None

    def stop(self) -> None:
        """End every connection and listen no more; nothing is told afterwards. May be called twice."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._ending.set)
            thread.join(ENDING_SEC_MAX)
            if thread.is_alive():
                _LOGGER.warning("a forward proxy did not end in %g s and is left to itself", ENDING_SEC_MAX)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001  # without the proxy there is no way out, so nothing is opened
            if ready.done():
                _LOGGER.warning("a forward proxy ended: %s", type(error).__name__)
            else:
                ready.set_exception(error)

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        most = self._limits.header_bytes_max
        if self.path is not None:
            server = await asyncio.start_unix_server(self._accept, str(self.path), limit=most)
            self.path.chmod(0o600)
        else:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=most)
            self.port = server.sockets[0].getsockname()[1]
        ready.set_result(None)
        await self._ending.wait()
        server.close()  # what is still open ends with the loop, which cancels it

    def _tell(self, text: str) -> None:
        self._refusals += 1
        if self._refusals > self._limits.refusals_max + 1:
            return
        if self._refusals > self._limits.refusals_max:
            text = f"more than {self._limits.refusals_max} refusals; further ones are not told"
        try:
            self._told(printable(text, REFUSAL_CHARS_MAX - 3))
        except Exception:  # who is told may fail; what is refused stays refused
            _LOGGER.exception("a refusal of the forward proxy could not be told")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._over == "unix" and _peer(writer) != os.getpid():
            # The relay is in this process. Another one of the same user, such as another attempt, is not this attempt.
            _LOGGER.warning("another process than the worker's own spoke to the forward proxy of an attempt")
            writer.transport.abort()
            return
        if len(self._open) >= self._limits.connections_max:
            if self._over == "unix":  # else it may be anyone's
                self._tell(f"connection: more than {self._limits.connections_max} at once")
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        except Denied as denied:
            if denied.reported:
                self._tell(denied.told)
            await _answer(reader, writer, denied)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _LOGGER.debug("a connection to the forward proxy ended: %s", error)
        finally:
            self._open.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self._read(reader)
        self._check_open()
        addresses = await judged_addresses(request, self._allowlist, self._resolve, self._limits.connect_sec_max)
        to_server, from_server = None, None
        try:
            from_server, to_server = await connected(request, addresses, self._limits.connect_sec_max)
            async with asyncio.timeout(self._limits.idle_sec_max) as idle:
                if request.method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await self._tunnel(idle, (reader, writer), (from_server, to_server))
                else:
                    await self._forward(idle, request, (reader, writer), (from_server, to_server))
        finally:
            if to_server is not None:
                to_server.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        try:
            async with asyncio.timeout(self._limits.header_sec_max):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            told = f"request: its head has more than {self._limits.header_bytes_max} bytes"
            raise Denied(told, 431, reported=self._over == "unix") from None  # else it may be anyone's
        if self._over == "tcp":
            given = _AUTHORIZATION.findall(head)
            if len(given) != 1 or not hmac.compare_digest(given[0], self._authorization):
                _LOGGER.warning("someone without its token spoke to the forward proxy of an attempt")
                raise Denied("no token", 407, reported=False)
        return parse_request(head)

    def _check_open(self) -> None:
        if self._spent:
            raise Denied("transfer: the limit was reached before", 403, reported=False)

    def _count(self, size_bytes: int) -> None:
        self._transferred_bytes += size_bytes
        if self._transferred_bytes > self._limits.transfer_bytes_max:
            told, self._spent = not self._spent, True
            raise Denied(f"transfer: more than {self._limits.transfer_bytes_max} bytes", None, reported=told)

    async def _pump(
        self, idle: asyncio.Timeout, source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int | None = None
    ) -> None:
        """Carry bytes on until the source ends, or ``most`` of them."""
        loop = asyncio.get_running_loop()
        while most is None or most > 0:
            data = await source.read(CHUNK_BYTES if most is None else min(CHUNK_BYTES, most))
            if not data:
                return
            self._count(len(data))
            sink.write(data)
            await sink.drain()
            most = None if most is None else most - len(data)
            idle.reschedule(loop.time() + self._limits.idle_sec_max)

    async def _tunnel(self, idle: asyncio.Timeout, client: _Ends, server: _Ends) -> None:
        async def one_way(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            await self._pump(idle, source, sink)
            sink.write_eof()

        await _all_of(one_way(client[0], server[1]), one_way(server[0], client[1]))

    async def _forward(self, idle: asyncio.Timeout, request: Request, client: _Ends, server: _Ends) -> None:
        """One request and its answer; what a client says after it goes nowhere."""

        async def onward() -> None:
            self._count(len(request.head))
            server[1].write(request.head)
            await self._pump(idle, client[0], server[1], request.body_bytes)
            if await client[0].read(1):
                raise Denied(f"{request}: a second request on one connection", None)
            await asyncio.get_running_loop().create_future()  # the answer is still to come

        going = asyncio.ensure_future(onward())
        try:
            coming = asyncio.ensure_future(self._pump(idle, server[0], client[1]))
            await _first_of(coming, going)
        finally:
            going.cancel()


def _peer(writer: asyncio.StreamWriter) -> int:
    """The id of the process that has connected over a Unix socket."""
    found: int = struct.unpack(
        "3i", writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )[0]
    return found


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _all_of(*ways: Awaitable[None]) -> None:
    """Await all; when one fails the others end, and its own error is raised."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _first_of(*tasks: asyncio.Future[None]) -> None:
    """Await the first to end, and raise what it raised; the others end."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, denied: Denied) -> None:
    """Say why a request goes no further, unless an answer has begun; a client gets a moment to read it."""
    if denied.status is None:
        writer.transport.abort()
        return
    body = printable(denied.told, REFUSAL_CHARS_MAX).encode() + b"\n"
    challenge = f'Proxy-Authenticate: Basic realm="{USER}"\r\n' if denied.status == 407 else ""
    head = (
        f"HTTP/1.1 {denied.status} {_REASONS[denied.status]}\r\n{challenge}Content-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with suppress(OSError, TimeoutError, RuntimeError):
        async with asyncio.timeout(LINGERING_SEC_MAX):
            writer.write(head.encode() + body)
            writer.write_eof()
            await writer.drain()
            while await reader.read(CHUNK_BYTES):
                pass
