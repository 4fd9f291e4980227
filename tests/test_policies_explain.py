"""An explanation: the judgement, what it rests on, and the words for each rule."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import RANKS, Judgement, Subject
from sluicegate.policies.explain import Explanation, LayerSteps, explain, notes_on
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.intents import IntentDocument, read_facts, read_intent
from sluicegate.policies.load import parse_bundle, read_folder
from sluicegate.schemas.records import DecisionWord

CORPUS = Path(__file__).parent / "corpus"
TRIALS = 400
"""Random intents per bundle."""

LAYER = """
rules:
  - { id: shaky, match: { topics: ["pay.*"], confidence_below: 0.7 }, decision: require_approval, reason: unsure }
  - { id: fresh, match: { first_time_action: false }, decision: deny }
  - id: fence
    match: { topics: ["pay.*"], amount_usd_above: 10 }
    decision: allow_with_constraints
    constraints: { read_only: true }
  - { id: tagged, match: { risk_tags: [red, blue] }, decision: deny }
  - { id: both, match: { risk_tags_all: [hot, wet] }, decision: deny }
  - { id: pass, match: { topics: ["pay.*"] }, decision: allow }
  - { match: { topics: ["*"] }, decision: deny }
"""


def _explained(
    files: dict[str, str], given: dict[str, Any] | None = None, level: int | None = None, **intent: Any
) -> Explanation:
    bundle = parse_bundle(files)
    asked = IntentDocument(**{"job_id": "j", "agent_id": "a", "topic": "pay.bill", **intent})
    return explain(bundle, compile_bundle(bundle), asked, given or {}, level)


def _steps(said: Explanation, layer: str) -> dict[str, tuple[str, str]]:
    found = next(each for each in said.steps if each.layer == layer)
    return {step.id: (step.outcome, step.why) for step in found.rules}


def test_each_rule_says_at_which_comparison_it_failed_or_why_it_is_open() -> None:
    """A failed rule names the first thing that is not as it wants it; an open one every fact that is absent."""
    said = _explained({"a.yaml": LAYER}, {"amount_usd": None}, confidence=0.9, risk_tags=["hot"])
    assert _steps(said, "a") == {
        "shaky": ("failed", "confidence 0.9 is not below 0.7"),
        "fresh": ("failed", "first_time_action is true, not false"),
        "fence": ("open", "amount_usd is absent"),
        "tagged": ("failed", "none of the tags `red`, `blue` is there; there are `hot`"),
        "both": ("failed", "the tag `wet` is not there; there are `hot`"),
        "pass": ("matched", "topic `pay.bill` fits `pay.*`"),
    }
    assert said.steps[0].unasked == 1
    assert said.decision == "ALLOW_WITH_CONSTRAINTS"
    assert said.constraints == {"read_only": True}
    assert said.missing == ("amount_usd",)


def test_a_fact_that_is_not_declared_is_said_to_be_so() -> None:
    """Not declared and absent are two things: the first never matches, the second leaves a rule open."""
    said = _explained({"a.yaml": LAYER}, confidence=0.9)
    assert _steps(said, "a")["fence"] == ("failed", "the fact amount_usd is not declared for this topic")


def test_an_unreadable_fact_says_what_stands_there() -> None:
    """A truth where a number is compared leaves the rule open, in words."""
    said = _explained({"a.yaml": LAYER}, {"amount_usd": True, "first_time_action": 1}, confidence=0.9)
    assert _steps(said, "a")["fence"] == ("open", "amount_usd is true, which is no number")
    assert _steps(said, "a")["fresh"] == ("open", "first_time_action is 1, which is neither true nor false")


def test_what_an_open_rule_does_is_said() -> None:
    """Stricter than the sure match it counts, a milder one adds its constraints or counts for nothing."""
    said = _explained({"a.yaml": LAYER}, {"amount_usd": None, "first_time_action": None})
    effects = {step.id: step.effect for step in said.steps[0].rules if step.outcome == "open"}
    assert effects == {
        "shaky": "counts, since it is stricter than what surely matches",
        "fresh": "counts, since it is stricter than what surely matches",
        "fence": "adds its constraints",
    }
    assert said.decision == "DENY"
    assert said.constraints == {}


@pytest.mark.parametrize(
    ("opened", "sure", "effect"),
    [
        ("deny", "require_approval", "counts, since it is stricter than what surely matches"),
        ("require_approval", "require_approval", "adds its constraints"),
        ("require_approval", "deny", "counts for nothing"),
        ("allow_with_constraints", "deny", "adds its constraints"),
        ("allow", "require_approval", "counts for nothing"),
    ],
)
def test_an_open_rule_counts_by_its_strictness(opened: str, sure: str, effect: str) -> None:
    """Against the sure match of its own layer."""
    rules = f"""rules:
  - {{ id: maybe, match: {{ confidence_above: 0.5 }}, decision: {opened} }}
  - {{ id: surely, match: {{ topics: ["*"] }}, decision: {sure} }}
"""
    said = _explained({"a.yaml": rules})
    assert [(step.outcome, step.effect) for step in said.steps[0].rules] == [("open", effect), ("matched", None)]


def test_thresholds_are_strict_in_words_too() -> None:
    """A value at the threshold is neither above nor below it."""
    below = _explained({"a.yaml": LAYER}, {"amount_usd": 10}, confidence=0.7)
    assert _steps(below, "a")["shaky"] == ("failed", "confidence 0.7 is not below 0.7")
    assert _steps(below, "a")["fence"] == ("failed", "amount_usd 10 is not above 10")


def test_layers_are_shown_by_name() -> None:
    """The agent's level among them."""
    said = _explained({"z.yaml": LAYER, "grow.yaml": AUTONOMY, "a.yaml": LAYER})
    assert [layer.layer for layer in said.steps] == ["a", "autonomy", "z"]


def test_the_default_stands_as_a_rule_without_a_reason() -> None:
    """Where every layer abstains the default decides as layer and id `default`; nobody wrote a reason for it."""
    rules = 'rules:\n  - { match: { topics: ["other"] }, decision: deny }\n'
    said = _explained({"a.yaml": rules})
    assert [(rule.layer, rule.id, rule.reason) for rule in said.rules] == [("default", "default", None)]
    assert said.decision == "REQUIRE_APPROVAL"


def test_a_rule_without_a_reason_has_none_and_without_an_id_its_place() -> None:
    """`reason` is what the author wrote, or null; `id` is `<layer>/<index>` where none was given."""
    said = _explained({"a.yaml": LAYER}, topic="x")
    assert [(rule.layer, rule.id, rule.reason) for rule in said.rules] == [("a", "a/6", None)]


def test_rules_stand_in_the_order_of_their_layers() -> None:
    """All rules whose decision is the final one, by layer name; those of milder layers are not among them."""
    deny = 'rules:\n  - { id: never, match: { topics: ["*"] }, decision: deny, reason: because }\n'
    allow = 'rules:\n  - { id: fine, match: { topics: ["*"] }, decision: allow }\n'
    said = _explained({"z.yaml": deny, "b.yaml": deny, "m.yaml": allow})
    assert [(rule.layer, rule.id, rule.reason) for rule in said.rules] == [
        ("b", "never", "because"),
        ("z", "never", "because"),
    ]


def test_facts_say_where_they_come_from() -> None:
    """From the facts file, claimed by the agent, read from the payload, or computed as for a first intent."""
    actions = "actions:\n  - { topics: [pay.*], facts: { amount_usd: total, users: who.# } }\n"
    match = '{ topics: ["x"], amount_usd_24h_above: 3, count_1h_above: 5, users_above: 1 }'
    rules = f"rules:\n  - {{ match: {match}, decision: deny }}\n"
    payload = {"total": 50, "who": ["a", "b"]}
    said = _explained({"actions.yaml": actions, "a.yaml": rules}, {"users": 9}, payload=payload, confidence=0.5)
    assert {fact.name: (fact.value, fact.source) for fact in said.facts} == {
        "amount_usd": (50, "payload"),
        "users": (9, "given"),
        "confidence": (0.5, "claimed"),
        "first_time_action": (True, "computed"),
        "retry_count": (0, "computed"),
        "anomaly_score": (0, "computed"),
        "amount_usd_24h": (50, "computed"),
        "count_1h": (1, "computed"),
    }


def test_tags_of_the_topic_are_added() -> None:
    """What is judged are the tags of actions.yaml and the intent's own."""
    actions = "actions:\n  - { topics: [pay.*], risk_tags: [red] }\n"
    said = _explained({"actions.yaml": actions, "a.yaml": LAYER}, risk_tags=["hot"], topic="pay.x", confidence=1.0)
    assert said.risk_tags == ("hot", "red")
    assert said.decision == "DENY"
    assert said.rules[0].id == "tagged"


AUTONOMY = """
autonomy_levels:
  level_0: { name: watched, rules: [ { match: { topics: ["*"] }, decision: require_approval, reason: new here } ] }
  level_2: { name: free, rules: [ { match: { topics: ["pay.*"] }, decision: allow } ] }
"""
AGENTS = """
agents:
  - id: a
    owner: ken
    version: "1"
    key: { kind: hmac }
    initial_level: { level: 2, reason: long proven, signer: ken }
"""


@pytest.mark.parametrize(
    ("agent_id", "level", "expected"),
    [("a", None, 2), ("b", None, 0), ("a", 0, 0), ("b", 2, 2)],
)
def test_the_level_is_given_or_the_agents_own_or_0(agent_id: str, level: int | None, expected: int) -> None:
    """`--level` first, then what agents.yaml says, then 0; the level's rules are the layer `autonomy`."""
    said = _explained({"grow.yaml": AUTONOMY, "agents.yaml": AGENTS}, None, level, agent_id=agent_id)
    assert said.level == expected
    assert [(rule.layer, rule.id) for rule in said.rules] == [("autonomy", f"level_{expected}/0")]
    assert said.decision == {0: "REQUIRE_APPROVAL", 2: "ALLOW"}[expected]
    assert [layer.layer for layer in said.steps] == ["autonomy"]


def test_what_is_only_observed_is_told_beside_what_acts() -> None:
    """In observe the decision is what acts; `observed` is what would have been decided."""
    said = _explained({"bundle.yaml": "mode: observe\n", "a.yaml": LAYER}, confidence=0.1)
    assert said.decision == "ALLOW"
    assert [(rule.layer, rule.id) for rule in said.rules] == [("mode", "observe")]
    assert said.observed is not None
    assert said.observed.decision == "REQUIRE_APPROVAL"
    assert [(rule.layer, rule.id, rule.reason) for rule in said.observed.rules] == [("a", "shaky", "unsure")]
    assert _explained({"a.yaml": LAYER}, confidence=0.1).observed is None


def test_an_observed_layer_says_so_in_its_steps() -> None:
    """Its steps stand like those of any layer; only its mode tells that it does not act."""
    said = _explained({"a.yaml": "mode: observe\n" + LAYER, "b.yaml": LAYER.replace("0.7", "0.05")}, confidence=0.1)
    assert [(layer.layer, layer.mode, layer.decision) for layer in said.steps] == [
        ("a", "observe", "REQUIRE_APPROVAL"),
        ("b", "enforce", "ALLOW"),
    ]
    assert said.decision == "ALLOW"
    assert said.observed is not None
    assert said.observed.decision == "REQUIRE_APPROVAL"


def _notes(files: dict[str, str], given: dict[str, Any] | None = None, level: int | None = None, **intent: Any) -> str:
    bundle = parse_bundle(files)
    asked = IntentDocument(**{"job_id": "j", "agent_id": "a", "topic": "pay.bill", **intent})
    return "\n".join(notes_on(bundle, compile_bundle(bundle), asked, given or {}, level))


def test_notes_tell_what_online_would_be_different() -> None:
    """An agent that is not listed, a payload that its schema refuses: explained, though the gate would refuse them."""
    actions = "actions:\n  - { topics: [pay.*], payload_schema: { type: object, required: [total] } }\n"
    said = _notes({"actions.yaml": actions, "agents.yaml": AGENTS, "a.yaml": LAYER}, agent_id="b")
    assert "agent `b` does not stand in agents.yaml" in said
    assert "does not fit the topic's schema" in said
    assert not _notes({"actions.yaml": actions, "agents.yaml": AGENTS, "a.yaml": LAYER}, payload={"total": 1})


def test_a_note_names_the_fact_that_was_probably_meant() -> None:
    """A fact that no rule asks for is no error, since every name counts as declared; its author is told."""
    said = _notes({"agents.yaml": AGENTS, "a.yaml": LAYER}, {"ammount_usd": 5, "amount_usd": 5})
    assert said == "no rule asks for the fact `ammount_usd`; did you mean `amount_usd`?"


def test_the_fact_that_a_window_sums_is_asked_for() -> None:
    """Giving it is no slip."""
    window = 'rules:\n  - { match: { topics: ["*"], amount_usd_24h_above: 5 }, decision: deny }\n'
    assert not _notes({"agents.yaml": AGENTS, "a.yaml": window}, {"amount_usd": 5})


def test_a_level_without_an_autonomy_document_changes_nothing_and_is_noted() -> None:
    """It is no error: the same command line serves bundles with and without one."""
    assert "a level changes nothing" in _notes({"agents.yaml": AGENTS, "a.yaml": LAYER}, None, 3)
    assert not _notes({"agents.yaml": AGENTS, "grow.yaml": AUTONOMY}, None, 2)


def _decided_by(steps: tuple[LayerSteps, ...], default: DecisionWord) -> DecisionWord:
    """The decision as one puts it together from the layers that are shown."""
    said = [layer.decision for layer in steps if layer.decision is not None]
    strictest = max(said or [default], key=lambda word: RANKS[word])
    adds = any(step.effect == "adds its constraints" for layer in steps for step in layer.rules)
    return "ALLOW_WITH_CONSTRAINTS" if adds and strictest == "ALLOW" else strictest


def _books() -> list[Any]:
    books = [pytest.param(read_folder(CORPUS / "article"), id="article")]
    for path in sorted(CORPUS.glob("judge-*.yaml")):
        book = yaml.safe_load(path.read_text())
        if "files" in book:
            books.append(pytest.param(book["files"], id=path.stem))
    return books


def _random_intents(files: dict[str, str], chance: random.Random) -> list[tuple[Any, dict[str, Any]]]:
    globs = [topic for rule in _rules(files) for topic in rule["match"].get("topics", ["any.x"])]
    tags = [
        tag for rule in _rules(files) for key in ("risk_tags", "risk_tags_all") for tag in rule["match"].get(key, [])
    ]
    asked = sorted(
        {key.removesuffix("_above").removesuffix("_below") for rule in _rules(files) for key in rule["match"]}
    )
    names = [name for name in asked if name not in ("topics", "risk_tags", "risk_tags_all", "risk_tags_only")]
    found = []
    for _ in range(TRIALS):
        topic = chance.choice(globs).replace("*", chance.choice(["x", "read", "a.b"]))
        given = {
            name: chance.choice([None, True, False, 0, 0.5, 3, 5.5, 99, 500, 2000])
            for name in names
            if chance.random() < 0.7
        }
        own = chance.sample(tags, min(len(tags), chance.randrange(3)))
        found.append((IntentDocument(job_id="j", agent_id="a", topic=topic, risk_tags=sorted(set(own))), given))
    return found


def _rules(files: dict[str, str]) -> list[dict[str, Any]]:
    documents = [yaml.safe_load(text) for text in files.values()]
    rules = [rule for document in documents for rule in document.get("rules", [])]
    levels = [level for document in documents for level in document.get("autonomy_levels", {}).values()]
    return rules + [rule for level in levels for rule in level["rules"]]


@pytest.mark.parametrize("files", _books())
def test_the_steps_shown_lead_to_the_decision(files: dict[str, str]) -> None:
    """Steps come from the documents, the judgement from the compiled policy: on random intents they agree."""
    bundle = parse_bundle(files)
    policy = compile_bundle(bundle)
    default = DECISIONS[bundle.settings.default]
    chance = random.Random(8)
    for asked, given in _random_intents(files, chance):
        said = explain(bundle, policy, asked, given, chance.choice(policy.levels or (0,)))
        assert said.decision == _decided_by(said.steps, default), (asked, given)
        heard = {(layer.layer, step.id) for layer in said.steps for step in layer.rules if step.outcome != "failed"}
        named = {(rule.layer, rule.id) for rule in said.rules}
        assert named <= heard | {("default", "default")}, (asked, given)


def test_the_judgement_is_the_compiled_policys_own() -> None:
    """Nothing in an explanation decides: it shows what `judge` says of the same subject."""

    class Other(CompiledPolicy):
        def judge(self, subject: Subject) -> Judgement:
            return Judgement("DENY", (), {}, ("x",), (), "other")

    bundle = parse_bundle({"a.yaml": LAYER})
    said = explain(bundle, Other(bundle), IntentDocument(job_id="j", agent_id="a", topic="pay.x"), {})
    assert (said.decision, said.missing, said.reason) == ("DENY", ("x",), "other")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("job_id: j\nagent_id: a\ntopik: t\n", "i.yaml:3:1: error: unknown key `topik`; did you mean `topic`?"),
        ("job_id: j\nagent_id: a\n", "i.yaml:1:1: error: `topic` is missing; add `topic`"),
        ('job_id: j\nagent_id: a\ntopic: ""\n', "i.yaml:3:8: error: an empty text names nothing"),
        (f"job_id: j\nagent_id: a\ntopic: {'t' * 201}\n", "i.yaml:3:8: error: the text has 201 characters"),
        ("job_id: j\nagent_id: a\ntopic: t\nconfidence: 1.01\n", "i.yaml:4:13: error: `1.01` is out of range"),
        ("job_id: j\nagent_id: a\ntopic: t\nconfidence: -0.1\n", "i.yaml:4:13: error: `-0.1` is out of range"),
        ("job_id: j\nagent_id: a\ntopic: t\nconfidence: true\n", "i.yaml:4:13: error: expected a number"),
        ("job_id: j\nagent_id: a\ntopic: t\nrisk_tags: prod\n", "i.yaml:4:12: error: expected a list"),
        ('job_id: j\nagent_id: a\ntopic: t\nrisk_tags: [""]\n', "i.yaml:4:12: error: the gate refuses these tags"),
        (
            f"job_id: j\nagent_id: a\ntopic: t\nrisk_tags: [{', '.join(f't{n}' for n in range(65))}]\n",
            "i.yaml:4:12: error: the gate refuses these tags",
        ),
        ("job_id: 7\nagent_id: a\ntopic: t\n", "i.yaml:1:9: error: expected text, found `7`"),
        ("job_id: j\nagent_id: a\ntopic: t\npayload: [1]\n", "i.yaml:4:10: error: expected a mapping"),
        ("job_id: j\nagent_id: a\ntopic: t\ntopic: u\n", "i.yaml:4:1: error: the key `topic` stands twice"),
        ("job_id: j\nagent_id: no\ntopic: t\n", "i.yaml:2:11: error: `no` is read as false"),
        ("job_id: !!str j\nagent_id: a\ntopic: t\n", "i.yaml:1:9: error: the tag `!!str` is not accepted"),
        ("", "i.yaml:1:1: error: the document is empty"),
    ],
)
def test_an_intent_is_read_strictly(text: str, fault: str) -> None:
    """Unknown keys, wrong types, what the gate would refuse and what two readers read differently: with the place."""
    with pytest.raises(PolicyFaults) as refused:
        read_intent("i.yaml", text)
    assert fault in str(refused.value)


def test_an_intent_needs_three_things() -> None:
    """Job, agent and topic; no tags, an empty payload and no confidence otherwise. JSON and YAML read alike."""
    asked = read_intent("i.json", '{"job_id": "j", "agent_id": "a", "topic": "t"}')
    assert asked == read_intent(
        "i.yaml", "job_id: j\nagent_id: a\ntopic: t\nrisk_tags: []\npayload: {}\nconfidence: null\n"
    )
    assert (asked.risk_tags, asked.payload, asked.confidence) == ([], {}, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Amount: 1\n", "f.yaml:1:1: error: `Amount` is no name of a fact"),
        ('"amount\\n": 1\n', "f.yaml:1:1: error: `amount\n` is no name of a fact"),
        ("amount: lots\n", "f.yaml:1:9: error: the fact `amount` is neither a number nor true or false"),
        ("amount: [1]\n", "f.yaml:1:9: error: the fact `amount` is neither"),
        ("amount: { a: 1 }\n", "f.yaml:1:9: error: the fact `amount` is neither"),
        ("amount: 1\namount: 2\n", "f.yaml:2:1: error: the key `amount` stands twice"),
        ("amount: yes\n", "f.yaml:1:9: error: `yes` is read as true"),
        ("amount: .nan\n", "f.yaml:1:9: error:"),
    ],
)
def test_facts_are_read_strictly(text: str, fault: str) -> None:
    """A fact is a number, true, false, or null; everything else is refused with its place."""
    with pytest.raises(PolicyFaults) as refused:
        read_facts("f.yaml", text)
    assert fault in str(refused.value)


def test_facts_are_numbers_truths_or_absent() -> None:
    """Null stays: it is declared and absent."""
    assert read_facts("f.yaml", "a: 1\nb: 0.5\nc: true\nd: null\n") == {"a": 1, "b": 0.5, "c": True, "d": None}
    assert read_facts("f.json", "{}") == {}
