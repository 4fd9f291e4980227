from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from sluicegate.infra.broker import EmbeddedBroker
from sluicegate.infra.embedded import ensure_embedded
from sluicegate.schemas.errors import BadInput, LoginRefused, Unavailable
from sluicegate.streams.connection import await_broker
from sluicegate.streams.logins import ADMIN, BROKER, kafka_config, load_logins, new_password
from sluicegate.streams.settings import Settings

WAIT_SEC = 30


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run folder of its own, for a broker that may be killed."""
    return Settings(run_dir=tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def own(settings: Settings) -> Iterator[EmbeddedBroker]:
    """A broker that may be killed."""
    broker = ensure_embedded(settings, ["deployer"])
    yield broker
    broker.stop()


def _write(settings: Settings, value: bytes) -> None:
    producer = Producer(kafka_config(settings, "agent.deployer"))
    failed: list[object] = []
    producer.produce("job.intents", value, b"deployer", on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(WAIT_SEC) == 0
    assert failed == [None]


def _values(settings: Settings, count: int) -> list[bytes]:
    """The first records of job.intents, read by the gate's login in a group that commits nothing."""
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": "false"}
    consumer = Consumer(kafka_config(settings, "gate", group_id="gate.test", **options))
    consumer.subscribe(["job.intents"])
    found: list[bytes] = []
    deadline = time.monotonic() + WAIT_SEC
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message.value() or b"")
    consumer.close()
    return found


def test_a_killed_broker_comes_back_at_its_address_with_its_data(own: EmbeddedBroker, settings: Settings) -> None:
    """What was acknowledged survives ``kill -9`` and a clean restart; clients find the broker where it was."""
    _write(settings, b"before")
    address, killed = own.bootstrap, own.pid
    own.kill()
    assert own.pid == 0
    assert not psutil.pid_exists(killed)
    own.start()
    _write(settings, b"between")
    own.restart()
    assert own.bootstrap == address == settings.servers
    assert _values(settings, 2) == [b"before", b"between"]


def test_passwords_stay_with_their_owner(own: EmbeddedBroker, settings: Settings) -> None:
    """Whatever holds a password or data is the owner's alone, and no password stands in the log or a command line."""
    for name in ("server.properties", "kafka.log", "endpoint", "ports.json", "lock"):
        assert (own.folder / name).stat().st_mode & 0o777 == 0o600, name
    assert settings.logins_path.stat().st_mode & 0o777 == 0o600
    assert own.folder.stat().st_mode & 0o777 == 0o700
    assert not (own.folder / "format.arguments").exists()
    words = own.log_path.read_text() + " ".join(psutil.Process(own.pid).cmdline())
    assert not [login for login, password in load_logins(settings.logins_path).items() if password in words]


def test_the_same_folder_again_keeps_passwords(own: EmbeddedBroker, settings: Settings) -> None:
    """Starting a run folder again changes no login, so clients that run on stay connected."""
    before = load_logins(settings.logins_path)
    own.stop()
    with ensure_embedded(settings, ["deployer", "cleaner"]) as again:
        assert again.bootstrap == own.bootstrap
        after = load_logins(settings.logins_path)
        assert {login: after[login] for login in before} == before
        assert after.keys() - before.keys() == {"agent.cleaner"}
    own.start()


def test_two_brokers_in_one_folder_are_refused(own: EmbeddedBroker, settings: Settings) -> None:
    """A second start in the same run folder says so and leaves the first one alone."""
    second = EmbeddedBroker(settings.run_dir, load_logins(settings.logins_path))
    with pytest.raises(BadInput, match="another broker runs in"):
        second.start()
    assert own.running


def test_a_lost_logins_file_is_said(own: EmbeddedBroker, tmp_path: Path, settings: Settings) -> None:
    """Data of other passwords than those at hand: a clear word, and no broker is left running."""
    own.stop()
    strange = EmbeddedBroker(
        settings.run_dir, {ADMIN: new_password(), BROKER: load_logins(settings.logins_path)[BROKER]}
    )
    with pytest.raises(LoginRefused, match="restore the logins file"):
        strange.start()
    assert not strange.running
    own.start()


def _answer(address: str, *requests: tuple[int, int, bytes]) -> bytes:
    """What the last of some requests (API, version, body) gets over one connection; nothing when it is hung up."""
    host, port = address.split(":")
    body = b""
    with (
        socket.create_connection((host, int(port)), timeout=WAIT_SEC) as connection,
        connection.makefile("rb") as reader,
    ):
        for api, version, content in requests:
            request = struct.pack(">hhih", api, version, 1, 4) + b"test" + content
            connection.sendall(struct.pack(">i", len(request)) + request)
            size = reader.read(4)
            body = reader.read(struct.unpack(">i", size)[0])[4:] if size else b""
    return body


def _controller_address(own: EmbeddedBroker) -> str:
    lines = (own.folder / "server.properties").read_text().splitlines()
    listeners = next(line for line in lines if line.startswith("listeners="))
    return listeners.rsplit("CONTROLLER://", 1)[1]


def test_the_controller_turns_strangers_away(own: EmbeddedBroker, settings: Settings) -> None:
    """Whoever has not said the controller's password is hung up; no login of ours is one of its."""
    address = _controller_address(own)
    describe_acls = (29, 1, b"\x01" + b"\xff\xff" + b"\x01" + b"\xff\xff" * 2 + b"\x01\x01")
    assert _answer(address, describe_acls) == b""
    handshake = (17, 1, struct.pack(">h", 5) + b"PLAIN")
    right = _controller_line(own).split('password="', 1)[1].split('"', 1)[0]
    admin = load_logins(settings.logins_path)["admin"]
    codes = []
    for user, password in (("controller", right), ("controller", "wrong"), ("admin", admin)):
        token = f"\0{user}\0{password}".encode()
        answer = _answer(address, handshake, (36, 0, struct.pack(">i", len(token)) + token))
        codes.append(struct.unpack(">h", answer[:2])[0])
    assert codes == [0, 58, 58]  # 58 is SASL_AUTHENTICATION_FAILED


def test_clients_without_the_right_password_are_turned_away(own: EmbeddedBroker, settings: Settings) -> None:
    """Neither a client without a login nor one with a wrong password gets an answer."""
    assert _answer(own.bootstrap, (3, 1, struct.pack(">i", -1))) == b""
    with pytest.raises(LoginRefused, match="`gate`"):
        await_broker({**kafka_config(settings, "gate"), "sasl.password": "wrong", "log_level": "0"})


def test_the_controllers_password_is_of_one_boot(own: EmbeddedBroker) -> None:
    """A copied properties file opens the controller's door until the next start at most."""
    before = _controller_line(own)
    own.restart()
    assert _controller_line(own) != before


def _controller_line(own: EmbeddedBroker) -> str:
    lines = (own.folder / "server.properties").read_text().splitlines()
    return next(line for line in lines if line.startswith("listener.name.controller.plain"))


STARTER = """
import sys, time
from pathlib import Path
from sluicegate.infra.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]), {"admin": "a-password", "broker": "b-password"})
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_broker_outlives_who_started_it(end: signal.Signals, tmp_path: Path) -> None:
    """However the starter ends, the broker ends, and the folder can be started again at once."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    java = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(end)
    starter.wait(WAIT_SEC)
    with EmbeddedBroker(tmp_path, {"admin": "a-password", "broker": "b-password"}) as again:
        assert not java.is_running()
        assert again.pid != java.pid


def test_a_killed_guard_takes_the_broker_with_it(own: EmbeddedBroker) -> None:
    """Not even the death of the process in between leaves a broker behind."""
    java = psutil.Process(own.pid)
    guard = java.ppid()
    assert guard != os.getpid()
    os.kill(guard, signal.SIGKILL)
    java.wait(WAIT_SEC)
    assert not own.running
    own.start()
    assert own.running


def test_the_internal_topics_are_small(own: EmbeddedBroker, settings: Settings) -> None:
    """One partition for offsets, where Kafka makes 50: a laptop's broker starts quickly."""
    _write(settings, b"one more")
    _values(settings, 1)
    topics = AdminClient(kafka_config(settings, "admin")).list_topics(timeout=WAIT_SEC).topics
    assert len(topics["__consumer_offsets"].partitions) == 1


def test_a_broker_without_its_own_passwords_is_refused(tmp_path: Path) -> None:
    """Nothing is made up in silence: a broker needs the logins it is started with."""
    with pytest.raises(BadInput, match="`broker`"):
        EmbeddedBroker(tmp_path, {"admin": "x"})
    with pytest.raises(Unavailable, match="not started yet"):
        assert EmbeddedBroker(tmp_path, {"admin": "x", "broker": "y"}).bootstrap
