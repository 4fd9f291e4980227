"""What another level would have let through: an agent's last period, judged again under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sluicegate.cli.configuration import settings
from sluicegate.cli.impact_words import counts_text, say_change
from sluicegate.cli.log_since import newest_of, read_back, since_ms
from sluicegate.cli.output import Output
from sluicegate.cli.policy_impact import keyring
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from sluicegate.processors.impact import Report

LINES_MAX: Final = 10
PERIOD_DAYS: Final = 7
"""How far back one looks where the policy names no review period."""


def preview(
    out: Output, agent_id: str, level: int, since: str = "", log: Path | None = None, domain: str = ""
) -> Report:
    """What this level would have let through since a time, by default within the policy's review period.

    It is judged by the policy that is active now. Raises BadInput when there is none, or none with levels.
    """
    from sluicegate.cli.control_log import control_state
    from sluicegate.policies.autonomy import DAY_MICROS
    from sluicegate.processors.control import Control
    from sluicegate.processors.impact_replay import NEEDED, impact_of_level

    since_ms(since, 0)
    found = settings()
    control = Control(control_state(found), found.tenant, None, {})
    terms = control.policy.autonomy if control.ready else None
    if terms is None:
        raise BadInput("the active policy has no `autonomy_levels`; publish a bundle that has")
    if level not in terms.levels:
        raise BadInput(f"the active policy has no level {level}; it has {', '.join(map(str, sorted(terms.levels)))}")
    if domain not in terms.domains:
        raise BadInput(f"the active policy has no domain `{domain}`; name one of its `domains`, or none")
    keys = keyring(out)
    codec, records = read_back(out, log, NEEDED)
    newest_ms = newest_of(records)
    period_ms = (terms.period or PERIOD_DAYS * DAY_MICROS) // 1_000
    from_ms = since_ms(since, newest_ms)
    with out.working(f"judging again at level {level}"):
        from_ms = max(0, newest_ms - period_ms) if from_ms is None else from_ms
        return impact_of_level(records, codec, control.policy, agent_id, level, from_ms, keys, domain=domain)


def say_preview(out: Output, report: Report, level: int) -> None:
    """What it would have let through, in a few lines."""
    for why, count in report.skipped.items():
        out.say(f"  left out {count}: {visible(why)}")
    if not report.intents:
        out.say(f"  level {level} in the last period: the agent submitted nothing")
        return
    out.say(
        f"  level {level} in the last period, {report.intents} intents judged again under {report.policy_snapshot}:"
    )
    out.say(f"    without the wait for people: {counts_text(report.newly_spared)}")
    out.say(f"    would now wait: {counts_text(report.newly_asked)}")
    out.say(f"    wider: {report.widened_count}")
    for change in report.widened[:LINES_MAX]:
        say_change(out, change)
    out.more(report.widened_count, LINES_MAX)
