"""What is proposed, as the log's own snapshots say it: shown before anybody agrees, and by `control show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from sluicegate.cli.output import Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.policies.load import Bundle
    from sluicegate.streams.control_state import ControlState, Proposal, Snapshot, StepSettings
    from sluicegate.streams.control_terms import SignOff, SnapshotTerms
    from sluicegate.streams.settings import Settings


def bundle_of(snapshot: Snapshot) -> Bundle:
    """The documents of a published snapshot, read anew. Raises PolicyFaults where this build cannot use them."""
    from sluicegate.policies.load import parse_documents

    return parse_documents(json.loads(snapshot.documents))


def open_proposal(state: ControlState, named: str) -> Proposal:
    """The proposal of this snapshot. Raises BadInput when there is none."""
    proposed = state.proposed
    if proposed is None:
        raise BadInput(
            f"nobody proposes to activate `{named}`; `sluicegate policy publish` does, where people must agree"
        )
    if named not in (proposed.snapshot.name, proposed.snapshot.digest):
        raise BadInput(f"`{named}` is not what is proposed; that is `{proposed.snapshot.name}`")
    return proposed


def say_difference(out: Output, lines: Sequence[str]) -> None:
    """What changes, a line each."""
    for line in lines:
        out.say(f"    {visible(line, 400)}")


def changed_settings(before: StepSettings, after: StepSettings) -> Iterator[str]:
    """The settings that an activation changes, in words."""
    old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    for name, value in new.items():
        if old[name] != value:
            yield f"setting `{name}` from `{old[name]}` to `{value}`"


def needs_text(needs: Sequence[SignOff]) -> str:
    """Who must agree, in words."""
    words = []
    for need in needs:
        roles = f" with a role of {', '.join(map(visible, need.roles))}" if need.roles else ""
        words.append(f"{need.people}{roles}")
    return " and ".join(words)


def say_proposal(out: Output, state: ControlState, proposed: Proposal, difference: Sequence[str]) -> None:
    """Who proposes what and why, what it changes, and who has agreed: all that a person needs who is to agree.

    ``difference`` is computed here from the snapshots; what the command says of itself is a claim (`verify` checks it).
    """
    because = f": {visible(proposed.reason)}" if proposed.reason else ", without a reason"
    before = "nothing" if state.active is None else state.active.name
    out.say(f"proposed: {proposed.snapshot.name} in the place of {before}, by {visible(proposed.by)}{because}")
    out.say(f"    digest {proposed.snapshot.digest}")
    changes = [*difference, *changed_settings(state.settings, proposed.settings)]
    say_difference(out, changes or ["nothing changes"])
    signed = ", ".join(map(visible, proposed.signed)) or "nobody"
    out.say(f"    must agree: {needs_text(proposed.needs)}; agreed so far: {signed}")
    out.say(f"    to agree: sluicegate policy sign-off {proposed.snapshot.name}")


def check_signers(settings: Settings, state: ControlState, new: Snapshot, operator: str) -> None:
    """`check_can_sign` for what this operator is about to activate. Raises BadInput."""
    from sluicegate.processors.control import snapshot_terms
    from sluicegate.streams.keys import trusted_operators

    by = f"operator/{operator}"
    known = trusted_operators(settings).get(by)
    active = None if state.active is None else snapshot_terms(state.active)
    check_can_sign(active, snapshot_terms(new), by, None if known is None else known.public)


def check_can_sign(active: SnapshotTerms | None, new: SnapshotTerms | None, by: str, key: bytes | None) -> None:
    """Refuse what would lock everybody out. Raises BadInput, saying what to do.

    ``by`` and ``key`` are the activating operator's key id and key. Of ``active``, that enough people who can sign are
    there for this activation; of ``new``, that with it the next one is possible, and that its glass can be broken.
    """
    from sluicegate.streams.control_terms import could_agree, required_sign_off, still_open

    if new is None:
        return  # every gate refuses it by name
    for need in () if active is None else still_open(required_sign_off(active, new), could_agree(active, by, key)):
        raise BadInput(
            f"{needs_text([need])} must agree to this activation, and fewer with a key and a role in the active bundle "
            f"could; enrol them with an activation of their own first, or let another operator than `{by}` activate"
        )
    for need in still_open(required_sign_off(new, new), could_agree(new, "", None)):
        raise BadInput(
            f"`sign_off` asks for {needs_text([need])}, and fewer people of reviewers.yaml have a key of their own; "
            "nothing could be activated any more: add their `public_key`, or ask for fewer"
        )
    role = new.break_glass_role
    if role is not None and all(role not in person.roles for person in new.persons.values()):
        raise BadInput(
            f"nobody with the role `{role}` has a key, so nobody could break the glass; add their `public_key`"
        )
