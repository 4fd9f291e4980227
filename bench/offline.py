"""The gate's step without Kafka: the real step, policy and control over a dictionary."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import rfc8785

from sluicegate.bench.material import NO_LIMIT, PARTITIONS, Scribe, as_record, write_policy
from sluicegate.cli.configuration import shipped_policies
from sluicegate.policies.load import parse_bundle, read_folder
from sluicegate.processors.control import Control
from sluicegate.processors.gate import PLANE
from sluicegate.processors.plane import PlaneStep
from sluicegate.schemas.codec import Codec
from sluicegate.streams.control_epochs import Epoch, commitment_of, epoch_key
from sluicegate.streams.control_state import ControlState, Snapshot, StepSettings
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import DEFAULT_TENANT

_MASTER: Final = bytes(32)
"""A key of nobody: what is signed by it never leaves this process."""


class DictStore:
    """The state of all keys; `of` narrows it to one."""

    def __init__(self) -> None:
        self.entries: dict[bytes, dict[str, bytes]] = {}
        self._now: dict[str, bytes] = {}

    def of(self, key: bytes) -> DictStore:
        self._now = self.entries.setdefault(key, {})
        return self

    def get(self, name: str) -> bytes | None:
        return self._now.get(name)

    def set(self, name: str, value: bytes) -> None:
        self._now[name] = value

    def delete(self, name: str) -> None:
        self._now.pop(name, None)


class Offline:
    """A gate in memory, with the intents it will meet."""

    def __init__(self, rules: int = 0, *, trust: bool = False, agents_count: int | None = None) -> None:
        """``trust`` adds levels and audits to the policy; of the agents the first ``agents_count`` submit."""
        self.codec = Codec(registry_for(""))
        self.now_ms = time.time_ns() // 1_000_000
        self.step: PlaneStep = PLANE.bound(self.codec, DEFAULT_TENANT, PARTITIONS)
        self.control = _control(self.now_ms, rules, trust=trust)
        self.store = DictStore()
        self._scribe = Scribe(self.codec, DEFAULT_TENANT, _MASTER, agents_count=agents_count)

    def records(self, series: str, count: int) -> list[Record]:
        """Signed intents as the log would hold them."""
        messages = self._scribe.messages(series, count, self.now_ms)
        return [as_record(message, offset, self.now_ms) for offset, message in enumerate(messages)]

    def meet(self, record: Record) -> list[Out]:
        """One turn."""
        return self.step(self.store.of(record.key), record, self.control)


def _control(now_ms: int, rules: int, *, trust: bool) -> Control:
    with tempfile.TemporaryDirectory() as folder:
        write_policy(shipped_policies(), Path(folder), rules, trust=trust)
        bundle = parse_bundle(read_folder(Path(folder)))
    documents = rfc8785.dumps(dict(bundle.documents)).decode()
    snapshot = Snapshot(bundle.snapshot_name, bundle.snapshot_digest, documents, now_ms)
    settings = StepSettings(intents_per_min_max=NO_LIMIT, in_flight_max=NO_LIMIT)
    epoch = Epoch(1, commitment_of(epoch_key(_MASTER, 1)), "1", now_ms)
    state = ControlState(offset=1, active=snapshot, settings=settings, epochs=(epoch,))
    return Control(state, DEFAULT_TENANT, _MASTER, {}, epoch_keys=lambda number: epoch_key(_MASTER, number))
