"""The epochs of sampled audit while a tenant is under load: when oversight has something to do, and is killed."""

from __future__ import annotations

import random
import time
from typing import Final

from sluicegate.processors.oversight import MARGIN_MS
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import AuditDrawn, Command, Event
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS, commitment_of, epoch_key
from sluicegate.streams.control_scopes import EVERYTHING
from sluicegate.streams.engine import Record
from sluicegate.streams.kafka import Publisher, signed_headers
from sluicegate.streams.keys import load_audit_master, oversight_signer
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

COMMANDS: Final = "control.commands"
MOMENT_MS: Final = (-300, 1_300)
"""When oversight is killed, from when something is due on: it looks once a second."""
LASTS_MS: Final = 500
DRAWN_MIN: Final = 10
"""Jobs that must have been drawn in an epoch that is ended by hand."""
SCALES: Final = ("0.75", "1.25")
"""Of epochs that are begun by hand, in turn: a job that one of them begins over was judged under another scale."""


class Epochs:
    """Follows what was begun and told; begins the next one itself where that is asked for."""

    def __init__(self, settings: Settings, *, by_hand: bool) -> None:
        self._settings, self._by_hand = settings, by_hand
        self._publisher = Publisher(settings, "oversight") if by_hand else None
        self._random = random.Random(11)
        self._from_ms = 0.0
        self._number = 0
        self._drawn = 0
        self._due_ms: list[int] = []
        self._next_moment()

    def _next_moment(self) -> None:
        self._from_ms = self._random.uniform(*MOMENT_MS)

    def see(self, record: Record, event: Event) -> None:
        """Take up a command of the log, or a draw."""
        if isinstance(event, AuditDrawn) and event.epoch == self._number:
            self._drawn += event.drawn
        if isinstance(event, Command) and event.kind == "epoch" and event.epoch is not None:
            self._due_ms.append(record.timestamp_ms + self._settings.audit_epoch_sec * 1_000)
            if self._number:
                self._due_ms.append(record.timestamp_ms + REVEAL_AFTER_MS + MARGIN_MS)
            self._number, self._drawn = event.epoch, 0

    def is_moment(self) -> bool:
        """Whether oversight is about to write, writes, or has just written; by hand, whether enough is drawn."""
        if self._by_hand:
            return self._number > 0 and self._drawn >= DRAWN_MIN
        now_ms = time.time_ns() // 1_000_000
        return any(0 <= now_ms - due_ms - self._from_ms <= LASTS_MS for due_ms in self._due_ms)

    def killed(self) -> None:
        """Oversight is away: another one with its key begins the next epoch, where that is asked for."""
        self._next_moment()
        if self._publisher is None:
            return
        signer, number = oversight_signer(self._settings), self._number + 1
        command = Command(
            command_id=f"command-by-hand-{number}",
            kind="epoch",
            scope=EVERYTHING,
            by=signer.key_id,
            epoch=number,
            commitment=commitment_of(epoch_key(load_audit_master(self._settings), number)),
            scale=SCALES[number % len(SCALES)],
        )
        key, value = command.scope.encode(), Codec(registry_for(self._settings.registry_url)).encode(command)
        topic, now_ms = physical(self._settings.tenant, COMMANDS), time.time_ns() // 1_000_000
        headers = signed_headers(signer, topic, command, command.command_id, now_ms, key, value)
        self._publisher.publish(COMMANDS, key, value, headers)

    def close(self) -> None:
        """Let the connection go."""
        if self._publisher is not None:
            self._publisher.close()
