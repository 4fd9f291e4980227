"""The crash test on the real broker: processes killed under load, and a log that must read as if nothing happened."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from crash_audits import audit_findings
from crash_findings import Findings, effects_of, findings
from crash_levels import level_findings
from crash_load import FAST, prepared
from crash_review import entries, review_findings, state_findings
from crash_world import World, plan
from fixtures_kafka import RunningBroker

from sluicegate.cli.log_reading import read_log
from sluicegate.cli.prepare import Prepared
from sluicegate.cli.verify import verify_copy
from sluicegate.processors.run import step_keyring
from sluicegate.processors.verify_report import Report
from sluicegate.streams.keys import load_audit_master
from sluicegate.streams.logcopy import write_copy
from sluicegate.streams.settings import Settings

AWAY_SEC: Final = 8.0
"""Longer than a member's session, so that its partitions move."""
HERE: Final = Path(__file__).parent
FIGURES: Final = "figures.json"
ENDS: Final = {f"requests ended by {word}" for word in ("release", "release_redacted", "destroy", "expired")}
TRUST: Final = {
    *(f"findings {word}" for word in ("correct", "wrong", "harmful")),
    *(f"levels {word}" for word in ("requested", "promoted", "demoted")),
    *(f"drawn in epoch {number}" for number in (1, 2, 3)),
    "drawn because they must be",
}

Found = tuple[Findings, Report, list[str]]


class Tenants:
    """Tenants of their own on the run's broker."""

    def __init__(self, broker: RunningBroker, kafka_dir: Path, folder: Path) -> None:
        self._broker, self._kafka_dir, self._folder = broker, kafka_dir, folder

    def prepared(self, name: str) -> tuple[Prepared, Path]:
        """A tenant that is ready, and its folder."""
        folder = self._folder / name
        settings = Settings(
            tenant=name,
            run_dir=folder / "run",
            bootstrap=self._broker.bootstrap,
            logins_file=self._kafka_dir / "logins.json",
            **FAST,
        )
        return prepared(settings, folder / "policies"), folder


@pytest.fixture(scope="module")
def tenants(broker: RunningBroker, kafka_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    return Tenants(broker, kafka_dir, tmp_path_factory.mktemp("crash"))


def found_in(world: World, folder: Path) -> Found:
    """What the log says, read committed: the promises, our own verification, and the checker that is not ours."""
    copy = folder / "copy.jsonl"
    log = read_log(world.settings)
    write_copy(copy, log.tenant, log.partitions, log.starts, log.records)
    report = verify_copy(world.settings, copy)
    effects = effects_of(world.effects_dir())
    found = findings(log.records, world.load.submitted, effects, to_the_end=not world.alone)
    if not world.alone:
        keys = step_keyring(world.settings)
        counts, broken = review_findings(log.records, world.load.numbers, world.load.intents, keys)
        gates = list(entries(world.settings, "gate"))
        found.broken |= broken | state_findings(world.settings, gates)
        drawn, undrawn = audit_findings(log.records, world.load.numbers, load_audit_master(world.settings))
        moved, unmoved = level_findings(log.records, gates)
        found.counts |= counts | drawn | moved
        found.broken |= undrawn | unmoved
    said = subprocess.run(
        [sys.executable, HERE / "second_checker.py", copy], capture_output=True, text=True, check=False
    )
    return found, report, [fault["message"] for fault in json.loads(said.stdout)["faults"]]


def assert_unharmed(world: World, folder: Path, took_sec: float) -> dict[str, Any]:
    """Hold the log against everything that is promised; the figures."""
    began = time.monotonic()
    found, report, second = found_in(world, folder)
    figures: dict[str, Any] = {
        "intents": len(world.load.submitted),
        "kills": dict(world.kills),
        "judged_before_each_kill_of_a_gate": world.judged_before,
        "partitions_moved": world.moves,
        "ended_by_themselves": world.ended,
        "run_sec": round(took_sec, 1),
        "check_sec": round(time.monotonic() - began, 1),
        "records": report.records,
        "recomputed": report.recomputed,
        "not_answered_yet": report.pending,
        "events": found.counts,
        "faults": report.faults_count,
        "second_checker_faults": len(second),
    }
    (folder / FIGURES).write_text(json.dumps(figures, indent=1))
    assert found.broken == {}
    assert report.faults == []
    assert second == []
    assert world.moves > 0, "no partition ever moved between the gates"
    return figures


def assert_all_came_about(figures: dict[str, Any]) -> None:
    """What is held against the log was in it: a check of what never happened says nothing."""
    found = figures["events"]
    assert found.keys() >= ENDS, "not every end of a held output came about"
    assert found.keys() >= TRUST, "not everything that samples and levels do came about"
    assert found["drawn across epochs"] > 0, "no job was in flight while an epoch began"


def test_no_crash_of_ours_loses_or_doubles_anything(tenants: Tenants) -> None:
    """One decision, one grant, one start per attempt, one review, one result, whoever is killed and whoever takes over.

    An output that is held stays so until a person's word or its time, and that counts once. What is drawn for audit is
    what the epochs' keys say, every finding is made and counts once, and levels are what the same history gives.
    """
    faults = plan(800, AWAY_SEC, gate=3, outputs=2, worker=2, desk=1, oversight=2, reviewer=1)
    ready, folder = tenants.prepared("crash")
    with World(ready, 800, faults, epochs_by_hand=True) as world:
        took_sec = world.run(150)
        world.end()
        figures = assert_unharmed(world, folder, took_sec)
        assert world.kills == {"gate": 3, "outputs": 2, "worker": 2, "desk": 1, "reviewer": 1, "oversight": 2}
        assert_all_came_about(figures)


@pytest.mark.campaign
def test_the_campaign_of_crashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The long form: 20,000 intents, broker and reviews that freeze besides; its figures stand in the README."""
    settings = Settings(run_dir=tmp_path / "run", audit_epoch_sec=60, **FAST)
    kills = {"gate": 14, "outputs": 8, "worker": 6, "broker": 2, "watch": 2, "desk": 5, "reviewer": 4, "frozen": 3}
    kills["oversight"] = 4
    faults = plan(20_000, AWAY_SEC, **kills)
    with World(prepared(settings, tmp_path / "policies"), 20_000, faults, reviews=2) as world:
        took_sec = world.run(2_400)
        world.end()
        figures = assert_unharmed(world, tmp_path, took_sec)
        assert world.kills == kills
        assert_all_came_about(figures)
        assert figures["events"]["epochs told"] > 0, "no epoch's key was told"
        assert figures["events"]["promotions refused"] > 0, "nobody refused a promotion"
        assert figures["events"]["lost attempts"] > 0, "no worker took a running job along"
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(figures, indent=1)}\n")


def run_variant(ready: Prepared, folder: Path, variant: str) -> Found:
    """The same load on one gate of another build, killed while it rests."""
    with World(ready, 500, plan(400, 0.0, gate=1), variant) as world:
        world.run_alone()
        assert world.kills == {"gate": 1}
        world.end()
        return found_in(world, folder)


@pytest.fixture(scope="module")
def broken(tenants: Tenants) -> dict[str, Found]:
    """Both wrong engines, side by side: most of their time goes into starting twice."""
    found = {"at_least_once": tenants.prepared("crash-doubling"), "offsets_apart": tenants.prepared("crash-losing")}
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(run_variant, *place, name) for name, place in found.items()}
        return {name: future.result() for name, future in running.items()}


def test_an_engine_that_runs_at_least_once_is_caught(broken: dict[str, Found]) -> None:
    """Outputs outside of transactions: one kill doubles decisions and grants, and all three checks say so."""
    found, report, second = broken["at_least_once"]
    assert {"an intent was answered twice", "an intent has two decisions", "a grant is doubled"} <= found.names()
    assert {"twice", "seq"} & {fault.kind for fault in report.faults}
    assert "a second decision for one intent" in second


def test_an_engine_that_commits_offsets_apart_is_caught(broken: dict[str, Found]) -> None:
    """Offsets before outputs: one kill loses intents, and both checks that know what was asked say so."""
    found, report, _ = broken["offsets_apart"]
    assert {"an intent has no decision", "an intent has no answer"} <= found.names()
    assert "skipped" in {fault.kind for fault in report.faults}


@pytest.mark.campaign
def test_the_engine_is_unharmed_where_the_wrong_ones_are_caught(tenants: Tenants) -> None:
    """The counter-proof: the engine as it is, killed at the very moment at which the others lose and double."""
    found, report, second = run_variant(*tenants.prepared("crash-patient"), "patient")
    assert (found.broken, report.faults, second) == ({}, [], [])
