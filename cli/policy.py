"""`sluicegate policy`: check documents, publish them as one immutable snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import OPERATOR, OperatorOption, policies_folder, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.cli.control_log import Obeyed
    from sluicegate.policies.faults import Fault
    from sluicegate.policies.load import Bundle

app = typer.Typer(no_args_is_help=True, help="Check and publish policies: the YAML documents that decide.")

FolderArgument = Annotated[
    str, typer.Argument(metavar="[FOLDER]", help="Folder or file of policies; by default the setting `policies`.")
]


@app.command()
def check(folder: FolderArgument = "", as_json: JsonOption = False) -> None:
    """Say everything that is wrong with a folder of policies, without Kafka. Exit 1 when there is a fault."""
    from sluicegate.policies.compile import compile_bundle
    from sluicegate.policies.faults import PolicyFaults
    from sluicegate.policies.load import parse_bundle, read_folder

    out = Output(as_json)
    place = Path(folder) if folder else policies_folder(settings())
    bundle: Bundle | None = None
    try:
        bundle = parse_bundle(read_folder(place))
        compile_bundle(bundle)
        faults: tuple[Fault, ...] = bundle.warnings
    except PolicyFaults as refused:
        faults, bundle = refused.faults, None
    for fault in faults:
        print_fault(out, fault)
    snapshot = None if bundle is None else bundle.snapshot_name
    out.result({"ok": bundle is not None, "faults": faults, "snapshot": snapshot})
    if bundle is None:
        out.say(f"{len(faults)} faults in {visible(str(place))}")
        raise typer.Exit(output.NEGATIVE)
    layers = ", ".join(bundle.layers) or "no rules"
    out.say(f"ok: {bundle.snapshot_name}, {len(bundle.documents)} documents, layers {layers}")
    out.next(f"sluicegate policy publish {place}")


def print_fault(out: Output, fault: Fault) -> None:
    """A fault as a compiler would say it: where and what, the text there, the remedy."""
    where = f"{fault.file}:{fault.line}:{fault.column}" if fault.line else fault.file
    out.say(f"{visible(where)}: {fault.severity}: {visible(fault.message)}")
    if fault.text:
        out.say(f"    {visible(fault.text)}")
    out.say(f"    fix: {visible(fault.fix)}")


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
    from sluicegate.cli.control_log import Operator, acknowledgements
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
    with Operator(found, operator) as speaking, acknowledgements(found) as watching:
        with out.working("publishing"):
            speaking.publish_snapshot(bundle, commit, dirty)
            command_id = speaking.activate(bundle, reason or None)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result(
        {
            "snapshot": bundle.snapshot_name,
            "digest": bundle.snapshot_digest,
            "git_commit": commit,
            "git_dirty": dirty,
            "pools_without_topic": poolless,
            **obeyed_json(obeyed),
        }
    )
    out.say(f"published {bundle.snapshot_name} from {visible(str(place))}")
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
    }


def report_obeyed(out: Output, obeyed: Obeyed) -> None:
    """Say who obeys. Exits 1 when a gate refused the command or did not answer."""
    if not obeyed.members:
        out.note("no gate runs now; the command holds from the moment one starts")
    if obeyed.acknowledged:
        count = len(obeyed.acknowledged)
        out.say(f"acknowledged by {'the gate' if count == 1 else f'{count} gates'} after {obeyed.waited_sec:g} s")
    for name, code in obeyed.refused.items():
        out.note(f"error: gate `{visible(name)}` refused the command as `{visible(code)}`")
    for name in obeyed.missing:
        out.note(f"error: gate `{visible(name)}` did not answer in {obeyed.waited_sec:g} s; look at its log")
    if obeyed.refused or obeyed.missing:
        raise typer.Exit(output.NEGATIVE)
