"""What the gates say to a command, for machines and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.output import Output
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.cli.control_log import Obeyed


def obeyed_json(obeyed: Obeyed) -> dict[str, Any]:
    """The answer of the gates for machines."""
    return {
        "command_id": obeyed.command_id,
        "acknowledged": obeyed.acknowledged,
        "refused": obeyed.refused,
        "missing": obeyed.missing,
        "waited_sec": obeyed.waited_sec,
        "awaiting_sign_off": obeyed.awaiting,
    }


ADVICE: Final = {
    "stale_previous": "another activation came first; look again with `sluicegate control show`",
    "too_many_stops": "its scope is paused, but what runs of it was not asked to stop; stop a wider scope",
    "bad_digest": "the snapshot is not what its name and digest say; publish it again",
    "unusable_active": "this build cannot use what is active; activate what both can with the build that could",
    "own_activation": "whoever activates cannot agree, under no name and with no other name's key",
    "role_missing": "the person has no role that the active policy asks for; `sluicegate control show` names them",
    "signed_before": "this person, or this key under another name, has agreed already",
}
"""What to do about a refusal that people can do something about."""


def say_refusals(out: Output, obeyed: Obeyed) -> bool:
    """Say first which gates do not obey, and whether all do: what was commanded is not said to hold otherwise."""
    for name, code in obeyed.refused.items():
        advice = f"; {ADVICE[code]}" if code in ADVICE else ""
        out.note(f"error: gate `{visible(name)}` refused the command as `{visible(code)}`{advice}")
    for name in obeyed.missing:
        out.note(f"error: gate `{visible(name)}` did not answer in {obeyed.waited_sec:g} s; look at its log")
    return not obeyed.refused and not obeyed.missing


def report_obeyed(out: Output, obeyed: Obeyed) -> None:
    """Say who obeys, after `say_refusals`. Exits 1 when a gate refused the command or did not answer."""
    if not obeyed.members:
        out.note("no gate runs now; the command holds from the moment one starts")
    if obeyed.acknowledged:
        count = len(obeyed.acknowledged)
        out.say(f"acknowledged by {'the gate' if count == 1 else f'{count} gates'} after {obeyed.waited_sec:g} s")
    if obeyed.awaiting:
        out.say(
            "not active yet: people must agree within 24 h; `sluicegate control show` says how many, of which roles"
        )
    if obeyed.refused or obeyed.missing:
        raise typer.Exit(output.NEGATIVE)
