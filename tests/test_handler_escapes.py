"""What a handler sees and reaches from inside its namespaces, and what is kept from it without them too."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from handler_world import World

from sluicegate.clients.judging import Terms
from sluicegate.clients.sandbox import place

CLOSED = Terms(network=())
ECHO = """
import socket, sys
connection, _ = socket.socket(fileno=int(sys.argv[1])).accept()
connection.sendall(connection.recv(9).upper())
"""


class Listeners:
    """What a handler could reach on this host: a TCP port, a Unix socket by path, an abstract one."""

    def __init__(self, folder: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.path, self.abstract = str(folder / "socket"), f"sluicegate-test-{os.getpid()}"
        self.unix, self.datagrams, self.hidden = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 1))
        self.unix.bind(self.path)
        self.datagrams.bind(f"{self.path}.datagrams")
        self.hidden.bind(f"\0{self.abstract}")
        self.unix.listen()
        self.hidden.listen()

    @property
    def port(self) -> int:
        return int(self.tcp.getsockname()[1])

    def close(self) -> None:
        for each in (self.tcp, self.unix, self.datagrams, self.hidden):
            each.close()


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:  # a path of a Unix socket has 107 bytes at most
        found = Listeners(Path(folder))
        yield found
        found.close()


def test_a_handler_has_no_descriptor_but_its_own(either: World) -> None:
    """Three pipes to the worker, and its own lock; the worker's and the zygote's are closed."""
    assert either.run("descriptors").value == ["/memfd", "pipe", "pipe", "pipe"]


def test_a_handler_gets_a_scrubbed_environment(either: World, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor secrets nor proxies of the worker, not even in what the kernel remembers; HOME is kept."""
    for name in ("SLUICEGATE_RUN_DIR", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.setenv(name, "worker's own")
    world = World(either.namespaces, run_dir)
    value = world.run("environment").value
    world.zygote.close()
    assert "worker's own" not in value["first"]
    assert "worker's own" not in value["now"].values()
    assert value["now"]["HOME"] == os.environ["HOME"]
    assert value["now"]["HANDED_ON"] == "yes"


def test_a_network_s_handler_is_told_of_its_proxy_alone(inside: World) -> None:
    """All names of the variable lead to the inner loopback, and nothing is exempt."""
    now = inside.run("environment", terms=CLOSED).value["now"]
    proxies = {name for name in now if name.lower().endswith("_proxy")}
    assert proxies == {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
    assert all(now[name].startswith("http://127.0.0.1:") for name in proxies)


def test_the_run_folder_cannot_be_seen(inside: World, run_dir: Path) -> None:
    """By no path, link, working folder or descriptor: it is empty and cannot be written."""
    value = inside.run("run_folder", str(run_dir)).value
    assert (value["got"], value["listed"]) == ([], [])
    assert value["written"].startswith(("OSError Read-only", "PermissionError"))


def test_a_file_can_be_hidden_too(inside: World, run_dir: Path, tmp_path: Path) -> None:
    """Logins may lie elsewhere; what is not there yet is passed over."""
    logins = tmp_path / "logins.json"
    logins.write_text("a password")
    process = inside.process("reads", str(logins))
    process._hidden = [place(logins), place(tmp_path / "not there")]
    process.start()
    said: Any = process.wait().said
    assert bytes(said.content) == b'""'


def test_the_cover_cannot_be_taken_off(inside: World, run_dir: Path) -> None:
    """No right to mount, and no further user namespace in which there would be one."""
    value = inside.run("uncover", str(run_dir)).value
    assert value.pop("secret").startswith("FileNotFoundError")
    assert "done" not in value.values(), value


def test_a_handler_holds_no_rights_and_gets_none(inside: World) -> None:
    """Also what it executes as user 0 of its namespace; no core dump; no device."""
    value = inside.run("rights").value
    assert value["held"] == ["0000000000000000"] * 5
    assert value["no new"] == "1"
    assert value["core"][0] == 1, "0 still lets a program have them that the kernel pipes them to"
    assert [value["core"][1][:10], value["node"][:10], value["host name"][:10]] == [
        "ValueError",
        "Permission",
        "Permission",
    ]


def test_no_new_privileges_holds_without_namespaces(outside: World) -> None:
    """So does the bound of core dumps."""
    value = outside.run("rights_outside").value
    assert value == {"no new": "1", "core": 1}


def test_the_kernel_s_settings_are_read_only(inside: World) -> None:
    """A worker that is root could else be made to run a program as root outside."""
    value = inside.run("kernel_settings").value
    assert value.pop("/sys/kernel") == []
    assert not [name for name, how in value.items() if how.startswith("got")], value


def test_processes_outside_cannot_be_seen_signalled_or_read(inside: World) -> None:
    """Ids are those of the namespace; process 1 in it can be neither read nor traced nor killed."""
    value = inside.run("other_processes", os.getpid()).value
    assert value["seen"] == [1, 2]
    assert (value["signal"], value["pidfd"]) == ("ProcessLookupError No such process",) * 2
    assert not [how for how in [*value["mem"], value["environ"]] if how.startswith("got")], value
    assert value["traced"] == [-1, -1]
    assert inside.run("noop").word == "finished"


def test_shared_memory_of_others_cannot_be_found(inside: World) -> None:
    """System V objects are those of the namespace."""
    libc = ctypes.CDLL(None)
    key = 0x5_1C_E0 + os.getpid()
    made = libc.shmget(key, 4096, 0o1600)
    try:
        assert made >= 0
        assert inside.run("shared_memory", key).value == -1
    finally:
        libc.shmctl(made, 0, None)


def test_there_is_no_way_out_of_the_network(inside: World, listeners: Listeners) -> None:
    """No protocol, no form of address, no kind of socket, no other network; what listens on this host is not there."""
    asked = [listeners.port, listeners.path, listeners.abstract]
    value = inside.run("network", asked, terms=CLOSED).value
    assert not {name: how for name, how in value.items() if how.startswith("got")}
    assert len(value) >= 20


def test_the_attempt_can_fail(outside: World, listeners: Listeners) -> None:
    """The same handler without namespaces reaches what listens here: the test above says something."""
    value = outside.run("network", [listeners.port, listeners.path, listeners.abstract]).value
    for name in ("tcp to the host's loopback", "unix socket by path", "abstract unix socket", "datagram from a pair"):
        assert value[name].startswith("got"), name


def test_without_an_allowlist_the_network_is_the_host_s(inside: World, listeners: Listeners) -> None:
    """A grant that says nothing of the network takes nothing away."""
    value = inside.run("network", [listeners.port, listeners.path, listeners.abstract]).value
    assert value["tcp to the host's loopback"].startswith("got")


def test_the_proxy_lets_out_what_is_listed(either: World) -> None:
    """A listed address answers through it; another is refused, and the refusal told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answering = subprocess.Popen(
            [
                sys.executable,
                "-c",
                ECHO,
                str(server.fileno()),
            ],
            pass_fds=[server.fileno()],
        )
        listed, other = f"127.0.0.1:{port}", "evil.example:443"
        ran = either.run("by_proxy", [listed, other], terms=Terms(network=(listed,)))
        answering.wait(10)
    assert ran.value[listed].endswith(" PING")
    assert " 403 " in ran.value[other]
    assert [(each.constraint, each.prevented) for each in ran.breaches] == [("network_allowlist", True)]
    assert "evil.example" in ran.breaches[0].detail
