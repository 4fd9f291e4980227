"""The state that everybody folds from the control topics: what is active, paused, stopped, revoked. Pure.

How it is folded stands in `control_fold.py`; a decision need only name the control offset.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from sluicegate.streams.control_epochs import Epoch
from sluicegate.streams.control_scopes import Glass, Revocation, Stop, covers
from sluicegate.streams.control_terms import SignOff

COMMANDS: Final = "control.commands"
SNAPSHOTS: Final = "policy.snapshots"


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
    topics_per_day_max: int = 500
    parked_max: int = 4_000
    sealing: str = "none"
    """What payloads are sealed with: `none`, or the name of an AEAD, and then nothing else is taken.

    A command that says nothing of it is older than sealing: that it meant `none` must stay so, or the log would not
    verify. What is activated now says what the setting `sealing` says.
    """


class Snapshot(msgspec.Struct, frozen=True):
    """One published bundle: its canonical JSON documents, and when it was appended."""

    name: str
    digest: str
    documents: str
    appended_at_ms: int


class Proposal(msgspec.Struct, frozen=True):
    """An activation that waits until all of ``needs`` are met; ``signed`` are the key ids of who has agreed."""

    command_id: str
    snapshot: Snapshot
    settings: StepSettings
    by: str
    reason: str | None
    appended_at_ms: int
    needs: tuple[SignOff, ...]
    signed: tuple[str, ...] = ()


class Folded(msgspec.Struct, frozen=True):
    """What became of a command; of a snapshot, whose ``command_id`` is its digest."""

    command_id: str
    accepted: bool
    code: str | None


class LevelSet(msgspec.Struct, frozen=True):
    """The level that an operator gave an agent with the command at ``offset``."""

    offset: int
    level: int
    by: str
    reason: str | None


def level_name(agent_id: str, domain: str) -> str:
    """Under which name stands what operators said of an agent, or of an agent in one domain."""
    return f"{agent_id}\n{domain}" if domain else agent_id


class ControlState(msgspec.Struct, frozen=True):
    """The state after the command at ``offset`` (-1 before any). ``at_ms`` is the log time reached.

    ``activated`` are the digests that became active one after the other, the active one last. ``snapshots`` are by
    digest; a second name of the same documents, whose digits fit but whose version is another, stands behind it.
    """

    offset: int = -1
    at_ms: int = 0
    active: Snapshot | None = None
    settings: StepSettings = StepSettings()
    pauses: tuple[str, ...] = ()
    stops: tuple[Stop, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    glasses: tuple[Glass, ...] = ()
    levels: dict[str, LevelSet] = {}
    """The last level that operators gave each agent, and each agent in a domain; by `level_name`."""
    epochs: tuple[Epoch, ...] = ()
    """Epochs of sampled audit whose keys are not revealed, in order; the last one goes on."""
    proposed: Proposal | None = None
    activated: tuple[str, ...] = ()
    shortest_lease_sec: int | None = None
    snapshots: dict[str, Snapshot] = {}
    seen: dict[str, int] = {}
    last: Folded | None = None
    last_snapshot: Folded | None = None

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of sampled audit that goes on."""
        return self.epochs[-1] if self.epochs else None

    @property
    def lease_sec(self) -> int:
        """The shortest lease that any activation has named, in seconds.

        Who folds without bundles cannot tell which activation holds; a sign of life that comes too early harms
        nobody, one that comes too late costs the attempt.
        """
        return self.settings.attempt_lease_sec if self.shortest_lease_sec is None else self.shortest_lease_sec

    def level_set(self, agent_id: str, domain: str) -> LevelSet | None:
        """What operators said last of an agent's level in a domain: of this domain, or of all."""
        found = [self.levels.get(agent_id)] + ([self.levels.get(level_name(agent_id, domain))] if domain else [])
        return max((each for each in found if each is not None), key=lambda each: each.offset, default=None)

    def paused(self, agent_id: str, topic: str, tags: Collection[str], job_id: str) -> str | None:
        """The first paused scope that covers a job, or None."""
        return next((scope for scope in self.pauses if covers(scope, agent_id, topic, tags, job_id)), None)

    def stops_after(
        self, control_offset: int, agent_id: str, topic: str, tags: Collection[str], job_id: str
    ) -> tuple[Stop, ...]:
        """The stops that cover an attempt which was started when ``control_offset`` was reached."""
        found = [stop for stop in self.stops if stop.offset > control_offset]
        return tuple(stop for stop in found if covers(stop.scope, agent_id, topic, tags, job_id))

    def revoked(
        self, control_offset: int, agent_id: str, topic: str, tags: Collection[str], job_id: str
    ) -> Revocation | None:
        """The first revocation that voids what was permitted when ``control_offset`` was reached, or None."""
        for each in self.revocations:
            if each.offset > control_offset and covers(each.scope, agent_id, topic, tags, job_id):
                return each
        return None

    def snapshot(self, digest: str, name: str) -> Snapshot | None:
        """The published snapshot of this digest and name, or None."""
        found = self.snapshots.get(digest)
        return found if found is not None and found.name == name else self.snapshots.get(f"{digest} {name}")

    def glass(
        self,
        at_ms: int,
        agent_id: str,
        topic: str,
        tags: Collection[str],
        job_id: str,
        action_tags: Collection[str] = (),
    ) -> Glass | None:
        """The break-glass under which a job may run without waiting for a person, or None.

        ``tags`` are all that the job was judged by: a pause of any of them stands before the glass, and a revocation
        that came after it has ended it, each for the jobs it covers. ``action_tags`` are those that the active
        policy's `actions.yaml` gives the action: by these alone a glass over a tag covers it, for what an agent adds
        must not choose what runs unseen.
        """
        job = (agent_id, topic, tags, job_id)
        if not self.glasses or self.paused(*job) is not None:
            return None
        for each in self.glasses:
            covered = at_ms < each.until_ms and covers(each.scope, agent_id, topic, action_tags, job_id)
            if covered and self.revoked(each.offset, *job) is None:
                return each
        return None
