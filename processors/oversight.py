"""`sluicegate run oversight`: what happens by the clock and is nobody's input: epochs of sampled audit begin and end.

It holds no state: what is due follows from the folded commands, so that one that was killed goes on where the log
stands, and of two that run at once one is refused. An epoch begins with the commitment to its key and with the scale
that the last one's mix of jobs asks for; its key is told once no gate can draw with it any more.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.policies.sampling import AuditTerms
from sluicegate.processors.audits import AUDITS
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.events import AuditDrawn, Command, Event
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS, Epoch, commitment_of, epoch_key
from sluicegate.streams.control_scopes import EVERYTHING
from sluicegate.streams.control_state import COMMANDS, ControlState
from sluicegate.streams.kafka import Publisher, Tail

if TYPE_CHECKING:
    from sluicegate.processors.control import Control
    from sluicegate.streams.engine import ControlSource
    from sluicegate.streams.identity import Signer
    from sluicegate.streams.settings import Settings

log = logging.getLogger(__name__)

USER: Final = "oversight"
TICK_SEC: Final = 1.0
MARGIN_MS: Final = 5_000
"""How much longer than the log asks for an epoch is over before its key is told: clocks differ."""
AGAIN_MS: Final = 60_000
"""After a command was refused nothing is said for this long."""
READ_SEC_MAX: Final = 60.0
ONE: Final = "1"


class Due(msgspec.Struct, frozen=True):
    """The command that is due: an epoch begins, or the key of one is told."""

    begins: int | None = None
    tells: int | None = None


def due(state: ControlState, now_ms: int, epoch_sec: int, master: bytes) -> Due | None:
    """What is due. Keys are told before anything begins; an epoch that is not of this master key is ended at once."""
    for each in state.epochs[:-1]:
        over = now_ms >= each.ended_at_ms + REVEAL_AFTER_MS + MARGIN_MS
        if over and is_ours(each, master):
            return Due(tells=each.number)
    current = state.epoch
    if current is None:
        return Due(begins=1)
    if not is_ours(current, master) or now_ms >= current.began_at_ms + epoch_sec * 1_000:
        return Due(begins=current.number + 1)
    return None


def is_ours(epoch: Epoch, master: bytes) -> bool:
    """Whether an epoch's key derives from this master key."""
    return commitment_of(epoch_key(master, epoch.number)) == epoch.commitment


def mix_of(events: Iterable[Event], number: int) -> Counter[str]:
    """How many jobs of each stratum an epoch has seen; those that must be looked at are not scaled and not counted."""
    return Counter(
        event.stratum
        for event in events
        if isinstance(event, AuditDrawn) and event.epoch == number and not event.mandatory
    )


class Oversight:
    """Writes what is due, one command at a time: the next only after the last was folded here."""

    def __init__(
        self,
        control: Callable[[], Control],
        master: bytes,
        epoch_sec: int,
        write: Callable[[Command], int],
        mix: Callable[[Epoch], Counter[str]],
        signed_by: str,
    ) -> None:
        """``write`` gives the offset of a command in `control.commands`; ``mix`` reads what an epoch has seen."""
        self._control = control
        self._master = master
        self._epoch_sec = epoch_sec
        self._write = write
        self._mix = mix
        self._by = signed_by
        self._written = -1
        self._quiet_until_ms = 0
        self.ready = False
        """Whether jobs are drawn under a key that is known here."""

    def tick(self, now_ms: int) -> Command | None:
        """Write what is due, if anything is."""
        control = self._control()
        state = control.state
        self.ready = state.epoch is not None and is_ours(state.epoch, self._master)
        if state.offset < self._written or now_ms < self._quiet_until_ms:
            return None
        found = due(state, now_ms, self._epoch_sec, self._master)
        if found is None:
            return None
        command = self._command(control, found)
        self._written = self._write(command)
        return command

    def heed(self, state: ControlState, now_ms: int) -> None:
        """Say nothing for a while once the last command was refused."""
        last = state.last
        if state.offset == self._written and last is not None and not last.accepted:
            log.warning("command %s was refused as `%s`", last.command_id, last.code)
            self._quiet_until_ms = now_ms + AGAIN_MS
            self._written = -1

    def _command(self, control: Control, found: Due) -> Command:
        fields: dict[str, Any] = {}
        if found.tells is not None:
            fields = {"kind": "reveal", "epoch": found.tells, "revealed": epoch_key(self._master, found.tells).hex()}
        elif found.begins is not None:
            commitment = commitment_of(epoch_key(self._master, found.begins))
            fields = {"kind": "epoch", "epoch": found.begins, "commitment": commitment, "scale": self._scale(control)}
        return Command(command_id=f"command-{uuid.uuid4().hex}", scope=EVERYTHING, by=self._by, **fields)

    def _scale(self, control: Control) -> str:
        """What rates are scaled with from now on, by what the epoch that ends has seen."""
        terms: AuditTerms | None = control.policy.audit
        ending = control.state.epoch
        return ONE if terms is None or not terms.normalised or ending is None else str(terms.scale(self._mix(ending)))


def serve(
    settings: Settings,
    codec: Codec,
    control: ControlSource[Control],
    signer: Signer,
    master: bytes,
    stop: threading.Event,
    on_start: Callable[[Oversight], None],
) -> None:
    """Write what is due until told to stop. Raises NotPermitted, LoginRefused, StaleControl or Unavailable."""
    publisher = Publisher(settings, USER)

    def write(command: Command) -> int:
        key = command.scope.encode()
        return publisher.publish_signed(signer, codec, COMMANDS, key, command, command.command_id).offset

    oversight = Oversight(
        control.current,
        master,
        settings.audit_epoch_sec,
        write,
        lambda epoch: mix_of(_drawn_since(settings, codec, epoch.began_at_ms), epoch.number),
        signer.key_id,
    )
    try:
        on_start(oversight)
        while not stop.is_set():
            now_ms = time.time_ns() // 1_000_000
            oversight.heed(control.current().state, now_ms)
            oversight.tick(now_ms)
            stop.wait(TICK_SEC)
    finally:
        publisher.close()


def _drawn_since(settings: Settings, codec: Codec, since_ms: int) -> Iterable[Event]:
    """What stands in `agent.audits` from a time on, to its ends of now. Raises Unavailable."""
    tail = Tail(settings, USER, (AUDITS,), group=USER, start="end")
    try:
        tail.rewind_to(since_ms)
        deadline = time.monotonic() + READ_SEC_MAX
        while not tail.at_end():
            for record in tail.poll(TICK_SEC):
                event = codec.decode_or_none(record.value)
                if event is not None:
                    yield event
            if time.monotonic() > deadline:
                raise Unavailable(f"`{AUDITS}` could not be read to its end in {READ_SEC_MAX:g} s; try again")
    finally:
        tail.close()
