"""The operator's half of the control plane: publish snapshots, sign commands, wait until every gate obeys."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from sluicegate.cli.configuration import OPERATOR, READER
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Unavailable, Undecodable
from sluicegate.schemas.events import Acknowledged, Command, CommandKind, Event, SnapshotPublished
from sluicegate.streams.control_fold import AWAITING, ControlFold
from sluicegate.streams.control_scopes import EVERYTHING
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, ControlState, Snapshot, StepSettings
from sluicegate.streams.kafka import Published, Publisher, Tail
from sluicegate.streams.keys import operator_signer, person_signer, trusted_operators
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.policies.load import Bundle
    from sluicegate.streams.settings import Settings

ACKNOWLEDGED_SEC_MAX: Final = 20.0
MEMBERS_EVERY_SEC: Final = 1.0
POLL_SEC: Final = 0.1
READ_SEC_MAX: Final = 30.0
DECISIONS: Final = "job.decisions"


class Obeyed(msgspec.Struct, frozen=True):
    """Which gate processes have folded a command. ``refused`` maps a process to why it did not accept it.

    ``awaiting`` says that the gates took it as a proposal: people must agree before it holds.
    """

    command_id: str
    members: list[str]
    acknowledged: list[str]
    refused: dict[str, str]
    waited_sec: float
    awaiting: bool = False

    @property
    def missing(self) -> list[str]:
        """Members of the group that have not answered."""
        answered = {*self.acknowledged, *self.refused}
        return [member for member in self.members if member not in answered]


def control_state(settings: Settings, user: str = READER) -> ControlState:
    """What is active and paused now, folded from the log. Raises Unavailable when it cannot be read to its end."""
    from sluicegate.processors.control import snapshot_terms

    codec = Codec(registry_for(settings.registry_url))
    fold = ControlFold(codec, settings.tenant, trusted_operators(settings), snapshot_terms)
    tail = Tail(settings, user, (SNAPSHOTS, COMMANDS), group=user, start="beginning")
    records = []
    try:
        deadline = time.monotonic() + READ_SEC_MAX
        while not tail.at_end():
            records += tail.poll(POLL_SEC)
            if time.monotonic() > deadline:
                raise Unavailable(f"`{COMMANDS}` could not be read to its end in {READ_SEC_MAX:g} s; try again")
    finally:
        tail.close()
    state = ControlState()
    for topic in (SNAPSHOTS, COMMANDS):
        for record in sorted((each for each in records if each.topic == topic), key=lambda each: each.offset):
            state = fold(state, record)
    return state


def snapshot_of(bundle: Bundle) -> Snapshot:
    """The snapshot that a bundle would be published as; `appended_at_ms` is 0."""
    import rfc8785

    documents = rfc8785.dumps(dict(bundle.documents)).decode()
    return Snapshot(bundle.snapshot_name, bundle.snapshot_digest, documents, 0)


def compared(state: ControlState, bundle: Bundle) -> dict[str, Any]:
    """What an activating command says of what it replaces: the name of the active snapshot, the difference in words."""
    from sluicegate.policies.difference import difference
    from sluicegate.policies.load import parse_documents

    if state.active is None:
        return {"previous": None, "difference": []}
    before = parse_documents(msgspec.json.decode(state.active.documents))
    return {"previous": state.active.name, "difference": list(difference(before, bundle))}


class Operator:
    """Signs and writes as one operator, or as ``person``, who agrees or breaks the glass. Use it in a ``with`` block.

    Both write through the operators' login; what counts is the signature.
    Raises BadInput when they have no key here, LoginRefused, NotPermitted or Unavailable for the broker.
    """

    def __init__(self, settings: Settings, name: str = OPERATOR, *, person: str = "") -> None:
        self._settings = settings
        self._signer = person_signer(settings, person) if person else operator_signer(settings, name)
        self._codec = Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, OPERATOR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.close()

    def publish_snapshot(self, bundle: Bundle, git_commit: str | None, git_dirty: bool) -> Published:
        """Write a snapshot, which nobody judges by before it is activated."""
        snapshot = snapshot_of(bundle)
        event = SnapshotPublished(
            name=snapshot.name,
            digest=snapshot.digest,
            documents=snapshot.documents,
            publisher=self._signer.key_id,
            git_commit=git_commit,
            git_dirty=git_dirty,
        )
        return self._write(SNAPSHOTS, event.digest, event, f"snapshot-{uuid.uuid4().hex}")

    def activate(self, bundle: Bundle, reason: str | None = None, **more: Any) -> str:
        """Command everyone to judge by a published snapshot, under the settings of this call; the command's id.

        ``more`` is what `compared` says, for those who read the log and those who must agree.
        """
        return self.activate_snapshot(
            bundle.snapshot_name, bundle.snapshot_digest, self._settings.step_settings(), reason, **more
        )

    def activate_snapshot(self, name: str, digest: str, settings: StepSettings, reason: str | None, **more: Any) -> str:
        """As `activate`, for a snapshot that is published already, under these settings."""
        encoded = msgspec.json.encode(settings, order="sorted").decode()
        return self.command(
            "activate", EVERYTHING, reason, policy_snapshot=name, policy_digest=digest, settings=encoded, **more
        )

    def command(self, kind: CommandKind, scope: str, reason: str | None, **more: Any) -> str:
        """Write a command; its id."""
        command_id = f"command-{uuid.uuid4().hex}"
        event = Command(command_id=command_id, kind=kind, scope=scope, reason=reason, by=self._signer.key_id, **more)
        self._write(COMMANDS, scope, event, command_id)
        return command_id

    def _write(self, topic: str, key: str, event: Event, record_id: str) -> Published:
        return self._publisher.publish_signed(self._signer, self._codec, topic, key.encode(), event, record_id)


class Acknowledgements:
    """Watches the gates' answers to commands; open it before the command is written."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codec = Codec(registry_for(settings.registry_url))
        self._tail = Tail(settings, READER, (DECISIONS,), group=READER, start="end")

    def close(self) -> None:
        """Let the connection go."""
        self._tail.close()

    def wait(self, command_id: str, timeout_sec: float = ACKNOWLEDGED_SEC_MAX) -> Obeyed:
        """Wait until every member of the gate's group has answered, at most ``timeout_sec``. Nobody runs: at once."""
        began = time.monotonic()
        found: dict[str, Acknowledged] = {}
        members, looked_at = gate_members(self._settings), began
        while True:
            now = time.monotonic()
            if now - looked_at > MEMBERS_EVERY_SEC:
                members, looked_at = gate_members(self._settings), now
            if set(members) <= found.keys() or now - began > timeout_sec:
                refused = {name: each.code or "" for name, each in found.items() if not each.accepted}
                accepted = sorted([name for name, each in found.items() if each.accepted])
                awaiting = any(each.accepted and each.code == AWAITING for each in found.values())
                return Obeyed(command_id, members, accepted, refused, round(now - began, 3), awaiting)
            for event in self._events():
                if event.command_id == command_id:
                    found[event.instance.rpartition("/")[2]] = event

    def _events(self) -> Iterator[Acknowledged]:
        for record in self._tail.poll(POLL_SEC):
            if record.key.startswith(b"gate/"):
                try:
                    event = self._codec.decode(record.value)
                except Undecodable:
                    continue
                if isinstance(event, Acknowledged):
                    yield event


@contextmanager
def acknowledgements(settings: Settings) -> Iterator[Acknowledgements]:
    """`Acknowledgements` for a ``with`` block."""
    watching = Acknowledgements(settings)
    try:
        yield watching
    finally:
        watching.close()


def gate_members(settings: Settings) -> list[str]:
    """The instances in the gate's consumer group now. Raises Unavailable when the broker does not say."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from sluicegate.streams.connection import LOGGER
    from sluicegate.streams.kafka import error_for
    from sluicegate.streams.logins import kafka_config

    group = physical(settings.tenant, "gate")
    client = AdminClient(kafka_config(settings, OPERATOR), logger=LOGGER)
    try:
        described = client.describe_consumer_groups([group], request_timeout=10)[group].result()
    except KafkaException as error:
        raise error_for(error.args[0], OPERATOR, f"describe the group `{group}`") from None
    ids = [member.group_instance_id or member.client_id for member in described.members]
    return sorted([name.removeprefix(f"{group}.") for name in ids])
