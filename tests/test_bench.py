"""The figures' commands run and say what they measured against; how fast a machine is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sluicegate.bench.figures import figure, spread
from sluicegate.bench.gate import KINDS, outs_of_an_intent
from sluicegate.bench.latency import percentile_of
from sluicegate.bench.main import MEASUREMENTS
from sluicegate.bench.stage import per_second
from sluicegate.schemas.errors import InvariantBroken

SIZES = {
    "gate": 4,
    "latency": 4,
    "projection": 1,
    "profile": 7,
    "judgement": 6,
    "anomaly": 5,
    "flood": 12,
    "control": 3,
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
