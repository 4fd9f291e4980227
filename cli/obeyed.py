"""What the gates say to a command, for machines and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def report_obeyed(out: Output, obeyed: Obeyed) -> None:
    """Say who obeys. Exits 1 when a gate refused the command or did not answer."""
    if not obeyed.members:
        out.note("no gate runs now; the command holds from the moment one starts")
    if obeyed.acknowledged:
        count = len(obeyed.acknowledged)
        out.say(f"acknowledged by {'the gate' if count == 1 else f'{count} gates'} after {obeyed.waited_sec:g} s")
    if obeyed.awaiting:
        out.say(
            "not active yet: people must agree within 24 h; `sluicegate control show` says how many, of which roles"
        )
    for name, code in obeyed.refused.items():
        out.note(f"error: gate `{visible(name)}` refused the command as `{visible(code)}`")
    for name in obeyed.missing:
        out.note(f"error: gate `{visible(name)}` did not answer in {obeyed.waited_sec:g} s; look at its log")
    if obeyed.refused or obeyed.missing:
        raise typer.Exit(output.NEGATIVE)
