"""Who may say what, tried on real Kafka: every topic gets records that must not count, and each leaves its trace.

One running tenant; the attacks are published all at once, by logins that may write and by the admin, and the log is
read once. What no login of its kind may write at all, the broker refuses, and its authorizer log says so.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import identity_attacks as attacks
import pytest
from clients_world import Calls
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from fixtures_kafka import RunningBroker, authorizer_log
from identity_world import VERIFY, WAIT_SEC, Attack, World, now_ms

from sluicegate.cli.configuration import shipped_policies
from sluicegate.cli.control_log import control_state
from sluicegate.cli.prepare import prepare
from sluicegate.cli.verify import verify_live
from sluicegate.clients.worker import Worker
from sluicegate.infra import acls
from sluicegate.infra.supervisor import Supervisor
from sluicegate.processors.verify_report import Report
from sluicegate.schemas.errors import LoginRefused
from sluicegate.schemas.events import Verdict
from sluicegate.schemas.payload import unseal
from sluicegate.streams.kafka import Publisher
from sluicegate.streams.keys import agent_signer, person_signer
from sluicegate.streams.logins import kafka_config, load_logins, login_of, save_logins
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import APPLICATIONS, names, spec_of
from sluicegate.streams.topics import TOPICS as TABLE

TENANT: Final = "identity"
AGENTS: Final = ("deployer", "researcher", "cleaner")
POOLS: Final = ("default", "deploy")
LOGINS: Final = acls.logins(AGENTS, POOLS)
TOPICS: Final = names(POOLS)
SIGNED: Final = ("job.intents", "approval.verdicts", "control.commands", "policy.snapshots", "agent.incidents")
SIGNED_TYPES: Final = {"Intent", "Withdrawal", "Verdict", "Command", "SnapshotPublished", "Incident"}
READ_BY_STEPS: Final = {topic for app in APPLICATIONS.values() if app.exactly_once for topic in app.inputs}
DENIAL: Final = re.compile(r"Principal = User:(\S+) is Denied operation = (\S+) .* on resource = (\w+):\w+:(\S+)")
REFUSAL: Final = b"a record that no access list lets through"
LOGIN_SEC_MAX: Final = 15.0


class Told(NamedTuple):
    """What is known when all attacks are over."""

    world: World
    report: Report
    ran: list[str]
    pauses: tuple[str, ...]
    snapshots: int

    def written(self, name: str) -> list[Any]:
        """Every event of a class that is not an attack itself."""
        places = {attack.place for attack in self.world.attacks}
        found = self.world.records(name)
        return [event for record, event in found if (record.topic, record.partition, record.offset) not in places]

    def foreign(self) -> set[tuple[str, int, int]]:
        """The places that verify names."""
        return {(fault.topic, fault.partition, fault.offset) for fault in self.report.faults}


@pytest.fixture(scope="module")
def settings(broker: RunningBroker, kafka_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A tenant with the shipped policies, its topics, logins and lists."""
    found = Settings(
        tenant=TENANT,
        run_dir=tmp_path_factory.mktemp("identity"),
        bootstrap=broker.bootstrap,
        logins_file=kafka_dir / "logins.json",
        control_age_ms_max=2_000,
        unmatched_wait_sec=2,
        request_timeout_sec=600,
        sealing="none",  # what is attacked here reaches the gate as it was written
    )
    return prepare(found, shipped_policies()).settings


@pytest.fixture(scope="module")
def told(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Honest jobs, then all attacks at once, then the log."""
    calls = Calls(tmp_path_factory.mktemp("calls"))
    world = World(settings)
    worker = Worker(settings, "default", {"*": calls})
    try:
        with Supervisor(settings, ("gate", "outputs", "desk", "watch")) as processes:
            processes.start()
            processes.wait_ready(90)
            worker.start()
            try:
                _honest_jobs(world)
                _all_attacks(world)
            finally:
                worker.stop()
        control = control_state(settings)
        yield Told(world, verify_live(settings), calls.jobs, control.pauses, len(control.snapshots))
    finally:
        world.close()


def _honest_jobs(world: World) -> None:
    """Three reads that run, one deploy that a person approves, one that waits for a person."""
    jobs = [(f"read-{agent}", agent, "job.crm.read") for agent in AGENTS]
    jobs += [("deploy", "deployer", "job.deploy.web"), ("held", "deployer", "job.deploy.web")]
    for job_id, agent, topic in jobs:
        signer = agent_signer(world.settings, agent)
        record = world.signed(signer, "job.intents", agent, attacks.intent(world.settings, agent, job_id, topic))
        world.write(f"agent.{agent}", "job.intents", *record)
    world.flush()
    world.until("the requests", lambda: len(world.events("RequestOpened")) == 2)
    (request,) = world.events("ApprovalRequest", job_id="deploy")
    ken = person_signer(world.settings, "ken")
    verdict = Verdict(
        verdict_id="verdict-honest",
        request_id=request.request_id,
        desk=attacks.DESK,
        verdict="approve",
        approver_id="ken",
        policy_snapshot=request.policy_snapshot,
        job_hash=request.job_hash,
        decision_ts_ms=now_ms(),
    )
    world.write("reviewer", "approval.verdicts", *world.signed(ken, "approval.verdicts", attacks.DESK, verdict))
    world.flush()
    world.until("the results", lambda: len(world.events("Closed", outcome="succeeded")) == len(AGENTS))
    world.until("the grant", lambda: bool(world.events("AttemptOpened", job_id="deploy")))
    world.until("the grant", lambda: bool(world.events("Grant", job_id="deploy")))


def _all_attacks(world: World) -> None:
    attacks.on_intents(world)
    attacks.on_verdicts(world)
    attacks.on_control(world)
    attacks.on_incidents(world)
    attacks.on_starts_and_outputs(world)
    attacks.on_grants(world)
    attacks.on_journals(world)
    attacks.on_requests_and_resolutions(world)
    attacks.on_timers_and_the_rest(world)
    world.flush()
    world.until("the honest start", lambda: bool(world.events("Noted", kind="started", job_id="deploy")))
    attacks.on_outputs_of_the_start(world)
    world.flush()
    _read_answers(world)
    attacks.copies_of_the_last_word(world)
    world.flush()
    _read_answers(world)


def _read_answers(world: World) -> None:
    """Read until nothing is missing; what never comes is for the tests to name."""
    deadline = time.monotonic() + WAIT_SEC / 2
    while world.unanswered(world.attacks) and time.monotonic() < deadline:
        world.read()


def test_the_matrix_is_the_topic_table() -> None:
    """A row more in the table is a topic more to attack."""
    assert {spec_of(topic).name for topic in TOPICS} == {spec.name for spec in TABLE}
    signed = {spec.name for spec in TABLE if set(spec.types) & SIGNED_TYPES}
    assert signed == set(SIGNED)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_is_attacked(told: Told, topic: str) -> None:
    """Topics of signed records in every way; of a step's inputs in those that are left; all by somebody."""
    kinds = {attack.kind for attack in told.world.attacks if attack.topic == topic}
    wanted = {"forged"}
    if topic in READ_BY_STEPS or topic in SIGNED or topic == "job.grants.default":
        wanted |= {"misrouted", "replayed", "garbage"}
    if topic in SIGNED:
        wanted |= {"unsigned", "stale"}
    assert wanted <= kinds


def _attacks(told: Told, topic: str) -> list[Attack]:
    return [attack for attack in told.world.attacks if attack.topic == topic]


@pytest.mark.parametrize("topic", TOPICS)
def test_each_attack_is_refused_and_leaves_an_event(told: Told, topic: str) -> None:
    """What the broker lets in is refused by the party that must know better, which says so in the log."""
    found = _attacks(told, topic)
    assert [str(attack) for attack in found if attack.error is not None] == []
    assert told.world.unanswered(found) == []


@pytest.mark.parametrize("topic", TOPICS)
def test_verify_names_what_no_service_wrote(told: Told, topic: str) -> None:
    """What the admin, whom no list stops, wrote in a service's place is named; what was refused in order is not."""
    found = _attacks(told, topic)
    named = told.foreign()
    assert [str(attack) for attack in found if VERIFY in attack.expected and attack.place not in named] == []
    assert [str(attack) for attack in found if VERIFY not in attack.expected and attack.place in named] == []


def test_verify_finds_nothing_else(told: Told) -> None:
    """However much was thrown at them, the services' own records are recomputed to the byte."""
    places = {attack.place for attack in told.world.attacks}
    assert told.report.faults_count == len(told.report.faults)
    assert [fault for fault in told.report.faults if (fault.topic, fault.partition, fault.offset) not in places] == []


def test_no_attack_took_effect(told: Told) -> None:
    """No job of an attacker was judged or granted, no request resolved, nothing paused, and nothing left the house."""
    reads = {f"read-{agent}" for agent in AGENTS}
    assert {event.job_id for event in told.written("Decision")} == {*reads, "deploy", "held"}
    assert sorted([event.job_id for event in told.written("Grant")]) == sorted({*reads, "deploy"})
    assert sorted([event.job_id for event in told.written("Result")]) == sorted({*reads, "deploy"})
    resolved = [(event.job_id, event.outcome, event.by) for event in told.written("Resolved")]
    assert sorted(resolved) == [("deploy", "approved", "ken"), ("held", "denied", "ken")]
    assert told.pauses == ()
    assert told.snapshots == 1


def test_a_worker_runs_a_grant_once_and_unaltered(told: Told) -> None:
    """Of all grants that the admin wrote none ran: who owns the broker has not the gate's key."""
    assert sorted(told.ran) == sorted(f"read-{agent}" for agent in AGENTS)


def test_an_incident_says_who_it_was(told: Told) -> None:
    """A forged or unsigned record is an incident; who signed a refused one stands there when it could be verified."""
    refusals = {event.code: event for event in told.world.events("Refused") if event.agent_id == "deployer"}
    assert refusals["unsigned"].incident
    assert refusals["bad_signature"].incident
    assert (refusals["unsigned"].principal, refusals["unsigned"].authenticated) == (None, False)
    assert refusals["agent_mismatch"].principal == "agent/researcher"


def test_the_dead_letters_hold_the_bytes(told: Told) -> None:
    """What could not be read is kept whole."""
    letters = told.world.events("DeadLetter", reason="malformed")
    kept = [unseal(event.value)[0] for event in letters if event.message != "made up"]
    assert set(kept) == {attacks.GARBAGE}


# --- what the broker refuses


class Refusals(NamedTuple):
    """Per login what the broker answered for each topic, and what its authorizer log says."""

    errors: dict[str, dict[str, int | None]]
    denied: dict[str, set[tuple[str, str, str]]]


def _quiet(settings: Settings, user: str, **extra: str) -> dict[str, Any]:
    return {**kafka_config(settings, user, **extra), "log_level": 0}


def _may_write(login: str) -> set[str]:
    """By the topic table itself; no list is asked."""
    role = login.partition(".")[0]
    return {topic for topic in TOPICS if role in spec_of(topic).writers and spec_of(topic).types}


def _denied(broker: RunningBroker) -> dict[str, set[tuple[str, str, str]]]:
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for match in DENIAL.finditer(authorizer_log(broker)):
        if match[1].startswith(f"{TENANT}."):
            found[match[1].removeprefix(f"{TENANT}.")].add((match[2], match[3], match[4].removeprefix(f"{TENANT}.")))
    return found


@pytest.fixture(scope="module")
def refusals(settings: Settings, broker: RunningBroker) -> Refusals:
    """Each login writes to each topic that is not its to write."""
    errors: dict[str, dict[str, int | None]] = {login: {} for login in LOGINS}
    producers = {login: Producer(_quiet(settings, login)) for login in LOGINS}
    for login, producer in producers.items():
        for topic in sorted(set(TOPICS) - _may_write(login)):

            def report(error: KafkaError | None, _: Any, login: str = login, topic: str = topic) -> None:
                errors[login][topic] = None if error is None else error.code()

            producer.produce(f"{TENANT}.{topic}", REFUSAL, b"deployer", on_delivery=report)
    for producer in producers.values():
        assert producer.flush(WAIT_SEC) == 0
    return Refusals(errors, _denied(broker))


@pytest.mark.parametrize("login", LOGINS)
def test_the_broker_refuses_who_may_not_write(refusals: Refusals, login: str) -> None:
    """Every topic that is not a login's to write: refused, with a line of the authorizer that names both."""
    wanted = set(TOPICS) - _may_write(login)
    assert refusals.errors[login] == dict.fromkeys(wanted, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    lines = {topic for operation, _, topic in refusals.denied[login] if operation in ("WRITE", "DESCRIBE")}
    assert wanted <= lines


def test_what_the_broker_refused_is_not_in_the_log(told: Told, refusals: Refusals) -> None:
    """A refusal is not a record that was written all the same."""
    assert sum(map(len, refusals.errors.values())) > 300
    told.world.read()
    assert [record.topic for record, _ in told.world.log if record.value == REFUSAL] == []


def _expect_line(broker: RunningBroker, login: str, operation: str, resource: str, name: str) -> None:
    deadline = time.monotonic() + LOGIN_SEC_MAX
    while (operation, resource, name) not in _denied(broker)[login]:
        assert time.monotonic() < deadline, f"no denial of {login} at {resource} {name}"


def _refusal(attempt: Callable[[], Any]) -> int:
    with pytest.raises(KafkaException) as caught:
        attempt()
    code: int = caught.value.args[0].code()
    return code


@pytest.mark.parametrize("group", ["agent.researcher", "gate", "worker.default"])
def test_an_agent_joins_no_group_of_another(settings: Settings, broker: RunningBroker, group: str) -> None:
    """It would take partitions, or move offsets, of whoever works there."""
    consumer = Consumer(_quiet(settings, "agent.deployer", group_id=f"{TENANT}.{group}"))
    consumer.subscribe([f"{TENANT}.job.decisions"])
    message = consumer.poll(WAIT_SEC)
    consumer.close()
    assert message is not None
    error = message.error()
    assert error is not None
    assert error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    _expect_line(broker, "agent.deployer", "DESCRIBE", "Group", group)


@pytest.mark.parametrize("name", ["agent.researcher.0", "gate.0", "worker.default.1"])
def test_an_agent_takes_no_transactional_id_of_another(settings: Settings, broker: RunningBroker, name: str) -> None:
    """It would fence the process that works under it."""
    producer = Producer(_quiet(settings, "agent.deployer", transactional_id=f"{TENANT}.{name}"))
    code = _refusal(lambda: producer.init_transactions(WAIT_SEC))
    assert code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    _expect_line(broker, "agent.deployer", "DESCRIBE", "TransactionalId", name)


@pytest.mark.parametrize(
    "login", ["agent.deployer", "gate", "desk", "reviewer", "operator", "monitor", "worker.default"]
)
def test_raw_outputs_are_for_output_review(settings: Settings, broker: RunningBroker, login: str) -> None:
    """Nobody else that acts reads what a worker returned before it was reviewed."""
    consumer = Consumer(_quiet(settings, login, group_id=login_of(settings, login)))
    topic = f"{TENANT}.job.outputs"
    found = consumer.list_topics(topic, timeout=WAIT_SEC).topics[topic].error
    if found is None:  # who writes a topic may see that it is there
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(WAIT_SEC)
        found = None if message is None else message.error()
    consumer.close()
    assert found is not None
    assert found.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    denied = _denied(broker)[login]
    assert {("READ", "Topic", "job.outputs"), ("DESCRIBE", "Topic", "job.outputs")} & denied


@pytest.mark.parametrize("login", ["agent.deployer", "gate", "reviewer", "auditor"])
def test_nobody_takes_anything_back(settings: Settings, broker: RunningBroker, login: str) -> None:
    """No record is deleted, no topic, and no setting of one is changed, whoever asks."""
    client = AdminClient(_quiet(settings, login))
    topic = f"{TENANT}.job.decisions"
    shorter = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)],
    )
    attempts: list[dict[Any, Any]] = [
        client.delete_records([TopicPartition(topic, 0, 1)]),
        client.delete_topics([topic]),
        client.incremental_alter_configs([shorter]),
    ]
    codes = {_refusal(future.result) for answers in attempts for future in answers.values()}
    assert codes <= {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_DELETION_DISABLED,
        KafkaError.INVALID_REQUEST,
    }
    _expect_line(broker, login, "DELETE", "Topic", "job.decisions")
    _expect_line(broker, login, "ALTER_CONFIGS", "Topic", "job.decisions")


def test_a_wrong_password_ends_quickly(settings: Settings, tmp_path: Path) -> None:
    """Librdkafka would try for ever; a client of ours says what is wrong, and never the password."""
    logins = load_logins(settings.logins_path)
    save_logins(tmp_path / "logins.json", {**logins, f"{TENANT}.agent.deployer": "not-the-password"})
    wrong = settings.model_copy(update={"logins_file": tmp_path / "logins.json"})
    began = time.monotonic()
    with pytest.raises(LoginRefused, match=r"agent\.deployer") as caught:
        Publisher(wrong, "agent.deployer")
    assert time.monotonic() - began < LOGIN_SEC_MAX
    assert "not-the-password" not in str(caught.value)
