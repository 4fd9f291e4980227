"""`sluicegate audit draw`: which jobs an audit policy would draw, without Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import PoliciesOption, ready_bundle, text_of
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput


def draw(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS", help="Finished jobs, one JSON object a line.")],
    policies: PoliciesOption,
    key: Annotated[str, typer.Option("--key", help="The epoch's key in hex.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say of each job how likely it was to be looked at, and whether it is drawn. Exit 0 whatever is drawn."""
    from sluicegate.policies.histories import read_jobs
    from sluicegate.policies.sampling import drawn
    from sluicegate.policies.subject import finished_subject

    out = Output(as_json)
    secret = _key(key)
    _, policy = ready_bundle(out, policies)
    terms = policy.audit
    if terms is None:
        raise BadInput("no document has `audit`; give one with --policies")
    rows = []
    for job, facts in read_jobs(str(jobs), text_of(jobs)):
        subject = finished_subject(policy, job, facts)
        found = terms.inclusion(job.topic, frozenset(subject.risk_tags), subject.facts)
        taken = drawn(secret, job.agent_id, job.job_id, found.probability)
        queue = terms.queue(policy.action(job.topic).category) if taken else None
        said = {"job_id": job.job_id, "stratum": found.stratum, "probability": float(found.probability)}
        out.record({**said, "mandatory": found.mandatory, "drawn": taken, "queue": queue})
        words = ("mandatory" if found.mandatory else str(found.probability), "drawn" if taken else "not drawn")
        rows.append((visible(job.job_id), found.stratum, *words, queue))
    out.table(("job", "stratum", "probability", "drawn", "queue"), rows, "no jobs")


def _key(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if not found:
        raise BadInput("--key is not in hex; give the bytes of the epoch's key, two hex digits each")
    return found
