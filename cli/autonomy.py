"""`sluicegate autonomy`: how levels move, without Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import PoliciesOption, ready_bundle, text_of
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.policies.autonomy import AutonomyTerms

app = typer.Typer(no_args_is_help=True, help="How agents earn and lose autonomy.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def score(
    events: Annotated[Path, typer.Argument(metavar="EVENTS", help="A history, one JSON object a line.")],
    policies: PoliciesOption,
    as_json: JsonOption = False,
) -> None:
    """Say every change of level that a history of events makes, in order. Exit 0 whatever changes."""
    from sluicegate.policies.histories import read_events, scored

    out = Output(as_json)
    terms = _terms(out, policies)
    rows = []
    for event, change in scored(terms, read_events(str(events), text_of(events))):
        said = {"at": event.at, "agent_id": event.agent_id, "level": change.level, "change": change.change}
        out.record({**said, "reason": change.reason})
        rows.append((event.at, visible(event.agent_id), change.level, change.change, change.reason))
    out.table(("at", "agent", "level", "change", "reason"), rows, "no level changes")


def _terms(out: Output, policies: list[Path]) -> AutonomyTerms:
    _, policy = ready_bundle(out, policies)
    if policy.autonomy is None:
        raise BadInput("no document has `autonomy_levels`; give one with --policies")
    return policy.autonomy
