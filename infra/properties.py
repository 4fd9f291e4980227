"""The embedded broker's `server.properties`: one KRaft node, every listener authenticated, every right from an ACL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sluicegate.streams.logins import ADMIN, BROKER, CONTROLLER, SUPER_USERS
from sluicegate.streams.topics import LETTER_BYTES_MAX

NEVER_MS: Final = 2_147_483_647
"""The largest number that Kafka's whole-number settings take; in minutes and milliseconds alike."""
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"


_FIXED: Final[dict[str, object]] = {
    # What one may do.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": ";".join(f"User:{user}" for user in SUPER_USERS),
    "auto.create.topics.enable": "false",
    "delete.topic.enable": "false",
    # A killed broker may register again only when its last life has timed out (9 s by default).
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
    # One node, few partitions, little memory.
    "default.replication.factor": 1,
    "offsets.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "num.network.threads": 2,
    "num.io.threads": 2,
    "log.cleaner.dedupe.buffer.size": 16_777_216,
    # Groups and transactions that come and go within seconds.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1_000,
    "transaction.max.timeout.ms": 60_000,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
    # A gate that was off for a week must not begin anew: its offsets are part of the evidence.
    "offsets.retention.minutes": NEVER_MS,
    "transactional.id.expiration.ms": NEVER_MS,
    # An agent's quota is an average of two seconds: by default it may first write ten times as much at once.
    "quota.window.num": 3,
    "unclean.leader.election.enable": "false",
    "message.max.bytes": LETTER_BYTES_MAX,
    "replica.fetch.max.bytes": LETTER_BYTES_MAX,
}
"""What is the same on every machine."""


def server_properties(
    *,
    host: str,
    client_port: int,
    controller_port: int,
    data_dir: str,
    passwords: Mapping[str, str],
    partitions: int = 3,
    bind: str = "",
) -> str:
    """The file's text; it holds passwords, so whoever writes it makes it 0600.

    ``host`` is what clients are told; ``bind`` is where the listeners stand, by default the same. ``passwords`` holds
    those of `broker` (stored SCRAM) and `controller` (random, of this boot).
    """
    bind = bind or host
    broker, controller = passwords[BROKER], passwords[CONTROLLER]
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{host}:{controller_port}",
        "listeners": f"CLIENT://{bind}:{client_port},CONTROLLER://{bind}:{controller_port}",
        "advertised.listeners": f"CLIENT://{host}:{client_port}",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": data_dir,
        # Who one is. An open controller listener would let any local process give itself rights.
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.client.scram-sha-256.sasl.jaas.config": (
            f'{_SCRAM} required username="{BROKER}" password="{broker}";'
        ),
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": (
            f'{_PLAIN} required username="{CONTROLLER}" password="{controller}" user_{CONTROLLER}="{controller}";'
        ),
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-256",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "num.partitions": partitions,
    }
    return "".join(f"{name}={value}\n" for name, value in {**settings, **_FIXED}.items())


def format_arguments(*, cluster_id: str, properties_path: str, passwords: Mapping[str, str]) -> str:
    """The argument file of Kafka's storage tool: the first logins stand in the log before the broker's first start."""
    lines = ["format", "--cluster-id", cluster_id, "--config", properties_path]
    for user in (ADMIN, BROKER):
        lines += ["--add-scram", f"SCRAM-SHA-256=[name={user},password={passwords[user]}]"]
    return "\n".join(lines) + "\n"
