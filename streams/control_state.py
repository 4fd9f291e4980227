"""The fold of `control.commands`: what is active, what is paused, up to which offset. Pure.

Everybody folds the same records in the same order and reaches the same state, so a decision need only name the
control offset. A command counts when an operator of the local trust file signed it, it is not stale and its id is
new; otherwise it is refused, and the refusal stands in every process's acknowledgement. The same holds for the
snapshots of `policy.snapshots`, under their digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import Command, SnapshotPublished
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Ed25519Verifier, check
from sluicegate.streams.topics import physical

COMMANDS: Final = "control.commands"
SNAPSHOTS: Final = "policy.snapshots"
EVERYTHING: Final = "everything"
SCOPES: Final = ("agent", "topic", "tag", "job")


class StepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that a step's meaning depends on. They travel in the activating command, so replay has them."""

    request_timeout_sec: int = 3600
    start_within_sec: int = 300
    attempt_lease_sec: int = 30
    attempts_max: int = 3
    hold_first_sec: int = 5
    hold_max_sec: int = 60
    unmatched_wait_sec: int = 30
    payload_bytes_max: int = 262_144
    intents_per_min_max: int = 6_000
    in_flight_max: int = 1_000
    open_requests_max: int = 200
    parked_max: int = 4_000


class Snapshot(msgspec.Struct, frozen=True):
    """One published bundle: its canonical JSON documents, and when it was appended."""

    name: str
    digest: str
    documents: str
    appended_at_ms: int


class Folded(msgspec.Struct, frozen=True):
    """What became of a command; of a snapshot, whose ``command_id`` is its digest."""

    command_id: str
    accepted: bool
    code: str | None


class ControlState(msgspec.Struct, frozen=True):
    """The state after the command at ``offset`` (-1 before any)."""

    offset: int = -1
    active: Snapshot | None = None
    settings: StepSettings = StepSettings()
    pauses: tuple[str, ...] = ()
    snapshots: dict[str, Snapshot] = {}
    seen: frozenset[str] = frozenset()
    last: Folded | None = None
    last_snapshot: Folded | None = None

    def paused(self, agent_id: str, topic: str, tags: tuple[str, ...] | list[str], job_id: str) -> str | None:
        """The first paused scope that covers a job, or None."""
        for scope in self.pauses:
            kind, _, value = scope.partition(":")
            if (
                scope == EVERYTHING
                or (kind == "agent" and value == agent_id)
                or (kind == "topic" and fnmatchcase(topic, value))
                or (kind == "tag" and value in tags)
                or (kind == "job" and value == job_id)
            ):
                return scope
        return None


def scope_fault(scope: str) -> str | None:
    """What is wrong with a scope, or None."""
    if scope == EVERYTHING:
        return None
    kind, _, value = scope.partition(":")
    if kind not in SCOPES or not value:
        return f"scope `{scope}` is not known; give `everything`, `agent:ID`, `topic:GLOB`, `tag:TAG` or `job:ID`"
    if kind == "topic" and any(sign in value for sign in "?["):
        return f"scope `{scope}` uses `?` or `[`; only `*` stands for any characters"
    return None


class ControlFold:
    """Folds records of the two control topics; ``operators`` maps key ids to the keys that may command.

    ``usable`` says whether a snapshot can be judged by; who does not judge leaves it out.
    """

    def __init__(
        self,
        codec: Codec,
        tenant: str,
        operators: Mapping[str, Ed25519Verifier],
        usable: Callable[[Snapshot], bool] = lambda _snapshot: True,
    ) -> None:
        self._codec = codec
        self._tenant = tenant
        self._operators = operators
        self._usable = usable

    def __call__(self, state: ControlState, record: Record) -> ControlState:
        """The next state. Never raises for a bad record: it is refused and says why in ``last``."""
        if record.topic == SNAPSHOTS:
            return self._snapshot(state, record)
        return self._command(state, record)

    def _checked(self, record: Record, by: str) -> str | None:
        topic = physical(self._tenant, record.topic)
        found = check(record.headers, topic, record.key, record.value, record.timestamp_ms, self._operators.get)
        if found.code is not None:
            return found.code
        return None if found.principal is not None and found.principal.key_id == by else "wrong_signer"

    def _snapshot(self, state: ControlState, record: Record) -> ControlState:
        try:
            event = self._codec.decode(record.value)
        except Undecodable:
            event = None
        if not isinstance(event, SnapshotPublished):
            return msgspec.structs.replace(state, last_snapshot=Folded("", False, "malformed"))
        code = self._checked(record, event.publisher)
        if code is None and record.key != event.digest.encode():
            code = "misrouted"
        if code is None and event.digest in state.snapshots:
            code = "repeated"
        folded = Folded(event.digest, code is None, code)
        if code is not None:
            return msgspec.structs.replace(state, last_snapshot=folded)
        snapshot = Snapshot(event.name, event.digest, event.documents, record.timestamp_ms)
        return msgspec.structs.replace(
            state, snapshots={**state.snapshots, event.digest: snapshot}, last_snapshot=folded
        )

    def _command(self, state: ControlState, record: Record) -> ControlState:
        try:
            event = self._codec.decode(record.value)
        except Undecodable:
            event = None
        if not isinstance(event, Command):
            return self._refused(state, record, "", "malformed")
        code = self._checked(record, event.by)
        if code is None and event.command_id in state.seen:
            code = "repeated"
        if code is None and record.key != event.scope.encode():
            code = "misrouted"
        if code is None and scope_fault(event.scope) is not None:
            code = "bad_scope"
        if code is not None:
            return self._refused(state, record, event.command_id, code)
        return self._accepted(state, record, event)

    def _refused(self, state: ControlState, record: Record, command_id: str, code: str) -> ControlState:
        return msgspec.structs.replace(state, offset=record.offset, last=Folded(command_id, False, code))

    def _accepted(self, state: ControlState, record: Record, event: Command) -> ControlState:
        changes: dict[str, object] = {}
        if event.kind == "activate":
            snapshot = state.snapshots.get(event.policy_digest or "")
            if snapshot is None or snapshot.appended_at_ms > record.timestamp_ms:
                return self._refused(state, record, event.command_id, "unknown_snapshot")
            if not self._usable(snapshot):
                return self._refused(state, record, event.command_id, "unusable_snapshot")
            try:
                settings = msgspec.json.decode(event.settings, type=StepSettings)
            except msgspec.MsgspecError:
                return self._refused(state, record, event.command_id, "bad_settings")
            changes = {"active": snapshot, "settings": settings}
        elif event.kind == "pause":
            changes = {"pauses": tuple(sorted({*state.pauses, event.scope}))}
        else:
            changes = {"pauses": tuple(scope for scope in state.pauses if scope != event.scope)}
        return msgspec.structs.replace(
            state,
            offset=record.offset,
            seen=state.seen | {event.command_id},
            last=Folded(event.command_id, True, None),
            **changes,
        )
