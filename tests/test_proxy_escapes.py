"""Ways out of the forward proxy that somebody would try, against servers on loopback that count who reached them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from proxy_world import Server, World, read_all, read_head, served, status, world

LISTED = "good.example"


@pytest.fixture(scope="module")
def good() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def secret() -> Iterator[Server]:
    """A private server that no allowlist names."""
    with served() as server:
        yield server


@pytest.fixture
def gate(good: Server, secret: Server) -> Iterator[World]:
    """`good.example` at its port is listed, and so is its address, at that port alone."""
    good.heard.clear()
    secret.heard.clear()
    names = {
        LISTED: ["127.0.0.1"],
        "rebound.example": ["127.0.0.1"],
        "meta.example": ["169.254.169.254"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "nat64.example": ["64:ff9b::7f00:1"],
        "sixtofour.example": ["2002:7f00:1::1"],
        "teredo.example": ["2001:0:7f00:1::1"],
        "compatible.example": ["::127.0.0.1"],
        "shared.example": ["100.64.0.1"],
        "local.example": ["fe80::1%lo"],
        "linked.example": ["2606:4700::1111%lo"],
        "unique.example": ["fd00::1"],
        "many.example": ["93.184.215.14", "10.0.0.1"],
        "nothing.example": ["0.0.0.0"],  # noqa: S104
        "group.example": ["224.0.0.1"],
    }
    allow = [f"{LISTED}:{good.port}", f"127.0.0.1:{good.port}", *(name for name in names if name != LISTED)]
    with world(allow, names) as made:
        yield made


def test_what_is_listed_goes_through(gate: World, good: Server) -> None:
    """The proxy is no wall: a plain request and a tunnel to a listed host reach it, and nothing is told."""
    raw = f"GET http://{LISTED}:{good.port}/x?y=1 HTTP/1.1\r\nHost: {LISTED}:{good.port}\r\n\r\n"
    assert status(gate.say(raw.encode())) == 200
    assert status(gate.connect(f"{LISTED}:{good.port}")) == 200
    assert good.heard[0] == f"GET /x?y=1 HTTP/1.1\r\nHost: {LISTED}:{good.port}\r\nConnection: close\r\n\r\n".encode()
    assert gate.told == []


NAMES_NOT_LISTED = [
    "evil.example:443",
    "xgood.example:443",
    "good.example.evil.example:443",
    "sub.good.example:443",
    "good.example:22",
    "localhost:443",
    "127.0.0.1:22",
    "169.254.169.254:80",
    "[::1]:443",
    "93.184.215.14:443",
    "[2606:4700::1111]:443",
]


@pytest.mark.parametrize("asked", NAMES_NOT_LISTED)
def test_what_is_not_listed_is_refused_and_not_looked_up(gate: World, asked: str) -> None:
    """A host, port or address that no entry names: refused, told once, and no question to DNS carries anything out."""
    assert status(gate.connect(asked)) == 403
    assert gate.looked_up == []
    assert len(gate.told) == 1
    assert gate.told[0].startswith(f"CONNECT {asked}: ")


ODD_SPELLINGS = [
    "2130706433",  # 127.0.0.1 as one number
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.1",
    "127.0.0.01",
    "127.0.0.1%00.good.example",
    "good.example%2eevil.example",
    "good.example@127.0.0.1",
    "user:word@good.example",
    "good..example",
    "good.example..",
    ".good.example",
    "good.example\\.evil.example",
    "[::ffff:127.0.0.1%lo]",
    "[fe80::1%25lo]",
    "*.example",
    "",
]


@pytest.mark.parametrize("host", ODD_SPELLINGS)
def test_an_odd_spelling_of_a_host_is_refused(gate: World, good: Server, secret: Server, host: str) -> None:
    """What readers could take for different hosts is none: 400, told once, nobody reached."""
    for port in (good.port, secret.port):
        gate.told.clear()
        assert status(gate.connect(f"{host}:{port}", host="x")) == 400
        assert len(gate.told) == 1
    assert (good.heard, secret.heard, gate.looked_up) == ([], [], [])


@pytest.mark.parametrize("host", ["GOOD.example", "good.EXAMPLE.", "good.example."])
def test_case_and_a_dot_at_the_end_change_nothing(gate: World, good: Server, host: str) -> None:
    """Two spellings with one meaning are one host: listed as that."""
    assert status(gate.connect(f"{host}:{good.port}")) == 200
    assert gate.looked_up == [LISTED]


@pytest.mark.parametrize(
    "name",
    [
        "rebound",
        "meta",
        "mapped",
        "nat64",
        "sixtofour",
        "teredo",
        "compatible",
        "shared",
        "local",
        "linked",
        "unique",
        "many",
        "nothing",
        "group",
    ],
)
def test_a_listed_name_opens_no_private_address(gate: World, name: str) -> None:
    """A listed name that resolves to a private, local or IPv4-carrying address, even beside a public one: refused."""
    assert status(gate.connect(f"{name}.example:443")) == 403
    assert gate.looked_up == [f"{name}.example"]
    assert len(gate.told) == 1


def test_a_second_answer_of_dns_counts_for_nothing(good: Server, secret: Server) -> None:
    """Rebinding: a name is looked up once a request, and the connection is to the address that was judged."""
    good.heard.clear()
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"]])
    allow = [f"turning.example:{good.port}", f"127.0.0.1:{good.port}"]
    with world(allow, {"turning.example": lambda: next(answers)}) as made:
        assert status(made.connect(f"turning.example:{good.port}")) == 200
        assert made.looked_up == ["turning.example"]
        assert status(made.connect(f"turning.example:{good.port}")) == 403


LINES = [
    b"GET /local HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET https://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET ftp://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example#@evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://evil.example\\@good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example/ HTTP/2.0\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example/ a HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET\thttp://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET  http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"get http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example/ HTTP/1.1\nHost: good.example\r\n\r\n",
    b"GET http://good.example/\0 HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://g\xc3\xb6od.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example:080/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"GET http://good.example:99999/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"CONNECT good.example HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"CONNECT http://good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"CONNECT good.example:443/x HTTP/1.1\r\nHost: good.example\r\n\r\n",
    b"\r\n\r\n",
    b"\x05\x01\x00\r\n\r\n",  # SOCKS
]


@pytest.mark.parametrize("raw", LINES)
def test_a_line_that_two_readers_could_read_differently_is_refused(gate: World, raw: bytes) -> None:
    """Anything but one plain request line for one host: 400, told once, nothing looked up."""
    assert status(gate.say(raw)) == 400
    assert gate.looked_up == []
    assert len(gate.told) == 1


HEADS = [
    b"Host: good.example\r\nHost: evil.example",
    b"Host: evil.example",
    b"Host: good.example:81",
    b"Host: good.example@evil.example",
    b"host : good.example",
    b"Accept: a",
    b"Host: good.example\r\n folded: evil.example",
    b"Host: good.example\r\nX: a\nHost: evil.example",
    b"Host: good.example\r\nX: a\rHost: evil.example",
    b"Host: good.example\r\nX: a\0b",
    b"Host: good.example\r\nNo colon here",
    b"Host: good.example\r\nContent-Length: 5\r\nContent-Length: 6",
    b"Host: good.example\r\nContent-Length: +5",
    b"Host: good.example\r\nContent-Length: 5, 5",
    b"Host: good.example\r\nContent-Length: 0x5",
    b"Host: good.example\r\nContent-Length: " + b"9" * 30,
    b"Host: good.example\r\nTransfer-Encoding: chunked",
    b"Host: good.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
    b"Host: good.example\r\nTransfer-Encoding: xchunked",
    b"Host: good.example\r\n" + b"X: y\r\n" * 100 + b"X: y",
]


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_could_smuggle_something_is_refused(gate: World, head: bytes) -> None:
    """Two hosts, another host, folded or broken headers, two lengths, a transfer coding: refused, told once."""
    assert status(gate.say(b"POST http://good.example/ HTTP/1.1\r\n" + head + b"\r\n\r\nhello")) in (400, 411, 413, 431)
    assert gate.looked_up == []
    assert len(gate.told) == 1


def test_a_second_request_on_a_connection_goes_nowhere(gate: World, good: Server) -> None:
    """Pipelining: the server gets the first request, which says `close`, and not a byte of the second."""
    first = f"POST http://{LISTED}:{good.port}/ HTTP/1.1\r\nHost: {LISTED}:{good.port}\r\nContent-Length: 2\r\n\r\nhi"
    gate.say((first + "GET http://internal.example/ HTTP/1.1\r\nHost: internal.example\r\n\r\n").encode())
    assert not any(b"internal" in heard for heard in good.heard)
    assert gate.told == [f"POST {LISTED}:{good.port}: a second request on one connection"]


def test_what_is_between_client_and_proxy_goes_no_further(gate: World, good: Server) -> None:
    """Proxy credentials, `Connection` and what it names, `Upgrade`: dropped; a length is never dropped."""
    head = (
        f"POST http://{LISTED}:{good.port} HTTP/1.1\r\nHost: {LISTED}:{good.port}\r\n"
        "Proxy-Authorization: Basic eA==\r\nConnection: keep-alive, X-Mine, Content-Length, Host\r\n"
        "X-Mine: 1\r\nUpgrade: h2c\r\nKeep: 1\r\n"
        "Content-Length: 2\r\n\r\nhi"
    )
    assert status(gate.say(head.encode())) == 200
    wanted = (
        f"POST / HTTP/1.1\r\nHost: {LISTED}:{good.port}\r\nKeep: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    )
    assert good.heard[0].startswith(wanted.encode())


def test_a_redirect_is_judged_when_it_comes_back(good: Server, secret: Server) -> None:
    """A listed host that sends its client elsewhere opens nothing: the next request is judged like any other."""
    secret.heard.clear()
    where = f"http://127.0.0.1:{secret.port}/"
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with served(answer=redirect.encode()) as server, world([f"127.0.0.1:{server.port}"]) as made:
        raw = f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
        said = made.say(raw.encode())
        assert where.encode() in said
        assert status(made.say(f"GET {where} HTTP/1.1\r\nHost: 127.0.0.1:{secret.port}\r\n\r\n".encode())) == 403
    assert secret.heard == []


def test_a_tunnel_carries_both_ways_and_ends_with_its_ends(good: Server) -> None:
    """After CONNECT bytes go through untouched, early ones too, and a closed half is passed on."""
    with served(echo=True) as server, world([f"127.0.0.1:{server.port}"]) as made:
        with closing(made.connection()) as found:
            asked = f"127.0.0.1:{server.port}"
            found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
            assert status(read_head(found)) == 200
            found.sendall(bytes(range(256)) * 1_000)
            found.shutdown(1)
            assert read_all(found) == bytes(range(256)) * 1_000
        assert made.told == []


def test_a_refusal_tells_neither_path_nor_secrets(gate: World) -> None:
    """What stands in the record of a refusal is method, host and reason: no path, no query, no password."""
    gate.say(b"GET http://evil.example/private?key=k1 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    gate.say(b"GET http://me:word@evil.example/private HTTP/1.1\r\nHost: evil.example\r\nCookie: c\r\n\r\n")
    gate.say(b"GET http://evil.example/private HTTP/1.1\r\nHost: evil.example\r\nToken:\x01hidden\r\n\r\n")
    assert gate.told == [
        "GET evil.example:80: not in the allowlist",
        "GET http://evil.example: user information in an address hides its host",
        "GET http://evil.example: `Token` is no header",
    ]


FOREIGN = """
import socket, sys
with socket.socket(socket.AF_UNIX) as going:
    going.connect(sys.argv[1])
    try:
        going.sendall(b"CONNECT evil.example:443 HTTP/1.1\\r\\nHost: evil.example:443\\r\\n\\r\\n")
        sys.stdout.buffer.write(going.recv(100))
    except OSError:
        pass
"""


def test_another_process_cannot_speak_for_an_attempt(gate: World) -> None:
    """The relay is in the worker; another handler that finds the socket is not served, and nobody is blamed for it."""
    found = subprocess.run([sys.executable, "-c", FOREIGN, str(gate.proxy.path)], capture_output=True, check=True)
    assert (found.stdout, gate.told, gate.looked_up) == (b"", [], [])
