"""A control log in memory: signs commands as operators and people, and folds them with and without bundles."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Command, Event, SnapshotPublished
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, ControlState, Folded
from sluicegate.streams.control_terms import Person, SnapshotTerms
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier, Signer, sign
from sluicegate.streams.registry import registry_for

CODEC = Codec(registry_for(""))
TENANT = "default"
OLGA = Ed25519Signer("operator/olga", b"o" * 32)
REX = Ed25519Signer("operator/rex", b"x" * 32)
PEOPLE = {name: Ed25519Signer(f"person/{name}", name[0].encode() * 32) for name in ("olga", "ken", "rosa", "mia")}
OPERATORS = {each.key_id: Ed25519Verifier(each.public()) for each in (OLGA, REX)}
JOB = ("deployer", "job.deploy.prod", ("prod",), "j1")
"""Agent, topic, tags and id of the job that the tests ask about."""
BEGAN_MS = 1_700_000_000_000


def documents_of(name: str) -> str:
    """The documents of a snapshot: RFC 8785 text that nothing but the name tells from another's."""
    return f'{{"{name}":{{}}}}'


def digest_of(name: str) -> str:
    """The digest of a snapshot."""
    return hashlib.sha256(documents_of(name).encode()).hexdigest()


def snapshot_name(name: str) -> str:
    """The whole name of a snapshot."""
    return f"{name}:{digest_of(name)[:6]}"


def persons(**roles: tuple[str, ...]) -> dict[str, Person]:
    """People who can sign, with these roles."""
    return {
        f"person/{name}": Person(Ed25519Verifier(PEOPLE[name].public()), frozenset(held))
        for name, held in roles.items()
    }


class ControlLog:
    """Every record is folded as it is written. ``terms`` says what a snapshot says, by its name; None: unusable."""

    def __init__(self, **terms: SnapshotTerms | None) -> None:
        self.terms = terms
        self.fold = ControlFold(CODEC, TENANT, OPERATORS, lambda snapshot: self.terms[snapshot.name.partition(":")[0]])
        self.blind_fold = ControlFold(CODEC, TENANT, OPERATORS)
        self.state = self.blind = ControlState()
        self.now_ms = BEGAN_MS
        self._offsets = {COMMANDS: 0, SNAPSHOTS: 0}
        for name in terms:
            self.publish(name)

    def publish(self, name: str, /, **more: Any) -> None:
        """Write a snapshot."""
        given: dict[str, Any] = {
            "name": snapshot_name(name),
            "digest": digest_of(name),
            "documents": documents_of(name),
        }
        published = SnapshotPublished(**{**given, **more}, publisher=OLGA.key_id, git_dirty=False)
        self.write(OLGA, SNAPSHOTS, published.digest, published)

    def write(self, signer: Signer, topic: str, key: str, event: Event, issued_ms: int | None = None) -> Record:
        """Append a record."""
        value = CODEC.encode(event)
        headers = sign(signer, topic, "record", self.now_ms if issued_ms is None else issued_ms, key.encode(), value)
        record = Record(topic, 0, self._offsets[topic], key.encode(), value, headers, self.now_ms)
        self._offsets[topic] += 1
        return self.append(record)

    def append(self, record: Record) -> Record:
        """Fold a record as it is."""
        self.state = self.fold(self.state, record)
        self.blind = self.blind_fold(self.blind, record)
        return record

    def again(self, record: Record) -> None:
        """Append a copy of a record."""
        place = {"offset": self._offsets[record.topic], "timestamp_ms": self.now_ms}
        self._offsets[record.topic] += 1
        self.append(msgspec.structs.replace(record, **place))

    def say(self, kind: Any, scope: str = "everything", signer: Ed25519Signer = OLGA, **more: Any) -> str:
        """Write a command; its id."""
        given: dict[str, Any] = {"command_id": f"c{self._offsets[COMMANDS]}", "by": signer.key_id, **more}
        command = Command(kind=kind, scope=scope, **given)
        self.write(signer, COMMANDS, scope, command)
        return command.command_id

    def activate(self, name: str, **more: Any) -> str:
        """Write the activation of a snapshot; its id."""
        active = None if self.state.active is None else self.state.active.name
        given = {"policy_snapshot": snapshot_name(name), "policy_digest": digest_of(name), "previous": active, **more}
        return self.say("activate", **given)

    def agree(self, person: str, command_id: str, name: str, **more: Any) -> str:
        """Write a person's sign-off of an activation."""
        given = {"ref": command_id, "policy_digest": digest_of(name), **more}
        return self.say("sign_off", signer=PEOPLE[person], **given)

    def later(self, hours: float) -> None:
        """Let time pass."""
        self.now_ms += int(hours * 3_600_000)

    @property
    def last(self) -> Folded:
        """What became of the last command."""
        assert self.state.last is not None
        return self.state.last

    @property
    def active(self) -> str | None:
        """The active snapshot, as it was called in the constructor."""
        return None if self.state.active is None else self.state.active.name.partition(":")[0]

    def refused(self) -> str | None:
        """Why the last command was refused; None when it counts."""
        return None if self.last.accepted else self.last.code
