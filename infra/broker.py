"""An Apache Kafka of our own, for `up`, the demo and the tests: one node, with users and rights from the start.

Everything lies in ``<run_dir>/kafka`` (0700): the data, `server.properties` (0600, it holds passwords), the log, the
ports. A broker that was killed comes back at the same address with its data. Whoever shares our user id can read the
passwords: on one machine, logins separate programs, not people.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sluicegate.infra import guard
from sluicegate.infra.archive import ClassArchive
from sluicegate.infra.jars import cache_folder, kafka_jars
from sluicegate.infra.java import Java, find_java
from sluicegate.infra.properties import format_arguments, server_properties
from sluicegate.schemas.errors import BadInput, LoginRefused, Unavailable
from sluicegate.streams.logins import ADMIN, BROKER, CONTROLLER, new_password, private_folder, write_private

HOST: Final = "127.0.0.1"
START_SEC_MAX: Final = 90.0
STOP_SEC_MAX: Final = guard.GRACE_SEC + 10
LOCK_SEC_MAX: Final = 25.0
"""How long a start waits for a predecessor in the same folder that is still ending."""
LOG_BYTES_MAX: Final = 10_000_000
PORTS: Final = range(20_000, 32_000)
"""Below the ports that systems hand out to outgoing connections: one of those would take the place of a dead broker."""
_LOOK_SEC: Final = 0.05
_JAVA_OPTIONS: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dfile.encoding=UTF-8",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=info",  # one line for each refusal
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)


class EmbeddedBroker:
    """One broker process in one run folder. Not safe to share between threads.

    ``users`` holds at least the passwords of `admin` and `broker`; these two exist from the first start on, all others
    are made through the admin interface. Raises BadInput when they are missing.
    """

    def __init__(self, run_dir: Path, users: Mapping[str, str], *, partitions: int = 3) -> None:
        if missing := [user for user in (ADMIN, BROKER) if user not in users]:
            raise BadInput(
                f"no password of `{'`, `'.join(missing)}` was given; use `ensure_embedded`, which makes them"
            )
        self.folder = Path(run_dir).resolve() / "kafka"
        self._users = dict(users)
        self._partitions = partitions
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._port = 0
        self._archive: ClassArchive | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients connect. Raises Unavailable before the first start."""
        if not self._port:
            raise Unavailable("the embedded broker was not started yet; call `start`")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the broker's Java; 0 while it does not run."""
        return self._pid if self.running else 0

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def log_path(self) -> Path:
        """What the broker says: warnings, errors, and a line for each refusal."""
        return self.folder / "kafka.log"

    def start(self) -> None:
        """Returns once the broker answers its admin. Does nothing while it runs.

        Raises Unavailable when it does not come up, with the end of its log; BadInput when another broker runs in the
        same folder.
        """
        if self.running:
            return
        jars = kafka_jars()
        java = find_java()
        private_folder(self.folder.parent)
        private_folder(self.folder)
        lock_fd = self._lock()
        try:
            ports = self._ports()
            self._write_properties(*ports)
            self._archive = ClassArchive(java, jars, cache_folder())
            self._format(java, jars)
            self._spawn(java, jars, lock_fd)
        finally:
            os.close(lock_fd)  # from here on the guard and the broker hold it
        self._port = ports[0]
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            raise
        write_private(self.folder / "endpoint", self.bootstrap.encode())

    def stop(self) -> None:
        """A clean end: the broker closes its log. Does nothing when it does not run."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(STOP_SEC_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._guard = None
        if self._archive is not None:
            self._archive.keep()

    def kill(self) -> None:
        """``kill -9``: what a crash is."""
        if self._guard is None:
            return
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._guard.wait(STOP_SEC_MAX)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard = None

    def restart(self) -> None:
        """Stop and start at the same address."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _lock(self) -> int:
        """The folder's lock, as a file descriptor; a predecessor may still be ending."""
        fd = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        deadline = time.monotonic() + (LOCK_SEC_MAX if self._ending() else 1.0)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(fd)
                    raise BadInput(
                        f"another broker runs in `{self.folder.parent}`; stop it, or choose another `run_dir`"
                    ) from None
            time.sleep(_LOOK_SEC)

    def _ending(self) -> bool:
        """Whether the one who holds the lock does not take connections any more (or not yet)."""
        try:
            port = int(json.loads((self.folder / "ports.json").read_bytes())["client"])
        except (OSError, ValueError, KeyError, TypeError):
            return True
        return not _answers(port)

    def _ports(self) -> tuple[int, int]:
        """The folder's ports, those of last time if they are free."""
        path = self.folder / "ports.json"
        try:
            known = json.loads(path.read_bytes())
            ports = int(known["client"]), int(known["controller"])
        except (OSError, ValueError, KeyError, TypeError):
            ports = (0, 0)
        if not all(port and _is_free(port) for port in ports):
            client = free_port()
            ports = client, free_port(client)
            write_private(path, json.dumps({"client": ports[0], "controller": ports[1]}).encode())
        return ports

    def _write_properties(self, client_port: int, controller_port: int) -> None:
        text = server_properties(
            host=HOST,
            client_port=client_port,
            controller_port=controller_port,
            data_dir=str(self.folder / "data"),
            passwords={**self._users, CONTROLLER: new_password()},
            partitions=self._partitions,
        )
        write_private(self.folder / "server.properties", text.encode())

    def _format(self, java: Java, jars: list[Path]) -> None:
        """Once: the empty log with the first logins. A format that was cut short is begun anew, nothing was in it."""
        done = self.folder / "formatted"
        if done.exists():
            return
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        arguments = self.folder / "format.arguments"
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # A leading `-` would read as an option.
        cluster_id = cluster_id.replace("-", "A")
        text = format_arguments(
            cluster_id=cluster_id, properties_path=str(self.folder / "server.properties"), passwords=self._users
        )
        write_private(arguments, text.encode())
        try:
            command = [*self._java(java, jars), "kafka.tools.StorageTool", f"@{arguments}"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=START_SEC_MAX, check=False)
        finally:
            arguments.unlink()
        if answer.returncode != 0:
            # Its standard output shows stored keys, its errors do not.
            raise Unavailable(f"Kafka's storage cannot be formatted in `{self.folder}`: {answer.stderr.strip()[-500:]}")
        write_private(done, cluster_id.encode())

    def _java(self, java: Java, jars: list[Path]) -> list[str]:
        assert self._archive is not None
        return [str(java.path), *self._archive.base(), *_JAVA_OPTIONS, "-cp", ":".join(map(str, jars))]

    def _spawn(self, java: Java, jars: list[Path], lock_fd: int) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        assert self._archive is not None
        program, *options = self._java(java, jars)
        command = [program, *options, *self._archive.top(), "kafka.Kafka", str(self.folder / "server.properties")]
        with os.fdopen(os.open(self.log_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(lock_fd), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(lock_fd,),
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for us: the broker ends last, when the others have committed
            )
        assert self._guard.stdout is not None
        said = self._guard.stdout.readline()
        self._guard.stdout.close()
        if not said.strip().isdigit():
            raise Unavailable(f"the embedded broker's Java did not start; see `{self.log_path}`")
        self._pid = int(said)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_SEC_MAX
        while not _answers(self._port):
            self._check(deadline)
            time.sleep(_LOOK_SEC)
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import AdminClient

        refused: list[Any] = []
        client = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": ADMIN,
                "sasl.password": self._users[ADMIN],
                "reconnect.backoff.max.ms": "200",
                "error_cb": refused.append,
                "log_level": 0,
            }
        )
        while True:
            self._check(deadline)
            with contextlib.suppress(KafkaException):
                if client.list_topics(timeout=1).brokers:
                    return
            client.poll(0)
            if any(error.code() == KafkaError._AUTHENTICATION for error in refused):
                raise LoginRefused(
                    f"the broker in `{self.folder}` does not take the password of `{ADMIN}`; restore the logins file"
                )

    def _check(self, deadline: float) -> None:
        if not self.running:
            raise Unavailable(f"the embedded broker ended while starting: {self._last_words()}")
        if time.monotonic() > deadline:
            raise Unavailable(f"the embedded broker did not answer in {START_SEC_MAX:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()[-4:]
        except OSError:
            lines = []
        return f"{' | '.join(lines)[-600:] or 'it said nothing'}; see `{self.log_path}`"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(*taken: int) -> int:
    """A port of `PORTS` that nobody listens on now. Raises Unavailable."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if port not in taken and _is_free(port):
            return port
    raise Unavailable(f"no free port between {PORTS.start} and {PORTS.stop} on {HOST}")
