"""`policy explain` through the command line, sentence by sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from policy_place import AGENTS, BROKEN, FENCE, INTENT, WARNED, Place, made

from sluicegate.cli.main import run
from sluicegate.schemas.payload import framed

AUTONOMY = """autonomy_levels:
  level_0: { name: watched, rules: [ { match: { topics: ["*"] }, decision: require_approval, reason: new here } ] }
  level_1: { name: seen, rules: [ { match: { topics: ["*"] }, decision: require_approval } ] }
  level_2: { name: free, rules: [ { match: { topics: ["pay.*"] }, decision: allow } ] }
"""


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    return made(tmp_path, capsys, monkeypatch)


def test_explain_answers_with_what_is_promised(place: Place) -> None:
    """Decision in capitals, determining rules, constraints, missing, errors, snapshot, job hash."""
    payload: Any = {"order": {"total": 250.0, "who": "é"}}
    answer, err = place.explain({**INTENT, "payload": payload, "risk_tags": ["b", "a"], "confidence": 0.9})
    assert err == ""
    assert answer["decision"] == "REQUIRE_APPROVAL"
    assert answer["rules"] == [{"layer": "money", "id": "large", "reason": "much money"}]
    assert answer["constraints"] == {"max_runtime_sec": 60, "read_only": True}
    assert answer["missing"] == []
    assert answer["errors"] == []
    assert answer["policy_snapshot"] == place.json("check", "p")[0]["snapshot"]
    tags = framed(b"b", b"a")
    hashed = framed(b"sluicegate.job.v1", rfc8785.dumps(payload), b"pay.bill", b"payer", tags, b"")
    assert answer["job_hash"] == hashlib.sha256(hashed).hexdigest()


def test_the_job_hash_is_over_the_canonical_payload(place: Place) -> None:
    """A byte order mark, spaces, the order of keys and the form of a number change nothing."""
    answer, _ = place.explain({**INTENT, "payload": {"b": 1, "a": [2]}})
    text = "\ufefftopic: pay.bill\nagent_id: payer\njob_id: j-1\npayload: { a: [2.0], b: 1.0 }\n"
    assert place.explain(text)[0]["job_hash"] == answer["job_hash"]
    assert len(answer["job_hash"]) == 64
    assert place.explain({**INTENT, "payload": {"b": 1, "a": [3]}})[0]["job_hash"] != answer["job_hash"]


def test_a_rule_without_id_and_reason_has_its_place_and_null(place: Place) -> None:
    """`id` else `<layer>/<index from 0>`; `reason` or null."""
    answer, _ = place.explain({**INTENT, "confidence": 0.4, "payload": {"order": {"total": 1}}})
    assert answer["rules"] == [{"layer": "money", "id": "money/1", "reason": None}]


def test_the_default_is_a_rule_of_its_own(place: Place) -> None:
    """Layer and id `default`, reason null."""
    answer, _ = place.explain({**INTENT, "topic": "unheard.of"})
    assert answer["decision"] == "REQUIRE_APPROVAL"
    assert answer["rules"] == [{"layer": "default", "id": "default", "reason": None}]


def test_constraints_are_merged_over_every_matching_rule_of_every_layer(place: Place) -> None:
    """Also of layers whose rule is milder than the decision."""
    place.write("p/fence.yaml", FENCE)
    answer, _ = place.explain({**INTENT, "payload": {"order": {"total": 250}}, "confidence": 0.9})
    assert [(rule["layer"], rule["id"]) for rule in answer["rules"]] == [("money", "large")]
    assert answer["constraints"] == {"max_runtime_sec": 30, "read_only": True}


def test_a_denial_has_no_constraints_and_exit_0(place: Place) -> None:
    """Exit 0 whatever was decided; {} for DENY."""
    place.write("p/fence.yaml", FENCE.replace("pay.*", "drop.*"))
    answer, _ = place.explain({**INTENT, "topic": "drop.all"})
    assert answer["decision"] == "DENY"
    assert answer["rules"] == [{"layer": "money", "id": "never", "reason": "lost for ever"}]
    assert answer["constraints"] == {}


def test_missing_are_the_absent_facts_that_left_a_rule_open(place: Place) -> None:
    """Sorted; the open rule counts where it is stricter."""
    answer, _ = place.explain(INTENT)
    assert answer["decision"] == "REQUIRE_APPROVAL"
    assert answer["missing"] == ["amount_usd", "confidence"]
    assert [rule["id"] for rule in answer["rules"]] == ["large", "money/1"]


def test_a_facts_file_stands_over_the_intent(place: Place) -> None:
    """Name to number or boolean, null is absent; every name counts as declared."""
    intent = {**INTENT, "payload": {"order": {"total": 250}}, "confidence": 0.9}
    facts = place.write("facts.yaml", "amount_usd: 99.5\n")
    assert place.explain(intent, "--facts", facts)[0]["decision"] == "ALLOW"
    facts = place.write("facts.json", '{"amount_usd": null}')
    assert place.explain(intent, "--facts", facts)[0]["missing"] == ["amount_usd"]
    place.write("p/actions.yaml", "actions: []\n")
    assert place.explain(intent)[0]["decision"] == "ALLOW"
    facts = place.write("facts.json", '{"amount_usd": 250}')
    assert place.explain(intent, "--facts", facts)[0]["decision"] == "REQUIRE_APPROVAL"


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ("first_time_action: true", True),
        ("first_time_action: false", False),
        ("retry_count_below: 1", True),
        ("retry_count_above: 0", False),
        ("anomaly_score_below: 0.001", True),
        ("anomaly_score_above: 0", False),
        ("amount_usd_24h_above: 249.99", True),
        ("amount_usd_24h_above: 250", False),
        ("count_1h_above: 0", True),
        ("count_1h_above: 1", False),
    ],
)
def test_computed_facts_are_those_of_a_first_intent(place: Place, test: str, holds: bool) -> None:
    """First time, no retry, no anomaly; windows hold this intent alone."""
    place.write("p/money.yaml", f'rules:\n  - {{ match: {{ topics: ["pay.*"], {test} }}, decision: deny }}\n')
    answer, _ = place.explain({**INTENT, "payload": {"order": {"total": 250}}})
    assert answer["decision"] == ("DENY" if holds else "REQUIRE_APPROVAL")
    assert answer["missing"] == []


def test_a_computed_fact_may_be_given(place: Place) -> None:
    """Then it is what the file says, and a window over a given fact holds that fact."""
    place.write("p/money.yaml", 'rules:\n  - { match: { topics: ["pay.*"], count_1h_above: 5 }, decision: deny }\n')
    facts = place.write("f.yaml", "count_1h: 6\n")
    assert place.explain(INTENT, "--facts", facts)[0]["decision"] == "DENY"
    place.write(
        "p/money.yaml", 'rules:\n  - { match: { topics: ["pay.*"], amount_usd_24h_above: 5 }, decision: deny }\n'
    )
    facts = place.write("f.yaml", "amount_usd: 6\n")
    assert place.explain(INTENT, "--facts", facts)[0]["decision"] == "DENY"


def test_the_level_is_the_agents_own_unless_given(place: Place) -> None:
    """Without --level the one of agents.yaml, else 0."""
    place.write("p/grow.yaml", AUTONOMY)
    small = {**INTENT, "payload": {"order": {"total": 1}}, "confidence": 1}
    answer, _ = place.explain(small)
    assert (answer["level"], answer["decision"]) == (0, "REQUIRE_APPROVAL")
    assert answer["rules"] == [{"layer": "autonomy", "id": "level_0/0", "reason": "new here"}]
    answer, _ = place.explain(small, "--level", "2")
    assert (answer["level"], answer["decision"]) == (2, "ALLOW")
    assert [rule["id"] for rule in answer["rules"]] == ["level_2/0", "small"]
    initial = "initial_level: { level: 2, reason: long proven, signer: ken }"
    place.write("p/agents.yaml", AGENTS.replace("kind: hmac }", f"kind: hmac }}, {initial}"))
    assert place.explain(small)[0]["decision"] == "ALLOW"


def test_a_level_that_does_not_exist_is_unusable(place: Place) -> None:
    """Exit 2, naming the levels there are."""
    place.write("p/grow.yaml", AUTONOMY)
    _, err = place.explain(INTENT, "--level", "3", code=2)
    assert err == "error: there is no level `3`; the autonomy document defines 0, 1, 2\n"


def test_a_level_without_an_autonomy_document_is_noted(place: Place) -> None:
    """It changes nothing, and stdout stays the one object."""
    answer, err = place.explain(INTENT, "--level", "1")
    assert "a level changes nothing" in err
    assert answer["rules"] == place.explain(INTENT)[0]["rules"]


def test_an_agent_that_is_not_listed_is_explained_and_noted(place: Place) -> None:
    """Online it would be refused; stderr says so."""
    answer, err = place.explain({**INTENT, "agent_id": "stranger"})
    assert answer["agent_class"] == "default"
    assert "agent `stranger` does not stand in agents.yaml" in err


def test_tags_of_the_topic_are_judged_too(place: Place) -> None:
    """An agent adds to them and takes none away."""
    place.write("p/money.yaml", "rules:\n  - { match: { risk_tags_all: [money, mine] }, decision: deny }\n")
    assert place.explain({**INTENT, "risk_tags": ["mine"]})[0]["decision"] == "DENY"
    assert place.explain(INTENT)[0]["decision"] == "REQUIRE_APPROVAL"


def test_policies_may_be_repeated(place: Place) -> None:
    """Files and folders together are one bundle."""
    fence = place.write("elsewhere/fence.yaml", FENCE)
    answer, _ = place.explain({**INTENT, "payload": {"order": {"total": 1}}, "confidence": 1}, "--policies", fence)
    assert answer["decision"] == "ALLOW_WITH_CONSTRAINTS"
    assert answer["policy_snapshot"] == place.json("check", "p", fence)[0]["snapshot"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job_id: j\nagent_id: a\ntopic: t\nconfidense: 1\n", ":4:1: error: unknown key `confidense`; did you mean"),
        ("job_id: j\nagent_id: a\ntopic: t\nconfidence: 2\n", ":4:13: error: `2` is out of range"),
        ("job_id: j\nagent_id: a\ntopic: ''\n", ":3:8: error: an empty text names nothing"),
        ("job_id: j\nagent_id: a\ntopic: [t]\n", ":3:8: error: expected text"),
        ("job_id: j\nagent_id: a\ntopic: no\n", ":3:8: error: `no` is read as false"),
        ("- 1\n", ":1:1: error: a document is a mapping of keys"),
    ],
)
def test_an_intent_that_cannot_be_used_is_told_with_its_place(place: Place, text: str, said: str) -> None:
    """Exit 2, file, line and column on stderr."""
    answer, err = place.explain(text, code=2)
    assert f"intent.yaml{said}" in err
    assert answer["faults"][0]["severity"] == "error"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--facts", "bad.yaml"), "bad.yaml:1:9: error: the fact `amount` is neither"),
        (("--facts", "nowhere.yaml"), "cannot read `nowhere.yaml`: no such file or directory"),
        (("--facts", "latin.yaml"), "`latin.yaml` is not UTF-8"),
    ],
)
def test_facts_that_cannot_be_used_are_told(place: Place, words: tuple[str, ...], said: str) -> None:
    """Exit 2, as with the intent."""
    place.write("bad.yaml", "amount: much\n")
    (place.root / "latin.yaml").write_bytes("größe: 1\n".encode("latin-1"))
    _, err = place.explain(INTENT, *words, code=2)
    assert said in err


@pytest.mark.parametrize(
    "words", [("explain", "--intent", "i"), ("explain", "--policies", "p"), ("test",), ("diff", "p")]
)
def test_a_command_line_without_what_it_needs_is_unusable(place: Place, words: tuple[str, ...]) -> None:
    """Exit 2."""
    assert run(["policy", *words]) == 2
    assert place.capsys.readouterr().out == ""


def test_broken_policies_explain_nothing(place: Place) -> None:
    """Faults on stderr and in the object, exit 1."""
    place.write("p/broken.yaml", BROKEN)
    answer, err = place.explain(INTENT, code=1)
    assert answer["ok"] is False
    assert [fault["file"] for fault in answer["faults"]] == ["broken.yaml"]
    assert "broken.yaml:2:41: error: `denied` is not known here; did you mean `deny`?" in err


def test_warnings_of_policies_go_to_stderr(place: Place) -> None:
    """They stop nothing."""
    place.write("p/warned.yaml", WARNED)
    _, err = place.explain(INTENT)
    assert "warned.yaml:2:" in err
    assert "warning" in err


def test_explain_tells_a_person_why(place: Place) -> None:
    """Decision, reason, rule, ceiling, facts, and each rule with its comparison; nothing can steer the terminal."""
    intent = place.write("i.json", {**INTENT, "topic": "pay.\u202e", "payload": {"order": {"total": 50}}})
    assert run(["policy", "explain", "--policies", "p", "--intent", intent]) == 0
    out = place.capsys.readouterr().out
    assert out.startswith("REQUIRE_APPROVAL: rule money/1\n  by money/money/1 of v1:")
    assert "missing facts: confidence" in out
    assert "amount_usd 50 (payload)" in out
    assert "failed  large (REQUIRE_APPROVAL): amount_usd 50 is not above 100" in out
    assert "open    money/1 (REQUIRE_APPROVAL): confidence is absent; counts, since it is stricter" in out
    assert "matched small (ALLOW): topic `pay.\\u202e` fits `pay.*`" in out
    assert "\u202e" not in out
