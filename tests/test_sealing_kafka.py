"""With sealing as it is by default nothing that a job held is readable anywhere but by whom it concerns: over Kafka.

What is looked through after the story: every topic of the tenant as the broker gives it (read uncommitted, changelogs
too, keys, values and headers), the broker's own files of it, the tables of ClickHouse, the run folder with state, logs
and ClickHouse's files, and what the verbs print that are nobody's own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from clients_world import now_ms
from confluent_kafka import Consumer, TopicPartition
from fixtures_kafka import RunningBroker
from fixtures_up import Tenant, running_up

from sluicegate.cli.main import run
from sluicegate.clients.agent import Agent, build_intent
from sluicegate.clients.auditor import Auditor
from sluicegate.clients.call import Call
from sluicegate.clients.outcomes import Outcome
from sluicegate.clients.pending import Pending
from sluicegate.clients.reviewer import Reviewer
from sluicegate.clients.worker import Worker
from sluicegate.schemas.codec import Codec
from sluicegate.streams.kafka import Publisher, signed_headers
from sluicegate.streams.keys import agent_signer
from sluicegate.streams.logins import ADMIN, kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

TENANT: Final = "sealed"
SSN: Final = "536-90-4399"
CARD: Final = "4539578763621486"
TOKEN: Final = "ghp_" + "R7tKq2LmZx0Pw9VbN4cYd8HsJf3GaUe1Xo5T"
VERSION: Final = "9.81-kestrel"
"""What a reviewer puts in the place of the version that was asked for."""
SECRETS: Final = (SSN, CARD, TOKEN, VERSION)
SEEN: Final = "seen-by-everybody"
"""A job's id: it must be found wherever a secret must not, or looking shows nothing."""
WAIT_SEC: Final = 40.0
CHUNK_BYTES: Final = 1 << 22
VERBS: Final = (
    "tail --no-follow --all --json",
    "tail --no-follow --all",
    f"audit timeline {SEEN} --json",
    "dead-letters list --json",
    "verify --json",
    "policy impact --policies policies --json",
)


def forms(text: str) -> list[bytes]:
    """What is looked for: the text, and forms in which it could be read back."""
    plain = text.encode()
    found = [plain, text.encode("utf-16-le"), plain.hex().encode()]
    for before in range(3):  # base64 looks different at each place in a group of three bytes
        whole = base64.b64encode(bytes(before) + plain).decode().rstrip("=")
        found.append(whole[4 if before else 0 : -2].encode())
    return found


FORMS: Final = {secret: forms(secret) for secret in SECRETS}


class Places:
    """Where what was found: secrets, and the job id that everybody sees."""

    def __init__(self) -> None:
        self.secrets: set[tuple[str, str]] = set()
        self.seen: set[str] = set()

    def look(self, kind: str, where: str, content: bytes) -> None:
        for secret, wanted in FORMS.items():
            if any(form in content for form in wanted):
                self.secrets.add((where, secret))
        if SEEN.encode() in content:
            self.seen.add(kind)

    def look_at_files(self, kind: str, folder: Path, pattern: str = "*") -> None:
        for file in sorted(folder.rglob(pattern)):
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as content:
                    rest = b""
                    while chunk := content.read(CHUNK_BYTES):
                        self.look(kind, str(file.relative_to(folder)), rest + chunk)
                        rest = chunk[-256:]


def work(worker: Worker) -> None:
    """Handlers that return what must not be read."""

    @worker.handles("job.crm.read")
    def read(call: Call) -> dict[str, Any]:
        return {"who": call.payload["who"], "card": CARD, "internal_notes": TOKEN, "ok": True}

    @worker.handles("job.crm.list")
    def dump(call: Call) -> dict[str, Any]:
        return {"people": [{"ssn": SSN}], "connection": f"token {TOKEN}"}

    @worker.handles("job.report.read")
    def fails(call: Call) -> dict[str, Any]:
        raise ValueError(f"no customer with {SSN}")

    @worker.handles("job.deploy.*")
    def deploy(call: Call) -> dict[str, Any]:
        return {"deployed": call.payload["version"]}


def ended(pending: Pending) -> Outcome:
    found = pending.result(WAIT_SEC)
    assert isinstance(found, Outcome), pending.state
    return found


class Story:
    """What happens once, and what the people in it read."""

    def __init__(self, up: Tenant) -> None:
        self.settings, self.up = up.settings(), up
        self.places, self.read = Places(), dict[str, Any]()
        pools = [Worker(self.settings, name) for name in ("default", "deploy")]
        for worker in pools:
            work(worker)
            worker.start()
        with Agent(self.settings, "researcher") as researcher, Agent(self.settings, "deployer") as deployer:
            self.researcher, self.deployer = researcher, deployer
            try:
                with Reviewer(self.settings, "ken") as ken, Reviewer(self.settings, "mei") as mei:
                    self._redacted()
                    self._held(mei)
                    self._edited(ken)
                    self._garbled()
                    self._keys_restart()
            finally:
                for worker in pools:
                    worker.stop()
        self._ask()

    def _redacted(self) -> None:
        given = {"who": SSN, "note": CARD}
        job = self.researcher.submit("job.crm.read", given, job_id=SEEN, context={"because": f"of {TOKEN}"})
        self.read["redacted"] = ended(job).value
        self.read["failed"] = ended(self.researcher.submit("job.report.read", {"who": SSN})).value
        again = self.researcher.submit("job.crm.read", {"who": TOKEN}, job_id=SEEN)
        self.read["other content"] = ended(again).code

    def _held(self, mei: Reviewer) -> None:
        for choice in ("released", "redacted", "destroyed"):
            job = self.researcher.submit("job.crm.list", {"who": SSN}, job_id=f"list-{choice}")
            request = self._request(mei, job.job_id)
            self.read["masked"] = mei.show(request).payload
            self.read["viewed"] = mei.view(request, WAIT_SEC)
            if choice == "destroyed":
                mei.destroy(request, "nobody needs it", WAIT_SEC)
            else:
                mei.release(request, redacted=choice == "redacted", timeout_sec=WAIT_SEC)
            self.read["redacted-list" if choice == "redacted" else choice] = ended(job).value

    def _request(self, reviewer: Reviewer, job_id: str) -> str:
        for _ in range(200):
            for each in reviewer.requests():
                if each.job_id == job_id:
                    return each.request_id
        raise AssertionError(f"nobody was asked about `{job_id}`")

    def _edited(self, ken: Reviewer) -> None:
        job = self.deployer.submit("job.deploy.web", {"version": "1.2", "why": SSN}, job_id="edited")
        request = self._request(ken, "edited")
        self.read["shown"] = ken.show(request).payload
        ken.approve(request, "not that one", timeout_sec=WAIT_SEC, edits={"version": VERSION})
        self.read["edited"] = ended(job).value

    def _garbled(self) -> None:
        """Sealed as it must be, and then cut short: a dead letter."""
        signer = agent_signer(self.settings, "researcher")
        intent = build_intent(
            signer,
            TENANT,
            "researcher",
            "1",
            "job.crm.read",
            {"who": SSN},
            payload_bytes_max=10_000,
            job_id="garbled",
            keys=self.researcher.keys,
            now_ms=now_ms(),
        )
        value, topic = Codec(registry_for("")).encode(intent)[:-3], physical(TENANT, "job.intents")
        headers = signed_headers(signer, topic, intent, "garbled", now_ms(), b"researcher", value)
        publisher = Publisher(self.settings, "agent.researcher")
        publisher.publish("job.intents", b"researcher", value, headers)
        publisher.close()

    def _keys_restart(self) -> None:
        os.kill(self.up.ready["processes"]["keys.0"]["pid"], signal.SIGKILL)
        self.read["after a kill"] = ended(self.researcher.submit("job.crm.read", {"who": SSN})).value

    def _ask(self) -> None:
        """What the reading room holds, and what verbs print that are nobody's own."""
        auditor = Auditor(self.settings)
        auditor.coverage(WAIT_SEC)
        for name in [row[0] for row in auditor.query("SHOW TABLES").rows]:
            rows = auditor.query(f"SELECT * FROM {name} LIMIT 10000").rows  # a table's own name
            self.places.look("clickhouse", f"table {name}", json.dumps(rows).encode())
        for words in VERBS:
            self.read[words] = said(*words.split())
            self.places.look("verbs", words, self.read[words].encode())
        for letter in json.loads(self.read["dead-letters list --json"]):
            shown = said("dead-letters", "show", letter["letter"], "--json")
            self.places.look("verbs", "dead-letters show", bytes.fromhex(json.loads(shown)["hex"]) + shown.encode())
        self.read["status"] = json.loads(said("job", "status", SEEN, "--agent", "researcher", "--json"))


def said(*words: str) -> str:
    """What a verb prints, errors too."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        run(words)
    return out.getvalue()


def look_at_topics(settings: Settings, places: Places) -> set[str]:
    """Every record of the tenant, aborted ones too; the names of the topics."""
    consumer = Consumer(
        {
            **kafka_config(settings, ADMIN),
            "group.id": f"{TENANT}.reader-of-everything",
            "isolation.level": "read_uncommitted",
            "enable.auto.commit": False,
        }
    )
    names = [
        name for name in consumer.list_topics(timeout=10).topics if name.startswith(f"{TENANT}.") or TENANT in name
    ]
    left: dict[tuple[str, int], int] = {}
    for name in names:
        for partition in consumer.list_topics(name, timeout=10).topics[name].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
            if high > low:
                left[name, partition] = high
    consumer.assign([TopicPartition(name, partition, 0) for name, partition in left])
    try:
        while left:
            for message in consumer.consume(2_000, 5.0):
                assert message.error() is None, message.error()
                place = (str(message.topic()), int(message.partition() or 0))
                parts = [message.key() or b"", message.value() or b""]
                parts += [value or b"" for _, value in message.headers() or ()]
                kind = "changelogs" if "changelog" in place[0] else "topics"
                places.look(kind, place[0], b"\0".join(parts))
            for at in consumer.position([TopicPartition(*place) for place in left]):
                if at.offset >= left[str(at.topic), at.partition]:
                    del left[str(at.topic), at.partition]
    finally:
        consumer.close()
    return set(names)


def editable(policies: Path) -> None:
    """A reviewer may give a deployment another version."""
    file = policies / "change-control.yaml"
    rule = 'reason: "A change to production waits for a second pair of eyes"\n'
    file.write_text(file.read_text().replace(rule, f'{rule}    editable: ["version"]\n'))


@pytest.fixture(scope="module")
def story(broker: RunningBroker, kafka_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The whole story; then everything has ended, and is looked through."""
    folder = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patched, running_up(broker, kafka_dir, folder, TENANT, editable) as up:
        for name, value in up.environment.items():
            patched.setenv(name, value)
        patched.chdir(folder)
        found = Story(up)
        look_at_topics(found.settings, found.places)
    found.places.look_at_files("run folder", folder / "run")
    for segments in sorted((kafka_dir / "kafka").rglob(f"*{TENANT}*")):
        if segments.is_dir():
            found.places.look_at_files("segments", segments, "*.log")
    return found


def test_nothing_that_a_job_held_is_readable_anywhere(story: Story) -> None:
    """Payload, context, edits, raw output, result, and what a handler failed with: in no topic, file, table or line."""
    assert story.places.secrets == set()
    assert story.places.seen >= {"topics", "changelogs", "segments", "run folder", "clickhouse", "verbs"}


def test_whom_it_concerns_reads_it(story: Story) -> None:
    """The agent its results as they may leave, reviewers what a request carries, the worker what was approved."""
    read = story.read
    assert read["redacted"] == {"who": "[REDACTED]", "card": "[REDACTED]", "ok": True}
    assert read["status"]["outcome"]["value"] == read["redacted"]
    assert read["failed"]["error"]["message"] == "no customer with [REDACTED]"
    assert TOKEN not in read["masked"]
    assert "people" in read["masked"]
    assert TOKEN in read["viewed"]
    assert TOKEN in str(read["released"])
    assert TOKEN not in str(read["redacted-list"])
    assert "people" in str(read["redacted-list"])
    assert read["destroyed"] is None
    assert json.loads(read["shown"]) == {"version": "1.2", "why": SSN}
    assert read["edited"] == {"deployed": VERSION}
    assert read["other content"] == "id_reused"


def test_who_recomputes_opens_it(story: Story) -> None:
    """`verify` finds nothing amiss, and `policy impact` leaves no sealed payload out."""
    assert json.loads(story.read["verify --json"])["clean"] is True
    impact = json.loads(story.read["policy impact --policies policies --json"])
    assert impact["ok"] is True
    assert impact["skipped"] == {}


def test_an_agent_outlives_a_killed_key_service(story: Story) -> None:
    """It waits until the service is back, instead of failing or leaving its payload in the clear."""
    assert story.read["after a kill"]["who"] == "[REDACTED]"
