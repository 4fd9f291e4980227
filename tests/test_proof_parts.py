"""Rules of the smallest parts that random bundles do not reach: paths, windows, and the subject made of an intent."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.constraints import problem_of
from sluicegate.policies.load import parse_documents
from sluicegate.policies.paths import MISSING, compile_path, read_path, write_path
from sluicegate.policies.subject import own_share, subject_of
from sluicegate.policies.windows import BEYOND, SUM_MAX, UNITS, add, millionths, sum_of, value_of, window_of

PAYLOAD: dict[str, Any] = {
    "total": 5,
    "nothing": None,
    "order": {"lines": [{"price": 1}, {"price": 2}], "#": "a key", "0": "zero"},
    "empty": [],
    "text": "abc",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("total", 5),
        ("$.total", 5),
        ("nothing", None),
        ("order.lines[0].price", 1),
        ("order.lines[1].price", 2),
        ("order.lines[2].price", MISSING),
        ("order.lines.#", 2),
        ("empty.#", 0),
        ("empty[0]", MISSING),
        ("order.#", MISSING),
        ("text.#", MISSING),
        ("text[0]", MISSING),
        ("order[0]", MISSING),
        ("order.lines.price", MISSING),
        ("order.missing", MISSING),
        ("text.abc", MISSING),
        ("total.x", MISSING),
        ("order.0", "zero"),
    ],
)
def test_a_path_finds_one_value_or_nothing(path: str, value: Any) -> None:
    """Keys of mappings, indexes of lists, the number of a list's entries; all else is missing, and no error."""
    assert read_path(PAYLOAD, compile_path(path)) is value or read_path(PAYLOAD, compile_path(path)) == value


def test_a_window_never_holds_less_than_was_asked_for() -> None:
    """What is at most a window's length old is counted, to the millisecond; what is a slice older is not."""
    chance = random.Random(85)
    for name in ("count_1m", "amount_usd_24h", "amount_usd_7d", "count_1h", "count_7m"):
        window = window_of(name)
        assert window is not None
        for _ in range(40):
            now = 1_767_225_600_000 + chance.randrange(10**9) // window.slice_ms * window.slice_ms
            times = sorted(now - chance.randrange(3 * window.length_ms) for _ in range(8))
            times = sorted([*times, now - window.length_ms])
            slices: dict[int, int] = {}
            for at in times:
                slices = add(slices, window, at, 1)
            held = sum_of(slices, window, now)
            assert held >= sum(now - at <= window.length_ms for at in times)
            assert held <= sum(now - at < window.length_ms + window.slice_ms for at in times)
            kept = add(slices, window, now, 0)
            assert sum_of(kept, window, now) == held
            assert min(kept) >= (now - window.length_ms) // window.slice_ms


@pytest.mark.parametrize(
    ("name", "known"),
    [("count_366d", True), ("count_367d", False), ("count_8784h", True), ("count_8785h", False), ("count", False)],
)
def test_the_longest_window_is_a_year(name: str, known: bool) -> None:
    """A leap year's 366 days are a window, one hour more is none."""
    assert (window_of(name) is not None) is known


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-5, 0),
        (1e-7, 1),
        (10.0005, 10_000_500),
        (1.1, 1_100_000),
        (1e300, SUM_MAX),
        (float("inf"), SUM_MAX),
        (10**300, SUM_MAX),
    ],
)
def test_amounts_add_up_in_whole_millionths(value: float, expected: int) -> None:
    """Rounded up, never negative, and bounded however large the amount is."""
    assert millionths(value) == expected


def _policy() -> CompiledPolicy:
    rules = [{"match": {"amount_usd_24h_above": 10, "count_1h_above": 3, "other_1h_above": 1}, "decision": "deny"}]
    agents = [
        {"id": "new", "owner": "o", "version": "1", "key": {"kind": "hmac"}},
        {"id": "flow", "owner": "o", "version": "1", "key": {"kind": "hmac"}, "class": "workflow"},
        {
            "id": "old",
            "owner": "o",
            "version": "1",
            "key": {"kind": "hmac"},
            "class": "quiet",
            "initial_level": {"level": 2, "reason": "r", "signer": "s"},
        },
    ]
    entries = [
        {"topics": ["pay.*"], "risk_tags": ["b", "a"], "facts": {"amount_usd": "sum"}, "retry": "safe", "pool": "p"},
        {"topics": ["other.*", "*.other"], "facts": {"other": "n"}, "retry": "ask", "target": "who", "pool": "q"},
        {"topics": ["*"], "risk_tags": ["c"], "retry_identity": ["id"], "pool": "r"},
    ]
    levels = {f"level_{level}": {"name": "n", "rules": rules[:1]} for level in (0, 2)}
    documents = {
        "a.yaml": {"rules": rules},
        "agents.yaml": {"agents": agents},
        "actions.yaml": {"actions": entries},
        "bundle.yaml": {"classes": {"quiet": {"confidence": False}, "loud": {}}},
        "levels.yaml": {"autonomy_levels": levels},
    }
    return compile_bundle(parse_documents(documents))


POLICY = _policy()


def _facts(topic: str, payload: Any, **more: Any) -> dict[str, Any]:
    intent: dict[str, Any] = {"agent_id": "new", "risk_tags": [], "confidence": 0.5, **more}
    return dict(subject_of(POLICY, topic=topic, payload=payload, **intent).facts)


FIRST = {"first_time_action": True, "retry_count": 0, "anomaly_score": 0.0, "confidence": 0.5, "count_1h": 1}


@pytest.mark.parametrize(
    ("given", "read", "summed"),
    [
        (20, 20, 20),
        (2.5, 2.5, 2.5),
        (0, 0, 0),
        (-3, -3, 0),
        (10**30, float(SUM_MAX), float(SUM_MAX)),
        (-(10**30), -float(SUM_MAX), 0),
        (None, None, None),
        ("20", None, None),
        ([20], None, None),
        (True, True, None),
    ],
)
def test_a_declared_fact_is_a_number_or_a_truth_or_unknown(given: Any, read: Any, summed: Any) -> None:
    """What is neither is None: declared and unknown; a window over what is unknown is unknown, too."""
    assert _facts("pay.x", {"sum": given}) == {**FIRST, "amount_usd": read, "amount_usd_24h": summed}


def test_facts_are_declared_where_their_topic_says_so() -> None:
    """A topic without the entry has neither the fact nor the window over it; the count is everywhere."""
    assert _facts("rest", {"sum": 20}) == FIRST
    assert _facts("pay.x", {}) == {**FIRST, "amount_usd": None, "amount_usd_24h": None}
    assert _facts("other.x", {"n": 2}) == {**FIRST, "other": 2, "other_1h": 2}


def test_what_is_remembered_and_what_is_given_override_in_this_order() -> None:
    """Computed facts replace those of a first intent; a facts file replaces any, and what it gives feeds windows."""
    computed = {"retry_count": 4, "amount_usd_24h": 90.0}
    assert _facts("pay.x", {"sum": 20}, computed=computed) == {**FIRST, "amount_usd": 20, **computed}
    given = {"amount_usd": 7, "retry_count": None, "extra": 1}
    assert _facts("pay.x", {"sum": 20}, given=given, computed=computed) == {
        **FIRST,
        "amount_usd": 7,
        "amount_usd_24h": 90.0,
        "retry_count": None,
        "extra": 1,
    }
    assert _facts("rest", {}, given={"amount_usd": 7})["amount_usd_24h"] == 7


def test_confidence_is_declared_unless_the_class_has_none() -> None:
    """Workflows have none by themselves, other classes where the bundle says so; an unknown agent has one."""
    assert _facts("rest", {}, confidence=None)["confidence"] is None
    assert _facts("rest", {}, agent_id="nobody")["confidence"] == 0.5
    assert "confidence" not in _facts("rest", {}, agent_id="flow")
    assert "confidence" not in _facts("rest", {}, agent_id="old")
    assert POLICY.has_confidence("loud")
    assert _facts("rest", {}, agent_id="flow", given={"confidence": 0.1})["confidence"] == 0.1


@pytest.mark.parametrize(
    ("agent", "asked", "level", "agent_class"),
    [("new", None, 0, "default"), ("old", None, 2, "quiet"), ("old", 0, 0, "quiet"), ("nobody", None, 0, "default")],
)
def test_the_level_is_the_one_asked_for_or_else_the_agents(
    agent: str, asked: int | None, level: int, agent_class: str
) -> None:
    """Level 0 asked for is level 0; whoever is not enrolled begins at 0, in no class in particular."""
    fields: dict[str, Any] = {"topic": "rest", "risk_tags": [], "payload": {}, "confidence": None}
    subject = subject_of(POLICY, agent_id=agent, level=asked, **fields)
    assert (subject.level, subject.agent_class, POLICY.level(agent)) == (level, agent_class, 2 if agent == "old" else 0)
    assert compile_bundle(parse_documents({"a.yaml": {"rules": RULE}})).level(agent) is None


RULE = [{"match": {"topics": ["*"]}, "decision": "deny"}]


def test_an_action_is_every_fitting_entrys_tags_and_the_first_ones_rest() -> None:
    """Tags add up and an agent's own join them; pool, retry, facts and identity come from the first that says them."""
    pay, other, rest = POLICY.action("pay.other"), POLICY.action("x.other"), POLICY.action("rest")
    assert (pay.risk_tags, pay.pool, pay.retry_safe, sorted(pay.facts)) == (
        ("a", "b", "c"),
        "p",
        True,
        ["amount_usd", "other"],
    )
    assert (other.risk_tags, other.pool, other.retry_safe, other.target) == (("c",), "q", False, ("who",))
    assert (rest.pool, rest.retry_safe, rest.target, rest.retry_identity) == ("r", False, None, (("id",),))
    assert rest.payload_schema is None
    assert POLICY.action("pay.other") is pay
    tags = subject_of(
        POLICY, topic="pay.x", agent_id="new", risk_tags=("z", "a"), payload={}, confidence=None
    ).risk_tags
    assert tags == ("a", "b", "c", "z")
    bare = compile_bundle(parse_documents({"a.yaml": {"rules": RULE}})).action("rest")
    assert (bare.pool, bare.retry_identity, bare.risk_tags) == ("default", (), ())


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_affected_rows", [0, 1, 10**30], [-1, 1.0, True, "1", None, [1]]),
        ("max_runtime_sec", [0, 0.0, 1, 2.5], [-1, -0.5, float("inf"), float("nan"), False, "1", None, [1]]),
        (
            "network_allowlist",
            [[], ["a"], ["a", "b"]],
            ["ab", ("a",), {"a": 1}, [""], [1], ["a", "a"], ["a", None], None, 1],
        ),
        ("read_only", [True, False], [0, 1, "true", None, []]),
        ("max_rows", [], [1]),
    ],
)
def test_a_constraint_is_of_its_type_to_the_letter(name: str, good: list[Any], bad: list[Any]) -> None:
    """Whole numbers from 0, numbers from 0, lists of different texts, truths; what is like one is none."""
    assert [value for value in good if problem_of(name, value) is not None] == []
    assert [value for value in bad if problem_of(name, value) is None] == []


def test_a_share_too_large_for_a_window_fills_it() -> None:
    """From the largest sum on, and for whole numbers that no float holds, a share is the largest sum."""
    assert millionths(SUM_MAX // UNITS) == SUM_MAX
    assert millionths(10**400) == SUM_MAX
    assert millionths(SUM_MAX // UNITS - 1) == (SUM_MAX // UNITS - 1) * UNITS


def test_a_share_that_is_no_finite_number_is_unknown() -> None:
    """What is given as infinity or as no number leaves the window unknown, and unknown never makes it easier."""
    assert [own_share("amount_usd", {"amount_usd": value}) for value in (math.inf, -math.inf, math.nan)] == [None] * 3


def test_a_sum_that_has_stopped_lies_beyond_every_threshold() -> None:
    """What the largest sum stands for is unknown upwards, so it is more than any document can ask for."""
    assert value_of(SUM_MAX) == BEYOND
    assert value_of(SUM_MAX - 1) < BEYOND


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ("order.total", {"order": {"total": 9, "lines": [1, 2]}}),
        ("$.order.lines[1]", {"order": {"total": 5, "lines": [1, 9]}}),
        ("order.lines", {"order": {"total": 5, "lines": 9}}),
        ("order.tip", None),
        ("order.lines[2]", None),
        ("order.total.cents", None),
        ("order.lines.#", None),
    ],
)
def test_a_value_is_written_where_one_stands(path: str, after: Any) -> None:
    """An edit replaces what is there, adds nothing, and never writes a count."""
    payload = {"order": {"total": 5, "lines": [1, 2]}}
    assert write_path(payload, compile_path(path), 9) is (after is not None)
    assert payload == (after or {"order": {"total": 5, "lines": [1, 2]}})
