"""The verbs of `sluicegate policy` that need no broker: check, explain, test, diff.

With ``--json`` exactly one object goes to stdout whatever happens, all else to stderr. Exit 0 whatever was decided, 1
when there are faults (or a case fails), 2 for input that cannot be used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import policies_folder, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.policy_words import say_case, say_explanation
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, SluicegateError

if TYPE_CHECKING:
    from sluicegate.policies.compile import CompiledPolicy
    from sluicegate.policies.faults import Fault
    from sluicegate.policies.load import Bundle

CASES_FOLDER: Final = "cases"

PlacesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Files or folders of policies, together one bundle; by default the setting `policies`.",
        show_default=False,
    ),
]
PoliciesOption = Annotated[
    list[Path],
    typer.Option("--policies", help="A file or folder of policies; may be repeated, together they are one bundle."),
]


def check(
    paths: PlacesArgument = None,
    workers: Annotated[
        Path | None,
        typer.Option("--workers", help="A list of the workers' manifests: say what none of them can enforce, too."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say everything that is wrong with policies, without Kafka. Exit 1 when there is a fault."""
    out = Output(as_json)
    with whole_answer(out):
        places = list(paths or ()) or [policies_folder(settings())]
        bundle, faults = _tried_bundle(places)
        if workers is not None:
            faults = tuple(sorted((*faults, *_worker_faults(workers, places, bundle))))
    for fault in faults:
        print_fault(out, fault)
    snapshot = None if bundle is None else bundle.snapshot_name
    ok = not any(fault.severity == "error" for fault in faults)
    out.result({"ok": ok, "faults": faults, "snapshot": snapshot})
    if bundle is None or not ok:
        out.say(f"{_counted(len(faults), 'fault')} in {_named(places)}")
        raise typer.Exit(output.NEGATIVE)
    layers = ", ".join(bundle.layers) or "no rules"
    out.say(f"ok: {bundle.snapshot_name}, {_counted(len(bundle.documents), 'document')}, layers {layers}")
    if len(places) == 1:
        out.next(f"sluicegate policy publish {places[0]}")


def explain(
    policies: PoliciesOption,
    intent: Annotated[Path, typer.Option("--intent", help="The intent, JSON or YAML.")],
    facts: Annotated[Path | None, typer.Option("--facts", help="Facts by name, JSON or YAML.")] = None,
    level: Annotated[int | None, typer.Option("--level", min=0, help="The agent's level; by default its own.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what policy decides of an intent, and why, without Kafka. Exit 0 whatever it decides."""
    out = Output(as_json)
    with whole_answer(out):
        bundle, policy = ready_bundle(out, policies)
        from sluicegate.policies import explain as explaining
        from sluicegate.policies.intents import read_facts, read_intent

        asked = read_intent(str(intent), text_of(intent))
        given = {} if facts is None else read_facts(str(facts), text_of(facts))
        if level is not None and policy.levels is not None and level not in policy.levels:
            there = ", ".join(map(str, policy.levels)) or "none"
            raise BadInput(f"there is no level `{level}`; the autonomy document defines {there}")
        said = explaining.explain(bundle, policy, asked, given, level)
        notes = explaining.notes_on(bundle, policy, asked, given, level)
    for note in notes:
        out.note(f"note: {visible(note)}")
    out.result(said)
    say_explanation(out, asked, said)


def run_cases(
    folder: Annotated[Path, typer.Argument(help="A folder of policies that has a folder `cases`.")],
    as_json: JsonOption = False,
) -> None:
    """Run the cases that stand beside a bundle, in FOLDER/cases. Exit 1 when one fails."""
    out = Output(as_json)
    with whole_answer(out):
        from sluicegate.policies.cases import read_cases, run_case
        from sluicegate.policies.load import read_folder

        if not (folder / CASES_FOLDER).is_dir():
            raise BadInput(f"no folder `{folder / CASES_FOLDER}`; put cases there, in files of YAML")
        bundle, policy = ready_bundle(out, [folder])
        cases = read_cases(read_folder(folder / CASES_FOLDER))
    answers: list[dict[str, Any]] = []
    for case in cases:
        began_ns = time.perf_counter_ns()
        reason = run_case(bundle, policy, case)
        duration_ms = round((time.perf_counter_ns() - began_ns) / 1e6, 3)
        ok = reason is None
        answer = {"file": case.file, "name": case.name, "ok": ok, "reason": reason, "duration_ms": duration_ms}
        answers.append(answer)
        say_case(out, answer)
    failed = sum(not answer["ok"] for answer in answers)
    passed = len(answers) - failed
    counts = {"ok": not failed, "passed": passed, "failed": failed}
    out.result({**counts, "policy_snapshot": bundle.snapshot_name, "cases": answers})
    took_ms = sum(answer["duration_ms"] for answer in answers)
    out.say(f"{passed} passed, {failed} failed in {took_ms:.1f} ms, by {bundle.snapshot_name}")
    if failed:
        raise typer.Exit(output.NEGATIVE)


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="The policies before: a file or a folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The policies after: a file or a folder.")],
    as_json: JsonOption = False,
) -> None:
    """Say in words what changes from one bundle to another. Exit 0 whatever changes."""
    out = Output(as_json)
    with whole_answer(out):
        from sluicegate.policies.difference import difference

        old, _ = ready_bundle(out, [before])
        new, _ = ready_bundle(out, [after])
        sentences = difference(old, new)
    names = {"before": old.snapshot_name, "after": new.snapshot_name}
    out.result({"ok": True, **names, "differences": sentences})
    if not sentences:
        out.say("nothing changes")
    for sentence in sentences:
        out.say(visible(sentence, 2_000))


def register(app: typer.Typer) -> None:
    """Put these verbs into the group `policy`."""
    app.command("check")(check)
    app.command("explain")(explain)
    app.command("test")(run_cases)
    app.command("diff")(diff)


def read_places(places: Sequence[Path]) -> dict[str, str]:
    """The texts of several files and folders by file name: one bundle.

    Raises PolicyUnreadable, and PolicyFaults for a file that is not UTF-8 or a name that stands twice.
    """
    from sluicegate.policies.faults import Fault, PolicyFaults
    from sluicegate.policies.load import read_folder

    texts: dict[str, str] = {}
    origins: dict[str, Path] = {}
    faults: list[Fault] = []
    for place in places:
        try:
            found = read_folder(place)
        except PolicyFaults as refused:
            faults += refused.faults
            continue
        for name, text in found.items():
            if name in texts:
                message = f"`{name}` is given twice, by `{origins[name]}` and by `{place}`"
                faults.append(Fault(name, 1, 1, "", message, "rename one, or give it once"))
            else:
                texts[name], origins[name] = text, place
    if faults:
        raise PolicyFaults(faults)
    return texts


def _tried_bundle(places: Sequence[Path]) -> tuple[Bundle | None, tuple[Fault, ...]]:
    """The bundle and its warnings, or None and every fault. Raises PolicyUnreadable."""
    from sluicegate.policies.faults import PolicyFaults
    from sluicegate.policies.load import parse_bundle

    try:
        bundle = parse_bundle(read_places(places))
    except PolicyFaults as refused:
        return None, refused.faults
    return bundle, bundle.warnings


def _worker_faults(file: Path, places: Sequence[Path], bundle: Bundle | None) -> tuple[Fault, ...]:
    """What is wrong with the manifests, else what their workers cannot enforce. Raises BadInput, PolicyUnreadable."""
    from sluicegate.clients.allowlist import allowlist_problem
    from sluicegate.policies.faults import PolicyFaults
    from sluicegate.policies.workers import check_workers, read_workers

    try:
        manifests = read_workers(str(file), text_of(file))
    except PolicyFaults as refused:
        return refused.faults
    if bundle is None:
        return ()
    return check_workers(read_places(places), bundle, manifests, allowlist_problem)


def ready_bundle(out: Output, places: Sequence[Path]) -> tuple[Bundle, CompiledPolicy]:
    """A bundle ready to judge. Ends with exit 1 when it has a fault; raises PolicyUnreadable."""
    from sluicegate.policies.compile import compile_bundle

    bundle, faults = _tried_bundle(places)
    for fault in faults:
        out.note(visible(str(fault), 2_000))
    if bundle is None:
        out.note(f"{_counted(len(faults), 'fault')} in {_named(places)}; `sluicegate policy check` shows each")
        out.result({"ok": False, "faults": faults})
        raise typer.Exit(output.NEGATIVE)
    return bundle, compile_bundle(bundle)


@contextmanager
def whole_answer(out: Output) -> Iterator[None]:
    """Gives a reader of JSON its one object, too, when the input cannot be used; the error goes its way."""
    try:
        yield
    except SluicegateError as error:
        out.result({"ok": False, "faults": getattr(error, "faults", ()), "error": str(error)})
        raise


def text_of(path: Path) -> str:
    """A file's text. Raises BadInput."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"cannot read `{path}`: {reason}; give a file of JSON or YAML") from None
    except UnicodeDecodeError:
        raise BadInput(f"`{path}` is not UTF-8; save it as UTF-8") from None


def print_fault(out: Output, fault: Fault) -> None:
    """A fault as a compiler would say it: where and what, the text there, the remedy."""
    where = f"{fault.file}:{fault.line}:{fault.column}" if fault.line else fault.file
    out.say(f"{visible(where)}: {fault.severity}: {visible(fault.message)}")
    if fault.text:
        out.say(f"    {visible(fault.text)}")
    out.say(f"    fix: {visible(fault.fix)}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _named(places: Sequence[Path]) -> str:
    return ", ".join(visible(str(place)) for place in places)
