from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from fixtures_kafka import TenantFactory, extra_login

from sluicegate.infra import acls, admin
from sluicegate.infra.admin import Drift, add_agent_login, check_drift, drift, ensure_acls
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.changelog import changelogs
from sluicegate.streams.logins import kafka_config, load_logins, login_of
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import names, physical

AGENTS: Final = ("deployer", "cleaner")
POOLS: Final = ("deploy", "default")
WAIT_SEC: Final = 30
LOGINS: Final = acls.logins(AGENTS, POOLS)
REFUSALS: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


@pytest.fixture(scope="module")
def settings(tenant: TenantFactory) -> Settings:
    """A tenant with two agents and two pools, and a decision that somebody might want to delete."""
    found = tenant(AGENTS, POOLS)
    producer = Producer(_quiet(found, "gate"))
    producer.produce(physical(found.tenant, "job.decisions"), b"x", b"k", partition=0)
    assert producer.flush(WAIT_SEC) == 0
    return found


def _quiet(settings: Settings, user: str, **extra: str) -> dict[str, Any]:
    """A connection that does not write every refusal to standard error."""
    return {**kafka_config(settings, user, **extra), "log_level": 0}


def _all_topics(settings: Settings) -> list[str]:
    return [*(physical(settings.tenant, name) for name in names(settings.pools)), *changelogs(settings.tenant)]


def _allowed(settings: Settings, login: str, operation: str) -> set[str]:
    """The topics that the rights of a login name for an operation."""
    own = [
        right
        for right in acls.rights_of(settings.tenant, login, settings.pools)
        if right.resource == "TOPIC" and right.operation == operation
    ]
    return {
        topic
        for topic in _all_topics(settings)
        for right in own
        if (topic.startswith(right.name) if right.pattern == "PREFIXED" else topic == right.name)
    }


def _writable(settings: Settings, user: str) -> set[str]:
    """Where a login's record arrives, out of all topics."""
    producer = Producer(_quiet(settings, user))
    outcomes: dict[str, KafkaError | None] = {}
    for topic in _all_topics(settings):
        producer.produce(
            topic, b"x", b"k", on_delivery=lambda error, message: outcomes.update({message.topic(): error})
        )
    assert producer.flush(WAIT_SEC) == 0
    refused = {error.code() for error in outcomes.values() if error is not None}
    assert refused <= REFUSALS
    return {topic for topic, error in outcomes.items() if error is None}


def _readable(settings: Settings, user: str) -> set[str]:
    """What a login can fetch, out of all topics; each of the others must be refused in so many words."""
    topics = _all_topics(settings)
    consumer = Consumer(
        _quiet(
            settings, user, group_id=login_of(settings, user), enable_partition_eof="true", auto_offset_reset="earliest"
        )
    )
    known = consumer.list_topics(timeout=WAIT_SEC).topics
    refused = {topic for topic in topics if topic not in known or known[topic].error is not None}
    open_topics = [topic for topic in topics if topic not in refused]
    consumer.assign([TopicPartition(topic, 0, 0) for topic in open_topics])
    read: set[str] = set()
    deadline = time.monotonic() + WAIT_SEC
    while read | refused != set(topics) and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            read.add(message.topic() or "")
        elif error.code() in REFUSALS:
            refused.add(message.topic() or "")
    consumer.close()
    assert read | refused == set(topics)
    return read


@pytest.mark.parametrize("login", LOGINS)
def test_the_broker_takes_what_the_table_lets_a_login_write(settings: Settings, login: str) -> None:
    """A record of each login to each topic arrives where the table says so, and is refused everywhere else."""
    assert _writable(settings, login) == _allowed(settings, login, "WRITE")


@pytest.mark.parametrize("login", LOGINS)
def test_the_broker_gives_what_the_table_lets_a_login_read(settings: Settings, login: str) -> None:
    """Each login fetches from the topics it reads, and is refused at every other."""
    assert _readable(settings, login) == _allowed(settings, login, "READ")


def _refusal(action: Callable[[], Any]) -> int:
    """The code with which the broker refuses; an action that succeeds fails the test."""
    with pytest.raises(KafkaException) as caught:
        action()
    code: int = caught.value.args[0].code()
    return code


@pytest.mark.parametrize("login", LOGINS)
def test_nobody_alters_or_deletes(settings: Settings, login: str) -> None:
    """No login of a tenant deletes records or topics, changes settings or partitions, makes topics, or gives rights."""
    client = AdminClient(_quiet(settings, login))
    topic = physical(settings.tenant, "job.decisions")
    shorter = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)],
    )
    itself = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{login_of(settings, login)}",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    new_topic = NewTopic(physical(settings.tenant, "job.grants.mine"), 1)
    # A login that cannot see the topic is not even told where its records are.
    no_topic = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._NOENT}
    # Topics are not deleted by anyone, so the broker does not ask who it is.
    attempts: list[tuple[dict[Any, Any], set[int]]] = [
        (client.delete_records([TopicPartition(topic, 0, 1)]), no_topic),
        (client.delete_topics([topic]), {KafkaError.INVALID_REQUEST, KafkaError.TOPIC_DELETION_DISABLED}),
        (client.incremental_alter_configs([shorter]), {KafkaError.TOPIC_AUTHORIZATION_FAILED}),
        (client.create_partitions([NewPartitions(topic, 9)]), {KafkaError.TOPIC_AUTHORIZATION_FAILED}),
        (client.create_topics([new_topic]), {KafkaError.TOPIC_AUTHORIZATION_FAILED}),
        (client.create_acls([itself]), {KafkaError.CLUSTER_AUTHORIZATION_FAILED}),
        (client.delete_consumer_groups([physical(settings.tenant, "gate")]), {KafkaError.GROUP_AUTHORIZATION_FAILED}),
    ]
    for answers, codes in attempts:
        for future in answers.values():
            assert _refusal(future.result) in codes
    check_drift(settings)
    with closing(Consumer(_quiet(settings, "auditor", group_id=login_of(settings, "auditor")))) as reader:
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=WAIT_SEC)[0] == 0


def test_an_agent_cannot_take_anothers_place(settings: Settings) -> None:
    """An agent joins no group of another login and takes no transactional id, so it can neither steal nor fence."""
    group = physical(settings.tenant, "gate")
    consumer = Consumer(_quiet(settings, "agent.cleaner", group_id=group))
    consumer.subscribe([physical(settings.tenant, "job.decisions")])
    message = consumer.poll(WAIT_SEC)
    assert message is not None
    error = message.error()
    assert error is not None
    assert error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    consumer.close()
    gate = physical(settings.tenant, "gate.0")
    producer = Producer(_quiet(settings, "agent.cleaner", transactional_id=gate))
    assert _refusal(lambda: producer.init_transactions(WAIT_SEC)) == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_a_login_without_rights_does_nothing(settings: Settings) -> None:
    """What no list names is refused, also where no list is at all, as for a group of its own."""
    extra_login(settings, "stranger")
    assert _writable(settings, "stranger") == set()
    assert _readable(settings, "stranger") == set()
    with closing(Consumer(_quiet(settings, "stranger", group_id="stranger.group"))) as consumer:
        consumer.subscribe([physical(settings.tenant, "job.decisions")])
        message = consumer.poll(WAIT_SEC)
    assert message is not None
    error = message.error()
    assert error is not None
    assert error.code() in REFUSALS


def test_tenants_do_not_reach_each_other(settings: Settings, tenant: TenantFactory) -> None:
    """A gate of one tenant neither writes nor reads another's topics."""
    other = tenant()
    producer = Producer(_quiet(settings, "gate"))
    outcomes: list[KafkaError | None] = []
    producer.produce(
        physical(other.tenant, "job.decisions"), b"x", b"k", on_delivery=lambda error, _: outcomes.append(error)
    )
    assert producer.flush(WAIT_SEC) == 0
    assert [error is not None and error.code() in REFUSALS for error in outcomes] == [True]


def test_an_agent_is_added_while_the_broker_runs(tenant: TenantFactory) -> None:
    """A new agent's login and rights hold when the call returns; a name that covers another's is refused."""
    settings = tenant(["deployer"])
    add_agent_login(settings, "latecomer")
    assert _writable(settings, "agent.latecomer") == _allowed(settings, "agent.latecomer", "WRITE")
    before = load_logins(settings.logins_path)
    add_agent_login(settings, "latecomer")
    assert load_logins(settings.logins_path) == before
    with pytest.raises(BadInput, match=r"agent\.deployer"):
        add_agent_login(settings, "deployer.two")


def test_a_right_that_the_table_does_not_give_is_taken_away(tenant: TenantFactory) -> None:
    """Rights are the table's after each start, whatever was added by hand to a login of ours."""
    settings = tenant(["deployer"])
    client = admin.admin_client(settings)
    right = acls.Right(
        login_of(settings, "agent.deployer"), "TOPIC", "LITERAL", physical(settings.tenant, "job.outputs"), "READ"
    )
    for future in client.create_acls([admin._binding(right)]).values():
        future.result(WAIT_SEC)
    ensure_acls(settings, ["deployer"], client)
    assert right not in {admin._right(binding) for binding in admin._bindings(client)}
    assert _readable(settings, "agent.deployer") == _allowed(settings, "agent.deployer", "READ")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("retention.ms", "60000"),
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
    ],
)
def test_a_dangerous_difference_refuses_to_start(tenant: TenantFactory, setting: str, value: str) -> None:
    """Retention, cleanup or timestamp type other than the table's: named, with what was found, and nothing starts."""
    settings = tenant()
    check_drift(settings)
    topic = physical(settings.tenant, "job.decisions")
    changed = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)],
    )
    client = admin.admin_client(settings)
    for future in client.incremental_alter_configs([changed]).values():
        future.result(WAIT_SEC)
    deadline = time.monotonic() + WAIT_SEC
    while not drift(settings, client) and time.monotonic() < deadline:
        pass
    with pytest.raises(Drift, match=rf"`{topic}` {setting}: expected .*, found {value}"):
        check_drift(settings)


def test_another_count_of_partitions_refuses_to_start(tenant: TenantFactory) -> None:
    """A key's records would move to other partitions: the topics stay as they are and the start is refused."""
    settings = tenant(partitions=2)
    with pytest.raises(Drift, match="partitions: expected 5, found 2"):
        check_drift(settings.model_copy(update={"partitions": 5}))
    assert {difference.setting for difference in drift(settings.model_copy(update={"partitions": 5}))} == {"partitions"}


def test_a_missing_topic_is_a_difference(tenant: TenantFactory) -> None:
    """A pool without its topic of grants is found before its worker waits for ever."""
    settings = tenant()
    with pytest.raises(Drift, match=r"job\.grants\.mail` topic: expected to exist, found none"):
        check_drift(settings.model_copy(update={"pools": ("default", "mail")}))
