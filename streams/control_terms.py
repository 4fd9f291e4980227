"""What a snapshot says of control itself: who must agree to an activation, who may break the glass. Pure.

The fold of commands needs these few things of a bundle and nothing else of policy; whoever can read bundles hands
them in (`processors/control.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from sluicegate.schemas.events import Command
from sluicegate.streams.identity import Ed25519Verifier
from sluicegate.streams.topics import DAY_MS

PROPOSAL_MS_MAX: Final = DAY_MS
"""How long an activation waits for its sign-off, in log time; then it counts no more."""


class Person(msgspec.Struct, frozen=True):
    """Someone of a bundle's reviewers who can sign."""

    verifier: Ed25519Verifier
    roles: frozenset[str] = frozenset()


class SnapshotTerms(msgspec.Struct, frozen=True):
    """What a usable snapshot says of control. ``persons`` are by key id; no role given means any reviewer."""

    sign_off_people: int = 0
    sign_off_roles: tuple[str, ...] = ()
    break_glass_role: str | None = None
    break_glass_sec_max: int = 0
    persons: Mapping[str, Person] = {}


def required_sign_off(active: SnapshotTerms | None, new: SnapshotTerms) -> tuple[int, tuple[str, ...]]:
    """How many people, of which roles, must agree: as the active or the new snapshot says, whichever asks for more.

    With none active there are no people yet who could agree, so the first activation needs nobody's word.
    """
    if active is None:
        return 0, ()
    asks = active if active.sign_off_people >= new.sign_off_people else new
    return asks.sign_off_people, asks.sign_off_roles


def name_of(key_id: str) -> str:
    """The name of a key id: `operator/rosa` and `person/rosa` are one person."""
    return key_id.partition("/")[2]


def sign_off_fault(
    event: Command, *, asked_by: str, roles: tuple[str, ...], signed: tuple[str, ...], person: Person
) -> str | None:
    """Why a person's agreement does not count towards a proposal that it names, as a code; None when it does."""
    if name_of(event.by) == name_of(asked_by):
        return "own_activation"
    if event.by in signed:
        return "signed_before"
    if roles and person.roles.isdisjoint(roles):
        return "role_missing"
    return None


def break_glass_fault(event: Command, terms: SnapshotTerms, person: Person, appended_at_ms: int) -> str | None:
    """Why a break-glass command does not hold under the active terms, as a code; None when it does."""
    if terms.break_glass_role is None:
        return "no_break_glass"
    if terms.break_glass_role not in person.roles:
        return "role_missing"
    if not (event.reason or "").strip():
        return "reason_missing"
    longest_ms = appended_at_ms + terms.break_glass_sec_max * 1000
    if event.until_ms is None or not appended_at_ms < event.until_ms <= longest_ms:
        return "bad_until"
    return None
