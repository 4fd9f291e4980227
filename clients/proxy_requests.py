"""One request to the forward proxy, read strictly: what two readers could understand differently is refused. Pure.

A request is a CONNECT, or a request for an absolute `http://` address. The host in its line is the only one there is:
a `Host` that says another, a second one, user information, a bare line end, a folded header, two lengths or any
transfer coding are refused, since a server behind the proxy might read them in another way (request smuggling).
What goes on is written anew from what was understood, with `Connection: close`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sluicegate.clients.allowlist import Target, Unspeakable, parse_target, printable

HEADERS_MAX: Final = 100
"""How many headers a request may have."""
HTTP_PORT: Final = 80
LENGTH_DIGITS_MAX: Final = 15

_LINE: Final = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]+) (HTTP/1\.[01])")
_ABSOLUTE: Final = re.compile(r"(?i:http)://([^/?#\\]*)((?:[/?][^#]*)?)")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_HOP_BY_HOP: Final = frozenset(
    "connection host keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade".split()
)
"""What is between a client and its proxy and goes no further; `Host` is written anew."""

Headers = list[tuple[str, str]]


class Denied(Exception):
    """A request that goes no further. ``status`` answers it, None when an answer has begun; ``told`` is for the log.

    With ``reported`` it is an attempt to get out: something that the job's record says. Else it is a mere failure.
    """

    def __init__(self, told: str, status: int | None = 403, *, reported: bool = True) -> None:
        super().__init__(told)
        self.told, self.status, self.reported = told, status, reported


class Request(msgspec.Struct, frozen=True):
    """What a client asks for. ``head`` is what the server gets of it, empty for a CONNECT; ``body_bytes`` follow."""

    method: str
    target: Target
    head: bytes = b""
    body_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


def parse_request(head: bytes) -> Request:
    """The request of a head, which ends in an empty line. Raises Denied."""
    lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    if any(sign in line for line in lines for sign in "\r\n\0"):
        raise Denied("request: a bare line end or a NUL in its head", 400)
    found = _LINE.fullmatch(lines[0])
    if found is None:
        raise Denied("request: no request line of HTTP/1.0 or 1.1", 400)
    method, asked, version = found.groups()
    what = f"{method} {_shown(asked)}"
    headers = _headers(what, lines[1:])
    try:
        if method == "CONNECT":
            target, path = parse_target(asked), ""
        else:
            target, path = _absolute(what, asked)
        _check_host(what, headers, target, version)
    except Unspeakable as error:
        raise Denied(f"{what}: {error}", 400) from None
    length = _body_bytes(what, headers)
    if method == "CONNECT":
        if length:
            raise Denied(f"{what}: a CONNECT has no body", 400)
        return Request(method, target)
    return Request(method, target, _written(method, path, version, target, headers), length)


def _shown(asked: str) -> str:
    """Where a request wants to go, without path, query and user information: what may be secret is not told."""
    scheme, mark, rest = asked.rpartition("://") if asked.count("://") == 1 else ("", "", asked)
    host = rest[: min((at for sign in "/?#" if (at := rest.find(sign)) >= 0), default=len(rest))]
    return printable(f"{scheme}{mark}{host.rpartition('@')[2]}", 100)


def _headers(what: str, lines: list[str]) -> Headers:
    if len(lines) > HEADERS_MAX:
        raise Denied(f"{what}: more than {HEADERS_MAX} headers", 431)
    headers: Headers = []
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise Denied(f"{what}: `{printable(line.partition(':')[0], 40)}` is no header", 400)
        headers.append((found[1], found[2]))
    return headers


def _absolute(what: str, asked: str) -> tuple[Target, str]:
    """Target and path of an absolute address."""
    found = _ABSOLUTE.fullmatch(asked)
    if found is None:
        raise Denied(f"{what}: ask for an absolute `http://` address, or CONNECT for anything else", 400)
    if "@" in found[1]:
        raise Denied(f"{what}: user information in an address hides its host", 400)
    path = found[2] if found[2].startswith("/") else f"/{found[2]}"
    return parse_target(found[1], HTTP_PORT), path


def _values(headers: Headers, name: str) -> list[str]:
    return [value for each, value in headers if each.lower() == name]


def _check_host(what: str, headers: Headers, target: Target, version: str) -> None:
    """The host of the header is that of the line. Raises Denied and Unspeakable."""
    hosts = _values(headers, "host")
    if len(hosts) > 1:
        raise Denied(f"{what}: more than one `Host`", 400)
    if not hosts and version != "HTTP/1.0":
        raise Denied(f"{what}: no `Host`", 400)
    # A CONNECT's host may stand without its port; elsewhere a port left out is 80.
    default_port = HTTP_PORT if not what.startswith("CONNECT ") else target.port
    if hosts and parse_target(hosts[0], default_port) != target:
        raise Denied(f"{what}: `Host: {printable(hosts[0])}` is another host", 400)


def _body_bytes(what: str, headers: Headers) -> int:
    if _values(headers, "transfer-encoding"):
        raise Denied(f"{what}: no transfer coding goes through; send `Content-Length`", 411)
    lengths = _values(headers, "content-length")
    if not lengths:
        return 0
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdecimal()):
        raise Denied(f"{what}: `Content-Length` must be one number in plain digits", 400)
    if len(lengths[0]) > LENGTH_DIGITS_MAX:
        raise Denied(f"{what}: `Content-Length` is beyond every limit", 413)
    return int(lengths[0])


def _written(method: str, path: str, version: str, target: Target, headers: Headers) -> bytes:
    """The head for the server. What `Connection` names goes no further either, but a length always does."""
    named = {word.strip().lower() for value in _values(headers, "connection") for word in value.split(",")}
    dropped = (_HOP_BY_HOP | named) - {"content-length"}
    host = str(target).removesuffix(f":{HTTP_PORT}") if target.port == HTTP_PORT else str(target)
    lines = [f"{method} {path} {version}", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in dropped]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
