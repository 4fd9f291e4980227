"""Where a request of the forward proxy ends up: its addresses, each judged, and a connection to exactly one of them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from sluicegate.clients.allowlist import Address, Allowlist
from sluicegate.clients.proxy_requests import Denied, Request

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a name, as text. Raises OSError. Called in a thread of its own."""

ADDRESSES_MAX: Final = 32
"""How many addresses of one name are looked at; a name with more is refused."""


def system_addresses(name: str, port: int) -> list[str]:
    """The addresses of a name by this machine's resolver. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


async def judged_addresses(request: Request, allowlist: Allowlist, resolve: Resolve, sec_max: float) -> list[Address]:
    """The addresses that a request may be connected to, every one judged; a name is looked up at most once.

    ``sec_max`` is how long the look-up may take. Raises Denied.
    """
    target = request.target
    problem = allowlist.refuses(target)
    if problem is not None:
        raise Denied(f"{request}: {problem}")
    if target.address is not None:
        return [target.address]
    try:
        async with asyncio.timeout(sec_max):
            texts = list(dict.fromkeys(await _in_a_thread(resolve, target.name or "", target.port)))
    except (OSError, UnicodeError, TimeoutError) as error:
        raise Denied(f"{request}: cannot be resolved: {error}", 502, reported=False) from None
    addresses = _read(request, texts)
    for address in addresses:
        problem = allowlist.refuses_address(address, target.port, named=True)
        if problem is not None:
            raise Denied(f"{request}: {problem}")
    return addresses


def _read(request: Request, texts: list[str]) -> list[Address]:
    if not texts or len(texts) > ADDRESSES_MAX:
        raise Denied(f"{request}: resolves to {len(texts)} addresses, 1 to {ADDRESSES_MAX} are usable")
    if any("%" in text for text in texts):
        raise Denied(f"{request}: resolves to an address of one link only")
    try:
        return [ipaddress.ip_address(text) for text in texts]
    except ValueError:
        raise Denied(f"{request}: resolves to something that is no address") from None


async def connected(
    request: Request, addresses: list[Address], sec_max: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that answers within ``sec_max``. Raises Denied."""
    failure: Exception = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(sec_max):
                outside = await _socket_to(address, request.target.port)
        except (OSError, TimeoutError) as error:
            failure = error
            continue
        if ipaddress.ip_address(outside.getpeername()[0]) != address:
            outside.close()
            raise Denied(f"{request}: connected elsewhere than to {address}")
        return await asyncio.open_connection(sock=outside)
    raise Denied(f"{request}: cannot be reached: {failure}", 502, reported=False)


async def _socket_to(address: Address, port: int) -> socket.socket:
    """A connected socket; the address is given as such, so that nothing is looked up again."""
    outside = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        outside.setblocking(False)
        await asyncio.get_running_loop().sock_connect(outside, (str(address), port))
    except BaseException:
        outside.close()
        raise
    return outside


async def _in_a_thread(resolve: Resolve, name: str, port: int) -> Sequence[str]:
    """Look a name up without waiting for it longer than one likes: the thread is a daemon."""
    found: Future[Sequence[str]] = Future()

    def look_up() -> None:
        found.set_running_or_notify_cancel()  # from here on who gives up cannot cancel it, only not wait for it
        try:
            found.set_result(resolve(name, port))
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            found.set_exception(error)

    threading.Thread(target=look_up, name="forward proxy, look-up", daemon=True).start()
    return await asyncio.wrap_future(found)
