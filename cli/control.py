"""`sluicegate control`: stop what may start, for everything or a part, and let it go on."""

from __future__ import annotations

from typing import Annotated

import typer

from sluicegate.cli.configuration import OPERATOR, OperatorOption, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import CommandKind

app = typer.Typer(no_args_is_help=True, help="Pause and resume: the switch between permit and execution.")

ScopeArgument = Annotated[
    str, typer.Argument(help="`everything`, `agent:ID`, `topic:GLOB`, `tag:TAG` or `job:ID`.", show_default=False)
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the log.")]


@app.command()
def pause(
    scope: ScopeArgument, reason: ReasonOption = "", operator: OperatorOption = OPERATOR, as_json: JsonOption = False
) -> None:
    """Hold every job of a scope: none of them is granted or started until it is resumed.

    Returns once every gate has acknowledged; from then on nothing starts later than `control_age_ms_max` plus one
    transaction.
    """
    _send("pause", scope, reason, operator, as_json)


@app.command()
def resume(
    scope: ScopeArgument, reason: ReasonOption = "", operator: OperatorOption = OPERATOR, as_json: JsonOption = False
) -> None:
    """Let a paused scope go on; held jobs are judged again within `hold_max_sec`."""
    _send("resume", scope, reason, operator, as_json)


@app.command()
def show(as_json: JsonOption = False) -> None:
    """Show the active policy, the paused scopes and the control offset."""
    from sluicegate.cli.control_log import control_state

    out = Output(as_json)
    state = control_state(settings())
    active = None if state.active is None else state.active.name
    shown = {"control_offset": state.offset, "policy_snapshot": active, "paused": state.pauses}
    out.result({**shown, "settings": state.settings})
    out.say(f"policy {active or 'none'}, control offset {state.offset}")
    for scope in state.pauses:
        out.say(f"paused: {visible(scope)}")
    out.next(f"sluicegate control resume {state.pauses[0]}" if state.pauses else "sluicegate control pause everything")


def _send(kind: CommandKind, scope: str, reason: str, operator: str, as_json: bool) -> None:
    from sluicegate.streams.control_state import scope_fault

    fault = scope_fault(scope)
    if fault is not None:
        raise BadInput(fault)
    from sluicegate.cli.control_log import Operator, acknowledgements, control_state
    from sluicegate.cli.policy import obeyed_json, report_obeyed

    out = Output(as_json)
    found = settings()
    if kind == "resume":
        paused = control_state(found).pauses
        if scope not in paused:
            known = ", ".join([f"`{visible(each)}`" for each in paused]) or "nothing"
            raise BadInput(f"scope `{scope}` is not paused; paused is {known}")
    with Operator(found, operator) as speaking, acknowledgements(found) as watching:
        command_id = speaking.command(kind, scope, reason or None)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result({"kind": kind, "scope": scope, **obeyed_json(obeyed)})
    out.say(f"{kind}d {visible(scope)}" if kind == "pause" else f"resumed {visible(scope)}")
    report_obeyed(out, obeyed)
    out.next(f"sluicegate control resume {scope}" if kind == "pause" else "sluicegate tail")
