"""What an impact report says to people: short, break-glass first, then shares, then what widens one by one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sluicegate.cli.output import Output
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.processors.impact import Change, GlassRun, Report, Side

LINES_MAX: Final = 20
"""How many entries of one list people are shown; the others are in --json."""


def say_report(out: Output, report: Report, *, recorded: bool) -> None:
    """The whole report. ``recorded`` says that the intents came from a file, which holds no results."""
    for run in report.break_glass[:LINES_MAX]:
        _say_glass(out, run)
    out.more(report.break_glass_count, LINES_MAX)
    _say_head(out, report, recorded)
    _say_sides(out, report)
    _say_rules(out, report)
    for refusals in report.refused[:LINES_MAX]:
        who = f"{_counted(refusals.intents, 'intent')} of {refusals.agent_id}"
        out.say(f"refused: {visible(f'{who}: {refusals.why}')}")
    out.more(len(report.refused), LINES_MAX)
    if report.before is not None:
        _say_changes(out, report)


def _say_glass(out: Output, run: GlassRun) -> None:
    out.say(
        f"BREAK-GLASS {_when(run.at_ms)} {visible(f'{run.job_id} of {run.agent_id} on {run.topic}, by {run.by}')}: "
        f"{visible(run.reason)}; review: {run.review}; the new policy says {run.after}"
    )


def _say_head(out: Output, report: Report, recorded: bool) -> None:
    span = ""
    if report.from_ms is not None and report.to_ms is not None:
        span = f", {_when(report.from_ms)} to {_when(report.to_ms)}"
    counts = f"{_counted(report.intents, 'intent')} of {_counted(report.agents, 'agent')}"
    out.say(f"{report.policy_snapshot} on {counts}{span}")
    for why, count in report.skipped.items():
        out.say(f"skipped {count}: {visible(why)}")
    if report.enrols_nobody and report.intents:
        out.say("note: the bundle enrols no agent, so the gate would refuse them all; judged as if they were enrolled")
    if recorded:
        out.say("note: a file holds no results, so every action counts as a first time and no anomaly is known")
    if report.without_time:
        out.say(f"note: {_counted(report.without_time, 'intent')} without a time, each judged as an agent's first")
    if report.only_observed:
        out.say(f"note: {_counted(report.only_observed, 'intent')} would be held or denied, were it not only observed")


def _say_sides(out: Output, report: Report) -> None:
    columns, sides = ["", "before", "after"], (report.before, report.after)
    if report.before is None:
        columns = ["", "after"]
    present = [side for side in sides if side is not None]
    rows: list[list[object]] = [["held", *[_share(each.held_share, each.held_place) for each in present]]]
    rows.append(["requests an hour", *[_rate(each) for each in present]])
    rows.append(["busiest hour", *[_busiest(each) for each in present]])
    words = ("ALLOW", "ALLOW_WITH_CONSTRAINTS", "REQUIRE_APPROVAL", "DENY", "REFUSED")
    for word in words:
        counts = [each.decisions.get(word, 0) for each in present]
        if any(counts):
            rows.append([word, *counts])
    out.table(columns, rows)


def _say_rules(out: Output, report: Report) -> None:
    for rule in report.held_rules[:LINES_MAX]:
        before = "" if report.before is None else f"{rule.share_before:.1%} before, "
        out.say(f"held by {visible(rule.rule)}: {before}{_share(rule.share_after, rule.place)} after")
    out.more(len(report.held_rules), LINES_MAX)


def _say_changes(out: Output, report: Report) -> None:
    if report.new:
        out.say(f"new: {report.new}, nothing was decided of them before")
    out.say(f"widened: {report.widened_count}")
    for change in report.widened[:LINES_MAX]:
        say_change(out, change)
    out.more(report.widened_count, LINES_MAX)
    out.say(f"tightened: {report.tightened_count}")
    for rule, count in list(report.tightened.items())[:LINES_MAX]:
        out.say(f"  {count} by {visible(rule)}")
    out.more(len(report.tightened), LINES_MAX)
    out.say(f"newly spared: {counts_text(report.newly_spared)}")
    out.say(f"newly asked: {counts_text(report.newly_asked)}")


def say_change(out: Output, change: Change) -> None:
    """One decision that widens, in one line."""
    what = f"{change.job_id} of {change.agent_id} on {change.topic}"
    said = change.before if change.before == change.after else f"{change.before} -> {change.after}"
    loosened = f", loosens {', '.join(change.loosened)}" if change.loosened else ""
    people = "" if change.asked == "nobody_asked" else f"; people: {change.asked}"
    rules = f"{', '.join(change.rules_before)} -> {', '.join(change.rules_after)}"
    out.say(f"  {_when(change.at_ms)} {visible(what)}: {said}{visible(f'{loosened} ({rules})')}{people}")


def _share(share: float, place: str) -> str:
    return f"{share:.1%} ({place} 5 to 10 %)"


def _rate(side: Side) -> str | None:
    return None if side.requests_per_hour_mean is None else f"{side.requests_per_hour_mean:g}"


def _busiest(side: Side) -> str | None:
    if side.requests_busiest_hour is None:
        return None
    return f"{side.requests_busiest_hour}" + (
        "" if side.busiest_hour_ms is None else f" at {_when(side.busiest_hour_ms)}"
    )


def counts_text(counts: Mapping[str, int]) -> str:
    """How many intents, and of which kinds."""
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name != "intents" and count]
    return f"{counts['intents']}" + (f" ({', '.join(parts)})" if parts else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _when(at_ms: int | None) -> str:
    if at_ms is None:
        return "at an unknown time"
    try:
        return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"at {at_ms} ms"  # a file may name any number
