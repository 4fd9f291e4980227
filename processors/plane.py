"""The thin shell around a pure step: bytes in, one turn, bytes out.

A turn is one input met by one key: its time, its place in the journal, the events it causes. Here are the rules
that hold for every step: at is the larger of the key's last time and the input's append time; every input
addressed to a plane leaves at least one event in its journal, numbered without gaps; an input that cannot be
processed becomes a dead letter in the same transaction and changes no state but the journal's number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from sluicegate.processors.control import Control
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import InvariantBroken, RecordTooLarge, Unavailable, Undecodable
from sluicegate.schemas.events import Cause, DeadLetter, Event, Refused, Resolution, TimerRequest
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.payload import SALT_BYTES, seal
from sluicegate.streams.engine import Headers, Out, Record, Store, check_state
from sluicegate.streams.identity import RECORD_ID, STALE_AFTER_MS, Checked, check, sign
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import MESSAGE_BYTES_MAX, physical

JUDGE: Final = 5
"""The version of what the steps mean; raised with every change that would recompute a decision differently."""
CARD: Final = "card"
DEFAULT_DESK: Final = "desk"
DEFAULT_QUEUE: Final = "default"
OUT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 20_000
"""The largest value a step may write: the topic's limit less room for key, headers and batch overhead."""
KEY_BYTES_MAX: Final = 1_024
"""The longest key that has a journal of its own; a longer one is nobody's and is journaled under its hash."""
PASSED_ON: Final = ("traceparent", "tracestate")
PASSED_ON_BYTES_MAX: Final = 512
"""Longer headers are not passed on: nobody bounds them, and every event the step writes would carry them."""
MISROUTED: Final = "misrouted/"
GRANTS: Final = "job.grants."
"""What goes to workers is signed: they believe the gate's key, not the topic."""
_VERSION: Final = ("ce_specversion", b"1.0")


class Card(msgspec.Struct, kw_only=True):
    """The bounded entry every key has: number of its last journal event, and its last time."""

    seq: int = 0
    at_ms: int = 0
    retired_from: int = 0
    retired_to: int = 0
    queues: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Queues of what is kept for another time than what is over: name to where it begins and ends."""


class Retired(msgspec.Struct):
    """An entry that is over, in the order in which it may be deleted; numbered from the card's ``retired_from``."""

    name: str
    forget_at_ms: int


class Forgettable(msgspec.Struct):
    """What is read of an entry to tell whether it is still the one that was retired."""

    forget_at_ms: int = 0


REMEMBERED_MS: Final = 2 * STALE_AFTER_MS
"""How long what is over is remembered: twice the staleness limit, so once means once."""
FORGET_PER_TURN: Final = 2
"""How many retired entries a retirement deletes at most: more than one, so that they never pile up."""
S = TypeVar("S", bound=msgspec.Struct)
E = TypeVar("E")
_packed: Final = msgspec.msgpack.Encoder().encode


@cache
def _unpacker(cls: type[S]) -> msgspec.msgpack.Decoder[S]:
    return msgspec.msgpack.Decoder(cls)


class Overlay:
    """Holds a turn's writes until they are known to be good."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes: dict[str, bytes | None] = {}

    def get(self, name: str) -> bytes | None:
        return self._writes[name] if name in self._writes else self._store.get(name)

    def set(self, name: str, value: bytes) -> None:
        self._writes[name] = value

    def delete(self, name: str) -> None:
        self._writes[name] = None

    def flush(self) -> None:
        """Write what was held to the store beneath, all of it or (RecordTooLarge) nothing."""
        for name, value in self._writes.items():
            if value is not None:
                check_state(name, value)
        for name, value in self._writes.items():
            if value is None:
                self._store.delete(name)
            else:
                self._store.set(name, value)


class Turn:
    """One input met by one key. Steps read and write through it, and through nothing else."""

    def __init__(self, plane: Plane, codec: Codec, record: Record, key: str, store: Overlay, control: Control) -> None:
        self.plane = plane
        self.codec = codec
        self.record = record
        self.key = key
        self.control = control
        self._store = store
        raw = store.get(CARD)
        self.card: Any = plane.card() if raw is None else _unpacker(plane.card).decode(raw)
        self.at_ms = max(self.card.at_ms, record.timestamp_ms)
        self.card.at_ms = self.at_ms
        self.cause = Cause(topic=record.topic, partition=record.partition, offset=record.offset)
        self.outs: list[tuple[str, str, Event, str]] = []
        self.journaled = 0

    def get(self, name: str, cls: type[S]) -> S | None:
        """The entry of this name, or None."""
        raw = self._store.get(name)
        return None if raw is None else _unpacker(cls).decode(raw)

    def put(self, name: str, entry: msgspec.Struct) -> None:
        """Write an entry."""
        self._store.set(name, _packed(entry))

    def drop(self, name: str) -> None:
        """Delete an entry."""
        self._store.delete(name)

    def retire(self, name: str, forget_at_ms: int) -> None:
        """Have an entry that is over deleted once ``forget_at_ms``, a field of its own, has come.

        What is retired waits in a queue in the state itself, and every retirement takes from its head: so the state
        holds what is open and what may still be asked for, in any engine, and replay deletes the same.
        """
        card = self.card
        card.retired_from, card.retired_to = self._queue(
            "retired", card.retired_from, card.retired_to, Retired(name, forget_at_ms), touched=False
        )

    def keep(self, name: str, entry: msgspec.Struct, *, queue: str, new: bool) -> None:
        """Write an entry that is forgotten at its ``forget_at_ms``, which every writing may move further.

        Everything in one ``queue`` is kept for about as long, so that nothing waits behind what is kept for longer. A
        ``new`` entry takes its place in it; one that was touched since takes a new place when its turn comes.
        """
        self.put(name, entry)
        if new:
            begin, end = self.card.queues.get(queue, (0, 0))
            retired = Retired(name, entry.forget_at_ms)  # type: ignore[attr-defined]  # what is kept has it
            self.card.queues[queue] = self._queue(f"retired/{queue}", begin, end, retired, touched=True)

    def _queue(self, queue: str, begin: int, end: int, retired: Retired, *, touched: bool) -> tuple[int, int]:
        """Put one at the end, take those from the head whose time has come; where the queue begins and ends now."""
        self.put(f"{queue}/{end}", retired)
        end += 1
        for _ in range(FORGET_PER_TURN):
            head = self.get(f"{queue}/{begin}", Retired)
            if head is None or head.forget_at_ms > self.at_ms:
                break
            self.drop(f"{queue}/{begin}")
            begin += 1
            left = self.get(head.name, Forgettable)
            if left is not None and left.forget_at_ms == head.forget_at_ms:
                self.drop(head.name)
            elif left is not None and touched:
                self.put(f"{queue}/{end}", Retired(head.name, left.forget_at_ms))
                end += 1
        return begin, end

    def journal(self, cls: Callable[..., E], **fields: Any) -> E:
        """Write the next event of this key's journal."""
        self.card.seq += 1
        self.journaled += 1
        event: Any = cls(
            cause=self.cause,
            at_ms=self.at_ms,
            seq=self.card.seq,
            control_offset=self.control.offset,
            judge=JUDGE,
            **fields,
        )
        self.outs.append((self.plane.journal_topic, self.key, event, f"{self.plane.name}/{self.key}/{self.card.seq}"))
        return event  # type: ignore[no-any-return]  # cls made it, so it is an E

    def send(self, topic: str, key: str, event: Event, event_id: str) -> None:
        """Write an event to another topic under a deterministic id."""
        self.outs.append((topic, key, event, event_id))

    def refuse(self, **fields: Any) -> Refused:
        """Journal a refusal; by default of nobody's job and no attack."""
        known: dict[str, Any] = {"job_id": "", "agent_id": "", "incident": False, "authenticated": False}
        return self.journal(Refused, **{**known, **fields})

    def arm(self, timer_id: str, fire_at_ms: int) -> None:
        """Ask the watch to wake this key at a time; the same timer again replaces it."""
        owner = self.plane.name
        timer = TimerRequest(owner=owner, key=self.key, timer_id=timer_id, fire_at_ms=fire_at_ms)
        self.send("timer.requests", self.key, timer, f"{owner}/{self.key}/{timer_id}/{fire_at_ms}")

    def checked(self) -> Checked:
        """Who signed the input, or why that cannot be said."""
        record = self.record
        topic = physical(self.control.tenant, record.topic)
        return check(record.headers, topic, record.key, record.value, record.timestamp_ms, self.control.key)

    def misplaced(self, event: Event) -> None:
        """Refuse an event that has nothing to seek on the input's topic."""
        message = f"`{type(event).__name__}` does not belong on `{self.record.topic}`"
        self.refuse(subject="input", code="wrong_topic", message=message, incident=True)

    def close(self) -> None:
        """End the turn: the card is written, and an input without a trace is a fault of the step."""
        if not self.journaled:
            raise InvariantBroken(f"`{self.plane.name}` left no event for {self.cause}")
        self.put(CARD, self.card)


Handler = Callable[[Turn, Event], None]


class Plane:
    """One application's step: which events are addressed to it, and what it does with them."""

    def __init__(
        self,
        name: str,
        journal_topic: str,
        card: type[Card],
        addressed: Callable[[str, Event], bool],
        handle: Handler,
        unprocessable: Callable[[Turn, str, str], None] | None = None,
    ) -> None:
        self.name = name
        self.journal_topic = journal_topic
        self.card = card
        self.addressed = addressed
        self.handle = handle
        self.unprocessable = unprocessable or _unprocessable

    def bound(self, codec: Codec, tenant: str, partitions: int) -> PlaneStep:
        """The step at the byte level, for an engine."""
        return PlaneStep(self, codec, tenant, partitions)


def _unprocessable(turn: Turn, code: str, message: str) -> None:
    turn.refuse(subject="input", code=code, message=message)


def key_text(key: bytes) -> str:
    """A record's key as text; what is no UTF-8 is spelt out, so that it can be named."""
    return key.decode("utf-8", errors="backslashreplace")


class PlaneStep:
    """Decodes, keeps the rules of the module's docstring, encodes."""

    def __init__(self, plane: Plane, codec: Codec, tenant: str, partitions: int) -> None:
        self.plane = plane
        self.codec = codec
        self.tenant = tenant
        self.partitions = partitions
        self._source = ("ce_source", f"sluicegate/{tenant}/{plane.name}".encode())
        self._kinds: dict[type[Event], Headers] = {}

    def __call__(self, store: Store, record: Record, control: Control) -> list[Out]:
        """One turn. Raises InvariantBroken when state contradicts itself; everything else is an event."""
        key, fault = self._journal_key(record)
        try:
            event = self.codec.decode(record.value)
        except Undecodable as error:
            return self._give_up(store, record, control, key, "malformed", str(error))
        if not self.plane.addressed(record.topic, event):
            return []
        if fault is not None:
            return self._run(store, record, control, key, lambda turn: _misrouted(turn, fault))
        try:
            return self._run(store, record, control, key, lambda turn: self.plane.handle(turn, event))
        except (InvariantBroken, Unavailable):
            raise  # the process ends and meets the input again
        except (TooLarge, RecordTooLarge) as error:
            return self._give_up(store, record, control, key, "oversize", str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours in a step: fail closed, keep the input, name the fault
            return self._give_up(store, record, control, key, "step_failed", _place_of(error))

    def _journal_key(self, record: Record) -> tuple[str, str | None]:
        """The key of the journal that answers a record, and why that is not the record's own, if it is not.

        A key has another state on a foreign partition, so it needs a journal of its own there, or numbers would
        repeat. Its name is made of partition and hash: no choice of keys makes two states share a journal.
        """
        key = record.key
        if len(key) > KEY_BYTES_MAX:
            fault = f"its key has {len(key)} bytes, at most {KEY_BYTES_MAX} can be a key here"
        elif key.startswith(b"misrouted/"):
            fault = f"keys that begin with `{MISROUTED}` are the processors' own; write under your id"
        elif partition_for(key, self.partitions) != record.partition:
            name = key_text(key)
            fault = f"written to partition {record.partition}, where key `{name}` does not belong; use murmur2"
        else:
            return key_text(key), None
        return f"{MISROUTED}{record.partition}/{hashlib.sha256(key).hexdigest()[:32]}", fault

    def _run(
        self, store: Store, record: Record, control: Control, key: str, handle: Callable[[Turn], None]
    ) -> list[Out]:
        overlay = Overlay(store)
        turn = Turn(self.plane, self.codec, record, key, overlay, control)
        handle(turn)
        turn.close()
        passed = tuple(
            [header for header in record.headers if header[0] in PASSED_ON and len(header[1]) <= PASSED_ON_BYTES_MAX]
        )
        outs = [self._encoded(turn, passed, *out) for out in turn.outs]
        overlay.flush()
        return outs

    def _give_up(self, store: Store, record: Record, control: Control, key: str, code: str, message: str) -> list[Out]:
        headers = dict(record.headers)
        cause = Cause(topic=record.topic, partition=record.partition, offset=record.offset)
        letter = DeadLetter(
            application=self.plane.name,
            cause=cause,
            reason=code,
            message=message[:1000],
            key=record.key,
            value=seal(record.value, bytes(SALT_BYTES)),
            headers=headers,
            appended_at_ms=record.timestamp_ms,
        )
        letter_id = derived_id("letter", self.plane.name, cause.topic, cause.partition, cause.offset)

        def handle(turn: Turn) -> None:
            self.plane.unprocessable(turn, code, message[:1000])
            turn.send("dead.letters", key, letter, letter_id)

        return self._run(store, record, control, key, handle)

    def _encoded(self, turn: Turn, passed: Headers, topic: str, key: str, event: Event, event_id: str) -> Out:
        value = self.codec.encode(event)
        key_bytes = turn.record.key if key == turn.key and not key.startswith(MISROUTED) else key.encode()
        size = len(value) + len(key_bytes) + len(event_id)
        if size > OUT_BYTES_MAX and not isinstance(event, DeadLetter):
            raise TooLarge(f"`{type(event).__name__}` would have {size} bytes, more than {OUT_BYTES_MAX}; send less")
        kind = self._kinds.get(type(event)) or self._kind(type(event))
        headers = (_VERSION, ("ce_id", event_id.encode()), *kind, *passed)
        signer = turn.control.signer
        if signer is not None and topic.startswith(GRANTS):
            where = physical(self.tenant, topic)
            signature = sign(signer, where, event_id, turn.at_ms, key_bytes, value)
            headers += tuple(pair for pair in signature if pair[0] != RECORD_ID)
        return Out(topic, key_bytes, value, headers)

    def _kind(self, cls: type[Event]) -> Headers:
        """What stands in the headers of every event of a class."""
        kind = ("ce_type", f"sluicegate.{cls.__name__}.v1".encode())
        self._kinds[cls] = (self._source, kind, ("content-type", b"application/avro"))
        return self._kinds[cls]


def said_by(event: Resolution) -> str | None:
    """The key id of the person whose verdict ended a request; None where nobody's did."""
    return f"person/{event.verdicts[-1].approver_id}" if event.verdicts else None


def _place_of(error: Exception) -> str:
    """What failed and where; its own words may hold a piece of what was sealed."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" in `{place.tb_frame.f_code.co_name}`"
    return f"{type(error).__name__}{where}"


class TooLarge(Exception):
    """A step would have written more than a record may hold."""


def _misrouted(turn: Turn, message: str) -> None:
    turn.refuse(subject="input", code="misrouted", message=message, incident=True)
