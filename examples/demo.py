"""`make demo`: the whole story on an embedded Kafka and an embedded ClickHouse, then the attacks on it.

Starts everything, plays the scenes, reads each line back from the log, asks the auditor's room and `verify`, and ends
by itself: 0 when all of it happened, 1 when anything did not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sluicegate.cli.audit_report import say_report as say_audit
from sluicegate.cli.impact_words import say_report
from sluicegate.cli.log_reading import log_topics, read_log
from sluicegate.cli.log_since import newest_of, period_of
from sluicegate.cli.output import Output
from sluicegate.cli.prepare import Prepared, prepare
from sluicegate.cli.verify import verify_live
from sluicegate.clients.auditor import Auditor, Table
from sluicegate.clients.worker import Worker
from sluicegate.examples import attacks, scenes, trust_scenes
from sluicegate.examples.stage import EXPECT_SEC, Stage
from sluicegate.infra.supervisor import PROCESSORS, Supervisor
from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.difference import difference
from sluicegate.policies.load import parse_bundle, read_folder
from sluicegate.processors.audit_log import NEEDED as AUDIT_NEEDED
from sluicegate.processors.audit_report import report_of_log
from sluicegate.processors.impact_replay import NEEDED, impact_of_log
from sluicegate.processors.run import step_keyring
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.keys import trusted_operators
from sluicegate.streams.settings import Settings

READY_SEC = 90.0
BUNDLE = Path(__file__).resolve().parent.parent / "policies" / "bundles" / "demo"
CANDIDATE = (
    ("support-routine.yaml", "amount_usd_above: 99.99", "amount_usd_above: 30"),
    (
        "change-control.yaml",
        "risk_tags: [delete]\n    decision: require_approval",
        "risk_tags: [delete]\n    decision: allow_with_constraints",
    ),
)
"""What somebody would like to change: one rule stricter, and one that lets deletions through."""
FIGURES = {
    "decisions by kind": "SELECT decision, count() AS n FROM decisions GROUP BY decision ORDER BY decision",
    "refusals by code": "SELECT code, count() AS n FROM refused GROUP BY code ORDER BY code",
    "approvals with evidence": "SELECT job_id, outcome, approver_id FROM approvals_with_evidence ORDER BY job_id",
    "starts without a grant": "SELECT job_id, worker_id FROM executions_without_grant",
}


def main(arguments: list[str] | None = None) -> int:
    """Play the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", choices=PROCESSORS, help="leave a processor out, and see the demo fail")
    parser.add_argument("--copy", type=Path, help="write a copy of the log to this file")
    parser.add_argument("--ready-sec", type=float, default=READY_SEC, help="how long to wait for the processors")
    parser.add_argument("--expect-sec", type=float, default=EXPECT_SEC, help="how long to wait for each event")
    options = parser.parse_args(arguments)
    logging.getLogger("sluicegate").addHandler(logging.NullHandler())  # the story is in the log, not in these lines
    with tempfile.TemporaryDirectory(prefix="sluicegate-demo-") as folder:
        settings = Settings(
            run_dir=Path(folder),
            control_age_ms_max=2_000,
            attempt_lease_sec=10,
            unmatched_wait_sec=3,
            request_timeout_sec=600,
        )
        began = time.monotonic()
        try:
            missed = _run(settings, options)
        except SluicegateError as error:
            print(f"error: {error}", file=sys.stderr)
            missed = ["the demo could not go on"]
        print(f"\n{time.monotonic() - began:.0f} s in all")
    if missed:
        print("the demo FAILED; what did not happen: " + "; ".join(missed))
        return 1
    print("everything in the story happened")
    return 0


def _run(settings: Settings, options: argparse.Namespace) -> list[str]:
    print("starting an embedded Kafka with users and access lists, publishing policies and agents", flush=True)
    prepared = prepare(settings, BUNDLE)
    names = tuple(name for name in PROCESSORS if name != options.without)
    supervisor = Supervisor(prepared.settings, names)
    try:
        print(f"policy {prepared.snapshot} is active; starting {', '.join(names)}, a process each", flush=True)
        supervisor.start()
        supervisor.wait_ready(options.ready_sec)
        return _play(prepared, options)
    finally:
        supervisor.stop()
        if prepared.broker is not None:
            prepared.broker.stop()


def _play(prepared: Prepared, options: argparse.Namespace) -> list[str]:
    settings = prepared.settings
    topics = [name for name in log_topics(settings) if name not in ("control.commands", "policy.snapshots")]
    stage = Stage(settings, topics, options.expect_sec)
    workers: list[Worker] = scenes.workers(settings)
    try:
        for worker in workers:
            worker.start()
        jobs = scenes.play(stage)
        if prepared.broker is not None:
            attacks.play(stage, prepared.broker.log_path, jobs["read"])
    finally:
        for worker in workers:
            worker.stop()
        stage.close()
    _impact(stage)
    _estimate(stage)
    _audit(stage, jobs)
    _verify(stage, options.copy)
    return stage.missed


def _table(table: Table, columns: tuple[str, ...] = ()) -> None:
    rows = [[str(row[name]) for name in columns or table.columns] for row in table.dicts()]
    widths = [max([len(row[index]) for row in rows], default=0) for index in range(len(columns or table.columns))]
    for row in rows:
        print("    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _impact(stage: Stage) -> None:
    stage.title("What a stricter and a wider rule would have done to all of this, before anyone publishes it")
    files = read_folder(BUNDLE)
    active = parse_bundle(files)
    for file, before, after in CANDIDATE:
        files[file] = files[file].replace(before, after)
    candidate = parse_bundle(files)
    for line in difference(active, candidate):
        print(f"  {line}")
    log = read_log(stage.settings, only=NEEDED)
    report = impact_of_log(log.records, stage.codec, compile_bundle(candidate), keys=step_keyring(stage.settings))
    say_report(Output(as_json=False), report, recorded=False)
    if not any(change.job_id == "delete-bucket" for change in report.widened):
        stage.miss("the impact report did not name the deletion that people had denied and the new rule lets through")


def _estimate(stage: Stage) -> None:
    stage.title("What the articles that were looked at say of all of them (sluicegate audit report --period 1d)")
    log = read_log(stage.settings, only=AUDIT_NEEDED)
    period = period_of("1d", newest_of(log.records))
    operators = trusted_operators(stage.settings)
    report = report_of_log(log.records, stage.codec, log.tenant, operators, period, trust_scenes.WHO)
    say_audit(Output(as_json=False), report)
    if report.whole.wrong != 1 or not report.whole.low < report.whole.high:
        stage.miss("the audit report did not estimate the error rate from the one article that was found wrong")


def _audit(stage: Stage, jobs: scenes.Jobs) -> None:
    stage.title("What the auditor reads in ClickHouse")
    auditor = Auditor(stage.settings)
    auditor.coverage(30)
    for scene, job_id in jobs.items():
        table = auditor.timeline(job_id)
        print(f"  timeline of `{job_id}` (sluicegate audit timeline {job_id}):")
        _table(table, ("timestamp", "topic", "partition", "offset", "type", "outcome", "by", "reason"))
        if not table.rows:
            stage.miss(f"ClickHouse has no timeline of the scene `{scene}`")
    found: dict[str, Any] = {}
    for what, sql in FIGURES.items():
        found[what] = auditor.query(sql)
        print(f'  {what} (sluicegate audit query "{sql}"):')
        _table(found[what])
    forged = [row["job_id"] for row in found["starts without a grant"].dicts()]
    if forged != [attacks.FORGED_JOB]:
        stage.miss(f"the starts without a grant are {forged}, not the forged one alone")


def _verify(stage: Stage, copy: Path | None) -> None:
    stage.title("verify: everything recomputed from the log")
    report = verify_live(stage.settings, copy)
    for name, count in sorted(report.recomputed.items()):
        print(f"    {count:>4} {name}")
    for fault in report.faults:
        print(f"    {fault.kind} at {fault.topic}/{fault.partition}/{fault.offset}: {fault.message}")
    if [(fault.kind, fault.topic) for fault in report.faults] != [("foreign", "job.grants.default")]:
        stage.miss("verify did not find exactly the one record that no step wrote: the altered grant of the attack")
    else:
        print("    verdict: all recomputed; the one record that no step wrote is the altered grant of the attack above")


if __name__ == "__main__":
    sys.exit(main())
