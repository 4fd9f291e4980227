"""What a person who signs for a bundle reads: complete, bounded, and with every line marked that may permit more."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from sluicegate.policies.difference import LINE_CHARS_MAX, LINES_MAX, WIDER, difference
from sluicegate.policies.load import parse_bundle, parse_documents, read_folder

BUNDLES = Path(__file__).parents[1] / "policies" / "bundles"
ARTICLE = Path(__file__).parent / "corpus" / "article"
FOLDERS = [*sorted(path for path in BUNDLES.iterdir() if path.is_dir()), ARTICLE]


def _lines(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return list(difference(parse_documents(old), parse_documents(new)))


def _rule(identity: str, match: dict[str, Any], decision: str, **more: Any) -> dict[str, Any]:
    return {"id": identity, "match": match, "decision": decision, **more}


SMALL = _rule("small", {"topics": ["job.refund"], "amount_usd_below": 50}, "allow")
RISKY = _rule("risky", {"topics": ["job.*"], "risk_tags": ["prod"]}, "deny")
REST = _rule("rest", {"topics": ["job.*"]}, "require_approval", constraints={"max_amount_usd": 500})


def _rules(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rules": list(rules), **more}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_equal_bundles_differ_in_nothing(folder: Path) -> None:
    """The same documents give no line, however they were read."""
    bundle = parse_bundle(read_folder(folder))
    assert difference(bundle, bundle) == ()
    assert difference(bundle, parse_documents(dict(bundle.documents))) == ()


RULE_EDITS: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]], list[str]]] = [
    (
        "a decision",
        [RISKY],
        [{**RISKY, "decision": "require_approval"}],
        ["wider: layer `a`: rule `risky`: the decision from `deny` to `ask a person`"],
    ),
    (
        "a threshold of what is allowed",
        [SMALL],
        [{**SMALL, "match": {"topics": ["job.refund"], "amount_usd_below": 80}}],
        ["rule `small`: `amount_usd_below` from `50` to `80`, so it fits more, maybe some that the default decided"],
    ),
    (
        "a threshold above which another queue is asked",
        [
            {**RISKY, "decision": "require_approval", "route": "leads"},
            {**RISKY, "match": {"topics": ["*"]}, "id": "later", "decision": "require_approval", "route": "finance"},
        ],
        [
            {**RISKY, "decision": "require_approval", "route": "leads", "match": {"topics": ["job.*"]}},
            {**RISKY, "match": {"topics": ["*"]}, "id": "later", "decision": "require_approval", "route": "finance"},
        ],
        [
            "so it fits more, maybe some that `later`, which has other terms, decided",
        ],
    ),
    (
        "a lower threshold of what is allowed",
        [SMALL],
        [{**SMALL, "match": {"topics": ["job.refund"], "amount_usd_below": 8.5}}],
        ["layer `a`: rule `small`: `amount_usd_below` from `50` to `8.5`, so it fits less"],
    ),
    (
        "a tag of what is denied",
        [RISKY],
        [{**RISKY, "match": {"topics": ["job.*"], "risk_tags": ["prod", "money"]}}],
        ["layer `a`: rule `risky`: `risk_tags` gains `money`, so it fits more"],
    ),
    (
        "a condition of what is denied",
        [RISKY],
        [{**RISKY, "match": {**RISKY["match"], "first_time_action": True}}],
        ["wider: layer `a`: rule `risky`: asks in addition for `first_time_action` `true`, so it fits less"],
    ),
    (
        "a constraint",
        [REST],
        [{**REST, "constraints": {"max_amount_usd": 900, "read_only": True}, "reason": "x"}],
        [
            "wider: layer `a`: rule `rest`: the constraint `max_amount_usd` from `500` to `900`",
            "layer `a`: rule `rest`: the constraint `read_only` is new: `true`",
            "layer `a`: rule `rest`: `reason` is new: `x`",
        ],
    ),
    (
        "what is asked of people",
        [{**REST, "approvals": 2, "on_timeout": "deny", "timeout_sec": 60}],
        [{**REST, "approvals": 1, "on_timeout": "approve", "timeout_sec": 60}],
        [
            "wider: layer `a`: rule `rest`: `approvals` from `2` to `1`",
            "wider: layer `a`: rule `rest`: `on_timeout` from `deny` to `approve`",
        ],
    ),
    (
        "a new rule that denies",
        [REST],
        [RISKY, REST],
        ["layer `a`: new rule `risky`: deny on `job.*` tagged `prod`"],
    ),
    (
        "a new rule that allows",
        [REST],
        [SMALL, REST],
        ["wider: layer `a`: new rule `small`: allow on `job.refund` when `amount_usd` below `50`"],
    ),
    (
        "a rule that goes",
        [SMALL, RISKY, REST],
        [REST],
        [
            "wider: layer `a`: rule `risky` is gone: deny on `job.*` tagged `prod`",
            "layer `a`: rule `small` is gone: allow on `job.refund` when `amount_usd` below `50`",
        ],
    ),
    ("a milder rule moved up", [RISKY, SMALL, REST], [SMALL, RISKY, REST], ["past 1 other"]),
    ("a name", [SMALL], [{**SMALL, "id": "little"}], ["layer `a`: rule `little`: `id` from `small` to `little`"]),
]


@pytest.mark.parametrize(("old", "new", "expected"), [pytest.param(*edit[1:], id=edit[0]) for edit in RULE_EDITS])
def test_an_edit_of_a_rule_reads_as_it_was_made(
    old: list[dict[str, Any]], new: list[dict[str, Any]], expected: list[str]
) -> None:
    """Rules are found again by id, then by what they say; each changed field is a line."""
    lines = _lines({"a.yaml": _rules(*old)}, {"a.yaml": _rules(*new)})
    assert len(lines) == len(expected)
    assert all(line == wanted or line.endswith(wanted) for line, wanted in zip(lines, expected, strict=True)), lines


def test_order_counts_only_against_what_is_passed() -> None:
    """A milder rule that moves before a stricter one may permit more; the other way round nothing does."""
    other = _rule("other", {"topics": ["job.other"]}, "deny")
    mild_up = _lines({"a.yaml": _rules(other, RISKY, SMALL)}, {"a.yaml": _rules(SMALL, other, RISKY)})
    mild_down = _lines({"a.yaml": _rules(SMALL, other, RISKY)}, {"a.yaml": _rules(other, RISKY, SMALL)})
    asks = {**REST, "match": {"topics": ["job.letter"]}}
    strict_up = _lines({"a.yaml": _rules(asks, SMALL, RISKY)}, {"a.yaml": _rules(RISKY, asks, SMALL)})
    strict_down = _lines({"a.yaml": _rules(RISKY, SMALL, asks)}, {"a.yaml": _rules(SMALL, asks, RISKY)})
    assert mild_up == ["wider: layer `a`: rule `small` moved up, past 2 others"]
    assert mild_down == ["layer `a`: rule `small` moved down, past 2 others"]
    assert strict_up == ["layer `a`: rule `risky` moved up, past 2 others"]
    assert strict_down == ["wider: layer `a`: rule `risky` moved down, past 2 others"]


def test_one_stricter_rule_among_those_after_it_marks_a_new_rule() -> None:
    """It is held against each of the rules it may take from."""
    asks = _rule("asks", {"topics": ["job.refund"]}, "require_approval")
    rules = (_rule("x", {"topics": ["job.x"]}, "allow"), RISKY, _rule("y", {"topics": ["job.y"]}, "allow"))
    (line,) = _lines({"a.yaml": _rules(*rules)}, {"a.yaml": _rules(asks, *rules)})
    assert line.startswith(WIDER)
    (line,) = _lines({"a.yaml": _rules(*rules)}, {"a.yaml": _rules(*rules[:2], asks, rules[2])})
    assert not line.startswith(WIDER)


ANN = {"id": "ann", "name": "Ann"}
ASK = {"decision": "require_approval"}
GRANT = {"decision": "allow_with_constraints"}


@pytest.mark.parametrize(
    ("default", "new", "later", "wider"),
    [
        ("allow", {"decision": "allow"}, {"decision": "allow"}, False),
        ("allow", {"decision": "allow"}, GRANT, True),
        ("allow_with_constraints", GRANT, GRANT, False),
        (
            "allow",
            {**GRANT, "constraints": {"max_runtime_sec": 5}},
            {**GRANT, "constraints": {"max_runtime_sec": 5}},
            False,
        ),
        (
            "allow",
            {**GRANT, "constraints": {"max_runtime_sec": 6}},
            {**GRANT, "constraints": {"max_runtime_sec": 5}},
            True,
        ),
        (
            "allow",
            {**GRANT, "constraints": {"read_only": True}},
            {**GRANT, "constraints": {"max_runtime_sec": 5}},
            True,
        ),
        ("allow", {**GRANT, "constraints": {"max_runtime_sec": 20}}, GRANT, True),
        ("require_approval", ASK, ASK, False),
        ("require_approval", GRANT, GRANT, True),
        ("deny", ASK, ASK, True),
        ("deny", {"decision": "deny"}, ASK, False),
        ("allow", ASK, {"decision": "deny"}, True),
        ("allow", ASK, {**ASK, "constraints": {"max_runtime_sec": 5}}, True),
        ("allow", ASK, {**ASK, "approvals": 2}, True),
        ("allow", {**ASK, "approvals": 2}, {**ASK, "approvals": 2}, False),
        ("require_approval", {**ASK, "route": "desk"}, ASK, False),
        ("require_approval", {**ASK, "route": "desk"}, {**ASK, "route": "desk"}, False),
        ("require_approval", ASK, {**ASK, "route": "desk"}, True),
        ("require_approval", {**ASK, "tier": "high"}, {**ASK, "tier": "low"}, False),
        ("require_approval", {**ASK, "tier": "low"}, {**ASK, "tier": "high"}, True),
        ("require_approval", {**ASK, "editable": ["a"]}, ASK, True),
        ("require_approval", {**ASK, "editable": ["a"]}, {**ASK, "editable": ["a", "b"]}, True),
        ("require_approval", {**ASK, "on_timeout": "approve", "timeout_sec": 9}, ASK, True),
        ("require_approval", {**ASK, "on_timeout": "deny", "timeout_sec": 9}, ASK, False),
    ],
)
def test_a_new_rule_is_harmless_only_where_it_is_as_strict_as_all_it_takes_from(
    default: str, new: dict[str, Any], later: dict[str, Any], wider: bool
) -> None:
    """It takes from the default and from the rules after it; before those that stand first nothing changes."""
    bundle = {"default": default, "default_constraints": {"max_runtime_sec": 10}}
    people = {"people": [ANN, {"id": "bob", "name": "Bob"}], "queues": {"desk": {"members": ["ann", "bob"]}}}
    first = {"match": {"topics": ["job.first"]}, "decision": "deny"}
    added = {"id": "new", "match": {"topics": ["job.a"]}, **new}
    last = {"match": {"topics": ["job.*"]}, **later}
    rest = {"bundle.yaml": bundle, "reviewers.yaml": people}
    (line,) = _lines({**rest, "a.yaml": _rules(first, last)}, {**rest, "a.yaml": _rules(first, added, last)})
    assert line.startswith(WIDER) is wider


AGENT = {"id": "bot", "owner": "ann", "version": "1", "key": {"kind": "hmac"}}
ENTRY = {"topics": ["job.refund"], "risk_tags": ["money"], "facts": {"size": "a.size"}}
BASE: dict[str, Any] = {
    "a.yaml": _rules(SMALL, RISKY, REST),
    "bundle.yaml": {"default": "deny", "sign_off": {"people": 2}, "default_constraints": {"max_runtime_sec": 9}},
    "actions.yaml": {"actions": [ENTRY, {"topics": ["job.*"], "pool": "slow"}]},
    "agents.yaml": {"agents": [AGENT]},
    "reviewers.yaml": {
        "people": [ANN, {"id": "bob", "name": "Bob"}, {"id": "eve", "name": "Eve"}],
        "queues": {"desk": {"members": ["ann"]}},
    },
    "audit.yaml": {"audit": {"sampling": {"rate": 0.1, "strategy": "uniform"}}},
    "levels.yaml": {
        "autonomy_levels": {"level_0": {"name": "new", "rules": [{**REST}]}},
        "demotion_triggers": ["policy_violation"],
    },
    "contract.yaml": {"approval_queue_policy": {}, "evidence_contract": {"required_fields": ["job_hash", "ts"]}},
}
EDITS: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("bundle.yaml", "default"), "allow", "wider: where no rule speaks, the default is to allow; it was to deny"),
    (("bundle.yaml", "mode"), "observe", "wider: the whole bundle is only observed from now on, it was enforced"),
    (("a.yaml", "mode"), "observe", "wider: layer `a` is only observed from now on, it was enforced"),
    (("levels.yaml", "mode"), "observe", "wider: layer `autonomy` is only observed from now on, it was enforced"),
    (("bundle.yaml", "sign_off", "people"), 1, "wider: bundle: `sign_off.people` from `2` to `1`"),
    (("bundle.yaml", "sign_off", "people"), 3, "bundle: `sign_off.people` from `2` to `3`"),
    (("bundle.yaml", "sign_off"), None, "wider: `sign_off`: a change no longer needs one; it was `people` `2`"),
    (
        ("bundle.yaml", "default_constraints", "max_runtime_sec"),
        30,
        "wider: `default_constraints`: the constraint `max_runtime_sec` from `9` to `30`",
    ),
    (("bundle.yaml", "version"), "v7", "bundle: `version` is new: `v7`"),
    (("actions.yaml", "actions", 0, "risk_tags"), ["gold"], "wider: action `job.refund`: `risk_tags` gains `gold` and"),
    (
        ("actions.yaml", "actions", 0, "facts", "size"),
        "b.size",
        "wider: action `job.refund`: the fact `size` is read from `b.size`, no longer `a.size`",
    ),
    (("actions.yaml", "actions", 0, "retry"), "safe", "wider: action `job.refund`: `retry`: when its worker vanished"),
    (("actions.yaml", "actions", 1, "pool"), "fast", "wider: action `job.*`: `pool` from `slow` to `fast`"),
    (("agents.yaml", "agents", 0, "owner"), "bob", "wider: agent `bot`: `owner` from `ann` to `bob`"),
    (("agents.yaml", "agents", 0, "version"), "2", "agent `bot`: `version` from `1` to `2`"),
    (("agents.yaml", "agents"), [], "agent `bot` is gone"),
    (
        ("agents.yaml", "agents", 0, "initial_level"),
        {"level": 0, "reason": "x", "signer": "ann"},
        "wider: agent `bot`: `initial_level` is new",
    ),
    (("reviewers.yaml", "people", 0, "roles"), ["approver"], "wider: person `ann`: `roles` is new"),
    (("reviewers.yaml", "queues", "desk", "members"), ["ann", "bob"], "wider: queue `desk`: `members` gains `bob`"),
    (("reviewers.yaml", "queues", "desk", "members"), [], "queue `desk`: `members` loses `ann`"),
    (("audit.yaml", "audit", "sampling", "rate"), 0.05, "wider: audit: `audit.sampling.rate` from `0.1` to `0.05`"),
    (("audit.yaml", "audit", "sampling", "rate"), 0.5, "audit: `audit.sampling.rate` from `0.1` to `0.5`"),
    (("levels.yaml", "demotion_triggers"), [], "wider: autonomy: `demotion_triggers` loses `policy_violation`"),
    (
        ("levels.yaml", "autonomy_levels", "level_0", "rules", 0, "decision"),
        "deny",
        "level `level_0`: rule `rest`: the decision from `ask a person` to `deny`",
    ),
    (
        ("contract.yaml", "evidence_contract", "required_fields"),
        ["ts"],
        "wider: contract: `evidence_contract.required_fields` loses `job_hash`",
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), EDITS, ids=[".".join(map(str, edit[0])) for edit in EDITS])
def test_an_edit_of_any_document_is_one_line_in_words(path: tuple[str | int, ...], value: Any, expected: str) -> None:
    """What may permit more is marked, and its opposite is not."""
    edited = copy.deepcopy(BASE)
    here: Any = edited
    for step in path[:-1]:
        here = here[step]
    if value is None:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    (line,) = _lines(BASE, edited)
    assert line.startswith(expected)


def test_documents_that_come_and_go_are_said() -> None:
    """A layer comes with its rules, and one that is only observed permits nothing."""
    added = {**BASE, "b.yaml": _rules(_rule("x", {"topics": ["job.x"]}, "allow"))}
    lines = _lines(BASE, added)
    assert lines == [
        "wider: layer `b` is new: 1 rule, enforced",
        "wider: layer `b`: new rule `x`: allow on `job.x`",
        "the document `b.yaml` is new",
    ]
    observed = {**BASE, "b.yaml": _rules(_rule("x", {"topics": ["job.x"]}, "allow"), mode="observe")}
    assert not any(line.startswith(WIDER) for line in _lines(BASE, observed))
    assert _lines(observed, added) == ["wider: layer `b` is enforced from now on, it was only observed"]
    renamed = {("c.yml" if name == "audit.yaml" else name): document for name, document in BASE.items()}
    assert _lines(BASE, renamed) == ["the document `audit.yaml` is now called `c.yml`"]


FREE: Any = {"match": {"topics": ["*"]}, "decision": "allow"}


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_an_undefined_level_counts_as_a_rule_when_the_autonomy_layer_goes(default: str) -> None:
    """What no level says anything of waits for a person; without the layer it no longer does."""
    levels = {"autonomy_levels": {"level_3": {"name": "free", "rules": [FREE]}}}
    before = {"bundle.yaml": {"default": default}, "levels.yaml": levels}
    observed = {**before, "levels.yaml": {**levels, "mode": "observe"}}
    assert _lines(before, observed) == ["wider: layer `autonomy` is only observed from now on, it was enforced"]
    assert _lines(before, {"bundle.yaml": before["bundle.yaml"]})[0].startswith("wider: layer `autonomy` is gone")


def test_lines_are_bounded_and_the_wider_ones_come_first() -> None:
    """However much changes, a person reads a few lines, and no widening hides behind a hundred harmless ones."""
    topics = [f"job.{'x' * 200}.{number}" for number in range(300)]
    many = [_rule(f"r{number}", {"topics": [topic]}, "deny", reason="y" * 2_000) for number, topic in enumerate(topics)]
    lines = _lines({"a.yaml": _rules(REST)}, {"a.yaml": _rules(*many, SMALL, REST)})
    assert lines[0].startswith("wider: layer `a`: new rule `small`")
    assert sum(line.startswith(WIDER) for line in lines) == 1
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "and 101 more changes"
    assert max(map(len, lines)) <= LINE_CHARS_MAX


def test_text_in_a_document_cannot_write_lines_of_its_own() -> None:
    """Line ends and signs that turn the reading direction are spelled out."""
    trick = {**REST, "reason": "fine\nwider: no\u202e\x1b[2J"}
    (line,) = _lines({"a.yaml": _rules(REST)}, {"a.yaml": _rules(trick)})
    assert line.isprintable()
    assert not line.startswith(WIDER)


def test_texts_that_differ_far_behind_are_told_apart() -> None:
    """A change past what is shown is shown all the same."""
    olds, news = ({**REST, "reason": "x" * 500 + end} for end in ("old end", "new end"))
    (line,) = _lines({"a.yaml": _rules(olds)}, {"a.yaml": _rules(news)})
    assert "old end" in line
    assert "new end" in line
