"""`sluicegate approvals`: the open requests, one request whole, a verdict with the desk's answer."""

from __future__ import annotations

import datetime
import json
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import PersonOption, settings, speaker
from sluicegate.cli.level_preview import say_preview
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, SluicegateError

if TYPE_CHECKING:
    from sluicegate.clients.desk_fold import Request, VerdictAnswer
    from sluicegate.clients.reviewer import Reviewer
    from sluicegate.processors.impact import Report

app = typer.Typer(no_args_is_help=True, help="See what waits for a person, and decide it.")


class Found(StrEnum):
    """What a job may be found."""

    correct = "correct"
    wrong = "wrong"
    harmful = "harmful"


class SeverityOption(StrEnum):
    """How bad an error may be."""

    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


RequestArgument = Annotated[str, typer.Argument(metavar="REQUEST", help="A request's id.", show_default=False)]


def _reviewer(person: str) -> Reviewer:
    found = settings()
    name = speaker(found, "person", person)
    from sluicegate.clients.reviewer import Reviewer

    return Reviewer(found, name)


@app.command("list")
def list_(
    queue: Annotated[str, typer.Option("--queue", help="Only requests of this queue.")] = "",
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the open requests, oldest first."""
    out = Output(as_json)
    with _reviewer(person) as reviewer:
        requests = reviewer.requests(queue or None)
    out.result(requests)
    rows = [
        (each.request_id, each.queue, each.agent_id, each.topic, each.job_id, _left(each.expires_at_ms), each.reason)
        for each in requests
    ]
    out.table(("request", "queue", "agent", "topic", "job", "left", "why"), rows, empty="nothing waits for a person")
    if requests:
        out.next(f"sluicegate approvals show {requests[0].request_id}")


def _left(expires_at_ms: int) -> str:
    seconds = expires_at_ms // 1000 - int(time.time())
    if seconds <= 0:
        return "expiring"
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def when(at_ms: int) -> str:
    """A time of the log, as people read it."""
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat(timespec="seconds")


@app.command()
def show(request: RequestArgument, person: PersonOption = "", as_json: JsonOption = False) -> None:
    """Show one request whole: what would run, why it waits, the ceiling of the grant, the agent's own case."""
    out = Output(as_json)
    with _reviewer(person) as reviewer:
        found = reviewer.show(request)
    asked_for = found.outcome is None and found.level is not None and found.kind == "level"
    ahead = _ahead(out, found, found.level + 1) if asked_for and found.level is not None else None
    out.result({**msgspec.to_builtins(found), "preview": ahead} if asked_for else found)
    _say_request(out, found)
    if ahead is not None and found.level is not None:
        say_preview(out, ahead, found.level + 1)
    if found.outcome is None and found.kind == "audit":
        out.next(f"sluicegate approvals finding {request} correct, or wrong, harmful")
    elif found.outcome is None and found.choices:
        out.next(f"sluicegate approvals release {request} --redacted, or view, release, destroy")
    elif found.outcome is None:
        out.next(f"sluicegate approvals approve {request} --reason '...', or deny")
    else:
        history = f"sluicegate autonomy history {found.agent_id}"
        out.next(history if found.kind == "level" else f"sluicegate audit timeline {found.job_id}")


def _ahead(out: Output, found: Request, level: int) -> Report | None:
    """What the level that is asked for would have let through, where the log can be read from here."""
    from sluicegate.cli.level_preview import preview

    try:
        return preview(out, found.agent_id, level, domain=found.domain or "")
    except SluicegateError as error:
        out.note(f"what level {level} would have let through cannot be said here: {visible(str(error), 600)}")
        return None


_BLOCKS: Final = {"output": "output, masked", "level": "the case"}
"""What the payload of a request is called, where it is not what would run."""


def _say_request(out: Output, found: Request) -> None:
    chosen = f" ({found.choice})" if found.choice else ""
    lines: list[tuple[str, str]] = [
        ("request", f"{found.request_id} ({found.kind}), queue {found.queue}"),
        (
            "state",
            "open" if found.outcome is None else f"{found.outcome}{chosen}{f' by {found.by}' if found.by else ''}",
        ),
        ("agent", f"{found.agent_id} {found.agent_version}".rstrip() + f", owned by {found.agent_owner or 'nobody'}"),
        ("job", f"{found.job_id}, attempt {found.attempt}" if found.job_id else "none"),
        ("wants", f"{found.topic} [{', '.join(found.risk_tags)}]"),
        ("because", f"{found.reason} ({', '.join(found.rules)})"),
        ("facts", _facts(found)),
        ("ceiling", output.json_text(found.constraints) if found.constraints else "none"),
        ("editable", ", ".join(found.editable) or "nothing"),
        ("policy", found.policy_snapshot),
        ("asked", when(found.created_at_ms)),
        ("expires", when(found.expires_at_ms)),
    ]
    if found.kind == "audit":
        lines.insert(2, ("ended", f"{found.ended}, approved by {', '.join(found.approved_by) or 'nobody'}"))
        lines[-1] = ("due", f"{when(found.expires_at_ms)}, overdue {found.escalations} times")
    if found.on_behalf_of:
        lines.append(("on behalf of", found.on_behalf_of))
    for name, value in lines:
        out.say(f"{name:13}{visible(value)}")
    _say_block(out, _BLOCKS.get(found.kind, "payload"), found.payload)
    for detail in found.details:
        out.say(f"    {visible(detail.field)}: {visible(detail.reason)}, {visible(detail.action)}")
    if found.output is not None:
        _say_block(out, "result, as it left", found.output)
    if found.context is not None:
        _say_block(out, "the agent's own words, not checked by anyone", found.context)


def _facts(found: Request) -> str:
    """The facts the judgement rests on, each with where it comes from."""
    level = [] if found.level is None else [f"level {found.level}"]
    named = [
        f"{name} {'unknown' if value is None else f'{value:g}'} ({source})"
        for name, (value, source) in found.facts.items()
    ]
    return ", ".join([*level, *named]) or "none"


def _say_block(out: Output, name: str, text: str) -> None:
    out.say(f"{name}:")
    for line in text.splitlines():
        out.say(f"    {visible(line, 2000)}")


@app.command()
def approve(
    request: RequestArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.")] = "",
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", help="NAME=JSON, such as `max_runtime_sec=60`; may only tighten."),
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option("--edit", help="PATH=JSON: another value in the payload, where the request says editable."),
    ] = None,
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Approve a request, perhaps under tighter constraints or edited. Exit 1 when the desk refuses the verdict.

    What is edited is judged anew before it runs.
    """
    constraints = dict([_pair("constraint", each) for each in constraint or ()])
    edits = dict([_pair("edit", each) for each in edit or ()])
    with _reviewer(person) as reviewer:
        answer = reviewer.approve(request, reason or None, constraints, edits=edits)
    _report(Output(as_json), answer, "approved")


def _pair(what: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadInput(f"{what} `{text}` is not NAME=JSON; write for example `max_runtime_sec=60`")
    try:
        return name, json.loads(value)
    except ValueError:
        raise BadInput(f"{what} `{text}`: `{value}` is not JSON; write texts in double quotes") from None


@app.command()
def deny(
    request: RequestArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; the agent is told.", show_default=False)],
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Deny a request. Exit 1 when the desk refuses the verdict, such as when somebody was first."""
    with _reviewer(person) as reviewer:
        answer = reviewer.deny(request, reason)
    _report(Output(as_json), answer, "denied")


@app.command()
def release(
    request: RequestArgument,
    redacted: Annotated[
        bool,
        typer.Option("--redacted", help="Let it go as the request shows it; else whole, as the worker returned it."),
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.")] = "",
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a held output go to its caller. Exit 1 when the desk refuses the verdict."""
    with _reviewer(person) as reviewer:
        answer = reviewer.release(request, reason or None, redacted=redacted)
    _report(Output(as_json), answer, "released redacted" if redacted else "released whole")


@app.command()
def destroy(
    request: RequestArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; the caller is told.", show_default=False)],
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Keep a held output back for good. Exit 1 when the desk refuses the verdict."""
    with _reviewer(person) as reviewer:
        answer = reviewer.destroy(request, reason)
    _report(Output(as_json), answer, "destroyed the output of")


@app.command()
def finding(
    request: RequestArgument,
    word: Annotated[Found, typer.Argument(metavar="FINDING", help="What the job was.", show_default=False)],
    note: Annotated[str, typer.Option("--note", help="What you saw; an error needs one.")] = "",
    error_class: Annotated[
        str, typer.Option("--class", help="What kind of error it is, such as `wrong-customer`.")
    ] = "",
    severity: Annotated[SeverityOption | None, typer.Option("--severity", help="How bad the error is.")] = None,
    person: PersonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say what a sampled job was. Exit 1 when the desk refuses it, such as from somebody who approved the job."""
    if word is not Found.correct and not (note.strip() and error_class.strip() and severity is not None):
        raise BadInput(f"`{word.value}` needs --class, --severity and --note: what kind of error it is, and how bad")
    with _reviewer(person) as reviewer:
        answer = reviewer.find(
            request,
            word.value,
            note or None,
            error_class=error_class or None,
            severity=None if severity is None else severity.value,
        )
    _report(Output(as_json), answer, f"found {word.value}:")


@app.command()
def view(request: RequestArgument, person: PersonOption = "", as_json: JsonOption = False) -> None:
    """Show a held output unmasked. That you have seen it stands in the log from then on."""
    out = Output(as_json)
    with _reviewer(person) as reviewer:
        raw = reviewer.view(request)
    out.result({"request_id": request, "output": raw})
    _say_block(out, "output, as the worker returned it", raw)
    out.next(f"sluicegate approvals release {request} --redacted, or release, destroy")


def _report(out: Output, answer: VerdictAnswer, word: str) -> None:
    out.result(answer)
    if answer.status == "accepted":
        out.say(f"{word} {visible(answer.request_id)}")
        out.next("sluicegate approvals list")
        return
    if answer.status == "unanswered":
        out.say(visible(answer.message or ""))
        raise typer.Exit(output.UNDECIDED)
    first = f"; {answer.winner} was first at {when(answer.winner_at_ms or 0)}" if answer.winner else ""
    out.say(f"refused [{visible(answer.code or '')}]: {visible((answer.message or '') + first, 600)}")
    raise typer.Exit(output.NEGATIVE)
