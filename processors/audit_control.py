"""What an audit report takes from the control topics: broken glasses, epochs of audit, what was active. Pure.

The commands are folded as the gates fold them, so that one which nobody obeyed is not told as if it had counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from sluicegate.policies.sampling import AuditTerms
from sluicegate.processors.control import Control, snapshot_terms
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Command
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, ControlState
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Ed25519Verifier


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A break-glass command. ``counted`` says whether the fold accepts it."""

    command_id: str
    by: str
    scope: str
    reason: str
    at_ms: int
    until_ms: int
    counted: bool


class EpochSeen(msgspec.Struct, kw_only=True):
    """An epoch of sampled audit; ``ended_at_ms`` is None while it goes on, ``revealed`` while its key is not told."""

    number: int
    commitment: str
    scale: str
    began_at_ms: int
    ended_at_ms: int | None = None
    revealed_at_ms: int | None = None
    revealed: str | None = None


class ControlSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The control topics, read up to their ends; ``terms`` and names are as of the end of the period."""

    offset: int
    """Of the last command read, -1 before any."""
    commands: int
    refused: int
    broken: dict[str, Broken]
    epochs: dict[int, EpochSeen]
    snapshot: str | None
    digest: str | None
    scale: str
    terms: AuditTerms | None


def control_seen(
    records: Iterable[Record], codec: Codec, tenant: str, operators: Mapping[str, Ed25519Verifier], to_ms: int
) -> ControlSeen:
    """Fold the control topics; what was active is told as of just before ``to_ms``.

    As `cli.control_log.control_state`, all snapshots come first: the fold itself knows which was published too late.
    """
    fold, state = ControlFold(codec, tenant, operators, snapshot_terms), ControlState()
    placed = sorted([each for each in records if each.topic in (SNAPSHOTS, COMMANDS)], key=lambda each: each.offset)
    for record in placed:
        if record.topic == SNAPSHOTS:
            state = fold(state, record)
    at_end = state
    broken: dict[str, Broken] = {}
    epochs: dict[int, EpochSeen] = {}
    commands = refused = 0
    for record in placed:
        if record.topic != COMMANDS:
            continue
        state = fold(state, record)
        at_end = state if record.timestamp_ms < to_ms else at_end
        accepted = state.last is not None and state.last.accepted
        commands, refused = commands + 1, refused + (not accepted)
        event = codec.decode_or_none(record.value)
        if not isinstance(event, Command):
            continue
        if event.kind == "break_glass" and (accepted or event.command_id not in broken):
            broken[event.command_id] = _broken(event, record, accepted)
        elif accepted and event.kind == "epoch":
            _began(epochs, event, record)
        elif accepted and event.kind == "reveal" and event.epoch in epochs:
            epochs[event.epoch].revealed_at_ms = record.timestamp_ms
            epochs[event.epoch].revealed = event.revealed
    return ControlSeen(
        offset=state.offset,
        commands=commands,
        refused=refused,
        broken=broken,
        epochs=epochs,
        snapshot=None if at_end.active is None else at_end.active.name,
        digest=None if at_end.active is None else at_end.active.digest,
        scale="1" if at_end.epoch is None else at_end.epoch.scale,
        terms=None if at_end.active is None else Control(at_end, tenant, None, dict(operators)).policy.audit,
    )


def _broken(event: Command, record: Record, accepted: bool) -> Broken:
    return Broken(
        command_id=event.command_id,
        by=event.by,
        scope=event.scope,
        reason=event.reason or "",
        at_ms=record.timestamp_ms,
        until_ms=event.until_ms or 0,
        counted=accepted,
    )


def _began(epochs: dict[int, EpochSeen], event: Command, record: Record) -> None:
    number = event.epoch or 0
    if number - 1 in epochs:
        epochs[number - 1].ended_at_ms = record.timestamp_ms
    epochs[number] = EpochSeen(
        number=number,
        commitment=event.commitment or "",
        scale=event.scale or "1",
        began_at_ms=record.timestamp_ms,
    )
