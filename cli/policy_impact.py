"""`sluicegate policy impact` and `baseline`: what a new bundle would have done to the log, and what is usual in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from sluicegate.cli import output
from sluicegate.cli.impact_words import say_report
from sluicegate.cli.log_since import LogOption, SinceOption, newest_of, read_back, since_ms
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_offline import PoliciesOption, ready_bundle, text_of, whole_answer
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.policies.compile import CompiledPolicy
    from sluicegate.processors.baseline import Learned
    from sluicegate.processors.impact import Report
    from sluicegate.schemas.sealing import Keyring

BASELINE: Final = Path("baseline.json")
"""A document of this name is the baseline of a bundle."""


def impact(
    policies: PoliciesOption,
    since: SinceOption = "",
    intents: Annotated[
        Path | None,
        typer.Option("--intents", help="Recorded intents in a file (JSON lines, or a YAML list), without Kafka."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="With --intents: the policies before, a file or a folder; may be repeated."),
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what policies would have done to what was submitted. Exit 0 whatever it is, 1 when the policies have a fault.

    What lies before --since is not counted, but windows, retries, first times and the anomaly score know of it.
    """
    out = Output(as_json)
    with whole_answer(out):
        if intents is not None and log is not None:
            raise BadInput("--intents and --log are two sources; give one")
        if against and intents is None:
            raise BadInput("--against belongs to --intents: the log itself says what was decided before")
        _, policy = ready_bundle(out, policies)
        if intents is None:
            report = _of_log(out, log, policy, since)
        else:
            report = _of_file(intents, policy, ready_bundle(out, against)[1] if against else None, since)
    out.result({"ok": True, **msgspec.to_builtins(report)})
    say_report(out, report, recorded=intents is not None)


def _of_log(out: Output, log: Path | None, policy: CompiledPolicy, since: str) -> Report:
    from sluicegate.processors.impact_replay import NEEDED, impact_of_log

    since_ms(since, 0)  # a text that is no time is refused before the log is read
    keys = keyring(out)
    codec, records = read_back(out, log, NEEDED)
    with out.working("judging again"):
        return impact_of_log(records, codec, policy, since_ms(since, newest_of(records)) or 0, keys)


def keyring(out: Output) -> Keyring:
    """The key store of this run folder; without one, what is sealed is counted as not opened."""
    from sluicegate.cli.configuration import settings
    from sluicegate.processors.run import step_keyring
    from sluicegate.schemas.sealing import NoKeyring

    try:
        return step_keyring(settings())
    except BadInput as error:
        out.note(f"sealed payloads are left out: {error}")
        return NoKeyring()


def _of_file(file: Path, policy: CompiledPolicy, against: CompiledPolicy | None, since: str) -> Report:
    from sluicegate.policies.recorded import read_recorded
    from sluicegate.processors.impact_replay import impact_of_intents

    recorded = read_recorded(str(file), text_of(file))
    newest_ms = max((each.at_ms or 0 for each in recorded), default=0)
    return impact_of_intents(recorded, policy, against, since_ms(since, newest_ms))


def baseline(
    since: SinceOption = "",
    to: Annotated[Path, typer.Option("--out", help="The file that is written.")] = BASELINE,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fold from the log what all agents together did on each topic: an anomaly score for those who are new.

    Put the file into the folder of the policies and publish it. Exit 1 when no topic has enough results.
    """
    out = Output(as_json)
    with whole_answer(out):
        learned = _learned(out, log, since)
        written = _written(to, learned.document) if learned.topics else None
    answer: dict[str, Any] = msgspec.structs.asdict(learned)
    del answer["document"]
    out.result({"ok": written is not None, "file": written, **answer})
    _say_learned(out, learned, to)
    if written is None:
        raise typer.Exit(output.NEGATIVE)
    out.next(f"put {to} beside the policies, then `sluicegate policy publish`")


def _learned(out: Output, log: Path | None, since: str) -> Learned:
    from sluicegate.processors.baseline import NEEDED, baseline_of

    since_ms(since, 0)
    codec, records = read_back(out, log, NEEDED)
    with out.working("learning what is usual"):
        return baseline_of(records, codec, since_ms(since, newest_of(records)) or 0)


def _written(file: Path, document: dict[str, Any]) -> str:
    """Write canonical JSON (RFC 8785), so that one log gives one file. Raises BadInput."""
    import rfc8785

    if file.name != BASELINE.name:
        raise BadInput(f"--out `{file}`: the document of a bundle is named `{BASELINE}`; give a path that ends so")
    try:
        file.write_bytes(rfc8785.dumps(document) + b"\n")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"`{file}` cannot be written: {reason}; give another folder") from None
    return str(file)


def _say_learned(out: Output, learned: Learned, file: Path) -> None:
    from sluicegate.policies.anomaly import COLD_START_EVENTS

    for topic, count in learned.topics.items():
        out.say(f"{visible(topic)}: {count} results")
    for topic, count in learned.too_few.items():
        out.say(f"left out {visible(topic)}: {count} results, fewer than {COLD_START_EVENTS}")
    if learned.featureless:
        out.say(f"{learned.featureless} results teach nothing: no rule asked for anomaly_score when they were decided")
    if learned.unfit:
        out.say(f"{learned.unfit} results teach nothing: their features are of another format")
    out.say(f"wrote {visible(str(file))}" if learned.topics else "no topic has enough results, so nothing is written")


def register(app: typer.Typer) -> None:
    """Put these verbs into the group `policy`."""
    app.command("impact")(impact)
    app.command("baseline")(baseline)
