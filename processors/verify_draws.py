"""Verify draws of sampled audit: with the keys that the log tells, or that this run folder can derive. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.processors.audits import AUDITS
from sluicegate.processors.control import Control
from sluicegate.processors.verify_report import AS_RECORDED, Place
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import AuditDrawn, Command
from sluicegate.streams.control_epochs import epoch_key, told_key
from sluicegate.streams.engine import Out, Record


class Draws:
    """What is known of the epochs' keys, and what the log says was drawn where none is."""

    def __init__(self, codec: Codec, master: bytes | None) -> None:
        self._codec = codec
        self._master = master
        self._told: dict[int, bytes] = {}
        self.said: dict[Place, AuditDrawn] = {}
        """What the log says was drawn, by cause."""

    def learn_key(self, command: Command) -> None:
        """An accepted `reveal`."""
        key = told_key(command)
        if command.epoch is not None and key is not None:
            self._told[command.epoch] = key

    def learn(self, records: Iterable[Record]) -> None:
        """What the log says was drawn: believed of epochs whose keys are not known here, and counted so."""
        for record in records:
            event = self._codec.decode_or_none(record.value)
            if isinstance(event, AuditDrawn):
                self.said[event.cause.topic, event.cause.partition, event.cause.offset] = event

    def key(self, number: int) -> bytes | None:
        """The key of an epoch: as the log tells it, else, where this run folder can, derived."""
        if number in self._told:
            return self._told[number]
        return None if self._master is None else epoch_key(self._master, number)

    def how(self, out: Out, how: str, control: Control) -> str:
        """How a record is known to belong there: a draw under a key that nobody here has is as it was recorded."""
        epoch = control.state.epoch
        if out.topic != AUDITS or epoch is None or control.epoch_key(epoch) is not None:
            return how
        event = self._codec.decode(out.value)
        return AS_RECORDED if isinstance(event, AuditDrawn) and event.epoch else how
