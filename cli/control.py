"""`sluicegate control`: stop what may start or what runs, take permissions back, break the glass."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import OPERATOR, OperatorOption, PersonOption, settings, speaker
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.clients.stopping import STOP_WITHIN_SEC
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import CommandKind, StopAnswered
from sluicegate.streams.control_scopes import glass_scope_fault, scope_fault

if TYPE_CHECKING:
    from sluicegate.cli.control_log import Obeyed
    from sluicegate.cli.stop_answers import Answers, Running
    from sluicegate.streams.control_state import ControlState

app = typer.Typer(no_args_is_help=True, help="Pause, stop, revoke, break the glass: the switches beside policy.")

ScopeArgument = Annotated[
    str, typer.Argument(help="`everything`, `agent:ID`, `topic:GLOB`, `tag:TAG` or `job:ID`.", show_default=False)
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the log.")]
NOT_UNDONE: Final = "what a job did outside before it stopped is not undone"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


@app.command()
def pause(
    scope: ScopeArgument, reason: ReasonOption = "", operator: OperatorOption = OPERATOR, as_json: JsonOption = False
) -> None:
    """Hold every job of a scope: none of them is granted or started until it is resumed.

    Returns once every gate has acknowledged; from then on nothing starts later than `control_age_ms_max` plus one
    transaction.
    """
    send("pause", scope, reason, operator, as_json, f"paused {visible(scope)}")


@app.command()
def resume(
    scope: ScopeArgument, reason: ReasonOption = "", operator: OperatorOption = OPERATOR, as_json: JsonOption = False
) -> None:
    """Let a paused or stopped scope go on; held jobs are judged again within `hold_max_sec`."""
    from sluicegate.cli.control_log import control_state

    _check(scope)
    paused = control_state(settings()).pauses
    if scope not in paused:
        known = ", ".join([f"`{visible(each)}`" for each in paused]) or "nothing"
        raise BadInput(f"scope `{scope}` is not paused; paused is {known}")
    send("resume", scope, reason, operator, as_json, f"resumed {visible(scope)}")


@app.command()
def revoke(
    scope: ScopeArgument, reason: ReasonOption = "", operator: OperatorOption = OPERATOR, as_json: JsonOption = False
) -> None:
    """Take back every permission of a scope that was given so far: what has not started never will.

    What runs is not stopped, and what is submitted from now on is judged as ever; `stop` and `pause` are for those.
    """
    said = f"revoked every grant of {visible(scope)} that was given so far; what runs goes on"
    send("revoke", scope, reason, operator, as_json, said)


@app.command()
def stop(
    scope: ScopeArgument,
    reason: ReasonOption = "",
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for the answers of workers.")
    ] = STOP_WITHIN_SEC + 2,
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Pause a scope, and ask every job that runs in it to stop. `resume` lets the scope go on.

    Prints what each worker answers: `stopped`, `already finished`, or `unknown` when the handler did not end in time.
    What a job did outside is not undone. Exit 1 when something may still run.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, control_state
    from sluicegate.cli.obeyed import obeyed_json, report_obeyed, say_refusals
    from sluicegate.cli.stop_answers import StopWatch

    _check(scope)
    out = Output(as_json)
    found = settings()
    lease_sec = control_state(found).settings.attempt_lease_sec
    with (
        closing(StopWatch(found, lease_sec)) as workers,
        Operator(found, operator) as speaking,
        acknowledgements(found) as watching,
    ):
        command_id = speaking.command("stop", scope, reason or None)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
        if say_refusals(out, obeyed):
            out.say(f"stopped {visible(scope)}: nothing of it starts until it is resumed")
        with out.working("waiting for the workers"):
            answers = workers.wait(command_id, scope, wait, lambda each: _say_answer(out, each))
    shown = {"answers": answers.answers, "silent": answers.silent, "unclear": answers.unclear}
    out.result({"kind": "stop", "scope": scope, **obeyed_json(obeyed), **shown, "note": NOT_UNDONE})
    _say_rest(out, answers)
    report_obeyed(out, obeyed)
    out.next(f"sluicegate control resume {scope}")
    if not answers.all_ended:
        raise typer.Exit(output.NEGATIVE)


def _say_answer(out: Output, each: StopAnswered) -> None:
    word = each.answer.replace("_", " ")
    why = f" ({visible(each.detail)})" if each.detail else ""
    out.say(f"{word}: job {visible(each.job_id)} of {visible(each.agent_id)}, worker {visible(each.worker_id)}{why}")


def _say_rest(out: Output, answers: Answers) -> None:
    def say(word: str, each: Running) -> None:
        out.say(f"{word}: job {visible(each.job_id)} of {visible(each.agent_id)}, worker {visible(each.worker_id)}")

    for each in answers.silent:
        say("no answer", each)
    for each in answers.unclear:
        say("runs, perhaps outside the scope", each)
    if answers.unclear:
        out.say("topic and tags do not stand in what workers write: stop such a job by `agent:` or `job:` to be sure")
    if answers.answers or answers.silent:
        out.say(NOT_UNDONE)
    elif not answers.unclear:
        out.say("nothing of it was running")


@app.command("break-glass")
def break_glass(
    scope: ScopeArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands first in every report.", show_default=False)],
    last: Annotated[str, typer.Option("--for", help="How long, such as `30m`, `90s`, `1h`.")] = "30m",
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let what would wait for a person run at once, in a scope and for a time; a denial stays a denial.

    A tag means the action's own, of `actions.yaml`: what an agent adds opens nothing. No glass is broken for `job:ID`.
    Only a person with the role that the active policy names may, and people must review every such run afterwards.
    A pause or a revocation of the scope stands before it.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, control_state
    from sluicegate.cli.obeyed import obeyed_json, report_obeyed, say_refusals

    _check(scope)
    fault = glass_scope_fault(scope)
    if fault is not None:
        raise BadInput(fault)
    if not reason.strip():
        raise BadInput("--reason is empty; say why the glass is broken")
    out = Output(as_json)
    found = settings()
    name = speaker(found, "person", person)
    lasts_sec = duration_sec(last)
    _check_glass(control_state(found), name, lasts_sec)
    until_ms = time.time_ns() // 1_000_000 + lasts_sec * 1000
    with Operator(found, person=name) as speaking, acknowledgements(found) as watching:
        command_id = speaking.command("break_glass", scope, reason, until_ms=until_ms)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result({"kind": "break_glass", "scope": scope, "by": name, "until_ms": until_ms, **obeyed_json(obeyed)})
    if say_refusals(out, obeyed) and obeyed.acknowledged:
        out.say(f"the glass is broken for {visible(scope)} until {_when(until_ms)}; every run of it will be reviewed")
    report_obeyed(out, obeyed)
    out.next(f"sluicegate control revoke {scope}, which ends it early")


def _check_glass(state: ControlState, name: str, lasts_sec: int) -> None:
    """Raise BadInput for what every gate would refuse."""
    from sluicegate.processors.control import snapshot_terms

    terms = None if state.active is None else snapshot_terms(state.active)
    if terms is None or terms.break_glass_role is None:
        raise BadInput("the active policy has no break-glass; name `break_glass` with a role in its bundle.yaml")
    person = terms.persons.get(f"person/{name}")
    if person is None or terms.break_glass_role not in person.roles:
        raise BadInput(f"`{name}` has not the role `{terms.break_glass_role}`, which alone may break the glass")
    if lasts_sec > terms.break_glass_sec_max:
        raise BadInput(f"`{lasts_sec}` seconds are too long; the active policy permits {terms.break_glass_sec_max}")


def duration_sec(text: str) -> int:
    """Seconds of `90s`, `30m` or `1h`. Raises BadInput."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smh])", text)
    if found is None:
        raise BadInput(f"`{text}` is no duration; give a number with s, m or h, such as `30m`")
    return int(found[1]) * _UNITS[found[2]]


def _when(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat(timespec="seconds")


@app.command()
def show(as_json: JsonOption = False) -> None:
    """Show what stands beside policy: broken glass first, then pauses, stops, revocations, and what is proposed."""
    from sluicegate.cli.control_log import compared, control_state
    from sluicegate.cli.proposal import bundle_of, say_proposal

    out = Output(as_json)
    state = control_state(settings())
    told = {} if state.proposed is None else compared(state, bundle_of(state.proposed.snapshot))
    out.result(shown_state(state, time.time_ns() // 1_000_000, told))
    _say_state(out, state, time.time_ns() // 1_000_000)
    if state.proposed is not None:
        say_proposal(out, state, state.proposed, told["difference"])
    out.next(f"sluicegate control resume {state.pauses[0]}" if state.pauses else "sluicegate control pause everything")


def shown_state(state: ControlState, now_ms: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """The control state for machines, what nobody must overlook first.

    ``told`` is what `compared` finds between the active and a proposed snapshot.
    """
    proposed = state.proposed
    return {
        "break_glass": [each for each in state.glasses if each.until_ms > now_ms],
        "paused": state.pauses,
        "stops": state.stops,
        "revocations": state.revocations,
        "proposed": None
        if proposed is None
        else {
            "snapshot": proposed.snapshot.name,
            "digest": proposed.snapshot.digest,
            "command_id": proposed.command_id,
            "by": proposed.by,
            "reason": proposed.reason,
            "needs": proposed.needs,
            "signed": proposed.signed,
            "settings": proposed.settings,
            **told,
        },
        "policy_snapshot": None if state.active is None else state.active.name,
        "control_offset": state.offset,
        "settings": state.settings,
    }


def _say_state(out: Output, state: ControlState, now_ms: int) -> None:
    for glass in state.glasses:
        if glass.until_ms > now_ms:
            out.say(
                f"BREAK-GLASS: {visible(glass.scope)} until {_when(glass.until_ms)} by {visible(glass.by)}: "
                f"{visible(glass.reason)}"
            )
    active = None if state.active is None else state.active.name
    out.say(f"policy {active or 'none'}, control offset {state.offset}")
    for scope in state.pauses:
        out.say(f"paused: {visible(scope)}")
    for word, commands in (("stopped", state.stops), ("revoked", state.revocations)):
        for each in commands:
            because = f": {visible(each.reason)}" if each.reason else ""
            over = ", resumed since" if word == "stopped" and each.scope not in state.pauses else ""
            whose = f"{visible(each.scope)} at {_when(each.appended_at_ms)} by {visible(each.by)}"
            out.say(f"{word}: {whose}{over}{because}")


def _check(scope: str) -> None:
    fault = scope_fault(scope)
    if fault is not None:
        raise BadInput(fault)


def send(
    kind: CommandKind,
    scope: str,
    reason: str,
    operator: str,
    as_json: bool,
    said: str,
    next_verb: str = "",
    **more: Any,
) -> None:
    """Send a command and wait until every gate knows it. Raises BadInput for a scope that is none."""
    from sluicegate.cli.control_log import Operator, acknowledgements
    from sluicegate.cli.obeyed import obeyed_json, report_obeyed, say_refusals

    _check(scope)
    out = Output(as_json)
    found = settings()
    obeyed: Obeyed
    with Operator(found, operator) as speaking, acknowledgements(found) as watching:
        command_id = speaking.command(kind, scope, reason or None, **more)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result({"kind": kind, "scope": scope, **more, **obeyed_json(obeyed)})
    if say_refusals(out, obeyed):
        out.say(said)
    report_obeyed(out, obeyed)
    out.next(next_verb or ("sluicegate tail" if kind == "resume" else "sluicegate control show"))
