"""The figures' commands run and say what they measured against; how fast a machine is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sluicegate.bench.figures import figure, spread
from sluicegate.bench.gate import KINDS, outs_of_an_intent
from sluicegate.bench.jobs import Flow, limits
from sluicegate.bench.latency import percentile_of
from sluicegate.bench.main import MEASUREMENTS
from sluicegate.bench.peer_process import PEERS_VARIABLE, Peers
from sluicegate.bench.review import SIZES_BYTES, made
from sluicegate.bench.stage import per_second
from sluicegate.schemas.errors import BadInput, InvariantBroken

SIZES = {
    "gate": 4,
    "latency": 4,
    "projection": 1,
    "profile": 7,
    "judgement": 6,
    "anomaly": 5,
    "flood": 12,
    "control": 3,
    "review": 12,
    "detection": 0,
    "sealing": 2,
    "trust": 0,
    "trust-cost": 3,
    "jobs": 3,
}
"""How many figures each measurement gives in its quick form."""


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    """What `sluicegate bench --quick --json` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate.cli.main", "bench", "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != PEERS_VARIABLE},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_measurement_gives_its_figures(quick: dict[str, Any]) -> None:
    """One command measures all; each figure has a unit, a median between its ends, and says what stood against it."""
    assert len(quick["figures"]) == sum(SIZES[name] for name in MEASUREMENTS)
    for each in quick["figures"]:
        assert each["unit"]
        assert each["against"]
        assert 0 < each["value"]["low"] <= each["value"]["median"] <= each["value"]["high"]


def test_what_costs_is_a_ratio_in_the_same_run(quick: dict[str, Any]) -> None:
    """A bare number of a shared machine says nothing, so a baseline ran in the same rounds; only the step has none."""
    bare = [each["name"] for each in quick["figures"] if each["ratio"] is None]
    assert bare == ["the gate's step outside Kafka"]


def test_the_run_says_where_and_when(quick: dict[str, Any]) -> None:
    """A figure is worth its machine, its date and its versions."""
    assert {"cores", "python", "load_before"} <= quick["machine"].keys()
    assert quick["measured_at"]
    assert "quixstreams" in quick["versions"]
    assert quick["texts"][0]["lines"]


def test_an_unknown_name_is_refused_before_anything_starts() -> None:
    """A typing error costs no broker."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate.cli.main", "bench", "gaet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "`gaet`" in done.stderr


def test_the_ratio_is_taken_round_by_round() -> None:
    """What disturbs a round disturbs both sides of it."""
    found = figure("f", "1/s", [10.0, 100.0, 40.0], "b", [20.0, 200.0, 50.0])
    assert found.ratio == spread([0.5, 0.5, 0.8])


def test_a_missing_or_doubled_output_is_no_figure() -> None:
    """An engine that loses would be fast."""
    assert per_second([0] * 10 + [1000] * 90, 100) == pytest.approx(90_000)
    for found in ([0] * 99, [0] * 101):
        with pytest.raises(InvariantBroken, match="100 were due"):
            per_second(found, 100)


def test_percentiles_are_values_that_occurred() -> None:
    """Nearest rank: no interpolation between two latencies that nobody had."""
    values = [float(number) for number in range(1, 101)]
    assert percentile_of(values, 50) == 51.0
    assert percentile_of(values, 99) == 100.0


def test_the_baselines_write_what_the_gate_writes() -> None:
    """As many records of the same sizes: an allowed intent leaves a decision, its terms and a grant."""
    assert [topic for topic, _, _ in outs_of_an_intent()] == ["job.decisions", "job.decisions", "job.grants.default"]
    assert KINDS == ("gate", "noop", "relay")


def test_what_review_is_compared_with_is_left_out_with_the_command_that_brings_it(quick: dict[str, Any]) -> None:
    """Peers are no dependencies: without them there are no figures of theirs, and the findings say how to get them."""
    said = next(text["lines"] for text in quick["texts"] if text["name"] == "review beside others")
    assert "`make peers`" in said[1]
    assert PEERS_VARIABLE in said[1]
    assert not [each for each in quick["figures"] if each["against"] in ("presidio", "detect-secrets")]


def test_recall_and_precision_are_told_of_every_class(quick: dict[str, Any]) -> None:
    """Speed says nothing of a review that finds nothing."""
    lines = next(text["lines"] for text in quick["texts"] if text["name"].startswith("what is found"))
    assert [line.split()[0] for line in lines] == "card iban ssn email phone ip credential".split()
    assert all("recall" in line and "precision" in line for line in lines)


def test_what_limits_jobs_names_every_process(quick: dict[str, Any]) -> None:
    """The figure is of all of them together, so each one's processor time stands beside it, and a word on the limit."""
    lines = next(text["lines"] for text in quick["texts"] if text["name"].startswith("what limits"))
    for name in ("gate.0", "outputs.0", "desk.0", "watch.0", "projector.0", "stand_in.0", "broker"):
        assert any(line.startswith(f"{name}: ") for line in lines), name
    assert lines[-1].startswith("the limit is ")


def test_the_limit_is_what_is_full() -> None:
    """One process at a core, or all at the machine, or neither: a broker has more than one core."""
    busy = [Flow(10.0, {"gate.0": 9.0, "broker": 9.5}, 10.0, 100)]
    assert "gate.0, which has one core" in limits(busy)[-1]
    idle = [Flow(10.0, {"gate.0": 0.1, "broker": 0.1}, 10.0, 100)]
    assert "waiting" in limits(idle)[-1]


def test_documents_have_their_size_and_half_of_them_nothing_to_hide() -> None:
    """What is measured at 1 KB is 1 KB; the other half differs by what was planted."""
    every = {series.name: series.documents for series in made(10)}
    assert set(every) == {f"{size}, {kind}" for size in SIZES_BYTES for kind in ("clean", "with findings")}
    for size, size_bytes in SIZES_BYTES.items():
        assert all(abs(len(each) - size_bytes) < size_bytes / 50 for each in every[f"{size}, clean"])
        assert all(len(dirty) > len(clean) for dirty, clean in zip(*_both(every, size), strict=True))


def _both(every: dict[str, list[bytes]], size: str) -> tuple[list[bytes], list[bytes]]:
    return every[f"{size}, with findings"], every[f"{size}, clean"]


def test_an_interpreter_without_peers_is_refused_with_what_to_do() -> None:
    """Named wrongly, the comparison is not left out in silence."""
    for interpreter in (sys.executable, "/nowhere/python"):
        with pytest.raises(BadInput, match="make peers"), Peers(interpreter, {"a b": [b"{}"]}):
            pass
