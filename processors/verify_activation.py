"""What an activation says of itself, checked: the difference in words that people read before they agree."""

from __future__ import annotations

import json

from sluicegate.policies.difference import difference
from sluicegate.policies.load import parse_documents
from sluicegate.schemas.events import Command
from sluicegate.streams.control_state import ControlState


def difference_fault(command: Command, before: ControlState, after: ControlState) -> str | None:
    """How the words of an activation that counts are not those of its snapshots, or None.

    ``before`` and ``after`` are the states around it. What was refused, or is no activation, says nothing.
    """
    if command.kind != "activate" or after.last is None or not after.last.accepted:
        return None
    snapshot = after.active if after.proposed is None else after.proposed.snapshot
    found: tuple[str, ...] = ()
    if before.active is not None and snapshot is not None:
        found = difference(*[parse_documents(json.loads(each.documents)) for each in (before.active, snapshot)])
    if tuple(command.difference) == found:
        return None
    return f"its {len(command.difference)} lines of `difference` are not the {len(found)} that its snapshots give"
