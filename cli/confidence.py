"""`sluicegate confidence report`: what agents said of themselves, against what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from sluicegate.cli import output
from sluicegate.cli.audit_words import at_least, at_most, counted, moment, percent
from sluicegate.cli.log_since import PERIOD_HELP, LogOption, newest_of, period_of, read_back
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import whole_answer
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.processors.confidence_report import Bin, Calibration, ConfidenceReport

app = typer.Typer(no_args_is_help=True, help="What agents say of themselves, against what became of it.")
GROUPS_MAX: Final = 20
"""How many agents and topics are shown; the others are in --json."""


@app.callback()
def _group() -> None:
    """Keep `report` a verb of its own, though it is the only one."""


@app.command()
def report(
    period: Annotated[str, typer.Option("--period", help=f"{PERIOD_HELP} By default all of the log.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only jobs of this agent.")] = "",
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare stated confidence with outcomes, per agent and topic. Exit 1 when no finished job stated one.

    Then say of rules `confidence_below` what they would have held, and which errors they would have let through.
    """
    out = Output(as_json)
    with whole_answer(out):
        found = _report(out, period, agent, log)
    out.result({"ok": found.whole.jobs > 0, **msgspec.to_builtins(found)})
    if not found.whole.jobs:
        out.say(f"no finished job stated a confidence; {counted(found.silent, 'job')} stated none")
        out.note("give a longer --period, or have agents state one: `confidence` of an intent")
        raise typer.Exit(output.NEGATIVE)
    say_report(out, found)


def _report(out: Output, period: str, agent: str, log: LogOption) -> ConfidenceReport:
    from sluicegate.processors.audits import AUDITS
    from sluicegate.processors.confidence_report import report_of_log

    period_of(period, 0)  # a text that is no period is refused before the log is read
    codec, records = read_back(out, log, (AUDITS,))
    with out.working("counting"):
        return report_of_log(records, codec, period_of(period, newest_of(records)), agent or None)


def say_report(out: Output, found: ConfidenceReport) -> None:
    """The whole report: each agent and topic, then what rules would have done to all."""
    whole = found.whole
    begins = moment(found.from_ms) if found.from_ms else "the beginning of the log"
    out.say(
        f"{counted(whole.jobs, 'finished job')} with a stated confidence, {begins} to "
        f"{moment(found.to_ms)} (not included); {whole.labelled} labelled, {counted(whole.errors, 'error')}; "
        f"{found.silent} stated none"
    )
    out.say("labelled: it failed, a sample of it was judged, or a person approved it and nobody found it wrong")
    for group in found.groups[:GROUPS_MAX]:
        _say_group(out, group, found.labels_min)
    if len(found.groups) > GROUPS_MAX:
        out.say(f"\nand {len(found.groups) - GROUPS_MAX} more agents and topics; see --json")
    _say_thresholds(out, whole, found.labels_min)


def _say_group(out: Output, group: Calibration, labels_min: int) -> None:
    out.say(f"\n{visible(group.agent_id or '')} on {visible(group.topic or '')}: {_score(group)}")
    _say_too_few(out, group, labels_min)
    rows = [
        (
            f"{each.from_confidence:g} to {each.to_confidence:g}",
            each.jobs,
            each.labelled,
            each.errors,
            percent(each.error_rate, 1),
            f"{at_least(each.low, 1)} to {at_most(each.high, 1)}",
            "-" if each.confidence_mean is None else f"{each.confidence_mean:.3f}",
            _gap(each),
        )
        for each in group.bins
    ]
    columns = ("confidence", "jobs", "labelled", "errors", "error rate", "95 %", "mean confidence", "gap")
    out.table(columns, rows)


def _score(group: Calibration) -> str:
    brier = "no Brier score" if group.brier is None else f"Brier score {group.brier:.4f}"
    labelled = f"{group.labelled} of {counted(group.jobs, 'job')} labelled"
    return f"{labelled}, {counted(group.errors, 'error')}, {brier} (0 is best)"


def _gap(each: Bin) -> str:
    if each.gap is None:
        return "-"
    return f"{each.gap:+.3f}"


def _say_too_few(out: Output, group: Calibration, labels_min: int) -> None:
    if group.too_few:
        out.say(f"too few labels to tell: {group.labelled}, fewer than {labels_min}")


def _say_thresholds(out: Output, whole: Calibration, labels_min: int) -> None:
    out.say("\nwhat a rule `confidence_below: t` would have held of these jobs, and the errors it would have missed:")
    _say_too_few(out, whole, labels_min)
    rows = [
        (f"{each.below:g}", each.held, percent(each.held_share, 1), each.missed, percent(each.missed_share, 1))
        for each in whole.thresholds
    ]
    out.table(("t", "held", "share held", "errors missed", "share of errors missed"), rows)
    out.say(
        "the share of errors weighs an error that only a sample shows by 1/p, what would be known without one by 1; "
        "jobs without a label count in the share held only"
    )
    out.say("confidence is the agent's claim: let it hold more, never less")
