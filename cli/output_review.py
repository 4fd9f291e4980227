"""`sluicegate output`: review a worker's output as the processor would, without Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import policies_folder, settings
from sluicegate.cli.output import JsonOption, Output, json_text
from sluicegate.cli.policy_offline import ready_bundle, whole_answer
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.policies.output_document import AudienceWord
    from sluicegate.policies.review import Review

app = typer.Typer(no_args_is_help=True, help="Review what jobs return before it leaves.")

FILE_BYTES_MAX: Final = 64 * 1024 * 1024 + 1
"""No document may allow a larger output."""


@app.callback()
def _group() -> None:
    pass


@app.command("review")
def review(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The output: JSON as a worker returns it.")],
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policies", help="A file or folder of policies; may be repeated. Default: the setting's."),
    ] = None,
    topic: Annotated[
        str, typer.Option("--topic", help="The job's topic; without one only rules for every topic hold.")
    ] = "",
    audience: Annotated[
        str, typer.Option("--audience", help="Who reads it: customer (the default), internal, agent.")
    ] = "customer",
    as_json: JsonOption = False,
) -> None:
    """Say what may leave of an output, and why. Exit 0 for ALLOW and REDACT, 1 for QUARANTINE.

    The rules are those of `output-policy.yaml` among the policies, else the shipped ones. A file that is not JSON, or
    cannot be looked through, is QUARANTINE. With --json: `job_id` (null), `output_safety_decision`,
    `original_fields_redacted`, `redaction_details`, `policy_snapshot`, and `document`, which is null in QUARANTINE.
    """
    out = Output(as_json)
    with whole_answer(out):
        readers = _audience(audience)
        content = _content(file)
        found = settings()
        bundle, policy = ready_bundle(out, policies or [policies_folder(found)])
        from sluicegate.policies import review as reviewing

        said = reviewing.review(
            content, topic=topic, audience=readers, tenant=found.tenant, policy=policy.output_policy
        )
    out.result(_answer(said, bundle.snapshot_name))
    _say(out, said, bundle.snapshot_name)
    if said.decision == "QUARANTINE":
        raise typer.Exit(output.NEGATIVE)


def _audience(given: str) -> AudienceWord:
    from sluicegate.policies.faults import suggest
    from sluicegate.policies.output_document import AUDIENCES

    for known in AUDIENCES:
        if known == given:
            return known
    raise BadInput(f"`{given}` is no audience; {suggest(given, AUDIENCES)}")


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(FILE_BYTES_MAX)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"cannot read `{file}`: {reason}; give the file that holds the output") from None


def _answer(said: Review, snapshot: str) -> dict[str, Any]:
    from sluicegate.schemas.payload import parse_strict

    return {
        "job_id": None,
        "output_safety_decision": said.decision,
        "original_fields_redacted": len(said.details),
        "redaction_details": said.details,
        "policy_snapshot": snapshot,
        "document": None if said.document is None else parse_strict(said.document),
    }


def _say(out: Output, said: Review, snapshot: str) -> None:
    if out.as_json:
        return
    reason = f": {visible(said.reason)}" if said.reason else ""
    out.say(f"{said.decision} by `{said.rule}` of {snapshot}{reason}")
    if said.details:
        rows = [(detail.field, detail.reason, detail.action) for detail in said.details]
        out.table(("field", "reason", "action"), rows)
    if said.document is not None:
        out.say(json_text(_answer(said, snapshot)["document"]))
