"""`sluicegate audit report`: how often finished jobs were wrong, from the samples that people have judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from sluicegate.cli import output
from sluicegate.cli.audit_advice import advice
from sluicegate.cli.audit_words import (
    REVIEWED,
    at_least,
    at_most,
    caution,
    counted,
    lasted,
    meaning,
    moment,
    percent,
    reviews,
    short_moment,
)
from sluicegate.cli.configuration import settings
from sluicegate.cli.log_since import PERIOD_HELP, LogOption, newest_of, period_of, read_back, tenant_of
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import whole_answer
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.processors.audit_allocation import Allocation
    from sluicegate.processors.audit_report import AuditReport, Evidence, Rate
    from sluicegate.streams.identity import Ed25519Verifier

LINES_MAX: Final = 20
"""How many entries of one list people are shown on a terminal; the others are in --json and on the page."""
AgentFilter = Annotated[str, typer.Option("--agent", help="Only jobs of this agent.")]


def report(
    period: Annotated[str, typer.Option("--period", help=PERIOD_HELP, show_default=False)],
    agent: AgentFilter = "",
    log: LogOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write one page, to print and to sign.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what nobody was asked about, and how often finished jobs were wrong. Exit 1 when no job finished then.

    Jobs count by when they ended; findings on them whenever they came. `operators.json` of the run folder says whose
    commands count, as for `sluicegate verify`.
    """
    out = Output(as_json)
    with whole_answer(out):
        found = _report(out, period, agent, log)
        page = _page(html, found, log) if html is not None and found.whole.jobs else None
    out.result({"ok": found.whole.jobs > 0, "page": page, **msgspec.to_builtins(found)})
    say_report(out, found)
    if not found.whole.jobs:
        out.note(_remedy(found, html))
        raise typer.Exit(output.NEGATIVE)
    if page is not None:
        out.say(f"wrote {visible(page)}")
    again = f"sluicegate audit report --period {period} --html report.html"
    out.next(again if page is None else "print it, check it, sign it")


def _report(out: Output, period: str, agent: str, log: Path | None) -> AuditReport:
    from sluicegate.processors.audit_log import NEEDED
    from sluicegate.processors.audit_report import report_of_log

    if not period:
        raise BadInput("--period is empty; give a span as `30d` or days as `2026-11-01..2026-12-01`")
    period_of(period, 0)  # a text that is no period is refused before the log is read
    operators, tenant = _operators(), tenant_of(log)
    codec, records = read_back(out, log, NEEDED)
    with out.working("counting"):
        whole = period_of(period, newest_of(records))
        return report_of_log(records, codec, tenant, operators, whole, agent or None)


def _operators() -> dict[str, Ed25519Verifier]:
    """Whose commands count here. Raises BadInput for nobody's: a report that knows no break-glass would hide it."""
    from sluicegate.streams.keys import keys_dir, trusted_operators

    found = settings()
    operators = trusted_operators(found)
    if not operators:
        raise BadInput(f"`{keys_dir(found)}` trusts no operator: put the gate's `operators.json` there")
    return operators


def _page(file: Path, found: AuditReport, log: Path | None) -> str:
    from sluicegate.cli.audit_page import page_of

    text = page_of(found, source="the log" if log is None else f"the copy {log.name}", tenant=tenant_of(log))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"`{file}` cannot be written: {reason}; give another file") from None
    return str(file)


def _remedy(found: AuditReport, html: Path | None) -> str:
    whose = "" if found.agent_id is None else f" of agent `{visible(found.agent_id)}`"
    unwritten = "" if html is None else "; no page is written"
    return (
        f"no job{whose} finished in the period under a policy that audits{unwritten}; give a longer --period, or "
        "publish a bundle with an `audit` document"
    )


# --- what people read


def say_report(out: Output, found: AuditReport) -> None:
    """The whole report, what nobody must overlook first."""
    _say_attention(out, found)
    whose = "" if found.agent_id is None else f" of agent {visible(found.agent_id)}"
    out.say(f"{moment(found.evidence.from_ms)} to {moment(found.evidence.to_ms)} (not included)")
    out.say(f"{counted(found.whole.jobs, 'finished job')}{whose}: {meaning(found.whole)}")
    if found.whole.jobs:
        if caution(found.whole):
            out.say(f"note: {caution(found.whole)}")
        _say_rates(out, "agent", found.agents)
        _say_rates(out, "topic", found.topics)
        _say_rates(out, "stratum", found.strata)
        _say_detection(out, found)
        _say_allocation(out, found.allocation, found.agent_id)
        _say_errors(out, found)
    _say_evidence(out, found.evidence)


def _say_attention(out: Output, found: AuditReport) -> None:
    out.say(f"approved by time-out, without a person: {found.timed_out_count}")
    for each in found.timed_out[:LINES_MAX]:
        what = f"{each.job_id} of {each.agent_id} on {each.topic or 'a topic that is gone'}, by {each.by}"
        out.say(f"  TIME-OUT {short_moment(each.at_ms)} {visible(what)}")
    out.more(found.timed_out_count, LINES_MAX)
    out.say(f"break-glass: {found.break_glass_count}")
    for glass in found.break_glass[:LINES_MAX]:
        void = "" if glass.counted else " (NOT accepted by the control fold; run `sluicegate verify`)"
        until = f"{short_moment(glass.at_ms)} until {short_moment(glass.until_ms)}"
        what = f"by {glass.by} over {glass.scope}: {glass.reason}"
        out.say(f"  BREAK-GLASS {until} {visible(what)}{void}; {reviews(glass)}")
        for job in glass.jobs[:LINES_MAX]:
            ran = visible(f"{job.job_id} of {job.agent_id} on {job.topic}")
            out.say(f"    let run {short_moment(job.at_ms)} {ran}: {REVIEWED[job.review]}")
        out.more(glass.jobs_count, LINES_MAX)
    out.more(found.break_glass_count, LINES_MAX)


def _say_rates(out: Output, noun: str, rates: list[Rate]) -> None:
    rows = [
        (
            each.name,
            each.jobs,
            each.drawn,
            each.judged,
            each.waiting,
            each.wrong,
            each.harmful,
            percent(each.rate),
            f"{at_least(each.low)} to {at_most(each.high)}",
            meaning(each) if each.wrong == 0 else "",
        )
        for each in rates[:LINES_MAX]
    ]
    out.say("")
    columns = (noun, "jobs", "drawn", "judged", "waiting", "wrong", "of these harmful", "rate", "95 %", "")
    out.table(columns, rows)
    out.more(len(rates), LINES_MAX)


def _say_detection(out: Output, found: AuditReport) -> None:
    out.say("\njobs that pass until a defect is drawn at least once (95 %), at the rates in force:")
    defects = list(found.detection[0].jobs_by_defect) if found.detection else []
    columns = ("stratum", "rate", *[f"defect of {percent(float(each), 0)}" for each in defects])
    rows = [
        (each.stratum, percent(each.rate), *[_often(count) for count in each.jobs_by_defect.values()])
        for each in found.detection[:LINES_MAX]
    ]
    out.table(columns, rows, "no rate is in force")
    out.more(len(found.detection), LINES_MAX)


def _often(count: int | None) -> str:
    return "never" if count is None else f"{count:,}"


def _say_allocation(out: Output, found: Allocation, agent_id: str | None) -> None:
    out.say(
        f"\nwhere {found.expected:,.1f} expected samples would tell most (Neyman, 1934); "
        f"{counted(found.mandatory, 'mandatory job')} apart:"
    )
    rows = [
        (each.stratum, each.jobs, percent(each.rate), percent(each.suggested), _weight(each.weight))
        for each in found.shares[:LINES_MAX]
    ]
    columns = ("stratum", "jobs not mandatory", "rate in force", "suggested", "weight to write")
    out.table(columns, rows, "every job was mandatory")
    out.more(len(found.shares), LINES_MAX)
    for line in advice(found, agent_id):
        out.say(line)


def _weight(weight: float | None) -> str:
    return "-" if weight is None else f"{weight:.4f}"


def _say_errors(out: Output, found: AuditReport) -> None:
    out.say(f"\nfound wrong or harmful: {found.errors_count}{_split(found.errors_by_class)}")
    if found.errors_count:
        out.say(f"by severity{_split(found.errors_by_severity)}")
    for each in found.errors[:LINES_MAX]:
        kind = f"{each.finding}, {each.error_class or 'no class'}, {each.severity or 'no severity'}"
        what = f"{each.job_id} of {each.agent_id} on {each.topic}: {kind}; by {each.by}"
        out.say(f"  {short_moment(each.at_ms)} {visible(what)}: {visible(each.note or 'no note')}")
    out.more(found.errors_count, LINES_MAX)
    out.say(
        f"samples judged: {percent(found.judged_share, 1)}; waiting: {found.waiting_count}, "
        f"of these overdue: {found.waiting_overdue}"
    )
    for sample in found.waiting[:LINES_MAX]:
        what = f"{sample.job_id} of {sample.agent_id} on {sample.topic} in queue {sample.queue or '-'}"
        late = f", overdue {counted(sample.overdue, 'time')}" if sample.overdue else ""
        out.say(f"  waits {lasted(sample.waited_ms)}: {visible(what)}{late}")
    out.more(found.waiting_count, LINES_MAX)


def _say_evidence(out: Output, found: Evidence) -> None:
    ends = ", ".join([f"{visible(place)} up to {end}" for place, end in found.ends.items()]) or "no record of audits"
    out.say(f"\n{found.records:,} records read, the newest of {moment(found.newest_ms)}; {ends}")
    out.say(
        f"{counted(found.commands, 'command')} up to control offset {found.control_offset}, "
        f"{found.commands_refused} refused; active at the end: {visible(found.policy_snapshot or 'nothing')}"
    )
    for each in found.epochs[:LINES_MAX]:
        epoch = each.epoch
        told = "not told yet" if epoch.revealed is None else f"told {short_moment(epoch.revealed_at_ms)}"
        out.say(f"epoch {epoch.number}: {each.drawn} of {counted(each.jobs, 'job')} drawn, key {told}")
    out.more(len(found.epochs), LINES_MAX)
    if found.without_key:
        out.say(f"{counted(found.without_key, 'job')} ended while no key was usable: all are looked at")
    out.say("check: `sluicegate verify` recomputes every draw whose key is told, and all else; anybody can")


def _split(counts: dict[str, int]) -> str:
    parts: list[Any] = [f"{count} {visible(name)}" for name, count in counts.items()]
    return f": {', '.join(parts)}" if parts else ""
