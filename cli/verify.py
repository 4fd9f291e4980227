"""`sluicegate verify`: recompute everything the processors wrote from what they read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.processors.verify_report import Report
    from sluicegate.streams.engine import Record
    from sluicegate.streams.settings import Settings

FAULTS_SHOWN: Final = 20
CONFIRMED_BY: Final = 3
"""How many times a log that grows is read before a fault is believed."""
AGAIN_SEC: Final = 0.5


def verify(
    log: Annotated[Path | None, typer.Option("--log", help="Verify a copy in a file, without Kafka.")] = None,
    copy: Annotated[Path | None, typer.Option("--copy", help="Also write a copy of the log to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every decision, grant, resolution and result from the log. Exit 1 when anything does not fit.

    The log is read as `auditor`, committed records only, to its ends of now. The keys come from this run folder:
    `agents.master` and `operators.json` must be those of the gate.
    """
    if log is not None and copy is not None:
        raise BadInput("--copy and --log are for different uses: copy the live log first, then verify the copy")
    out = Output(as_json)
    found = settings()
    report = verify_live(found, copy, out) if log is None else verify_copy(found, log)
    out.result(
        {
            "clean": report.clean,
            "records": report.records,
            "pending": report.pending,
            "recomputed": report.recomputed,
            "erased": report.erased,
            "as_recorded": report.as_recorded,
            "faults_count": report.faults_count,
            "faults": report.faults,
        }
    )
    _say(out, report)
    if not report.clean:
        raise typer.Exit(output.NEGATIVE)
    out.next("sluicegate verify --copy log.jsonl" if copy is None and log is None else "give the copy to somebody else")


def verify_live(found: Settings, copy: Path | None = None, out: Output | None = None) -> Report:
    """Verify the tenant's log on the broker; with ``copy`` write what was verified to a file."""
    from sluicegate.cli.log_reading import read_log

    speaking = out or Output(as_json=True)
    report: Report | None = None
    for attempt in range(CONFIRMED_BY):
        if attempt:
            time.sleep(AGAIN_SEC)
        with speaking.working("reading the log"):
            log = read_log(found)
        with speaking.working("recomputing"):
            again = _verifier(found, log.tenant, log.partitions, log.starts)(log.records)
        report = again if report is None else _confirmed(report, again)
        if report.clean:
            break
    assert report is not None
    if copy is not None:
        from sluicegate.streams.logcopy import write_copy

        try:
            count = write_copy(copy, log.tenant, log.partitions, log.starts, log.records)
        except OSError as error:
            raise BadInput(f"copy `{copy}` cannot be written ({error.strerror}); give another file") from None
        speaking.note(f"{count} records copied to {visible(str(copy))}")
    return report


def _confirmed(before: Report, again: Report) -> Report:
    """The later report, with the faults that both have.

    The ends of many partitions are not one moment: under load a decision may have been read and the grant that was
    committed with it not. Such a fault is gone when one looks again; a real one never is.
    """
    kept = [fault for fault in again.faults if fault in before.faults]
    return msgspec.structs.replace(again, faults=kept, faults_count=len(kept))


def verify_copy(found: Settings, path: Path) -> Report:
    """Verify a copy of a log in a file, with the keys of the run folder. Raises BadInput for what is no copy."""
    from sluicegate.streams.logcopy import read_head, read_records

    tenant, partitions, starts = read_head(path)
    return _verifier(found, tenant, partitions, starts)(read_records(path))


def _verifier(
    found: Settings, tenant: str, partitions: int, starts: dict[tuple[str, int], int]
) -> Callable[[Iterable[Record]], Report]:
    from sluicegate.processors.run import step_keyring
    from sluicegate.processors.verify import Verifier
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.keys import (
        has_audit_master,
        keys_dir,
        load_audit_master,
        load_master,
        trusted_gates,
        trusted_monitors,
        trusted_operators,
    )
    from sluicegate.streams.registry import registry_for

    operators = trusted_operators(found)
    if not operators:
        raise BadInput(
            f"`{keys_dir(found)}` trusts no operator: put the gate's `operators.json` and `agents.master` there"
        )
    codec = Codec(registry_for(found.registry_url))
    monitors = trusted_monitors(found)
    gates, sealed_by = trusted_gates(found), step_keyring(found)
    audits = load_audit_master(found) if has_audit_master(found) else None
    return Verifier(
        codec,
        tenant,
        partitions,
        load_master(found),
        operators,
        starts,
        monitors,
        gates,
        sealed_by,
        audit_master=audits,
    ).run


def _say(out: Output, report: Report) -> None:
    out.say(f"{report.records} records read; recomputed: {_counts(report.recomputed) or 'nothing'}")
    if report.erased:
        out.say(f"recomputed from facts, payload erased: {_counts(report.erased)}")
    if report.as_recorded:
        out.say(f"payload erased, taken as recorded where only it could tell: {_counts(report.as_recorded)}")
    if report.pending:
        out.say(f"{report.pending} inputs at the ends are not answered yet")
    for fault in report.faults[:FAULTS_SHOWN]:
        place = f"{fault.topic}/{fault.partition}/{fault.offset}"
        out.say(f"fault [{visible(fault.kind)}] at {visible(place)}: {visible(fault.message)}")
    if report.faults_count > FAULTS_SHOWN:
        out.say(f"and {report.faults_count - FAULTS_SHOWN} more; see --json")
    out.say(
        "clean: the log is what the processors must have written" if report.clean else f"{report.faults_count} faults"
    )


def _counts(found: dict[str, int]) -> str:
    return ", ".join([f"{count} {name}" for name, count in sorted(found.items())])
