"""Events a second from the log into the embedded ClickHouse, against a consumer that reads the same and drops it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.gate import outs_of_an_intent
from sluicegate.bench.material import INTENTS
from sluicegate.bench.stage import Held, Stage, Watcher, now_ms, running
from sluicegate.schemas.errors import Unavailable
from sluicegate.streams.connection import LOGGER
from sluicegate.streams.logins import ADMIN, kafka_config
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import logical, spec_of

PROJECT_SEC_MAX: Final = 120.0
_LOOK_SEC: Final = 0.005


def measure(stage: Stage, findings: Findings, *, rounds: int, count: int) -> None:
    """A log of about ``count`` events, projected anew in every round into an empty store by a fresh process."""
    settings = stage.tenant("projection")
    watcher = Watcher(settings, "gate")
    per_intent = 1 + len(outs_of_an_intent())
    try:
        with running(settings, "gate"):
            held = Held(settings, stage.scribe(settings).messages("p", count // per_intent, now_ms()))
            held.release()
            watcher.wait(INTENTS, held.ends)
    finally:
        watcher.close()
    project, read = [], []
    for _ in range(rounds):
        plain = read_all(settings)
        read.append(plain["events"] / plain["sec"])
        with tempfile.TemporaryDirectory(prefix="store-", dir=settings.run_dir) as store:
            told = {"settings": settings.model_dump(mode="json"), "store": store, "events": plain["events"]}
            done = subprocess.run(
                [sys.executable, "-m", "sluicegate.bench.projection"],
                input=json.dumps(told),
                capture_output=True,
                text=True,
                check=False,
                timeout=2 * PROJECT_SEC_MAX,
            )
        if done.returncode != 0:
            raise Unavailable(f"the projector did not finish: {done.stderr[-1000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        project.append(found["events"] / found["sec"])
    against = "a plain consumer that reads the same records and drops them"
    findings.figures.append(figure("projection into embedded ClickHouse", "events/s", project, against, read))


def read_all(settings: Settings) -> dict[str, float]:
    """How many records the tenant's log holds, and how long a plain consumer takes to read them."""
    connection = kafka_config(settings, ADMIN)
    consumer = Consumer(
        {
            **connection,
            "group.id": "bench-plain",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        },
        logger=LOGGER,
    )
    places = [
        TopicPartition(name, partition, 0)
        for name, topic in AdminClient(connection, logger=LOGGER).list_topics(timeout=10).topics.items()
        if _ours(settings, name)
        for partition in topic.partitions
    ]
    began = time.perf_counter()
    consumer.assign(places)
    left, events, last = len(places), 0, began
    while left:
        for message in consumer.consume(2_000, 0.05):
            if message.error() is None:
                events += 1
                last = time.perf_counter()
            else:
                left -= 1
    consumer.close()
    return {"events": events, "sec": last - began}


def _ours(settings: Settings, name: str) -> bool:
    try:
        spec_of(logical(settings.tenant, name))
    except (ValueError, KeyError):
        return False
    return True


def project(settings: Settings, store: Path, events: int) -> dict[str, float]:
    """Project the log into an empty store; from the projector's first look to the last written event."""
    from sluicegate.infra.clickhouse import ddl
    from sluicegate.processors.projector import Projector
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.clickhouse import EMBEDDED, ReadingRoom, database_name
    from sluicegate.streams.registry import registry_for

    database = database_name(settings.tenant)
    room = ReadingRoom(f"{EMBEDDED}{store / 'data'}", database)
    room.prepare(ddl(database))
    projector = Projector(kafka_config(settings, "projector"), settings.tenant, room, Codec(registry_for("")))
    stop = threading.Event()
    thread = threading.Thread(target=projector.run, args=(stop,))
    began = time.perf_counter()
    thread.start()
    while projector.status().events < events and thread.is_alive():
        if time.perf_counter() - began > PROJECT_SEC_MAX:
            break
        time.sleep(_LOOK_SEC)
    found = {"events": projector.status().events, "sec": time.perf_counter() - began}
    stop.set()
    thread.join()
    room.close()
    if found["events"] != events:
        raise Unavailable(f"{found['events']} of {events} events were projected in {found['sec']:.0f} s")
    return found


if __name__ == "__main__":
    asked: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(project(Settings(**asked["settings"]), Path(asked["store"]), asked["events"])))
