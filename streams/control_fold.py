"""The fold of `control.commands` and `policy.snapshots`. Pure.

Everybody folds the same records in the same order and reaches the same state. A command counts when an operator of
the local trust file signed it (break-glass and sign-off: a person of the active bundle), it is not stale and its id
is new; otherwise it is refused, and the refusal stands in every process's acknowledgement. The same holds for the
snapshots, under their digests.

Who cannot read bundles (a worker) folds without ``terms_of``. It reaches the same pauses, stops, revocations and
shortest lease, none of which rest on what a bundle says, and claims nothing else: no snapshot is active to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Command, SnapshotPublished
from sluicegate.streams import control_epochs
from sluicegate.streams.control_scopes import (
    EVERYTHING,
    GLASSES_MAX,
    Glass,
    Revocation,
    Stop,
    kept_revocations,
    kept_stops,
    scope_fault,
    with_stop,
)
from sluicegate.streams.control_state import (
    SNAPSHOTS,
    ControlState,
    Folded,
    LevelSet,
    Proposal,
    Snapshot,
    StepSettings,
    level_name,
)
from sluicegate.streams.control_terms import (
    PROPOSAL_MS_MAX,
    Person,
    SnapshotTerms,
    break_glass_fault,
    required_sign_off,
    sign_off_fault,
    still_open,
)
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import STALE_AFTER_MS, Ed25519Verifier, Keys, Verifier, check
from sluicegate.streams.topics import physical

OVERSIGHT: Final = "oversight/"
PERSONS: Final = ("break_glass", "sign_off")
"""Kinds that a person signs; all others are an operator's."""
AWAITING: Final = "awaiting_sign_off"
"""The code of an accepted command after which people still have to agree."""
SEEN_KEPT_MS: Final = 2 * STALE_AFTER_MS
"""How long a command's id is remembered: a copy of it is stale before that."""
SNAPSHOT_DIGITS: Final = 6
"""How many of a digest's hex digits stand in a snapshot's name, behind its version."""
LEVEL_MAX: Final = 99
"""The highest level that a document can define."""
LEVELS_MAX: Final = 100_000
"""Agents whose level operators have set."""
ACTIVATED_MAX: Final = 100
"""How many former activations are known, the latest; older snapshots can be published again."""


class ControlFold:
    """Folds records of the two control topics; ``operators`` maps key ids to the keys that may command.

    ``terms_of`` says what a snapshot says of control, None when nobody can judge by it; who does not judge leaves it
    out, and learns nothing of activations, sign-offs and break-glass.
    """

    def __init__(
        self,
        codec: Codec,
        tenant: str,
        operators: Mapping[str, Ed25519Verifier],
        terms_of: Callable[[Snapshot], SnapshotTerms | None] | None = None,
    ) -> None:
        self._codec = codec
        self._tenant = tenant
        self._operators = operators
        self._terms_of = terms_of

    def __call__(self, state: ControlState, record: Record) -> ControlState:
        """The next state. Never raises for a bad record: it is refused and says why in ``last``."""
        if record.topic == SNAPSHOTS:
            return self._snapshot(state, record)
        return self._command(_later(state, record), record)

    def _checked(self, record: Record, by: str, keys: Keys) -> str | None:
        topic = physical(self._tenant, record.topic)
        found = check(record.headers, topic, record.key, record.value, record.timestamp_ms, keys)
        if found.code is not None:
            return found.code
        return None if found.principal is not None and found.principal.key_id == by else "wrong_signer"

    def _snapshot(self, state: ControlState, record: Record) -> ControlState:
        event = self._codec.decode_or_none(record.value)
        if not isinstance(event, SnapshotPublished):
            return msgspec.structs.replace(state, last_snapshot=Folded("", False, "malformed"))
        code = self._checked(record, event.publisher, self._operators.get)
        if code is None and event.publisher.startswith(OVERSIGHT):
            code = "wrong_signer"
        if code is None and record.key != event.digest.encode():
            code = "misrouted"
        if code is None and not _is_its_digest(event):
            code = "bad_digest"
        if code is None and state.snapshot(event.digest, event.name) is not None:
            code = "repeated"
        folded = Folded(event.digest, code is None, code)
        if code is not None:
            return msgspec.structs.replace(state, last_snapshot=folded)
        snapshot = Snapshot(event.name, event.digest, event.documents, record.timestamp_ms)
        key = event.digest if event.digest not in state.snapshots else f"{event.digest} {event.name}"
        return msgspec.structs.replace(state, snapshots={**state.snapshots, key: snapshot}, last_snapshot=folded)

    def _command(self, state: ControlState, record: Record) -> ControlState:
        event = self._codec.decode_or_none(record.value)
        if not isinstance(event, Command):
            return _refused(state, "", "malformed")
        terms = self._active_terms(state)
        code = self._fault(state, record, event, terms)
        if code is not None:
            return _refused(state, event.command_id, code)
        # From here on the id is used, whatever becomes of the command: so those who fold without bundles, and cannot
        # tell whether it is accepted, agree with the others about which later command is a copy.
        state = msgspec.structs.replace(state, seen={**state.seen, _seen_name(event): record.timestamp_ms})
        if event.kind == "activate":
            return self._activate(state, record, event, terms)
        if event.kind in PERSONS:
            person = None if terms is None else terms.persons.get(event.by)
            if terms is None or person is None:
                return _refused(state, event.command_id, "unknown_key")
            if event.kind == "break_glass":
                return _break_glass(state, record, event, terms, person)
            return self._sign_off(state, event, terms, person)
        if event.kind in control_epochs.KINDS:
            found = control_epochs.after(state.epochs, event, record.timestamp_ms)
            if isinstance(found, str):
                return _refused(state, event.command_id, found)
            return _took(state, event.command_id, epochs=found)
        return _scoped(state, record, event)

    def _fault(self, state: ControlState, record: Record, event: Command, terms: SnapshotTerms | None) -> str | None:
        def keys(key_id: str) -> Verifier | None:
            if key_id in self._operators:
                return self._operators[key_id]
            person = None if terms is None else terms.persons.get(key_id)
            return None if person is None else person.verifier

        code = self._checked(record, event.by, keys)
        if code is not None:
            return code
        if _seen_name(event) in state.seen:
            return "repeated"
        if record.key != event.scope.encode():
            return "misrouted"
        if scope_fault(event.scope) is not None:
            return "bad_scope"
        if event.by.startswith(OVERSIGHT) and event.kind not in control_epochs.KINDS:
            return "wrong_signer"
        return None if event.by.startswith("person/") == (event.kind in PERSONS) else "wrong_signer"

    def terms(self, snapshot: Snapshot) -> SnapshotTerms | None:
        """What a snapshot says of control; None when nobody, or not this fold, can judge by it."""
        return None if self._terms_of is None else self._terms_of(snapshot)

    def _active_terms(self, state: ControlState) -> SnapshotTerms | None:
        return None if state.active is None else self.terms(state.active)

    def _activate(
        self, state: ControlState, record: Record, event: Command, active: SnapshotTerms | None
    ) -> ControlState:
        try:
            settings = msgspec.json.decode(event.settings, type=StepSettings)
        except msgspec.MsgspecError:
            settings = None
        if settings is not None:
            lease_sec = max(1, min(settings.attempt_lease_sec, state.shortest_lease_sec or settings.attempt_lease_sec))
            state = msgspec.structs.replace(state, shortest_lease_sec=lease_sec)
        snapshot = state.snapshot(event.policy_digest or "", event.policy_snapshot or "")
        if snapshot is None or snapshot.appended_at_ms > record.timestamp_ms:
            return _refused(state, event.command_id, "unknown_snapshot")
        if self._terms_of is None:
            return _refused(state, event.command_id, "not_judged_here")
        terms = self.terms(snapshot)
        if terms is None or terms.snapshot_name not in (None, snapshot.name):
            return _refused(state, event.command_id, "unusable_snapshot")
        if settings is None:
            return _refused(state, event.command_id, "bad_settings")
        if event.previous != (None if state.active is None else state.active.name):
            # Whoever wrote the difference, and whoever is to agree to it, was looking at something else.
            return _refused(state, event.command_id, "stale_previous")
        if state.active is not None and active is None:
            # Whose word it asks for cannot be read, so nobody's word would be asked for.
            return _refused(state, event.command_id, "unusable_active")
        needs = required_sign_off(active, terms)
        if not needs:
            return _activated(state, event.command_id, snapshot, settings, terms)
        proposal = Proposal(event.command_id, snapshot, settings, event.by, event.reason, record.timestamp_ms, needs)
        return _took(state, event.command_id, AWAITING, proposed=proposal)

    def _sign_off(self, state: ControlState, event: Command, active: SnapshotTerms, person: Person) -> ControlState:
        proposed = state.proposed
        if proposed is None or (event.ref, event.policy_digest) != (proposed.command_id, proposed.snapshot.digest):
            return _refused(state, event.command_id, "no_proposal")
        asked = self._operators.get(proposed.by)
        signed = {
            key_id: active.persons[key_id] for key_id in proposed.signed
        }  # while it is open nothing else is active
        code = sign_off_fault(
            event,
            person,
            asked_by=proposed.by,
            asked_key=None if asked is None else asked.public,
            needs=proposed.needs,
            signed=signed,
        )
        if code is not None:
            return _refused(state, event.command_id, code)
        if still_open(proposed.needs, (*signed.values(), person)):
            more = msgspec.structs.replace(proposed, signed=(*proposed.signed, event.by))
            return _took(state, event.command_id, AWAITING, proposed=more)
        terms = self.terms(proposed.snapshot)
        if terms is None:
            return _refused(state, event.command_id, "unusable_snapshot")
        return _activated(state, event.command_id, proposed.snapshot, proposed.settings, terms)


# --- what a command that counts does to the state


def _later(state: ControlState, record: Record) -> ControlState:
    """The state once the log has reached a record: what is over in log time is dropped, whatever the record says."""
    at_ms = max(state.at_ms, record.timestamp_ms)
    proposed = state.proposed
    if proposed is not None and at_ms - proposed.appended_at_ms > PROPOSAL_MS_MAX:
        proposed = None
    return msgspec.structs.replace(
        state,
        offset=record.offset,
        at_ms=at_ms,
        stops=kept_stops(state.stops, at_ms),
        revocations=kept_revocations(state.revocations, at_ms),
        glasses=tuple(glass for glass in state.glasses if glass.until_ms > at_ms),
        proposed=proposed,
        seen={name: seen_ms for name, seen_ms in state.seen.items() if seen_ms + SEEN_KEPT_MS >= at_ms},
    )


def _is_its_digest(event: SnapshotPublished) -> bool:
    """Whether a publication is what it says: the documents' text is their RFC 8785 form, the name ends in its digits.

    Another text is refused here, before it takes the place of the true one.
    """
    digest = hashlib.sha256(event.documents.encode()).hexdigest()
    version, _, digits = event.name.rpartition(":")
    return event.digest == digest and bool(version) and digits == digest[:SNAPSHOT_DIGITS]


def _seen_name(event: Command) -> str:
    """Operators share one space of ids; each person has one, which who folds without bundles need not know."""
    return f"{event.by if event.by.startswith('person/') else 'operator'} {event.command_id}"


def _refused(state: ControlState, command_id: str, code: str) -> ControlState:
    return msgspec.structs.replace(state, last=Folded(command_id, False, code))


def _took(state: ControlState, command_id: str, code: str | None = None, **changes: Any) -> ControlState:
    return msgspec.structs.replace(state, last=Folded(command_id, True, code), **changes)


def _scoped(state: ControlState, record: Record, event: Command) -> ControlState:
    """Pause, resume, stop, revoke and set a level: an operator's word is enough, whatever the active bundle says."""
    changes: dict[str, Any] = {}
    left = (event.command_id, event.scope, record.offset, record.timestamp_ms, event.by, event.reason)
    if event.kind in ("pause", "stop"):
        changes["pauses"] = tuple(sorted({*state.pauses, event.scope}))
    if event.kind == "stop":
        stops = with_stop(state.stops, Stop(*left))
        if stops is None:
            # Refused aloud and yet paused: a switch that cannot reach what runs still lets nothing more start.
            return _refused(msgspec.structs.replace(state, **changes), event.command_id, "too_many_stops")
        changes["stops"] = stops
    elif event.kind == "revoke":
        changes["revocations"] = kept_revocations((*state.revocations, Revocation(*left)), state.at_ms)
        # A glass is over for what the revocation covers (`ControlState.glass`); where that is all of it, it is gone.
        ended = {event.scope} if event.scope != EVERYTHING else {glass.scope for glass in state.glasses}
        changes["glasses"] = tuple(glass for glass in state.glasses if glass.scope not in ended)
    elif event.kind == "resume":
        changes["pauses"] = tuple(scope for scope in state.pauses if scope != event.scope)
    elif event.kind == "set_level":
        kind, _, agent_id = event.scope.partition(":")
        if kind != "agent" or event.level is None or not 0 <= event.level <= LEVEL_MAX:
            return _refused(state, event.command_id, "bad_level")
        if not (event.reason or "").strip():
            return _refused(state, event.command_id, "no_reason")
        whose = level_name(agent_id, event.domain or "")
        if whose not in state.levels and len(state.levels) >= LEVELS_MAX:
            return _refused(state, event.command_id, "too_many_levels")
        changes["levels"] = {**state.levels, whose: LevelSet(record.offset, event.level, event.by, event.reason)}
    return _took(state, event.command_id, **changes)


def _activated(
    state: ControlState, command_id: str, snapshot: Snapshot, settings: StepSettings, terms: SnapshotTerms
) -> ControlState:
    """The snapshot is active from here on, and no proposal is open. A glass ends with the right to break it."""
    former = state.activated[:-1] if state.activated[-1:] == (snapshot.digest,) else state.activated
    return _took(
        state,
        command_id,
        active=snapshot,
        settings=settings,
        proposed=None,
        activated=(*former, snapshot.digest)[-ACTIVATED_MAX:],
        glasses=tuple(glass for glass in state.glasses if _may_break(terms, glass.by)),
    )


def _may_break(terms: SnapshotTerms, key_id: str) -> bool:
    person = terms.persons.get(key_id)
    return person is not None and terms.break_glass_role in person.roles


def _break_glass(
    state: ControlState, record: Record, event: Command, terms: SnapshotTerms, person: Person
) -> ControlState:
    code = break_glass_fault(event, terms, person, record.timestamp_ms)
    if code is None and len(state.glasses) >= GLASSES_MAX:
        code = "too_many_open"
    if code is not None:
        return _refused(state, event.command_id, code)
    glass = Glass(
        event.command_id,
        event.scope,
        record.offset,
        record.timestamp_ms,
        event.until_ms or 0,
        event.by,
        event.reason or "",
    )
    return _took(state, event.command_id, glasses=(*state.glasses, glass))
