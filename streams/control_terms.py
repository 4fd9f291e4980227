"""What a snapshot says of control itself: who must agree to an activation, who may break the glass. Pure.

The fold of commands needs these few things of a bundle and nothing else of policy; whoever can read bundles hands
them in (`processors/control.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from sluicegate.schemas.events import Command
from sluicegate.streams.control_scopes import glass_scope_fault
from sluicegate.streams.identity import Ed25519Verifier
from sluicegate.streams.topics import DAY_MS

PROPOSAL_MS_MAX: Final = DAY_MS
"""How long an activation waits for its sign-off, in log time; then it counts no more."""


class Person(msgspec.Struct, frozen=True):
    """Someone of a bundle's reviewers who can sign."""

    verifier: Ed25519Verifier
    roles: frozenset[str] = frozenset()


class SignOff(msgspec.Struct, frozen=True):
    """So many people of one of these roles must agree; no role given means any reviewer."""

    people: int
    roles: tuple[str, ...] = ()

    def asks(self, person: Person) -> bool:
        """Whether this person's word counts towards it."""
        return not self.roles or not person.roles.isdisjoint(self.roles)


class SnapshotTerms(msgspec.Struct, frozen=True):
    """What a usable snapshot says of control. ``persons`` are by key id; no role given means any reviewer.

    ``snapshot_name`` is the name that its documents give it, None where nobody has said.
    """

    snapshot_name: str | None = None
    sign_off_people: int = 0
    sign_off_roles: tuple[str, ...] = ()
    break_glass_role: str | None = None
    break_glass_sec_max: int = 0
    persons: Mapping[str, Person] = {}


def required_sign_off(active: SnapshotTerms | None, new: SnapshotTerms) -> tuple[SignOff, ...]:
    """Who must agree: as the active snapshot says, and as the new one says, each for itself; () is nobody.

    Neither takes the other's place: more people of easier roles are no substitute for the role that was asked for.
    With none active there are no people yet who could agree, so the first activation needs nobody's word.
    """
    if active is None:
        return ()
    asked = [SignOff(each.sign_off_people, each.sign_off_roles) for each in (active, new)]
    return tuple(dict.fromkeys(each for each in asked if each.people))


def still_open(needs: tuple[SignOff, ...], signers: Iterable[Person]) -> tuple[SignOff, ...]:
    """Those of the needs that these signers, each another person, do not meet."""
    found = tuple(signers)
    return tuple(need for need in needs if sum(need.asks(person) for person in found) < need.people)


def could_agree(active: SnapshotTerms, by: str, key: bytes | None) -> list[Person]:
    """The people whose words could count for an activation by ``by``, whose key is ``key``: each key once."""
    able = {
        person.verifier.public: person for key_id, person in active.persons.items() if name_of(key_id) != name_of(by)
    }
    return [person for public, person in able.items() if public != key]


def name_of(key_id: str) -> str:
    """The name of a key id: `operator/rosa` and `person/rosa` are one person."""
    return key_id.partition("/")[2]


def sign_off_fault(
    event: Command,
    person: Person,
    *,
    asked_by: str,
    asked_key: bytes | None,
    needs: tuple[SignOff, ...],
    signed: Mapping[str, Person],
) -> str | None:
    """Why a person's agreement does not count towards a proposal that it names, as a code; None when it does.

    ``asked_by`` and ``asked_key`` are the activating operator's name and key bytes; ``signed`` are those who agreed.
    A key is one person under whatever names it stands, and so is a name under whatever keys.
    """
    key = person.verifier.public
    if name_of(event.by) == name_of(asked_by) or key == asked_key:
        return "own_activation"
    if event.by in signed or any(key == each.verifier.public for each in signed.values()):
        return "signed_before"
    return None if any(need.asks(person) for need in needs) else "role_missing"


def break_glass_fault(event: Command, terms: SnapshotTerms, person: Person, appended_at_ms: int) -> str | None:
    """Why a break-glass command does not hold under the active terms, as a code; None when it does."""
    if glass_scope_fault(event.scope) is not None:
        return "bad_scope"
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
