"""`sluicegate autonomy`: how levels move, have moved, or shall stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluicegate.cli.audit import WaitOption, caught_up
from sluicegate.cli.configuration import OPERATOR, OperatorOption, settings
from sluicegate.cli.log_since import LogOption, SinceOption
from sluicegate.cli.output import NEGATIVE, JsonOption, Output
from sluicegate.cli.policy_offline import PoliciesOption, ready_bundle, text_of
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.policies.autonomy import AutonomyTerms

COLUMNS: Final = (
    "at_ms",
    "agent_id",
    "number",
    "domain",
    "change",
    "level_before",
    "level",
    "successes_count",
    "errors_count",
    "labelled_correct_count",
    "labelled_wrong_count",
    "by",
    "reason",
)
DomainOption = Annotated[
    str, typer.Option("--domain", help="Only in this domain of topics; `autonomy set` without it means everywhere.")
]
app = typer.Typer(no_args_is_help=True, help="How agents earn and lose autonomy.")


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


@app.command("set")
def set_level(
    agent: Annotated[str, typer.Argument(help="The agent's id.", show_default=False)],
    level: Annotated[int, typer.Argument(min=0, max=99, help="The level.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.", show_default=False)] = "",
    domain: DomainOption = "",
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Give an agent a level, up or down. It holds from the agent's next input on; what was counted begins anew."""
    from sluicegate.cli.control import send

    if not reason.strip():
        raise BadInput("--reason is empty; say why the agent is given this level")
    where = f" in {visible(domain)}" if domain else ""
    said = f"{visible(agent)} is at level {level}{where} from its next input on"
    follows = f"sluicegate autonomy history {agent}"
    send("set_level", f"agent:{agent}", reason, operator, as_json, said, follows, level=level, domain=domain or None)


@app.command("preview")
def preview_level(
    agent: Annotated[str, typer.Argument(help="The agent's id.", show_default=False)],
    level: Annotated[int, typer.Argument(min=0, max=99, help="The level.", show_default=False)],
    domain: DomainOption = "",
    since: SinceOption = "",
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what another level would have let through, by judging the agent's last period again. Nothing is changed."""
    from sluicegate.cli.level_preview import preview, say_preview

    out = Output(as_json)
    report = preview(out, agent, level, since, log, domain)
    out.result(report)
    out.say(visible(agent))
    say_preview(out, report, level)
    out.next(f"sluicegate autonomy set {agent} {level} --reason '...'")


@app.command()
def history(
    agent: Annotated[str, typer.Argument(help="One agent; by default all.")] = "",
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show every change of level there was, oldest first, with its case. Exit 1 when there is none."""
    from sluicegate.cli.approvals import when
    from sluicegate.clients.auditor import Auditor
    from sluicegate.policies.fields import NAME, PATTERN_WORDS

    out = Output(as_json)
    auditor = Auditor(settings())
    caught_up(out, auditor, wait)
    if agent and not re.fullmatch(NAME, agent):  # and so nothing that could end a text of SQL
        raise BadInput(f"`{agent}` is no agent's id; use {PATTERN_WORDS[NAME]}")
    where = f"WHERE agent_id = '{agent}' " if agent else ""
    names = ", ".join(COLUMNS)
    found = auditor.query(f"SELECT {names} FROM level_changed {where}ORDER BY at_ms, agent_id, number")  # noqa: S608
    out.result({"columns": found.columns, "rows": found.dicts(), "truncated": found.truncated})
    rows = [[when(int(row[0])), *row[1:]] for row in found.rows]
    out.table([name.removesuffix("_count").removesuffix("_ms") for name in found.columns], rows, "no level has moved")
    if not found.rows:
        raise typer.Exit(NEGATIVE)


def _terms(out: Output, policies: list[Path]) -> AutonomyTerms:
    _, policy = ready_bundle(out, policies)
    if policy.autonomy is None:
        raise BadInput("no document has `autonomy_levels`; give one with --policies")
    return policy.autonomy
