"""The Kafka of the tests: one broker for the whole run, a fresh tenant (topics, logins, rights) for whoever asks.

Where a Docker engine answers, Kafka's own image runs with the very `server.properties` of the embedded broker; anywhere
else the embedded broker runs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from sluicegate.infra.admin import ensure_users
from sluicegate.infra.broker import HOST, EmbeddedBroker, free_port
from sluicegate.infra.embedded import ensure_tenant
from sluicegate.infra.jars import KAFKA_VERSION
from sluicegate.infra.properties import format_arguments, server_properties
from sluicegate.streams import keys
from sluicegate.streams.logins import ADMIN, BROKER, CONTROLLER, new_password, save_logins, write_private
from sluicegate.streams.settings import Settings

_NUMBERS: Final = itertools.count(1)
_IMAGE: Final = f"apache/kafka:{KAFKA_VERSION}"
_CLUSTER_ID: Final = "c2x1aWNlZ2F0ZS10ZXN0cw"
_IN_CONTAINER: Final = "/tmp/sluicegate"  # noqa: S108  # the image's own, nobody else is in there


class RunningBroker(Protocol):
    """What tests may ask of the broker of the run, whichever kind it is."""

    @property
    def bootstrap(self) -> str: ...


class TenantFactory(Protocol):
    """Makes a tenant of its own and gives the settings that lead to it."""

    def __call__(self, agents: Iterable[str] = (), pools: Iterable[str] = (), **settings: Any) -> Settings: ...


class _Container:
    """Kafka's image with our properties."""

    def __init__(self, bootstrap: str, logs: Callable[[], tuple[bytes, bytes]]) -> None:
        self.bootstrap = bootstrap
        self.logs = logs


def docker_answers() -> bool:
    """Whether a Docker engine is there to run containers."""
    try:
        import docker  # type: ignore[import-untyped]  # published without types
        from docker.errors import DockerException  # type: ignore[import-untyped]  # as above
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, OSError):
        return False


@pytest.fixture(scope="session")
def kafka_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder that all tenants of the run share."""
    return tmp_path_factory.mktemp("kafka")


@pytest.fixture(scope="session")
def broker(kafka_dir: Path) -> Iterator[RunningBroker]:
    """The broker of the run. It is shared: to kill or restart one, make an `EmbeddedBroker` of your own."""
    passwords = {user: new_password() for user in (ADMIN, BROKER)}
    save_logins(kafka_dir / "logins.json", passwords)
    running = _in_docker(kafka_dir, passwords) if docker_answers() else EmbeddedBroker(kafka_dir, passwords)
    with running as found:
        yield found


@contextmanager
def _in_docker(run_dir: Path, passwords: dict[str, str]) -> Iterator[RunningBroker]:
    from testcontainers.core.container import DockerContainer

    folder = run_dir / "kafka"
    folder.mkdir(mode=0o755)
    port, controller_port = free_port(), free_port()
    text = server_properties(
        host=HOST,
        client_port=port,
        controller_port=controller_port,
        data_dir=f"{_IN_CONTAINER}/data",
        passwords={**passwords, CONTROLLER: new_password()},
        bind="0.0.0.0",  # noqa: S104  # inside the container; only loopback is mapped to it
    )
    arguments = format_arguments(
        cluster_id=_CLUSTER_ID, properties_path=f"{_IN_CONTAINER}/server.properties", passwords=passwords
    )
    for name, content in (("server.properties", text), ("format.arguments", arguments)):
        write_private(folder / name, content.encode())
    begin = (
        f"cd {_IN_CONTAINER} && /opt/kafka/bin/kafka-storage.sh @format.arguments >/dev/null"
        " && exec /opt/kafka/bin/kafka-server-start.sh server.properties"
    )
    container = (
        DockerContainer(_IMAGE)
        .with_kwargs(entrypoint="/bin/sh", user=f"{os.getuid()}:{os.getgid()}", ports={f"{port}/tcp": (HOST, port)})
        .with_volume_mapping(str(folder), _IN_CONTAINER, "rw")
        .with_command(["-c", begin])
    )
    with container:
        write_private(folder / "endpoint", f"{HOST}:{port}".encode())
        yield _Container(f"{HOST}:{port}", container.get_logs)


@pytest.fixture(scope="session")
def tenant(broker: RunningBroker, kafka_dir: Path) -> TenantFactory:
    """Makes fresh tenants, each with all topics, one login per service, pool and agent, and the rights of the table."""

    def make(agents: Iterable[str] = (), pools: Iterable[str] = (), **settings: Any) -> Settings:
        found = Settings(
            **{
                "tenant": f"t{next(_NUMBERS)}",
                "run_dir": kafka_dir,
                "control_age_ms_max": 2_000,
                "pools": ("default", *pools),
                "sealing": "none",  # no key service runs beside these parts
                **settings,
            }
        )
        ensure_tenant(found, agents)
        keys.new_gate(found)
        return found

    return make


def extra_login(settings: Settings, user: str) -> None:
    """A login without any right, for tests of what nobody may do."""
    ensure_users(settings, [user])


def authorizer_log(broker: RunningBroker) -> str:
    """What the broker has said so far; each refusal by an access list is a line of it."""
    if isinstance(broker, EmbeddedBroker):
        return broker.log_path.read_text(errors="replace")
    assert isinstance(broker, _Container)
    out, err = broker.logs()
    return f"{out.decode(errors='replace')}\n{err.decode(errors='replace')}"
