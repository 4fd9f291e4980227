"""`sluicegate policy publish`, `rollback` and `sign-off`: what becomes active, and who agrees to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sluicegate.cli.configuration import (
    OPERATOR,
    OperatorOption,
    PersonOption,
    policies_folder,
    settings,
    speaker,
)
from sluicegate.cli.obeyed import obeyed_json, report_obeyed, say_refusals
from sluicegate.cli.output import NEGATIVE, JsonOption, Output
from sluicegate.cli.proposal import bundle_of, check_signers, open_proposal, say_difference, say_proposal
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.streams.control_state import ControlState, Snapshot

FolderArgument = Annotated[
    str, typer.Argument(metavar="[FOLDER]", help="Folder or file of policies; by default the setting `policies`.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the log.")]


def publish(
    folder: FolderArgument = "",
    reason: ReasonOption = "",
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Publish a folder as a snapshot, activate it, and wait until every gate judges by it.

    A bundle with a fault is refused and nothing is written. Exit 1 when a gate refuses or does not answer.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, compared, control_state, snapshot_of
    from sluicegate.cli.prepare import git_state, read_bundle, topicless_pools
    from sluicegate.policies.load import parse_bundle, read_folder

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
    state = control_state(found)
    check_signers(found, state, snapshot_of(bundle), operator)
    told = compared(state, bundle)
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
    say_refusals(out, obeyed)
    out.say(f"published {bundle.snapshot_name} from {visible(str(place))}")
    written = parse_bundle(read_folder(place)).snapshot_name
    if written != bundle.snapshot_name:
        out.note(f"the folder alone is {written}; people without a public key in it have the one of the run folder")
    say_difference(out, told["difference"])
    report_obeyed(out, obeyed)
    out.next("sluicegate tail")


def rollback(
    snapshot: Annotated[
        str, typer.Argument(metavar="[SNAPSHOT]", help="Name or digest; by default the one that was active before.")
    ] = "",
    reason: ReasonOption = "",
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Activate an earlier snapshot again, under the settings that hold now, and wait until every gate judges by it.

    It is an activation like any other: where the policy asks for it, people must agree first.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, compared, control_state

    out = Output(as_json)
    found = settings()
    state = control_state(found)
    target = earlier(state, snapshot)
    check_signers(found, state, target, operator)
    told = compared(state, bundle_of(target))
    with Operator(found, operator) as speaking, acknowledgements(found) as watching:
        command_id = speaking.activate_snapshot(target.name, target.digest, state.settings, reason or None, **told)
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    out.result({"snapshot": target.name, "digest": target.digest, **told, **obeyed_json(obeyed)})
    if say_refusals(out, obeyed):
        out.say(f"{'proposed to go' if obeyed.awaiting else 'went'} back from {told['previous']} to {target.name}")
        say_difference(out, told["difference"])
    report_obeyed(out, obeyed)
    out.next("sluicegate control show" if obeyed.awaiting else "sluicegate tail")


def earlier(state: ControlState, named: str) -> Snapshot:
    """The snapshot to go back to: the one before the active, or the named one. Raises BadInput when there is none."""
    if state.active is None:
        raise BadInput("no policy is active, so there is nothing to go back from; run `sluicegate policy publish`")
    former = [state.snapshots[digest] for digest in dict.fromkeys(reversed(state.activated[:-1]))]
    former = [each for each in former if each.digest != state.active.digest]
    known = ", ".join([f"`{visible(each.name)}`" for each in former]) or "none"
    wanted = [each for each in former if named in (each.name, each.digest)] if named else former[:1]
    if len(wanted) > 1:
        raise BadInput(
            f"`{named}` names several snapshots; give the digest: {', '.join(each.digest for each in wanted)}"
        )
    if not wanted:
        what = f"`{named}` was not active before" if named else "no other snapshot was active before"
        raise BadInput(f"{what}; earlier ones are {known}")
    return wanted[0]


def sign_off(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name or digest of what is proposed.")],
    reason: ReasonOption = "",
    person: PersonOption = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree without being asked: what changes was read before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Agree to the activation of a snapshot. It becomes active with the last word that the policy asks for.

    First it shows who proposes it and why, what it changes against what is active, computed here from the log, and
    the settings that change; then it asks. Without a terminal read `sluicegate control show`, and give --yes.
    You sign as a person of the active policy's `reviewers.yaml`; whoever activated it cannot agree to it.
    """
    from sluicegate.cli.control_log import Operator, acknowledgements, compared, control_state

    out = Output(as_json)
    found = settings()
    name = speaker(found, "person", person)
    state = control_state(found)
    proposed = open_proposal(state, snapshot)
    told = compared(state, bundle_of(proposed.snapshot))
    say_proposal(out, state, proposed, told["difference"])
    if not yes:
        _ask(out, proposed.snapshot)
    with Operator(found, person=name) as speaking, acknowledgements(found) as watching:
        command_id = speaking.command(
            "sign_off",
            "everything",
            reason or None,
            policy_snapshot=proposed.snapshot.name,
            policy_digest=proposed.snapshot.digest,
            ref=proposed.command_id,
        )
        with out.working("waiting for every gate"):
            obeyed = watching.wait(command_id)
    active = bool(obeyed.acknowledged) and not obeyed.awaiting and not obeyed.refused
    snapshot_shown = {"snapshot": proposed.snapshot.name, "digest": proposed.snapshot.digest}
    shown = {**snapshot_shown, "person": name, "active": active, **told}
    out.result({**shown, **obeyed_json(obeyed)})
    if say_refusals(out, obeyed) and obeyed.acknowledged:
        out.say(f"{visible(name)} agrees to {proposed.snapshot.name}{', which is active now' if active else ''}")
    report_obeyed(out, obeyed)
    out.next("sluicegate control show")


def _ask(out: Output, snapshot: Snapshot) -> None:
    """Let the person type `yes`; raises BadInput where nobody could, and ends with 1 upon anything else."""
    if out.as_json or not out.on_terminal or not sys.stdin.isatty():
        raise BadInput(
            f"nothing is signed unseen; read what changes with `sluicegate control show`, then agree to digest "
            f"`{snapshot.digest}` with --yes"
        )
    if typer.prompt(f"type yes to agree to digest {snapshot.digest}", default="no", show_default=False) != "yes":
        out.note("nothing was signed")
        raise typer.Exit(NEGATIVE)


def register(app: typer.Typer) -> None:
    """Put these verbs into the group `policy`."""
    app.command("publish")(publish)
    app.command("rollback")(rollback)
    app.command("sign-off")(sign_off)
