"""What a handler may try to get out of its network; the payload holds addresses of what listens outside."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from handler_attacks import TRY_SEC, tried

from sluicegate.clients.call import Call


def _connected(family: int, address: Any) -> str:
    def go() -> str:
        with socket.socket(family, socket.SOCK_STREAM) as going:
            going.settimeout(TRY_SEC)
            going.connect(address)
            return "a connection"

    return tried(go)


def _sent(family: int, address: Any, kind: int = socket.SOCK_DGRAM) -> str:
    def go() -> str:
        with socket.socket(family, kind) as going:
            going.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            going.sendto(b"x", address)
            return "sent"

    return tried(go)


def network(call: Call) -> Any:
    port, path, abstract = call.payload
    libc = ctypes.CDLL(None, use_errno=True)

    def pair() -> int:
        mine, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        return mine.sendto(b"x", f"{path}.datagrams")

    return {
        "tcp to the host's loopback": _connected(socket.AF_INET, ("127.0.0.1", port)),
        "tcp to 0.0.0.0": _connected(socket.AF_INET, ("0.0.0.0", port)),  # noqa: S104
        "tcp outside": _connected(socket.AF_INET, ("1.1.1.1", 443)),
        "tcp by IPv6": _connected(socket.AF_INET6, ("2606:4700:4700::1111", 443)),
        "tcp by IPv6 loopback": _connected(socket.AF_INET6, ("::1", port)),
        "tcp by a mapped address": _connected(socket.AF_INET6, ("::ffff:127.0.0.1", port)),
        "tcp by a mapped address outside": _connected(socket.AF_INET6, ("::ffff:1.1.1.1", 443)),
        "udp outside": _sent(socket.AF_INET, ("8.8.8.8", 53)),
        "udp broadcast": _sent(socket.AF_INET, ("255.255.255.255", 9)),
        "udp multicast": _sent(socket.AF_INET, ("224.0.0.1", 9)),
        "udp by IPv6": _sent(socket.AF_INET6, ("2001:4860:4860::8888", 53)),
        "link-local": _connected(socket.AF_INET, ("169.254.169.254", 80)),
        "dns": tried(lambda: socket.getaddrinfo("example.com", 443)),
        "raw socket": _sent(socket.AF_INET, ("1.1.1.1", 0), socket.SOCK_RAW),
        "packet socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "vsock": tried(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
        "unix socket by path": _connected(socket.AF_UNIX, path),
        "abstract unix socket": _connected(socket.AF_UNIX, "\0" + abstract),
        "datagram from a pair": tried(pair),
        "io_uring": tried(lambda: _checked(libc.syscall(425, 8, ctypes.create_string_buffer(120)))),
        "host's network": tried(lambda: _checked(libc.setns(os.open("/proc/1/ns/net", os.O_RDONLY), 0))),
        "new network": tried(lambda: _checked(libc.unshare(0x4000_0000))),
        "new interface": tried(lambda: subprocess.run(["ip", "link", "add", "x", "type", "dummy"], check=True)),
        "tunnel": tried(_tunnel),
    }


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _tunnel() -> Any:
    import fcntl

    with Path("/dev/net/tun").open("r+b", buffering=0) as device:
        return fcntl.ioctl(device, 0x4004_54CA, struct.pack("16sH22x", b"mine", 1))


def by_proxy(call: Call) -> Any:
    """Ask the proxy of the environment for each address of the payload; the first line of its answer."""
    found = {}
    host, _, port = os.environ["HTTPS_PROXY"].removeprefix("http://").rpartition("@")[2].partition(":")
    for target in call.payload:
        with socket.create_connection((host, int(port)), TRY_SEC * 5) as going:
            going.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_authorization()}\r\n".encode())
            found[target] = going.recv(4_096).decode().split("\r\n")[0]
            if " 200 " in found[target]:
                going.sendall(b"ping")
                found[target] += f" {going.recv(64).decode()}"
    return found


def _authorization() -> str:
    import base64

    who = os.environ["HTTPS_PROXY"].removeprefix("http://").rpartition("@")[0]
    return f"Proxy-Authorization: Basic {base64.b64encode(who.encode()).decode()}\r\n" if who else ""
