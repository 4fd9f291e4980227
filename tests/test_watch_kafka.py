"""The watch as a process on the real broker, under its own login: killed, denied, and fed by transactions."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from fixtures_kafka import TenantFactory

from sluicegate.infra.admin import admin_client
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import TimerFired, TimerRequest
from sluicegate.streams.changelog import WATCH_CHANGELOG
from sluicegate.streams.logins import kafka_config, login_of
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

CODEC = Codec(registry_for(""))
LATE_MS_MAX = 2_000
HOUR_MS = 60 * 60 * 1000
WAIT_SEC_MAX = 60.0
CHILD = """
import sys, msgspec
from sluicegate.processors.watch import main
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.health import Health, HealthServer
from sluicegate.streams.settings import Settings

def on_start(watch):
    status = lambda: msgspec.to_builtins(watch.status())
    server = HealthServer(lambda: Health(watch.status().ready, status()), {"application": "watch"})
    print(server.url, flush=True)

try:
    main(Settings.model_validate_json(sys.argv[1]), "1", on_start)
except SluicegateError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class WatchProcess:
    """One watch in a process of its own, as `sluicegate run watch` starts it."""

    def __init__(self, settings: Settings, errors: Path) -> None:
        self.errors = errors
        with errors.open("ab") as stderr:
            self._child = subprocess.Popen(
                [sys.executable, "-c", CHILD, settings.model_dump_json()], stdout=subprocess.PIPE, stderr=stderr
            )
        self.url = ""

    def health(self) -> dict[str, Any]:
        """What it says of itself; the first call waits for its start."""
        assert self._child.stdout is not None
        self.url = self.url or self._child.stdout.readline().decode().strip()
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  # its own loopback page
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def kill(self) -> None:
        """As `kill -9` does."""
        self._child.kill()
        self._child.wait(WAIT_SEC_MAX)

    def terminate(self) -> int:
        """As an orderly stop does; the exit code."""
        self._child.terminate()
        return self._child.wait(WAIT_SEC_MAX)

    def wait(self) -> int:
        """Until it ends by itself; the exit code."""
        return self._child.wait(WAIT_SEC_MAX)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._child.poll() is None:
            self.kill()
        if self._child.stdout is not None:
            self._child.stdout.close()


class Desk:
    """Asks for timers as the desk does, in transactions, and reads every firing as the auditor may."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.requests = physical(settings.tenant, "timer.requests")
        fired = physical(settings.tenant, "timer.fired.desk")
        login = login_of(settings, "desk")
        self._producer = Producer(
            kafka_config(settings, "desk") | {"transactional.id": f"{login}.test", "partitioner": "murmur2_random"}
        )
        self._producer.init_transactions()
        self._consumer = Consumer(kafka_config(settings, "auditor") | {"group.id": login_of(settings, "auditor")})
        self._consumer.assign([TopicPartition(fired, p, OFFSET_BEGINNING) for p in range(settings.partitions)])

    def ask(self, timers: Iterable[tuple[bytes, str, int]], *, abort: bool = False) -> None:
        """Write requests (record key, timer id, fire at) in one transaction."""
        self._producer.begin_transaction()
        for key, timer_id, fire_at_ms in timers:
            text = key.decode("utf-8", "backslashreplace")
            request = TimerRequest(owner="desk", key=text, timer_id=timer_id, fire_at_ms=fire_at_ms)
            self._producer.produce(self.requests, CODEC.encode(request), key)
        self._producer.flush(WAIT_SEC_MAX)  # an aborted record must be in the log, not only in this client
        self._producer.abort_transaction() if abort else self._producer.commit_transaction()

    def read(self) -> list[Message]:
        """The firings that have come."""
        found: list[Message] = self._consumer.consume(500, 0.1)
        assert not [message.error() for message in found if message.error() is not None]
        return found

    def read_until(self, count: int) -> list[Message]:
        """At least so many firings; fails after a minute."""
        found: list[Message] = []
        deadline = time.monotonic() + WAIT_SEC_MAX
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} firings came"
            found += self.read()
        return found

    def await_commits(self, lag_max: int, wait_sec: float = WAIT_SEC_MAX) -> None:
        """Until the watch has committed all but so many records of `timer.requests`; fails after ``wait_sec``."""
        deadline = time.monotonic() + wait_sec
        while (lag := self.lag()) > lag_max:
            assert time.monotonic() < deadline, f"{lag} records are behind the commits"

    def forget_commits(self) -> None:
        """Delete the watch's group, once its session has ended: a static member does not leave when it stops."""
        admin, group = admin_client(self.settings), login_of(self.settings, "watch")
        deadline = time.monotonic() + WAIT_SEC_MAX
        while True:
            try:
                admin.delete_consumer_groups([group])[group].result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NON_EMPTY_GROUP or time.monotonic() > deadline:
                    raise
            else:
                return

    def lag(self) -> int:
        """Records of `timer.requests` behind the watch's commits; a transaction's last marker counts as one."""
        admin = admin_client(self.settings)
        tps = [TopicPartition(self.requests, partition) for partition in range(self.settings.partitions)]
        group = login_of(self.settings, "watch")
        answers = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, tps)])
        lag = 0
        for at in answers[group].result().topic_partitions:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), timeout=10)
            lag += end - max(at.offset, 0)
        return lag


@pytest.fixture
def settings(tenant: TenantFactory) -> Settings:
    """A tenant of its own."""
    return tenant()


@pytest.fixture
def desk(settings: Settings) -> Desk:
    """Whoever asks for timers and reads firings."""
    return Desk(settings)


@contextlib.contextmanager
def watching(settings: Settings, folder: Path) -> Iterator[WatchProcess]:
    process = WatchProcess(settings, folder / "errors")
    try:
        yield process
    finally:
        process.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def event_of(message: Message) -> TimerFired:
    event = CODEC.decode(message.value() or b"")
    assert isinstance(event, TimerFired)
    return event


def late_ms(message: Message) -> int:
    return int(message.timestamp()[1]) - event_of(message).fire_at_ms


def content_of(message: Message) -> tuple[Any, ...]:
    return (message.partition(), message.key(), message.value(), tuple(message.headers() or ()))


def check_firings(messages: list[Message], wanted: dict[str, int]) -> int:
    """All wanted firings are there, none is early or unwanted, repeats are the same bytes; how many repeats."""
    seen: dict[str, tuple[Any, ...]] = {}
    for message in messages:
        event = event_of(message)
        assert wanted.get(event.timer_id) == event.fire_at_ms, event
        assert late_ms(message) >= 0, event
        assert seen.setdefault(event.timer_id, content_of(message)) == content_of(message), event
    assert seen.keys() == wanted.keys()
    return len(messages) - len(seen)


def ask_for(desk: Desk, count: int, from_ms: int, span_ms: int) -> dict[str, int]:
    """Timers over a span, in transactions of ten: one in ten aborted, one in five asked for twice."""
    rng = random.Random(7)
    wanted: dict[str, int] = {}
    for first in range(0, count, 10):
        batch = [(f"timer-{n}", from_ms + rng.randrange(span_ms)) for n in range(first, first + 10)]
        replaced = [(b"key-%d" % (first % 37), timer_id, at_ms + HOUR_MS) for timer_id, at_ms in batch[::5]]
        final = [(b"key-%d" % (first % 37), timer_id, at_ms) for timer_id, at_ms in batch]
        abort = rng.random() < 0.1
        desk.ask([*replaced, *final], abort=abort)
        if not abort:
            wanted.update(batch)
    # The last record of each partition is a committed one: what was aborted behind it would count as lag for ever.
    last = [(b"key-%d" % number, f"last-{number}", from_ms) for number in range(37)]
    desk.ask(last)
    return wanted | {timer_id: at_ms for _, timer_id, at_ms in last}


def test_no_timer_is_lost_over_kills(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """500 timers, two productive `kill -9`: each fires at or after its time, and repeats are the same bytes."""
    wanted = ask_for(desk, 500, now_ms() + 3_000, 5_000)
    assert len(wanted) > 400
    found: list[Message] = []
    for goal in (len(wanted) // 3, 2 * len(wanted) // 3):
        with watching(settings, tmp_path) as process:
            found += desk.read_until(goal - len(found))
            process.kill()
    with watching(settings, tmp_path) as process:
        found += desk.read_until(len(wanted) - len(found))
        while len({event_of(message).timer_id for message in found}) < len(wanted):
            found += desk.read_until(1)
        assert process.health()["refused_total"] == 0
        desk.await_commits(settings.partitions)  # the holes that transactions leave do not hold them up
        assert process.health()["open_timers"] == 0
        assert process.terminate() == 0
    repeats = check_firings(found + desk.read(), wanted)
    assert repeats <= 2 * len(wanted)


def test_a_firing_comes_once_and_in_time(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """Nothing is killed: no repeat at all, and none later than two seconds."""
    with watching(settings, tmp_path) as process:
        desk.ask([(b"key", "first", now_ms())])
        desk.read_until(1)  # its partitions are assigned
        wanted = ask_for(desk, 200, now_ms() + 500, 2_000)
        found = desk.read_until(len(wanted))
        assert process.terminate() == 0
    assert check_firings(found + desk.read(), wanted) == 0
    assert max(map(late_ms, found)) <= LATE_MS_MAX


def test_what_was_aborted_never_fires(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """Only committed requests count, and a hole right behind the first record does not stop the commits."""
    key, partition = b"key", partition_for(b"key", settings.partitions)
    desk.ask([(key, "a", now_ms())])
    desk.ask([(key, "aborted", now_ms())] * 3, abort=True)
    desk.ask([(key, "b", now_ms())])
    with watching(settings, tmp_path):
        found = desk.read_until(2)
        desk.await_commits(1)
    assert sorted(event_of(message).timer_id for message in found) == ["a", "b"]
    assert {message.partition() for message in found} == {partition}


def test_a_recovery_passes_over_no_request(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """A watch that died before its first commit reads every request again; Faust alone throws some away."""
    timers = [(b"key-%d" % number, f"timer-{number}", now_ms()) for number in range(90)]
    desk.ask(timers)
    with watching(settings, tmp_path) as process:
        desk.read_until(len(timers))
        assert process.terminate() == 0
    desk.forget_commits()
    with watching(settings, tmp_path) as process:
        desk.await_commits(settings.partitions)
        assert process.health()["requests_total"] >= len(timers)
        assert desk.read() == []


def test_commits_keep_up_with_small_transactions(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """A hundred transactions of one record leave a hundred holes; Faust alone commits over one a second."""
    for number in range(100):
        desk.ask([(b"key", f"timer-{number}", now_ms())])
    with watching(settings, tmp_path):
        desk.read_until(100)
        desk.await_commits(1, wait_sec=30)


def test_a_firing_stands_under_the_very_key_of_its_request(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """Byte for byte, also when the key is no text, and on the partition where its owner's state is."""
    keys = [b"agent-1", "Größe".encode(), b"\xff\x00raw", b"a" * 200]
    desk.ask([(key, f"timer-{number}", now_ms()) for number, key in enumerate(keys)])
    with watching(settings, tmp_path):
        found = desk.read_until(len(keys))
    assert {message.key() for message in found} == set(keys)
    for message in found:
        assert message.partition() == partition_for(message.key() or b"", settings.partitions)
        headers = dict(message.headers() or ())
        assert headers["ce_type"] == b"sluicegate.TimerFired.v1"
        assert headers["ce_id"].startswith(b"watch/desk/")


def test_a_watch_that_may_not_store_ends_and_says_why(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """Faust alone would warn and go on, and forget every timer at the next restart."""
    changelog = physical(settings.tenant, WATCH_CHANGELOG)
    right = AclBindingFilter(
        ResourceType.TOPIC,
        changelog,
        ResourcePatternType.LITERAL,
        f"User:{login_of(settings, 'watch')}",
        None,
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    admin = admin_client(settings)
    (deleted,) = admin.delete_acls([right]).values()
    assert len(deleted.result()) == 1
    while admin.describe_acls(right).result():
        pass
    desk.ask([(b"key", "timer", now_ms())])
    with watching(settings, tmp_path) as process:
        assert process.wait() == 1
        assert "TopicAuthorizationFailedError" in process.errors.read_text()
    assert desk.lag() > 0
    assert desk.read() == []


def test_a_refused_login_ends_the_process(settings: Settings, tmp_path: Path) -> None:
    """A wrong password is said at once, without the password."""
    logins = tmp_path / "logins.json"
    logins.write_text(json.dumps({login_of(settings, "watch"): "not the password"}))
    logins.chmod(0o600)
    with watching(settings.model_copy(update={"logins_file": logins}), tmp_path) as process:
        assert process.wait() == 1
        said = process.errors.read_text()
    assert "LoginRefused" in said
    assert "not the password" not in said


@pytest.mark.campaign
def test_ten_thousand_open_timers_fire_in_time(settings: Settings, desk: Desk, tmp_path: Path) -> None:
    """With ten thousand open, none is later than two seconds."""
    with watching(settings, tmp_path) as process:
        wanted = ask_for(desk, 11_000, now_ms() + 30_000, 20_000)
        while process.health()["open_timers"] < len(wanted):
            desk.read()
        found = desk.read_until(len(wanted))
        assert process.terminate() == 0
    assert len(wanted) > 9_000
    assert check_firings(found, wanted) == 0
    assert max(map(late_ms, found)) <= LATE_MS_MAX
