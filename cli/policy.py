"""`sluicegate policy`: publish documents as one immutable snapshot. `policy_offline` has the verbs without a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import OPERATOR, OperatorOption, policies_folder, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import register
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.cli.control_log import Obeyed

app = typer.Typer(no_args_is_help=True, help="Check and publish policies: the YAML documents that decide.")
register(app)

FolderArgument = Annotated[
    str, typer.Argument(metavar="[FOLDER]", help="Folder or file of policies; by default the setting `policies`.")
]


@app.command()
def publish(
    folder: FolderArgument = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.")] = "",
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Publish a folder as a snapshot, activate it, and wait until every gate judges by it.

    A bundle with a fault is refused and nothing is written. Exit 1 when a gate refuses or does not answer.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, compared, control_state
    from sluicegate.cli.prepare import git_state, read_bundle, topicless_pools

    out = Output(as_json)
    found = settings()
    place = policies_folder(found, folder)
    bundle = read_bundle(found, place)
    for fault in bundle.warnings:
        out.note(f"warning: {visible(str(fault))}")
    poolless = topicless_pools(found, bundle)
    for pool in poolless:
        out.note(
            f"warning: pool `{visible(pool)}` has no topic, so no job for it can be granted; start "
            "`sluicegate up` with this folder once, which makes it"
        )
    commit, dirty = git_state(place)
    told = compared(control_state(found), bundle)
    with Operator(found, operator) as speaking, acknowledgements(found) as watching:
        with out.working("publishing"):
            speaking.publish_snapshot(bundle, commit, dirty)
            command_id = speaking.activate(bundle, reason or None, **told)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result(
        {
            "snapshot": bundle.snapshot_name,
            "digest": bundle.snapshot_digest,
            "git_commit": commit,
            "git_dirty": dirty,
            "pools_without_topic": poolless,
            **told,
            **obeyed_json(obeyed),
        }
    )
    out.say(f"published {bundle.snapshot_name} from {visible(str(place))}")
    for line in told["difference"]:
        out.say(f"    {visible(line, 400)}")
    report_obeyed(out, obeyed)
    out.next("sluicegate tail")


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


from sluicegate.cli import policy_activation, policy_impact  # noqa: E402, F401  # they register their verbs on the app
