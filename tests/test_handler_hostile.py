"""Handlers that turn on whatever bounds them: their keeper, process 1 of their namespace, the worker and its files."""

from __future__ import annotations

import array
import ctypes
import os
import platform
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from handler_world import World, grows_no_more

from sluicegate.clients.frames import KIND, NAME_CHARS_MAX, Returned
from sluicegate.clients.handler_log import HandlerLog
from sluicegate.clients.handler_process import CHUNK_BYTES, REST_BYTES_MAX
from sluicegate.clients.judging import Terms
from sluicegate.clients.sandbox import place

BRIEF = Terms(runtime_sec_max=0.5)


@pytest.mark.parametrize(
    "name",
    [
        "freezes_its_group",
        "starves_process_1",
        "traced_by_its_parent",
        "leaves_its_first_thread",
        "becomes_a_program",
    ],
)
def test_nothing_it_does_to_others_lets_it_outlive_its_time(inside: World, tmp_path: Path, name: str) -> None:
    """Whoever it stops, starves or deceives, it has ended 2 s after its time with all its children, or before."""
    ran = inside.run(name, str(tmp_path / "ticks"), terms=BRIEF)
    assert ran.word in ("overran", "failed")
    assert ran.took_sec < 4
    assert grows_no_more(tmp_path / "ticks")
    assert inside.run("noop").word == "finished"


@pytest.mark.parametrize("name", ["freezes_its_group", "traced_by_its_parent", "becomes_a_program"])
def test_without_namespaces_its_group_is_its_own_too(outside: World, tmp_path: Path, name: str) -> None:
    """A signal to its group reaches what it made, and neither the keeper nor the other attempts."""
    ran = outside.run(name, str(tmp_path / "ticks"), terms=BRIEF)
    assert ran.word in ("overran", "failed")
    assert grows_no_more(tmp_path / "ticks")


def test_a_killed_group_is_its_own(either: World) -> None:
    """The process that all handlers are forked from lives on, and so does another attempt."""
    zygote = either.zygote._process.pid
    other = either.process("patient", terms=Terms(runtime_sec_max=20))
    other.start()
    assert either.run("kills_its_group").error == "Crashed"
    other.ask("over")
    assert other.wait().said is not None
    assert either.zygote._process.pid == zygote
    assert either.zygote._process.poll() is None


def test_a_slowed_group_is_its_own(inside: World) -> None:
    """Nor can it make the others wait: neither by group nor by user."""
    zygote = inside.zygote._process.pid
    before = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (zygote, os.getpid())]
    inside.run("slows_its_group")
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in (zygote, os.getpid())] == before


@pytest.mark.parametrize("name", ["comet", "adopts_its_orphans"])
def test_nothing_that_hides_runs_on(either: World, tmp_path: Path, name: str) -> None:
    """Processes that are gone as soon as they are found, or that another one adopts."""
    either.run(name, str(tmp_path / "ticks"))
    assert grows_no_more(tmp_path / "ticks")


def test_threads_count_as_processes(either: World) -> None:
    """A worker that is root has no limit of the kernel's, so they are counted; for another the kernel makes no more."""
    held_by_kernel = either.namespaces and os.geteuid() != 0
    word = "Overran" if held_by_kernel else "TooManyProcesses"
    assert either.run("bomb_of_threads", processes_max=64, terms=Terms(runtime_sec_max=2)).error == word


@pytest.mark.parametrize("runtime", [30 * 86_400.0, 1e300])
def test_a_long_time_is_a_time(either: World, runtime: float) -> None:
    """A limit of a month, or of ages, is none that a wait could not take."""
    assert either.run("noop", terms=Terms(runtime_sec_max=runtime)).word == "finished"


FREE_TEXT = [
    '{"type":"raised","kind":"card 4111 1111 1111 1111","message":"","stopped":false}',
    '{"type":"raised","kind":"' + "x" * 900_000 + '","message":"","stopped":false}',
    '{"type":"raised","kind":"","message":"","stopped":false}',
    '{"type":"raised","kind":"Error\\n","message":"","stopped":false}',
    '{"type":"raised","kind":"Error","message":"' + "x" * 2_001 + '","stopped":false}',
    '{"type":"note","text":"' + "x" * 2_001 + '"}',
]


@pytest.mark.parametrize("words", FREE_TEXT)
def test_what_the_log_shows_of_a_failure_is_no_free_text(inside: World, words: str) -> None:
    """The kind of a failure stands in the log for all to read, and must fit into a record: a short name or nothing."""
    content = words.encode()
    ran = inside.run("says", (len(content).to_bytes(4, "big") + content).hex(), terms=Terms(runtime_sec_max=5))
    assert (ran.error, ran.done.detail) == ("BadFrame", "BadFrame")
    assert len(ran.done.content) < 500


def test_a_failure_of_an_odd_name_is_an_exception(inside: World) -> None:
    """What its class is called cannot be said in the log, so it is called by what it is."""
    assert inside.run("raises_an_odd_kind").error == "Exception"
    assert len(KIND) < NAME_CHARS_MAX


def test_who_answers_itself_has_spent_nothing_more(inside: World) -> None:
    """The ledger is the worker's: a forged answer changes what the handler believes, and the try is told."""
    ran = inside.run("answers_itself", terms=Terms(budget={"max_affected_rows": 5}))
    assert [(each.constraint, each.prevented) for each in ran.breaches] == [("max_affected_rows", True)]


def test_pipes_that_were_given_away_hold_nobody_up(inside: World) -> None:
    """Somebody outside who goes on writing, as the handler or into its log, is not listened to for ever."""
    over = threading.Event()

    def write_on(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            _, ancillary, *_ = connection.recvmsg(1, socket.CMSG_SPACE(8))
            up, log = array.array("i", ancillary[0][2])
            connection.send(b"x")
            while not over.is_set():
                for number, word in ((up, b"\0\0\0\x1b" + b'{"type":"note","text":"on"}'), (log, b"on\n" * 1_000)):
                    os.write(number, word * 50)
            os.close(up)
            os.close(log)

    def write_quietly(listener: socket.socket) -> None:
        try:
            write_on(listener)
        except OSError:  # nobody listens any more
            return

    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        outsider = threading.Thread(target=write_quietly, args=(listener,), daemon=True)
        outsider.start()
        process = inside.process("gives_its_pipes_away", f"{folder}/socket", log=lambda _: None)
        process.start()
        found: list[object] = []
        waiting = threading.Thread(target=lambda: found.append(process.wait()), daemon=True)
        waiting.start()
        waiting.join(10)
        over.set()
        outsider.join(10)
    assert len(found) == 1


def test_what_is_left_in_a_pipe_is_read_to_an_end(inside: World) -> None:
    """More than a pipe can hold is not what its process had said before it ended."""
    reads: list[int] = []

    def take() -> bool:
        reads.append(1)
        return len(reads) < 10_000

    inside.process("noop")._rest(take)
    assert len(reads) * CHUNK_BYTES == REST_BYTES_MAX


def test_the_kernel_s_keys_are_kept_from_it(either: World) -> None:
    """Keys of the worker's session are inherited and in no namespace; asking for one looks names up outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = {"x86_64": 248, "aarch64": 217}[platform.machine()]
    key = libc.syscall(first, b"user", b"sluicegate-test", b"secret", 6, ctypes.c_int(-3))
    value = either.run("kernel_keys", key).value
    libc.syscall(first + 2, 3, key)
    assert value == dict.fromkeys(("read", "search", "add", "ask"), os.strerror(38)) | {"first": "00" * 6}


def test_the_kernel_ends_a_handler_before_the_worker(either: World) -> None:
    """When the machine's memory is used up it is the one to go."""
    assert either.run("memory_first").value == 1_000


def test_process_1_cannot_be_looked_into(inside: World) -> None:
    """Neither its descriptors nor its memory nor its namespaces, by any newer call."""
    value = inside.run("processes_by_descriptor").value
    assert (value["places"], value["seize"]) == ([], -1)
    said = [*value["descriptor"], value["memory"], value["namespaces"]]
    assert not [each for each in said if each.startswith("got")], value


def test_newer_calls_mount_nothing(inside: World, run_dir: Path) -> None:
    """Neither from this namespace nor from one of a child; the cover cannot be renamed or removed either."""
    value = inside.run("newer_mounts", str(run_dir)).value
    assert not {name: how for name, how in value.items() if how.startswith("got")}


def test_rare_sockets_lead_nowhere(inside: World) -> None:
    """No protocol beside TCP and UDP, no device, no route, no calls by the numbers of another architecture."""
    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        value = inside.run("rare_sockets", f"{folder}/socket", terms=Terms(network=())).value
    assert not {name: how for name, how in value.items() if how.startswith("got")}


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[World]:
    """A world whose run folder a handler may move."""
    folder = tmp_path / "above" / "run"
    folder.mkdir(parents=True)
    (folder / "secret").write_text("a key")
    world = World(True, folder)
    yield world
    world.zygote.close()


def test_a_run_folder_that_was_moved_is_not_shown(apart: World) -> None:
    """Neither to who moves the folder above it, nor to the next attempt, which gets no process then."""
    later = apart.process("reads", f"{apart.run_dir.parent}.moved/run/secret")
    assert apart.run("moves_the_run_folder", str(apart.run_dir)).value == []
    later.start()
    ending = later.wait()
    assert ending.said is None
    assert "which is to be hidden, is another one" in ending.ended.detail


def test_what_is_hidden_may_hold_what_is_hidden(inside: World, run_dir: Path) -> None:
    """The logins lie in the run folder as a rule, and each is named."""
    process = inside.process("run_folder", str(run_dir))
    process._hidden = [place(run_dir), place(run_dir / "secret")]
    process.start()
    said = process.wait().said
    assert isinstance(said, Returned)
    assert b'"listed":[]' in bytes(said.content)


def test_a_log_that_was_taken_away_is_written_to_no_other_file(tmp_path: Path) -> None:
    """A handler may remove the file: what is printed then must not go to whatever has its number next."""
    path = tmp_path / "handlers.log"
    log = HandlerLog(path, bytes_max=10)
    log.write(b"12345678")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        log.write(b"12345678")
    others = [os.open(tmp_path / f"other{number}", os.O_RDWR | os.O_CREAT) for number in range(4)]
    with pytest.raises(FileNotFoundError):
        log.write(b"forged")
    assert [os.fstat(number).st_size for number in others] == [0] * 4
    for number in others:
        os.close(number)


def test_a_pipe_in_the_place_of_the_log_holds_nobody_up(tmp_path: Path) -> None:
    """A handler may put one there just when the worker begins a new file."""
    path = tmp_path / "handlers.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="no file"):
        HandlerLog(path)
    os.close(reader)
    with pytest.raises(OSError, match="No such device"):
        HandlerLog(path)
