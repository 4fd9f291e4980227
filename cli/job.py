"""`sluicegate job`: submit a job as an agent, see what became of it, withdraw it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import AgentOption, settings, speaker
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.clients.outcomes import Handle, Judged, NotCancelled, Outcome
    from sluicegate.clients.pending import Pending
    from sluicegate.streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Submit, follow and withdraw jobs as an agent.")

WaitOption = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the end.")]
JobArgument = Annotated[
    str, typer.Argument(help="A job's id, or the handle that `submit --json` gave.", show_default=False)
]
READ_SEC_MAX: Final = 30.0
BEHIND_SEC_MAX: Final = 5.0
BEHIND_SEC_MIN: Final = 1.0
"""How long one looks for the end of a job that is known: its records come within a moment when they are there."""


@app.command()
def submit(
    topic: Annotated[str, typer.Argument(help="What to do, such as `job.deploy.staging`.", show_default=False)],
    payload: Annotated[str, typer.Argument(help="The job's JSON; `-` reads it from stdin.")] = "{}",
    *,
    file: Annotated[Path | None, typer.Option("--file", help="Read the payload from a file, byte for byte.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A risk tag to add; may be repeated.")] = None,
    job_id: Annotated[str, typer.Option("--id", help="The job's id, used once; by default a new one.")] = "",
    confidence: Annotated[float | None, typer.Option("--confidence", help="The agent's own, 0 to 1.")] = None,
    context: Annotated[str, typer.Option("--context", help="The agent's case for the reviewer, as JSON.")] = "",
    ask: Annotated[
        str, typer.Option("--ask", help="Want a person's approval whatever policy says, for this reason.")
    ] = "",
    wait: WaitOption = 55.0,
    agent: AgentOption = "",
    as_json: JsonOption = False,
) -> None:
    """Submit a job and wait for its result.

    Exit 0 when it succeeded, 1 when it was denied, failed or expired, 4 when it has not ended within --wait.
    """
    content = _payload(payload, file)
    case = _json(context, "--context") if context else None
    out = Output(as_json)
    found = settings()
    name = speaker(found, "agent", agent)
    from sluicegate.clients.agent import Agent

    with Agent(found, name) as client:
        pending = client.submit(
            topic,
            content,
            risk_tags=tag or (),
            job_id=job_id or None,
            confidence=confidence,
            context=case,
            ask=ask or None,
        )
        out.say(f"submitted {visible(pending.job_id)} as {visible(name)}")
        judged, ended = _follow(out, pending, wait)
    _answer(out, name, pending, judged, ended)


def _payload(text: str, file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise BadInput(f"payload `{file}` cannot be read ({error.strerror}); give a file of JSON") from None
    return sys.stdin.buffer.read() if text == "-" else text.encode()


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"{option} is not JSON ({error}); give one JSON value") from None


def _follow(out: Output, pending: Pending, wait_sec: float) -> tuple[Judged | None, Outcome | None]:
    """Wait for decision and end together at most ``wait_sec``, telling each as it comes."""
    deadline = time.monotonic() + wait_sec
    with out.working("waiting for the gate"):
        judged = pending.decision(wait_sec)
    if not judged.done:
        return None, None
    found: Judged = judged  # type: ignore[assignment]  # only a handle is not done
    _say_judged(out, found)
    with out.working("waiting for the result"):
        ended = pending.result(max(0.0, deadline - time.monotonic()))
    return found, None if not ended.done else ended  # type: ignore[return-value]  # as above


def _say_judged(out: Output, judged: Judged) -> None:
    rules = f" ({', '.join([visible(rule) for rule in judged.rules])})" if judged.rules else ""
    again = ", as it was told before" if judged.again else ""
    code = f" [{visible(judged.code)}]" if judged.code else ""
    out.say(f"{judged.decision}{code}{again}: {visible(judged.reason)}{rules}")
    if judged.constraints:
        out.say(f"within {visible(output.json_text(judged.constraints))}")
    if judged.break_glass:
        out.say(f"runs with no person asked, under break-glass {visible(judged.break_glass)}; it will be reviewed")


def _say_ended(out: Output, ended: Outcome) -> None:
    by = f" by {visible(ended.by)}" if ended.by else ""
    why = f": {visible(ended.reason)}" if ended.reason else ""
    out.say(f"{ended.outcome}{by}{why}")
    if ended.value is not None:
        out.say(json.dumps(ended.value, ensure_ascii=True, indent=2))


def _answer(out: Output, agent: str, pending: Pending, judged: Judged | None, ended: Outcome | None) -> None:
    state, handle = pending.state, pending.handle
    out.result({"job_id": pending.job_id, "state": state, "decision": judged, "outcome": ended, "handle": handle.text})
    if ended is not None:
        _say_ended(out, ended)
        out.next(f"sluicegate audit timeline {pending.job_id}")
        raise typer.Exit(output.DONE if ended.succeeded else output.NEGATIVE)
    out.say(f"not ended yet: {state}")
    if judged is not None and judged.request_id:
        out.next(f"sluicegate approvals show {judged.request_id}")
    else:
        out.next(f"sluicegate job status {pending.job_id} --agent {agent}")
    raise typer.Exit(output.UNDECIDED)


@app.command()
def status(
    job: JobArgument,
    wait: WaitOption = 0.0,
    agent: AgentOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what became of a job, as its agent may read it.

    Exit 0 when it succeeded, 1 when it ended otherwise, 4 when it has not ended or the gate has said nothing of it.
    """
    out = Output(as_json)
    found = settings()
    from sluicegate.clients.agent import Agent

    handle = _handle(found, job, agent)
    with out.working("looking the job up"):
        known = _await_known(found, handle, wait)
    if not known:
        _say_unknown(out, handle)
    with Agent(found, handle.agent_id) as client:
        pending = client.resume(handle)
        judged = pending.decision(max(wait, BEHIND_SEC_MAX))
        ended = pending.result(max(wait, BEHIND_SEC_MIN))
        shown = judged if judged.done else None
        if shown is not None:
            _say_judged(out, shown)  # type: ignore[arg-type]  # only a handle is not done
        _answer(out, handle.agent_id, pending, shown, ended if ended.done else None)  # type: ignore[arg-type]  # as above


def _handle(found: Settings, text: str, agent: str) -> Handle:
    """The handle itself, or one made of a job's id and the agent."""
    from sluicegate.clients.outcomes import Handle

    try:
        return Handle.parse(text)
    except BadInput:
        return Handle.of_job(speaker(found, "agent", agent), text)


def _say_unknown(out: Output, handle: Handle) -> NoReturn:
    """An agent cannot read intents, so a job that is not judged yet and one that never was look the same to it."""
    out.result({"job_id": handle.job_id, "state": "unknown", "decision": None, "outcome": None, "handle": handle.text})
    out.say(
        f"the gate has said nothing of job {visible(handle.job_id)} of agent {visible(handle.agent_id)}: "
        "no such job, or it is not judged yet"
    )
    out.next("check the id and the agent, and whether a gate runs")
    raise typer.Exit(output.UNDECIDED)


def _await_known(settings: Settings, handle: Handle, wait_sec: float) -> bool:
    """Whether any record about the job stands under its agent's key, now or within ``wait_sec``."""
    from sluicegate.clients.outcomes import JobFold
    from sluicegate.schemas.codec import Codec
    from sluicegate.schemas.errors import Undecodable
    from sluicegate.streams.kafka import POLL_SEC, Tail
    from sluicegate.streams.registry import registry_for

    codec, fold = Codec(registry_for(settings.registry_url)), JobFold(handle)
    user, key = f"agent.{handle.agent_id}", handle.agent_id.encode()
    tail = Tail(settings, user, ("job.decisions",), group=user, start="beginning", key=key)
    began = time.monotonic()
    try:
        while time.monotonic() - began < max(wait_sec, READ_SEC_MAX):
            for record in tail.poll(POLL_SEC):
                if record.key == key:
                    try:
                        if fold.see(codec.decode(record.value)):
                            return True
                    except Undecodable:
                        continue
            if tail.at_end() and time.monotonic() - began >= wait_sec:
                return False
    finally:
        tail.close()
    return False


@app.command()
def cancel(
    job: JobArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.")] = "",
    wait: WaitOption = 55.0,
    agent: AgentOption = "",
    as_json: JsonOption = False,
) -> None:
    """Withdraw a job that has not started. Exit 1 when it is too late for that, 4 when the gate has not answered."""
    out = Output(as_json)
    found = settings()
    from sluicegate.clients.agent import Agent
    from sluicegate.clients.outcomes import Handle, NotCancelled

    handle = _handle(found, job, agent)
    with Agent(found, handle.agent_id) as client, out.working("waiting for the gate"):
        answer: Outcome | NotCancelled | Handle = client.resume(handle).cancel(reason or None, wait)
    out.result({"job_id": handle.job_id, "answer": answer if answer.done else None})
    if isinstance(answer, NotCancelled):
        out.say(f"not withdrawn [{visible(answer.code)}]: {visible(answer.reason)}")
        raise typer.Exit(output.NEGATIVE)
    if isinstance(answer, Handle):
        out.say(f"the gate has not answered in {wait:g} s; the withdrawal stands in the log")
        raise typer.Exit(output.UNDECIDED)
    _say_ended(out, answer)
    if answer.outcome != "withdrawn":
        raise typer.Exit(output.NEGATIVE)
