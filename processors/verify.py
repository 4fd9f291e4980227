"""Verify: recompute everything the steps wrote from what they read, in the order their journals say.

For every key of every plane the journal is read in ``seq`` order, the input that each group of events names as its
cause is looked up, and the very same step is run over a fresh state under the control of the recorded offset. What
comes out must be what stands in the log, byte for byte. Then the other way round: whatever stands on a topic that
only steps write and was not recomputed was written by somebody else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Final

from sluicegate.processors import desk, gate, outputs
from sluicegate.processors.audits import AUDITS
from sluicegate.processors.control import Control, snapshot_terms
from sluicegate.processors.plane import GRANTS, JUDGE, Plane, PlaneStep, key_text
from sluicegate.processors.verify_activation import difference_fault
from sluicegate.processors.verify_draws import Draws
from sluicegate.processors.verify_payloads import Erasures, Memory, Noticing, Replayer, Turned
from sluicegate.processors.verify_report import (
    RECOMPUTED,
    Expected,
    Place,
    Report,
    class_name,
    counted,
    differing,
    place_of,
)
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import Acknowledged, Command, Event, TimerFired, TimerRequest
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, ControlState, Folded
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.identity import Ed25519Verifier, check_signature
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import APPLICATIONS, FOR_EVER, TIMER_OWNERS, physical, spec_of

PLANES: Final[tuple[Plane, ...]] = (gate.PLANE, outputs.PLANE, desk.PLANE)
WRITTEN_BY_STEPS: Final = (
    "job.decisions",
    "job.grants",
    "job.results",
    "agent.autonomy",
    "agent.audits",
    "approval.requests",
    "approval.events",
    "approval.resolutions",
    "timer.requests",
    "dead.letters",
)
CONTROL_AGE_MS_MAX: Final = 20_000
"""How much older than a process it takes a key over from another may be: the freshness limit and a transaction."""
CLOCKS_APART_MS: Final = 2 * 3_600_000
"""How far the clocks of two brokers, or one before and after it was set, may be apart before it counts as a fault."""


class Verifier:
    """Verifies one tenant's log.

    ``starts`` are the log start offsets of the partitions, where known; ``operators`` may command, ``monitors`` report
    incidents; ``master`` is the key from which the agents' keys derive; ``gates`` sign grants;
    ``keys`` open what is sealed; ``audit_master`` gives the keys of epochs of sampled audit that are not told yet.
    """

    def __init__(
        self,
        codec: Codec,
        tenant: str,
        partitions: int,
        master: bytes | None,
        operators: dict[str, Ed25519Verifier],
        starts: Mapping[tuple[str, int], int] | None = None,
        monitors: Mapping[str, Ed25519Verifier] | None = None,
        gates: Mapping[str, Ed25519Verifier] | None = None,
        keys: Keyring | None = None,
        *,
        audit_master: bytes | None = None,
    ) -> None:
        self._codec = codec
        self._tenant = tenant
        self._partitions = partitions
        self._master = master
        self._operators = operators
        self._reporters = {**operators, **(monitors or {})}
        self._gates = dict(gates or {})
        self._keys = Noticing(keys or NoKeyring())
        self._replayer = Replayer(codec, self._keys, self._of_topic_beginning)
        self._erasures = Erasures()
        self._draws = Draws(codec, audit_master)
        self._unspoken: set[str] = set()
        self._starts = dict(starts or {})
        self._records: dict[Place, Record] = {}
        self._controls: dict[tuple[str, int], Control] = {}
        self._states: dict[int, ControlState] = {}
        self._snapshots: dict[int, Folded | None] = {}
        self._spoken_of: set[int] = set()
        self._command_offsets: list[int] = []
        self._expected = Expected()
        self._report = Report(recomputed={}, records=0, pending=0, faults=[], faults_count=0)

    def run(self, records: Iterable[Record]) -> Report:
        """Verify these records (any order between partitions). Call once."""
        for record in records:
            self._records[(record.topic, record.partition, record.offset)] = record
        self._report.records = len(self._records)
        self._check_starts()
        self._fold_control()
        self._draws.learn(self._of_topic(AUDITS))
        for plane in PLANES:
            self._verify_plane(plane)
        self._check_snapshots()
        self._unexplained()
        self._check_grants()
        self._check_timers()
        return self._report

    def _check_starts(self) -> None:
        for (topic, partition), start in self._starts.items():
            if start > 0 and spec_of(topic).retention_ms == FOR_EVER:
                self._report.fault(
                    "truncated",
                    (topic, partition, start),
                    f"records before offset {start} are gone from a topic kept for ever",
                )

    def _of_topic(self, *names: str) -> Iterator[Record]:
        wanted = [place for place in self._records if place[0] in names]
        for place in sorted(wanted):
            yield self._records[place]

    def _of_topic_beginning(self, *beginnings: str) -> Iterator[Record]:
        return self._of_topic(*{place[0] for place in self._records if place[0].startswith(beginnings)})

    def _fold_control(self) -> None:
        fold = ControlFold(self._codec, self._tenant, self._operators, snapshot_terms)
        state = ControlState()
        for record in self._of_topic(SNAPSHOTS):
            state = fold(state, record)
            self._snapshots[record.offset] = state.last_snapshot
        self._states[-1] = state
        self._command_offsets = [record.offset for record in self._of_topic(COMMANDS)]
        for record in self._of_topic(COMMANDS):
            before, state = state, fold(state, record)
            self._states[record.offset] = state
            event = self._codec.decode_or_none(record.value)
            if not isinstance(event, Command):
                continue
            if event.kind == "erase" and state.last is not None and state.last.accepted:
                self._erasures.add(event)
            if event.kind == "reveal" and state.last is not None and state.last.accepted:
                self._draws.learn_key(event)
            fault = difference_fault(event, before, state)
            if fault is not None:
                self._report.fault("difference", place_of(record), fault)

    def _control(self, plane: str, offset: int) -> Control | None:
        """What a plane knew at an offset; only the gate holds the master key of the agents."""
        if (plane, offset) not in self._controls:
            if offset not in self._states:
                return None
            master = self._master if plane == "gate" else None
            control = Control(
                self._states[offset],
                self._tenant,
                master,
                self._reporters,
                keys=self._keys,
                epoch_keys=self._draws.key,
            )
            control.said = self._draws.said
            self._controls[plane, offset] = control
        return self._controls[plane, offset]

    # --- one plane

    def _verify_plane(self, plane: Plane) -> None:
        step = plane.bound(self._codec, self._tenant, self._partitions)
        by_key: dict[bytes, list[tuple[Record, Any]]] = defaultdict(list)
        for record in self._of_topic(plane.journal_topic):
            try:
                event = self._codec.decode(record.value)
            except Undecodable as error:
                self._report.fault("undecodable", place_of(record), str(error))
                continue
            if isinstance(event, Acknowledged):
                self._expected.add((record.topic, record.key, record.value))
                self._check_acknowledged(record, event)
            elif not hasattr(event, "seq"):
                self._report.fault("foreign", place_of(record), f"`{type(event).__name__}` is no event of this journal")
            else:
                by_key[record.key].append((record, event))
        answered: set[Place] = set()
        for key, events in by_key.items():
            self._verify_key(plane, step, key_text(key), events, answered)
        self._verify_complete(plane, step, answered)

    def _check_acknowledged(self, record: Record, event: Acknowledged) -> None:
        state = self._states.get(event.control_offset) if event.topic == COMMANDS else None
        known = self._snapshots.get(event.control_offset) if event.topic == SNAPSHOTS else None
        last = known if state is None else state.last
        active = None if state is None or state.active is None else state.active.name
        if last != Folded(event.command_id, event.accepted, event.code) or event.policy_snapshot != active:
            where = f"at offset {event.control_offset} of `{event.topic}`"
            self._report.fault("acknowledgement", place_of(record), f"does not fit what stands {where}")
        elif event.topic == SNAPSHOTS:
            self._spoken_of.add(event.control_offset)

    def _check_snapshots(self) -> None:
        """A snapshot that does not count was refused by a gate, or stands in the log without a word about it."""
        for offset, folded in self._snapshots.items():
            if folded is not None and not folded.accepted and offset not in self._spoken_of:
                message = f"refused as `{folded.code}`, and no gate has said so: none ran when it was written"
                self._report.fault("snapshot", (SNAPSHOTS, 0, offset), message)

    def _check_grants(self) -> None:
        """Every grant that the gate wrote carries its signature, where its key is known here."""
        for record in self._of_topic_beginning(GRANTS):
            topic = physical(self._tenant, record.topic)
            checked = check_signature(record.headers, topic, record.key, record.value, self._gates.get)
            ours = self._expected.count((record.topic, record.key, record.value)) > 0
            if self._gates and ours and checked.code is not None:
                self._report.fault("signature", place_of(record), f"no grant that a worker may take: {checked.message}")

    def _check_timers(self) -> None:
        """Only what somebody asked for fires; the same firing again is the same bytes and means nothing."""
        if self._aged("timer.requests"):
            return
        asked = {
            (event.owner, record.key, event.key, event.timer_id, event.fire_at_ms)
            for record in self._of_topic("timer.requests")
            if isinstance(event := self._codec.decode_or_none(record.value), TimerRequest)
        }
        for record in self._of_topic(*[f"timer.fired.{owner}" for owner in TIMER_OWNERS]):
            event = self._codec.decode_or_none(record.value)
            if not isinstance(event, TimerFired) or (
                (event.owner, record.key, event.key, event.timer_id, event.fire_at_ms) not in asked
                or not record.topic.endswith(f".{event.owner}")
            ):
                self._report.fault(
                    "foreign", place_of(record), "nobody asked to be woken so: it was written by somebody else"
                )

    def _verify_key(
        self, plane: Plane, step: PlaneStep, key: str, events: list[tuple[Record, Any]], answered: set[Place]
    ) -> None:
        store = Memory()
        number, control_offset = 0, -1
        groups: list[tuple[Place, list[tuple[Record, Any]]]] = []
        for record, event in events:
            number += 1
            if event.seq != number:
                self._report.fault(
                    "seq", place_of(record), f"seq {event.seq} of key `{key}` stands where {number} belongs"
                )
                number = event.seq
            self._check_control(record, event, control_offset)
            control_offset = max(control_offset, event.control_offset)
            cause = (event.cause.topic, event.cause.partition, event.cause.offset)
            if groups and groups[-1][0] == cause:
                groups[-1][1].append((record, event))
            else:
                groups.append((cause, [(record, event)]))
        for cause, group in groups:
            if cause in answered:
                self._report.fault("twice", place_of(group[0][0]), f"input {cause} is answered twice")
                continue  # recomputed once is enough: a second time would only find what follows from this
            answered.add(cause)
            self._replay(step, store, cause, group)

    def _check_control(self, record: Record, event: Any, reached: int) -> None:
        """A judgement rests on what was known: never on less than the one before it, nor on a command of its future."""
        newer = self._records.get((COMMANDS, 0, reached))
        if (
            event.control_offset < reached
            and newer is not None
            and newer.timestamp_ms + CONTROL_AGE_MS_MAX < record.timestamp_ms
        ):
            self._report.fault(
                "control_offset",
                place_of(record),
                f"control offset {event.control_offset} after {reached} had been reached",
            )
        command = self._records.get((COMMANDS, 0, event.control_offset))
        following = self._following(event.control_offset)
        if following is not None and following.timestamp_ms + CLOCKS_APART_MS < record.timestamp_ms:
            self._report.fault(
                "control_offset",
                place_of(record),
                f"judged under {event.control_offset} when the command at {following.offset} had stood there for hours",
            )
        if command is not None and command.timestamp_ms > record.timestamp_ms + CLOCKS_APART_MS:
            self._report.fault(
                "control_offset",
                place_of(record),
                f"the command at {event.control_offset} was appended after this event",
            )

    def _following(self, offset: int) -> Record | None:
        """The first command behind an offset."""
        at = bisect_right(self._command_offsets, offset)
        return self._records[COMMANDS, 0, self._command_offsets[at]] if at < len(self._command_offsets) else None

    def _replay(self, step: PlaneStep, store: Memory, cause: Place, group: list[tuple[Record, Any]]) -> None:
        first_record, first = group[0]
        where = place_of(first_record)
        if any(event.judge != JUDGE for _, event in group):
            self._report.fault(
                "judge", where, f"judged by version {first.judge}; this build recomputes version {JUDGE} only"
            )
        source = self._records.get(cause)
        if source is None:
            self._report.fault("missing_input", where, f"its cause {cause} is not in the log")
            return
        control = self._control(step.plane.name, first.control_offset)
        if control is None:
            self._report.fault("control_offset", where, f"control offset {first.control_offset} is not in the log")
            return
        try:
            turned = self._replayer.run(step, store, source, control, group)
        except Exception as error:  # noqa: BLE001  # whatever fails is the finding
            self._report.fault("step_failed", where, f"recomputing failed with {type(error).__name__}: {error}")
            return
        turned.store.flush()
        self._check_erased(turned, first_record)
        journal = [out for out in turned.outs if out.topic == step.plane.journal_topic]
        for out in turned.outs:
            self._expected.add((out.topic, out.key, out.value), self._draws.how(out, turned.how, control))
        for out, recorded in zip_longest(journal, group):
            self._compare(out, recorded, where, turned.how)

    def _check_erased(self, turned: Turned, record: Record) -> None:
        """That a key is erased is believed where the log says who erased it; what rests on its content came before."""
        for key_id, at_ms in sorted(turned.erased.items()):
            if key_id not in self._unspoken and not self._erasures.speak_of(key_id):
                self._unspoken.add(key_id)
                said = "no accepted `erase` command of its agent or job stands in the log"
                message = f"key `{key_id}` was erased without a word in the log: {said}"
                self._report.fault("erased", place_of(record), message)
            if turned.how != RECOMPUTED and at_ms is not None and at_ms + CLOCKS_APART_MS < record.timestamp_ms:
                message = f"rests on what key `{key_id}` sealed, hours after it was erased"
                self._report.fault("erased", place_of(record), message)

    def _compare(self, out: Out | None, recorded: tuple[Record, Any] | None, where: Place, how: str) -> None:
        if recorded is None:
            if out is None:
                return
            name = type(self._codec.decode(out.value)).__name__
            self._report.fault("missing", where, f"recomputing also gives a `{name}` that is not in the log")
            return
        record, event = recorded
        name = type(event).__name__
        if out is None:
            self._report.fault("extra", place_of(record), f"recomputing does not give this `{name}`")
        elif out.key != record.key:
            self._report.fault("differs", place_of(record), f"`{name}` stands under another key than is recomputed")
        elif out.value != record.value:
            fields = differing(self._codec.decode(out.value), event)
            self._report.fault("differs", place_of(record), f"`{name}` differs from what is recomputed in {fields}")
        else:
            counted(self._report, how, name)

    def _verify_complete(self, plane: Plane, step: PlaneStep, answered: set[Place]) -> None:
        """Every input addressed to the plane is answered; the tail may still be waiting its turn."""
        newest_ms = max((record.timestamp_ms for record in self._of_topic(plane.journal_topic)), default=0)
        last: dict[tuple[str, int], int] = {}
        for topic, partition, offset in answered:
            last[(topic, partition)] = max(offset, last.get((topic, partition), -1))
        for record in self._of_topic(*APPLICATIONS[plane.name].inputs):
            place = place_of(record)
            if place in answered or not _is_addressed(step, record):
                continue
            if record.offset < last.get((record.topic, record.partition), -1):
                self._report.fault(
                    "skipped", place, f"`{plane.name}` answered later inputs of this partition but not this one"
                )
            elif record.timestamp_ms + CLOCKS_APART_MS < newest_ms:
                self._report.fault("skipped", place, f"`{plane.name}` has not answered this input for hours")
            else:
                self._report.pending += 1

    def _unexplained(self) -> None:
        found: Counter[tuple[str, bytes, bytes]] = Counter()
        for record in self._of_topic(*{place[0] for place in self._records}):
            if not spec_of(record.topic).types:
                self._report.fault("foreign", place_of(record), "no event may stand on this topic yet")
            if not record.topic.startswith(WRITTEN_BY_STEPS):
                continue
            if record.partition != partition_for(record.key, self._partitions):
                self._report.fault("misrouted", place_of(record), "its key does not belong on this partition")
            identity = (record.topic, record.key, record.value)
            found[identity] += 1
            if found[identity] > self._expected.count(identity) and not self._is_journal(record):
                twice = "a second time" if self._expected.count(identity) else "by somebody else"
                self._report.fault("foreign", place_of(record), f"no step wrote this record: it was written {twice}")
            elif not self._is_journal(record):
                counted(self._report, self._expected.how(identity), class_name(self._codec, record))
        journals = {plane.journal_topic for plane in PLANES}
        for (topic, key, value), count in self._expected:
            short = count - found[(topic, key, value)]
            if short > 0 and topic not in journals and not self._aged(topic):
                name = type(self._codec.decode(value)).__name__
                self._report.fault(
                    "missing", (topic, -1, -1), f"{short} `{name}` under key `{key_text(key)}` should be in the log"
                )

    def _is_journal(self, record: Record) -> bool:
        return any(record.topic == plane.journal_topic for plane in PLANES)

    def _aged(self, topic: str) -> bool:
        return any(start > 0 for (name, _), start in self._starts.items() if name == topic)


def _is_addressed(step: PlaneStep, record: Record) -> bool:
    try:
        event: Event = step.codec.decode(record.value)
    except Undecodable:
        return True
    return step.plane.addressed(record.topic, event)
