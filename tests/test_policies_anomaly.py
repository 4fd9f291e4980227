"""The anomaly score: what it promises of its p-value, of its size and of every machine that recomputes it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from sluicegate.bench.anomaly import WORKLOADS, events_of, play
from sluicegate.policies import anomaly
from sluicegate.policies.anomaly import (
    BURN_IN_EVENTS,
    COLD_START_EVENTS,
    FEATURES,
    SKETCH_BYTES,
    Bins,
    Observation,
    Score,
    Sketch,
    baseline_document,
    bins_of,
    pool,
    read_baseline,
    score,
    shape_of,
    target_of,
    value_of,
)

NEW_TARGET: Final = FEATURES.index("new_target")
ABSENT, SEEN, NEW = 0, 1, 2


def observation(**given: Any) -> Observation:
    """An ordinary refund but for what is given."""
    usual: dict[str, Any] = {
        "at_ms": 36_000_000,
        "recent_count": 3,
        "amount_usd": 40.0,
        "affected_users": 1.0,
        "payload_bytes": 400,
        "shape": 7,
        "target": None,
    }
    return Observation(**usual | given)


def routine(rng: random.Random) -> Observation:
    """Independent draws from one distribution: exchangeable, as the p-value asks."""
    return observation(
        at_ms=rng.choice((9, 10, 10, 11, 14, 15, 16)) * 3_600_000,
        recent_count=1 + min(int(rng.expovariate(0.4)), 12),
        amount_usd=rng.lognormvariate(3.7, 0.9),
        affected_users=float(1 + int(rng.expovariate(0.5))),
        payload_bytes=int(rng.lognormvariate(6, 0.5)),
        shape=rng.choice((1, 2, 2, 3)),
    )


def learned(count: int, seed: int = 1) -> Sketch:
    rng, sketch = random.Random(seed), Sketch()
    for _ in range(count):
        sketch.learn(bins_of(sketch, routine(rng)))
    return sketch


STRANGE: Final = bins_of(None, observation(at_ms=0, amount_usd=90_000.0, affected_users=5_000.0, shape=20))
USUAL: Final = bins_of(None, observation(shape=2))


def test_a_bin_is_the_same_on_every_machine() -> None:
    """The Decision's features are small integers that `verify` finds again: written down once, by hand."""
    seen = observation(at_ms=1_732_451_400_000, recent_count=5, amount_usd=45.0, payload_bytes=420, target=0xABCDE12345)
    assert bins_of(None, seen) == (7, 12, 17, 3, 10, 7, NEW, 0x12345)
    assert len(bins_of(None, seen)) == len(FEATURES) + 1


def test_the_same_events_give_the_same_bytes() -> None:
    """A sketch is a fold: no hash seed, word order or C library has a say in its bytes."""
    sketch, digest = Sketch(), hashlib.sha256()
    for number in range(9_000):
        amount = (number * 7_919 % 1_000) / 8 + 0.5
        seen = observation(
            at_ms=number * 977_000,
            recent_count=number % 9,
            amount_usd=amount,
            payload_bytes=300 + number % 200,
            target=number * 2_654_435_761 % 2**32,
        )
        bins = bins_of(sketch, seen)
        digest.update(f"{bins} {score(sketch, None, bins).value:.4f};".encode())
        sketch.learn(bins)
    assert digest.hexdigest()[:16] == "d14e71e91938d80b"
    assert hashlib.sha256(sketch.to_bytes()).hexdigest()[:16] == "5d7a0af097c1ad65"


def test_the_logarithms_are_exact() -> None:
    """log2 in 1/16 bits never falls, and is the rounded one of the leading 11 bits."""
    values = [anomaly._log2(number) for number in range(1, 140_000)]
    assert values == sorted(values)
    assert all(values[number - 1] == round(16 * math.log2(number)) for number in range(1, 2_048))


def test_an_absent_fact_has_a_bin_of_its_own() -> None:
    """None, 0, what is no number and what is too large are told apart."""
    values: list[float | None] = [None, math.nan, 0.0, 1.0, math.inf]
    bins = [bins_of(None, observation(amount_usd=value))[FEATURES.index("amount")] for value in values]
    assert len(set(bins)) == len(values)
    assert bins_of(None, observation(amount_usd=-1.0)) == bins_of(None, observation(amount_usd=math.nan))


def test_neighbours_share_what_was_learned_and_others_do_not() -> None:
    """A number or an hour beside a known one is half known; none, an odd number and a far one are not."""
    sketch = Sketch()
    for _ in range(400):
        sketch.learn(bins_of(sketch, observation(amount_usd=0.0, at_ms=0)))

    def strangeness(**given: Any) -> int:
        return sketch.strangeness(bins_of(sketch, observation(**{"amount_usd": 0.0, "at_ms": 0} | given)))

    far = strangeness(amount_usd=500.0)
    assert strangeness() < strangeness(amount_usd=0.26) < far
    assert strangeness(amount_usd=-5.0) == strangeness(amount_usd=None) == far
    assert strangeness(at_ms=23 * 3_600_000) == strangeness(at_ms=3_600_000) < strangeness(at_ms=7_200_000)


def test_a_larger_number_has_no_lower_bin() -> None:
    """Two bins to an octave, in order."""
    amounts = [*(0.01 * 1.1**step for step in range(250)), 1e300, math.inf]
    bins = [bins_of(None, observation(amount_usd=amount))[FEATURES.index("amount")] for amount in amounts]
    assert bins == sorted(bins)
    assert len(set(bins)) > 40


def test_no_input_breaks_or_grows_a_sketch() -> None:
    """100,000 observations of anything at all: no error, the same size, and bytes that read back as themselves."""
    rng, sketch = random.Random(5), Sketch()
    numbers: list[Callable[[], Any]] = [
        lambda: None,
        lambda: math.nan,
        lambda: rng.choice((math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.8e308, 10**400, -(10**400))),
        lambda: -rng.expovariate(0.01),
        lambda: rng.lognormvariate(0, 30),
        lambda: rng.getrandbits(rng.randrange(1, 200)),
    ]
    for number in range(100_000):
        seen = Observation(
            at_ms=rng.choice((-1, 1)) * rng.getrandbits(60),
            recent_count=rng.choice((-3, 0, 1, 40, 2**70)),
            amount_usd=rng.choice(numbers)(),
            affected_users=rng.choice(numbers)(),
            payload_bytes=rng.choice((-1, 0, 17, 2**31, 2**70)),
            shape=rng.getrandbits(32),
            target=rng.choice((None, rng.getrandbits(64), number % 7)),
        )
        bins = bins_of(sketch, seen)
        found = score(sketch, None, bins)
        assert 0 <= found.value <= 1
        sketch.learn(bins)
        if number % 10_000 == 0:
            sketch.check()
            assert Sketch.from_bytes(sketch.to_bytes()).to_bytes() == sketch.to_bytes()
    assert len(sketch.to_bytes()) == SKETCH_BYTES <= 1_024
    assert sketch.n == 100_000


@pytest.mark.parametrize("bad", [(), USUAL[:-1], (*USUAL, 1), (99, *USUAL[1:]), (-1, *USUAL[1:]), (*USUAL[:-1], -5)])
def test_bins_of_another_format_are_refused(bad: Bins) -> None:
    """A sketch is not spoilt by bins that are none of its own, and stays as it was."""
    sketch = learned(400)
    before = sketch.to_bytes()
    for use in (sketch.learn, lambda bins: score(sketch, None, bins)):
        with pytest.raises(ValueError, match="take them from `bins_of`"):
            use(bad)
    assert sketch.to_bytes() == before


def test_cold_start_gives_no_score() -> None:
    """Until 300 events are learned an agent's own sketch is not asked; without a baseline the score is 0."""
    own = learned(COLD_START_EVENTS - 1)
    assert score(None, None, STRANGE) == Score(0.0, "cold_start", None)
    assert score(own, None, STRANGE) == Score(0.0, "cold_start", None)
    assert score(own, learned(COLD_START_EVENTS - 1), STRANGE).source == "cold_start"
    own.learn(USUAL)
    assert score(own, None, STRANGE).source == "own"


def test_the_pooled_baseline_serves_before() -> None:
    """In cold start the topic's baseline is asked, after it never again."""
    pooled = pool(bins_of(None, routine(random.Random(seed))) for seed in range(2_000))
    found = score(learned(10), pooled, STRANGE)
    assert found.source == "pooled"
    assert found.value > 0.9
    assert score(learned(10), pooled, USUAL).value < 0.3
    assert score(learned(COLD_START_EVENTS), pooled, STRANGE).source == "own"


def test_the_pooled_baseline_is_not_asked_about_targets() -> None:
    """To an agent that is new every target is: that alone must not look strange."""
    rng = random.Random(3)
    pooled = pool((*bins_of(None, routine(rng))[:NEW_TARGET], SEEN, 5) for _ in range(1_000))
    new, known = ((*USUAL[:NEW_TARGET], kind, 5) for kind in (NEW, SEEN))
    assert score(None, pooled, new) == score(None, pooled, known) == score(None, pooled, USUAL)
    assert score(None, pooled, new).value < 0.3


def test_a_score_above_the_threshold_needs_251_events_after_the_burn_in() -> None:
    """The least p-value after n counted events is 1 / (n + 1), and 0.8 is p of 10**-2.4: so cold start ends at 300."""
    sketch, rng = Sketch(), random.Random(2)
    values = []
    for _ in range(BURN_IN_EVENTS + 252):
        values.append(value_of(sketch.p_value(STRANGE)))
        sketch.learn(bins_of(sketch, routine(rng)))
    assert max(values[: BURN_IN_EVENTS + 251]) <= 0.8 < values[BURN_IN_EVENTS + 251]
    assert BURN_IN_EVENTS + 251 < COLD_START_EVENTS


def test_a_smaller_p_never_has_a_smaller_score() -> None:
    """Monotone, within 0 and 1; 0.8 lies at 0.4 % and 1 at 0.1 %."""
    ps = [rank / 3_000 for rank in range(1, 3_001)]
    values = [value_of(p) for p in ps]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[-1]) == (1.0, 0.0)
    assert str(values[-1]) == "0.0"
    assert value_of(10**-2.4) == 0.8


def test_what_is_stranger_never_has_a_larger_p() -> None:
    """More strangeness, fewer learned events as strange."""
    sketch, rng = learned(1_500), random.Random(9)
    probes = [bins_of(sketch, routine(rng)) for _ in range(500)] + [STRANGE]
    ranked = sorted((sketch.strangeness(bins), -sketch.p_value(bins)) for bins in probes)
    assert [p for _, p in ranked] == sorted(p for _, p in ranked)


def test_the_event_itself_counts_before_it_is_learned() -> None:
    """Prequential: an event's strangeness is taken by what was known without it, so the first of a kind is strange."""
    sketch = learned(1_000)
    first = sketch.strangeness(STRANGE)
    before = sketch.p_value(STRANGE)
    sketch.learn(STRANGE)
    assert sketch.strangeness(STRANGE) < first
    assert before == 1 / (1_001 - BURN_IN_EVENTS)
    # Were it counted after its bins, it would stand among the less strange and this p would stay the least one.
    assert sketch._strange[anomaly._strange_bin(first)] == 16


def test_ties_count_against_strangeness() -> None:
    """Where every event was the same, the same once more has p of 1."""
    sketch = Sketch()
    for _ in range(1_000):
        sketch.learn(USUAL)
    assert sketch.p_value(USUAL) == 1.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_false_alarm_rate_of_exchangeable_events_is_near_nominal(seed: int) -> None:
    """Of 20,000 ordinary events not more than the nominal share scores above a threshold, and not far fewer."""
    sketch, rng = learned(2_500, seed=seed), random.Random(seed + 100)
    values = []
    for _ in range(20_000):
        bins = bins_of(sketch, routine(rng))
        values.append(score(sketch, None, bins).value)
        sketch.learn(bins)
    for threshold in (0.33, 0.5, 0.8):
        nominal = 10 ** (-3 * threshold)
        slack = 4 * math.sqrt(nominal / len(values))
        assert 0.4 * nominal <= sum(value > threshold for value in values) / len(values) <= nominal + slack


def test_halving_keeps_p_valid() -> None:
    """What is forgotten is forgotten in proportion: right after a halving p is what it was, and never less."""
    sketch, rng = learned(1_999 + BURN_IN_EVENTS), random.Random(8)
    probes = [bins_of(sketch, routine(rng)) for _ in range(200)]
    unhalved = copy.copy(sketch)
    unhalved._strange = sketch._strange[:]
    unhalved._strange[anomaly._strange_bin(sketch.strangeness(USUAL))] += 16
    unhalved._strange_units += 16
    sketch.learn(USUAL)
    assert sketch._strange_units < 17_000
    for bins in probes:
        at = anomaly._strange_bin(sketch.strangeness(bins))
        before = sum(unhalved._strange[at:]) / unhalved._strange_units
        after = sum(sketch._strange[at:]) / sketch._strange_units
        assert before <= after + 1e-9 <= before + 0.003


def test_a_sketch_always_resolves_a_thousandth() -> None:
    """Once a thousand events are counted, forgetting never takes the p of 0.1 % away."""
    sketch, rng = Sketch(), random.Random(4)
    for _ in range(9_000):
        sketch.learn(bins_of(sketch, routine(rng)))
        if sketch.n >= 1_000 + BURN_IN_EVENTS:
            assert sketch._strange_units >= 999 * 16
    assert score(sketch, None, STRANGE).value == 1.0


def test_drift_is_followed() -> None:
    """What was strange a while ago and happens every day now is not strange; what has ended becomes so again."""
    sketch, rng = learned(3_000), random.Random(6)
    late = observation(at_ms=23 * 3_600_000, shape=2)
    assert score(sketch, None, bins_of(sketch, late)).value > 0.5
    for _ in range(12_000):
        seen = routine(rng)
        moved = observation(at_ms=23 * 3_600_000, amount_usd=seen.amount_usd, shape=2)
        sketch.learn(bins_of(sketch, moved))
    assert score(sketch, None, bins_of(sketch, late)).value < 0.2
    assert score(sketch, None, bins_of(sketch, observation(at_ms=10 * 3_600_000, shape=2))).value > 0.8


def test_a_target_is_new_once() -> None:
    """The first time new, then known; a payload without one has a bin of its own."""
    sketch = Sketch()
    seen = observation(target=target_of("order-1"))
    assert bins_of(sketch, seen)[NEW_TARGET] == NEW
    sketch.learn(bins_of(sketch, seen))
    assert bins_of(sketch, seen)[NEW_TARGET] == SEEN
    assert bins_of(None, seen)[NEW_TARGET] == NEW
    sketch.learn(bins_of(sketch, observation()))
    assert bins_of(sketch, observation())[NEW_TARGET] == ABSENT
    assert bins_of(sketch, observation(target=0))[NEW_TARGET] == NEW


def test_targets_age() -> None:
    """A target that is used stays known, one that is not becomes new; few new ones are ever taken for known."""
    sketch = Sketch()
    used, once = (observation(target=target_of(name)) for name in ("used", "once"))
    sketch.learn(bins_of(sketch, once))
    mistaken = 0
    for number in range(2_000):
        fresh = bins_of(sketch, observation(target=target_of(f"t{number}")))
        mistaken += fresh[NEW_TARGET] == SEEN
        sketch.learn(fresh)
        if number % 20 == 0:
            sketch.learn(bins_of(sketch, used))
            assert bins_of(sketch, used)[NEW_TARGET] == SEEN
    assert bins_of(sketch, once)[NEW_TARGET] == NEW
    assert mistaken / 2_000 < 0.07


def test_a_shape_is_that_of_keys_and_kinds() -> None:
    """Values, the order of keys and the length of a list are no shape; a key, a kind, a level are."""
    usual = {"order": "a", "amount": 1, "items": [{"id": 1}]}
    same = {"items": [{"id": 9}, {"id": 7}], "amount": 2.5, "order": "b"}
    assert shape_of(usual) == shape_of(same) == 0x1754ABDB
    others: list[Any] = [
        usual | {"note": "x"},
        usual | {"amount": "1"},
        usual | {"amount": True},
        usual | {"items": [1]},
        None,
        [],
    ]
    assert len({shape_of(each) for each in [usual, *others]}) == len(others) + 1


def test_a_shape_is_bounded() -> None:
    """Neither depth nor breadth makes it dear: what lies beyond the bounds does not count."""
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    broad = {f"k{number:06}": number for number in range(1_000)}
    assert shape_of(deep) == shape_of([[[[[[[[1]]]]]]]])
    assert shape_of(broad) == shape_of(broad | {"z": {"y": 1}})


def test_a_target_is_its_value() -> None:
    """One number is one target however it is written; a text is none; surrogates break nothing."""
    assert target_of(1) == target_of(1.0) != target_of("1")
    assert target_of({"a": 1, "b": 2}) == target_of({"b": 2, "a": 1})
    assert target_of(None) is None
    values: list[Any] = ["\ud800", True, "true", [], "[]", 1.5, 10**30]
    assert len({target_of(value) for value in values}) == len(values)


def test_a_baseline_comes_back_from_its_document() -> None:
    """Plain JSON, the same for the same sketches, and it reads back to the last byte."""
    sketches = {"job.b": learned(700), "job.a": learned(400)}
    text = json.dumps(baseline_document(sketches))
    back = read_baseline(json.loads(text))
    assert {topic: sketch.to_bytes() for topic, sketch in back.items()} == {
        topic: sketch.to_bytes() for topic, sketch in sketches.items()
    }
    assert text == json.dumps(baseline_document(dict(reversed(sketches.items()))))
    assert read_baseline(baseline_document({})) == {}


def damaged() -> Iterator[tuple[str, Any]]:
    """Documents that are almost a baseline, each with a part of the message that it deserves."""
    good = baseline_document({"job.a": learned(400)})
    entry = good["topics"]["job.a"]
    yield "no baseline of format", None
    yield "no baseline of format", good | {"baseline_format": 2}
    yield "`baseline_format` and `topics`", good | {"more": 1}
    yield "`baseline_format` and `topics`", good | {"topics": []}
    for message, part in (
        ("`n` and `sketch`", {"n": 400}),
        ("`n` and `sketch`", entry | {"sketch": 3}),
        ("`n` says `401`", entry | {"n": 401}),
        ("baseline of `job.a`", entry | {"sketch": "!" + entry["sketch"][1:]}),
        ("a sketch has", entry | {"sketch": entry["sketch"][:-8]}),
        ("is of format", entry | {"sketch": "AAAA" + entry["sketch"][4:]}),
        ("do not add up", entry | {"sketch": entry["sketch"][:60] + "////" + entry["sketch"][64:]}),
    ):
        yield message, good | {"topics": {"job.a": part}}


@pytest.mark.parametrize(("message", "document"), list(damaged()))
def test_a_damaged_baseline_is_refused(message: str, document: Any) -> None:
    """A baseline comes from outside: what is not whole is said, with its topic, and never asked."""
    with pytest.raises(ValueError, match=message):
        read_baseline(document)


def test_the_workloads_find_what_is_put_in() -> None:
    """Refunds that grow for 70 days: ordinary ones rarely alarm, every foreign shape and jump does, most x10 do."""
    workload = WORKLOADS[0]
    played = play(events_of(workload, 1, injected=True), 1)
    assert 1 <= 1_000 * played.alarms["own"] / played.ordinary["own"] <= 6
    assert played.alarms["cold_start"] == 0
    for kind in ("foreign shape", "users jump"):
        assert played.found[kind] == played.episodes[kind]
