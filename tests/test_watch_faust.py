"""Faust as we run it: its settings, its partitioner, and that it knows nothing of exactly once."""

from __future__ import annotations

import random
from pathlib import Path

import faust
import pytest
from aiokafka.partitioner import (  # type: ignore[import-untyped]  # published without types
    DefaultPartitioner,
    murmur2,
)

from sluicegate.schemas.errors import InvariantBroken
from sluicegate.streams import partitioner
from sluicegate.streams.faust_app import FaustConfig, changelog_table, make_app, murmur2_partitioner
from sluicegate.streams.topics import APPLICATIONS

CONFIG = FaustConfig(APPLICATIONS["watch"], "1", "broker-1:9092,broker-2:9093", Path("unused"), tenant="acme")
JAVA_VECTORS = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
"""Keys and hashes from the tests of Kafka's own Java client."""


def test_the_partitioner_is_javas() -> None:
    """Java's own vectors, and what aiokafka makes of keys of every length and byte."""
    for key, signed in JAVA_VECTORS.items():
        assert partitioner.murmur2(key) == signed & 0xFFFFFFFF
    rng = random.Random(1)
    for _ in range(2_000):
        key = rng.randbytes(rng.randrange(70))
        assert partitioner.murmur2(key) == murmur2(key)
        for count in (1, 3, 7, 50):
            every = list(range(count))
            expected = DefaultPartitioner()(key, every, every)
            assert murmur2_partitioner(key, every, every) == expected == partitioner.partition_for(key, count)


def test_a_record_without_a_key_is_refused() -> None:
    """It would go to a partition by chance."""
    with pytest.raises(InvariantBroken):
        murmur2_partitioner(None, [0, 1, 2], [0, 1, 2])


@pytest.fixture
def app(tmp_path: Path) -> faust.App:
    """The application of one instance, not started."""
    return make_app(
        FaustConfig(APPLICATIONS["watch"], "1", CONFIG.bootstrap, tmp_path / "state", credentials=None, tenant="acme")
    )


def test_it_is_never_exactly_once(app: faust.App) -> None:
    """Faust's own transactions lose and double records; at least once with our order of work does not."""
    assert not app.in_transaction


def test_it_is_a_static_member_of_the_group_in_the_access_lists(app: faust.App) -> None:
    """Group and member id follow from tenant, application and instance, so a restart takes its partitions back."""
    assert app.conf.id == "acme.watch"
    assert app.conf.consumer_group_instance_id == "acme.watch.1"
    assert (app.conf.broker_session_timeout, app.conf.broker_heartbeat_interval) == (6.0, 2.0)


def test_it_makes_no_topics_and_opens_no_port(app: faust.App) -> None:
    """It has no right to create, and a web server nobody asked for is an open door."""
    assert not app.conf.topic_allow_declare
    assert app.conf.topic_disable_leader
    assert not app.conf.web_enabled


def test_every_server_of_the_list_is_known(app: faust.App) -> None:
    """A second server is there for when the first is not."""
    assert [f"{url.host}:{url.port}" for url in app.conf.broker] == ["broker-1:9092", "broker-2:9093"]


def test_the_changelogs_name_is_the_one_given(app: faust.App) -> None:
    """It is made and guarded beforehand, so Faust must not invent another."""
    table = changelog_table(app, "timers", "acme.watch-timers-changelog")
    assert table.changelog_topic_name == "acme.watch-timers-changelog"
    assert app.tables.changelog_topics == {"acme.watch-timers-changelog"}


def test_the_state_folder_is_private(app: faust.App, tmp_path: Path) -> None:
    """Nobody else reads what lies there."""
    assert Path(app.conf.datadir) == tmp_path / "state"
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
