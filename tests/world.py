"""A whole tenant in memory: the real steps on the memory engine; tests speak for people, agents and workers."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import rfc8785
import yaml

from sluicegate.cli.control_log import compared
from sluicegate.policies.load import parse_bundle
from sluicegate.processors import desk, gate, outputs
from sluicegate.processors.control import Control, snapshot_terms
from sluicegate.processors.verify import Verifier
from sluicegate.processors.verify_report import Report
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import (
    ApprovalRequest,
    Command,
    Ended,
    Event,
    Grant,
    Intent,
    Lapsed,
    Output,
    SnapshotPublished,
    Started,
    TimerFired,
    TimerRequest,
    Verdict,
    Withdrawal,
)
from sluicegate.schemas.key_ids import job_key
from sluicegate.schemas.payload import job_hash
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.control_epochs import epoch_key
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, ControlState
from sluicegate.streams.engine import Headers, Record
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier, HmacKey, Signer, agent_secret, sign
from sluicegate.streams.memory import MemoryEngine, MemoryLog, run_until_idle
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import APPLICATIONS, TIMER_OWNERS

ARTICLE = Path(__file__).parent / "corpus" / "article"
CODEC = Codec(registry_for(""))
MASTER = b"m" * 32
OPERATOR = Ed25519Signer("operator/olga", b"o" * 32)
PEOPLE = {name: Ed25519Signer(f"person/{name}", name[0].encode() * 32) for name in ("ken", "rosa", "mia")}
GATE = Ed25519Signer("gate/gate", b"g" * 32)
OPERATORS = {OPERATOR.key_id: Ed25519Verifier(OPERATOR.public())}
TENANT = "default"
T = TypeVar("T")


def agent_key(agent_id: str) -> HmacKey:
    return HmacKey(f"agent/{agent_id}", agent_secret(MASTER, agent_id))


def policy_files(**extra: str) -> dict[str, str]:
    """The article's safety policy verbatim, with agents, people and actions of our own."""
    agents = [
        {"id": name, "owner": "rosa", "version": "1", "key": {"kind": "hmac"}}
        for name in ("deployer", "reader", "other")
    ]
    people = [
        {"id": name, "name": name.title(), "public_key": base64.b64encode(key.public()).decode()}
        for name, key in PEOPLE.items()
    ]
    actions = [
        {"topics": ["job.deploy.*"], "risk_tags": ["prod", "write"]},
        {"topics": ["job.*.read"], "risk_tags": ["read"], "retry": "safe"},
    ]
    return {
        "safety-policy.yaml": (ARTICLE / "safety-policy.yaml").read_text(),
        "agents.yaml": yaml.safe_dump({"agents": agents}),
        "reviewers.yaml": yaml.safe_dump({"people": people}),
        "actions.yaml": yaml.safe_dump({"actions": actions}),
        **extra,
    }


class Source:
    """The control source of one plane: always fresh. Only the gate holds the agents' master key."""

    def __init__(self, world: World, plane: str) -> None:
        self._world = world
        self._master = MASTER if plane == "gate" else None
        self._signer = GATE if plane == "gate" else None
        self._known: tuple[ControlState, Control] | None = None

    def current(self) -> Control:
        state = self._world.state()
        if self._known is None or self._known[0] is not state:
            self._known = (
                state,
                Control(state, TENANT, self._master, OPERATORS, self._signer, self._world.keys, self._world.epoch_key),
            )
        return self._known[1]


class World:
    """Everything but the clock happens when `run` is called."""

    keys: Keyring = NoKeyring()
    """What payloads are sealed with; a test that seals gives its world others."""
    audit_master = b"a" * 32

    def __init__(self, files: dict[str, str] | None = None, **settings: Any) -> None:
        self.log = MemoryLog(partitions=3)
        self.fold = ControlFold(CODEC, TENANT, OPERATORS, snapshot_terms)
        self._states: dict[int, ControlState] = {}
        self._fired: set[tuple[str, str, str, int]] = set()
        self.numbers = 0
        self.engines = [
            MemoryEngine(self.log, APPLICATIONS[plane.name], plane.bound(CODEC, TENANT, 3), Source(self, plane.name))
            for plane in (gate.PLANE, outputs.PLANE, desk.PLANE)
        ]
        self.activate(files or policy_files(), **settings)

    def epoch_key(self, number: int) -> bytes | None:
        """The key that the gate has of an epoch of sampled audit."""
        return epoch_key(self.audit_master, number)

    def number(self, word: str) -> str:
        self.numbers += 1
        return f"{word}-{self.numbers}"

    def state(self) -> ControlState:
        """The folded control topics."""
        records = [*self.log.records(SNAPSHOTS), *self.log.records(COMMANDS)]
        if len(records) not in self._states:
            state = ControlState()
            for record in records:
                state = self.fold(state, record)
            self._states = {len(records): state}
        return self._states[len(records)]

    # --- what operators do

    def signed(
        self,
        signer: Signer,
        topic: str,
        key: str,
        event: Event,
        *,
        issued_ms_ago: int = 0,
        partition: int | None = None,
    ) -> Record:
        value = CODEC.encode(event)
        issued = self.log.clock_ms - issued_ms_ago
        headers = sign(signer, topic, self.number("record"), issued, key.encode(), value)
        return self.log.produce(topic, key.encode(), value, headers, partition=partition)

    def activate(self, files: dict[str, str], **settings: Any) -> None:
        bundle = parse_bundle(files)
        told = compared(self.state(), bundle)
        documents = rfc8785.dumps(dict(bundle.documents)).decode()
        snapshot = SnapshotPublished(
            name=bundle.snapshot_name,
            digest=bundle.snapshot_digest,
            documents=documents,
            publisher=OPERATOR.key_id,
            git_dirty=False,
        )
        self.signed(OPERATOR, SNAPSHOTS, bundle.snapshot_digest, snapshot)
        self.command(
            "activate",
            policy_snapshot=bundle.snapshot_name,
            policy_digest=bundle.snapshot_digest,
            settings=json.dumps(settings),
            **told,
        )

    def command(self, kind: Any, scope: str = "everything", **fields: Any) -> None:
        command = Command(command_id=self.number("command"), kind=kind, scope=scope, by=OPERATOR.key_id, **fields)
        self.signed(OPERATOR, COMMANDS, scope, command)

    # --- what agents do

    def intent(
        self, job_id: str, topic: str, payload: bytes = b'{"n":1}', agent: str = "deployer", **fields: Any
    ) -> Intent:
        salt = agent_key(agent).salt(job_id)
        tags = fields.pop("risk_tags", [])
        return Intent(
            job_id=job_id,
            agent_id=agent,
            agent_version="1",
            topic=topic,
            risk_tags=tags,
            payload=self.keys.seal(payload, salt, job_key(TENANT, agent, self.log.clock_ms, job_id).text, job_id),
            job_hash=job_hash(payload, topic, agent, tags, salt),
            tenant=TENANT,
            **fields,
        )

    def submit(
        self, job_id: str, topic: str, payload: bytes = b'{"n":1}', agent: str = "deployer", **fields: Any
    ) -> Intent:
        intent = self.intent(job_id, topic, payload, agent, **fields)
        self.signed(agent_key(agent), "job.intents", agent, intent)
        self.run()
        return intent

    def withdraw(self, job_id: str, agent: str = "deployer") -> None:
        self.signed(
            agent_key(agent), "job.intents", agent, Withdrawal(job_id=job_id, agent_id=agent, reason="not needed")
        )
        self.run()

    # --- what people do

    def request(self, job_id: str) -> ApprovalRequest:
        return [request for request in self.events("approval.requests", ApprovalRequest) if request.job_id == job_id][
            -1
        ]

    def verdict(self, job_id: str, word: Any, person: str = "ken", **changes: Any) -> Verdict:
        request = self.request(job_id)
        verdict = Verdict(
            verdict_id=self.number("verdict"),
            request_id=request.request_id,
            desk=request.desk,
            verdict=word,
            approver_id=person,
            policy_snapshot=request.policy_snapshot,
            job_hash=request.job_hash,
            decision_ts_ms=self.log.clock_ms,
            reason="because",
        )
        return msgspec.structs.replace(verdict, **changes)

    def decide(self, job_id: str, word: Any, person: str = "ken", **changes: Any) -> None:
        verdict = self.verdict(job_id, word, person, **changes)
        self.signed(PEOPLE[person], "approval.verdicts", verdict.desk, verdict)
        self.run()

    # --- what workers do

    def grants(self, job_id: str, pool: str = "default") -> list[Grant]:
        return [grant for grant in self.events(f"job.grants.{pool}", Grant) if grant.job_id == job_id]

    def start(self, grant: Grant, worker: str = "w1", **changes: Any) -> None:
        started = Started(
            **ids(grant), pool=grant.pool, worker_id=worker, job_hash=grant.job_hash, granted_seq=grant.granted_seq
        )
        self.plain("job.starts", grant.agent_id, msgspec.structs.replace(started, **changes))
        self.run()

    def finish(self, grant: Grant, content: bytes = b'{"ok":true}', worker: str = "w1", **changes: Any) -> None:
        output = Output(
            **ids(grant),
            worker_id=worker,
            succeeded=True,
            output=self.keys.seal(content, bytes(16), grant.payload.key_id, grant.grant_id),
            output_hash=hashlib.sha256(content).hexdigest(),
            output_size_bytes=len(content),
        )
        self.plain("job.outputs", grant.agent_id, msgspec.structs.replace(output, **changes))
        self.plain("job.starts", grant.agent_id, Ended(**ids(grant), worker_id=worker, outcome="finished"))
        self.run()

    def lapse(self, grant: Grant, worker: str = "w1") -> None:
        """A worker meets the grant after its start-by time."""
        lapsed = Lapsed(**ids(grant), worker_id=worker, granted_seq=grant.granted_seq, start_by_ms=grant.start_by_ms)
        self.plain("job.starts", grant.agent_id, lapsed)
        self.run()

    def plain(self, topic: str, key: str, event: Event, headers: Headers = ()) -> Record:
        return self.log.produce(topic, key.encode(), CODEC.encode(event), headers)

    # --- time and reading

    def run(self) -> None:
        run_until_idle(self.log, *self.engines)

    def advance(self, sec: float) -> None:
        """Let time pass, and the watch fire what is due."""
        self.log.advance(int(sec * 1000))
        for timer in self.events("timer.requests", TimerRequest):
            identity = (timer.owner, timer.key, timer.timer_id, timer.fire_at_ms)
            if timer.fire_at_ms <= self.log.clock_ms and identity not in self._fired:
                self._fired.add(identity)
                fired = TimerFired(
                    owner=timer.owner, key=timer.key, timer_id=timer.timer_id, fire_at_ms=timer.fire_at_ms
                )
                self.plain(f"timer.fired.{timer.owner}", timer.key, fired)
        self.run()

    def events(self, topic: str, cls: type[T]) -> list[T]:
        found: list[T] = []
        for record in self.log.records(topic):
            try:
                event = CODEC.decode(record.value)
            except Undecodable:
                continue
            if isinstance(event, cls):
                found.append(event)
        return found

    def last(self, topic: str, cls: type[T]) -> T:
        return self.events(topic, cls)[-1]

    def records(self) -> list[Record]:
        """The whole log."""
        topics = [*dict.fromkeys(name for app in APPLICATIONS.values() for name in app.inputs), "approval.events"]
        topics += [COMMANDS, SNAPSHOTS, "dead.letters", "job.grants.default", "agent.autonomy", "agent.audits"]
        topics += [f"timer.fired.{owner}" for owner in TIMER_OWNERS]
        return [record for topic in dict.fromkeys(topics) for record in self.log.records(topic)]

    def verified(self, records: list[Record] | None = None) -> Report:
        gates = {GATE.key_id: Ed25519Verifier(GATE.public())}
        verifier = Verifier(
            CODEC, TENANT, 3, MASTER, OPERATORS, gates=gates, keys=self.keys, audit_master=self.audit_master
        )
        return verifier.run(self.records() if records is None else records)


def ids(grant: Grant) -> dict[str, Any]:
    return {"job_id": grant.job_id, "agent_id": grant.agent_id, "grant_id": grant.grant_id, "attempt": grant.attempt}
