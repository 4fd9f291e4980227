"""The one topic table: who writes what under which key, who reads it, how long it is kept.

Creation, the drift check, the access control lists, the AsyncAPI document and the ClickHouse DDL are all
made from this module; a topic that is not here does not exist. A tenant is a prefix (``acme.job.intents``);
the tenant ``default`` has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Role = Literal[
    "agent",
    "worker",
    "gate",
    "outputs",
    "desk",
    "workflows",
    "watch",
    "keys",
    "oversight",
    "notify",
    "projector",
    "reviewer",
    "operator",
    "monitor",
    "auditor",
]
"""A kind of login. ``agent`` and ``worker`` stand for one login per agent and per pool; the rest are one login each."""

DEFAULT_TENANT: Final = "default"
DEFAULT_POOL: Final = "default"
FOR_EVER: Final = -1
DAY_MS: Final = 24 * 60 * 60 * 1000
MESSAGE_BYTES_MAX: Final = 1_000_000
"""The largest record, key, value and headers together, that our topics take."""
LETTER_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""The same for the dead letters, which hold a whole record of any other topic."""


OURS: Final[frozenset[Role]] = frozenset({"gate", "outputs", "desk", "workflows", "watch", "oversight", "notify"})
"""Writers that are processes of ours; all others are somebody else's programs."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One row of the table.

    ``key`` says what the key is (for people); ``single`` topics have one partition, all others the same
    number N; ``per`` is ``pool`` or ``owner`` where the row stands for a family ``name.<pool>``; ``types``
    are the event classes that may stand on it.
    """

    name: str
    key: str
    writers: frozenset[Role]
    readers: frozenset[Role]
    retention_ms: int
    types: tuple[str, ...]
    single: bool = False
    per: Literal["", "pool", "owner"] = ""

    def config(self) -> dict[str, str]:
        """The topic's Kafka settings; a difference in any of them is drift."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_ms),
            "retention.bytes": "-1",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(LETTER_BYTES_MAX if self.name == "dead.letters" else MESSAGE_BYTES_MAX),
            # The broker unpacks what strangers send and measures it: a batch that grows beyond what a client unpacks
            # would stop every reader of the topic for good.
            "compression.type": "producer" if self.writers <= OURS else "uncompressed",
        }


def _spec(
    name: str,
    key: str,
    writers: str,
    readers: str,
    types: str,
    *,
    retention_ms: int = FOR_EVER,
    single: bool = False,
    per: Literal["", "pool", "owner"] = "",
) -> TopicSpec:
    always = "projector auditor"
    return TopicSpec(
        name,
        key,
        frozenset(writers.split()),  # type: ignore[arg-type]  # the words are Role literals; a test checks them
        frozenset(f"{readers} {always}".split()),  # type: ignore[arg-type]  # as above
        retention_ms,
        tuple(types.split()),
        single,
        per,
    )


TOPICS: Final[tuple[TopicSpec, ...]] = (
    _spec("job.intents", "agent", "agent workflows", "gate", "Intent Withdrawal"),
    _spec(
        "job.decisions",
        "agent",
        "gate",
        "agent outputs workflows reviewer",
        "Decision Granted Repeated Refused Held Closed Noted Acknowledged",
    ),
    _spec("job.grants", "job", "gate", "worker", "Grant", retention_ms=7 * DAY_MS, per="pool"),
    _spec(
        "job.starts",
        "agent",
        "worker",
        "outputs",
        "Started Lapsed GrantRefused Progressed Ended StopAnswered Breached",
    ),
    _spec("job.outputs", "agent", "worker", "outputs", "Output", retention_ms=30 * DAY_MS),
    _spec(
        "job.results", "agent", "outputs", "gate agent", "Result Quarantined AttemptOpened AttemptEnded Refused Noted"
    ),
    _spec("agent.incidents", "agent", "monitor operator", "gate", "Incident"),
    _spec("agent.autonomy", "agent", "gate", "reviewer", "LevelChanged"),
    _spec("agent.audits", "agent", "gate", "reviewer oversight", "AuditDrawn Finding"),
    _spec(
        "approval.requests", "desk", "gate outputs workflows", "desk reviewer keys", "ApprovalRequest RequestWithdrawn"
    ),
    _spec("approval.verdicts", "desk", "reviewer oversight", "desk", "Verdict Viewed"),
    _spec(
        "approval.events",
        "desk",
        "desk",
        "reviewer notify oversight keys",
        "RequestOpened RequestEscalated VerdictAccepted ViewAccepted Resolved Refused Noted",
    ),
    _spec("approval.resolutions", "reply_key", "desk", "gate outputs workflows", "Resolution"),
    _spec(
        "timer.requests",
        "the owner's key",
        "gate outputs desk workflows",
        "watch",
        "TimerRequest",
        retention_ms=90 * DAY_MS,
    ),
    _spec("timer.fired", "the owner's key", "watch", "gate outputs desk workflows", "TimerFired", per="owner"),
    _spec("workflow.triggers", "run", "agent operator", "workflows", ""),
    _spec("workflow.replies", "run", "gate outputs", "workflows", ""),
    _spec("workflow.runs", "run", "workflows", "agent reviewer", ""),
    _spec(
        "control.commands",
        "scope",
        "operator oversight",
        "gate outputs desk workflows worker watch keys oversight notify reviewer agent",
        "Command",
        single=True,
    ),
    _spec(
        "policy.snapshots",
        "digest",
        "operator oversight",
        "gate outputs desk workflows worker keys oversight reviewer agent",
        "SnapshotPublished",
        single=True,
    ),
    _spec(
        "dead.letters", "the cause's", "gate outputs desk workflows", "operator", "DeadLetter", retention_ms=90 * DAY_MS
    ),
)

BY_NAME: Final[dict[str, TopicSpec]] = {spec.name: spec for spec in TOPICS}


@dataclass(frozen=True, slots=True)
class Application:
    """One consumer group: a pure step (``exactly_once``) or a Faust worker, with all it reads.

    The set of inputs is part of the identity of the state: the engine names store and changelog after the
    sorted inputs, so an input more begins with empty state. ``journal`` is where it accounts for its inputs.
    """

    name: Role
    inputs: tuple[str, ...]
    journal: str
    exactly_once: bool = True


APPLICATIONS: Final[dict[str, Application]] = {
    app.name: app
    for app in (
        Application(
            "gate",
            ("job.intents", "approval.resolutions", "job.results", "agent.incidents", "timer.fired.gate"),
            "job.decisions",
        ),
        Application(
            "outputs",
            ("job.decisions", "job.starts", "job.outputs", "approval.resolutions", "timer.fired.outputs"),
            "job.results",
        ),
        Application("desk", ("approval.requests", "approval.verdicts", "timer.fired.desk"), "approval.events"),
        Application("watch", ("timer.requests",), "", exactly_once=False),
    )
}
TIMER_OWNERS: Final = ("gate", "outputs", "desk", "workflows")


def physical(tenant: str, name: str) -> str:
    """The Kafka name of a logical name (``job.grants.default``) in a tenant."""
    return name if tenant == DEFAULT_TENANT else f"{tenant}.{name}"


def logical(tenant: str, topic: str) -> str:
    """The inverse of `physical`; raises ValueError for another tenant's topic."""
    if tenant == DEFAULT_TENANT:
        return topic
    prefix = f"{tenant}."
    if not topic.startswith(prefix):
        raise ValueError(f"topic `{topic}` is not of tenant `{tenant}`")
    return topic[len(prefix) :]


def spec_of(name: str) -> TopicSpec:
    """The row of a logical name, also for a member of a family (``job.grants.default``); raises KeyError."""
    if name in BY_NAME:
        return BY_NAME[name]
    family = name.rsplit(".", 1)[0]
    spec = BY_NAME[family]
    if not spec.per:
        raise KeyError(name)
    return spec


def names(pools: tuple[str, ...] = (DEFAULT_POOL,)) -> list[str]:
    """Every logical topic name, families spelt out for these pools and all timer owners."""
    found: list[str] = []
    for spec in TOPICS:
        members = {"pool": pools, "owner": TIMER_OWNERS, "": ()}[spec.per]
        found.extend(f"{spec.name}.{member}" for member in members)
        if not spec.per:
            found.append(spec.name)
    return found
