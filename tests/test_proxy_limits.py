"""The limits of the forward proxy, each with its name, and who may speak to it where there is no namespace."""

from __future__ import annotations

import socket
import stat
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxy_world import Server, World, read_all, read_head, served, status, world

from sluicegate.clients.proxy import REFUSAL_CHARS_MAX, ForwardProxy, ProxyLimits
from sluicegate.schemas.errors import BadInput


def tunnel(made: World, server: Server, stack: ExitStack) -> bytes:
    """The answer to a CONNECT whose connection stays open as long as the stack."""
    found = stack.enter_context(closing(made.connection()))
    asked = f"127.0.0.1:{server.port}"
    try:  # one that is closed at once may be gone before it was asked anything
        found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
        return read_head(found)
    except ConnectionError:
        return b""


def test_a_head_above_its_limit_is_refused() -> None:
    """`header_bytes_max`: a head that does not end within it is refused, whatever it says, and told once."""
    with world([], limits=ProxyLimits(header_bytes_max=1_000)) as made:
        assert status(made.say(b"GET http://a.example/ HTTP/1.1\r\nX: " + b"y" * 3_000 + b"\r\n\r\n")) == 431
        assert made.told == ["request: its head has more than 1000 bytes"]


def test_more_connections_than_the_limit_are_refused() -> None:
    """`connections_max`: one more is closed at once and told; when one ends there is room again."""
    with (
        served(echo=True) as server,
        world([f"127.0.0.1:{server.port}"], limits=ProxyLimits(connections_max=2)) as made,
    ):
        with ExitStack() as stack:
            assert [status(tunnel(made, server, stack)) for _ in range(3)] == [200, 200, 0]
        assert made.told == ["connection: more than 2 at once"]
        raw = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"
        while not (said := _tried(made, raw)):  # the two are on their way out
            pass
        assert status(said) == 403


def _tried(made: World, raw: bytes) -> bytes:
    try:
        return made.say(raw)
    except ConnectionError:
        return b""


def test_bytes_above_the_limit_go_nowhere() -> None:
    """`transfer_bytes_max` counts both directions of all connections; beyond it everything is closed, told once."""
    with (
        served(echo=True) as server,
        world([f"127.0.0.1:{server.port}"], limits=ProxyLimits(transfer_bytes_max=100_000)) as made,
        ExitStack() as stack,
    ):
        asked = f"127.0.0.1:{server.port}"
        found = stack.enter_context(closing(made.connection()))
        found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
        read_head(found)
        sending = threading.Thread(target=_send, args=(found, b"x" * 200_000))
        sending.start()
        assert len(read_all(found)) <= 100_000
        sending.join()
        assert len(server.heard[0]) <= 100_000
        assert status(tunnel(made, server, stack)) == 403
        assert made.told == ["transfer: more than 100000 bytes"]


def _send(found: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):
        found.sendall(data)


def test_an_idle_connection_is_closed() -> None:
    """`idle_sec_max`: a tunnel on which nothing moves ends, without being called a refusal."""
    with served(echo=True) as server, world([f"127.0.0.1:{server.port}"], limits=ProxyLimits(idle_sec_max=0.2)) as made:
        with closing(made.connection()) as found:
            asked = f"127.0.0.1:{server.port}"
            found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
            assert status(read_head(found)) == 200
            assert read_all(found) == b""
        assert made.told == []


def test_a_client_that_says_nothing_is_closed() -> None:
    """`header_sec_max`: who does not finish a head holds no place for ever."""
    with world([], limits=ProxyLimits(header_sec_max=0.2)) as made, closing(made.connection()) as found:
        found.sendall(b"GET http://a.example/ HTTP/1.1\r\n")
        assert read_all(found) == b""


def test_a_name_that_does_not_answer_is_given_up() -> None:
    """`connect_sec_max`: a look-up that hangs ends as a failure, not as a refusal, and holds up no stop."""
    hanging = threading.Event()
    names: dict[str, Any] = {"slow.example": lambda: hanging.wait(60) and []}
    with world(["slow.example"], names, limits=ProxyLimits(connect_sec_max=0.2)) as made:
        assert status(made.connect("slow.example:443")) == 502
        assert made.told == []
    hanging.set()


def test_a_name_with_too_many_addresses_is_refused() -> None:
    """A name resolves to 1 to 32 addresses, else none is tried."""
    with world(["wide.example"], {"wide.example": [f"93.184.215.{n}" for n in range(40)]}) as made:
        assert status(made.connect("wide.example:443")) == 403
        assert made.told == ["CONNECT wide.example:443: resolves to 40 addresses, 1 to 32 are usable"]


def test_refusals_that_are_told_are_bounded() -> None:
    """`refusals_max`: a flood is refused to its end, and told as that many lines and one that says there are more."""
    with world([], limits=ProxyLimits(refusals_max=3)) as made:
        assert [status(made.connect("evil.example:443")) for _ in range(8)] == [403] * 8
        assert made.told == [
            *["CONNECT evil.example:443: not in the allowlist"] * 3,
            "more than 3 refusals; further ones are not told",
        ]


def test_what_is_told_is_one_short_printable_line() -> None:
    """Nothing of a stranger's text moves a terminal or fills the log."""
    with world([]) as made:
        made.say(b"GET http://\xe2\x80\xae" + b"a" * 2_000 + b"/ HTTP/1.1\r\nHost: a\r\n\r\n")
        made.say(b"GET http://a.example/ HTTP/1.1\r\nHost: \xe2\x80\xae\x1b[2J" + b"a" * 2_000 + b"\r\n\r\n")
        made.connect("a" * 2_000 + ":443")
        assert len(made.told) == 3
        assert all(text.isascii() and text.isprintable() and len(text) <= REFUSAL_CHARS_MAX for text in made.told)


def test_one_who_is_told_may_fail() -> None:
    """A refusal stands even when nobody can be told of it."""

    def broken(text: str) -> None:
        raise RuntimeError(text)

    with world([]) as made:
        made.proxy._told = broken
        assert status(made.connect("evil.example:443")) == 403
        assert status(made.connect("evil.example:443")) == 403


def test_the_socket_is_the_users_alone_and_goes_away() -> None:
    """The Unix socket stands in a folder of mode 0700, and both are gone after `stop`, which may come twice."""
    proxy = ForwardProxy([], print)
    proxy.start()
    place = proxy.path
    assert place is not None
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    proxy.stop()
    proxy.stop()
    assert not place.parent.exists()


def test_stop_ends_what_is_open() -> None:
    """A tunnel does not outlive its attempt."""
    with served(echo=True) as server, ExitStack() as stack:
        with world([f"127.0.0.1:{server.port}"]) as made:
            found = stack.enter_context(closing(made.connection()))
            asked = f"127.0.0.1:{server.port}"
            found.sendall(f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
            assert status(read_head(found)) == 200
        assert read_all(found) == b""


@pytest.mark.parametrize("entry", ["*", "http://a.example", "10.0.0.1/8", "a b", "10.0.0.0/255.0.0.0", "*.1.2.3.4"])
def test_an_allowlist_that_cannot_be_read_opens_nothing(entry: str) -> None:
    """One entry that is none refuses the whole list, by name."""
    with pytest.raises(BadInput, match="in the allowlist is no host, address or block"):
        ForwardProxy(["good.example", entry], print)


WRONG = [b"", b"Proxy-Authorization: Basic am9iOng=\r\n", b"Proxy-Authorization: Bearer x\r\n"]


@pytest.mark.parametrize("header", WRONG)
def test_who_has_no_token_gets_nothing(header: bytes) -> None:
    """On 127.0.0.1 another process may come: 407 without the token, and the attempt is not blamed for it."""
    with served() as server, world([f"127.0.0.1:{server.port}"], over="tcp") as made:
        where = f"127.0.0.1:{server.port}".encode()
        raw = b"GET http://" + where + b"/ HTTP/1.1\r\nHost: " + where + b"\r\n" + header + b"\r\n"
        assert status(made.say(raw)) == 407
        assert status(made.say(b"nonsense\r\n" + header + b"\r\n")) == 407
        assert (made.told, server.heard) == ([], [])


def test_two_tokens_are_none() -> None:
    """A second `Proxy-Authorization` is what no client sends, so neither counts."""
    with world([], over="tcp") as made:
        right = b"Proxy-Authorization: " + made.proxy._authorization + b"\r\n"
        raw = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"
        assert status(made.say(raw + right + b"\r\n")) == 403
        assert status(made.say(raw + right + right + b"\r\n")) == 407


def test_clients_in_use_reach_a_listed_host_and_no_other() -> None:
    """Clients in use, given the proxy's URL: a listed host answers, another is refused and told."""
    with served() as server, world([f"127.0.0.1:{server.port}"], over="tcp") as made:
        url = made.proxy.url
        assert url is not None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url, "https": url}))
        with opener.open(f"http://127.0.0.1:{server.port}/", timeout=10) as answer:
            assert answer.read() == b"ok"
        with pytest.raises(urllib.error.URLError, match="403"):
            opener.open("https://evil.example/", timeout=10)
        with httpx.Client(proxy=url, timeout=10) as client:
            assert client.get(f"http://127.0.0.1:{server.port}/").text == "ok"
            assert client.get("http://evil.example/").status_code == 403
        assert made.told == [
            "CONNECT evil.example:443: not in the allowlist",
            "GET evil.example:80: not in the allowlist",
        ]


def test_ipv6_servers_are_reached_by_their_address() -> None:
    """An IPv6 literal that is listed goes through, in whatever spelling has its meaning."""
    with served(host="::1") as server, world([f"[::1]:{server.port}"]) as made:
        assert status(made.connect(f"[::1]:{server.port}")) == 200
        assert status(made.connect(f"[0:0::0:1]:{server.port}")) == 200


def test_no_file_of_a_proxy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot listen says so and leaves no folder."""
    import tempfile

    from sluicegate.schemas.errors import Unavailable

    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))  # a path too long for a Unix socket
    with pytest.raises(Unavailable, match="cannot listen"):
        ForwardProxy([], print).start()
    assert list(deep.iterdir()) == []
