"""A bundle made ready to judge: each rule compiled once, each topic with its tags settled once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import rfc8785

from sluicegate.policies.constraints import Constraints, ConstraintType, is_tighter_or_equal, merge_constraints
from sluicegate.policies.documents import DECISIONS, ActionEntry, AgentEntry, Match, ReviewerEntry, Rule
from sluicegate.policies.evaluate import RANKS, Judgement, ResidualRule, Residue, Subject, evaluate
from sluicegate.policies.facts import tests_of
from sluicegate.policies.load import Bundle
from sluicegate.policies.patterns import Glob
from sluicegate.schemas.records import RuleRef

SIGNATURES_MAX: Final = 4_096
"""How many pairs of topic and tags, and how many topics' actions, are kept settled at a time."""
DEFAULT_LAYER: Final = "default"
DEFAULT_POOL: Final = "default"
EVIDENCE_FIELDS: Final = ("policy_snapshot", "job_hash", "approver_id", "decision_ts")
"""What a verdict must carry when no contract says otherwise."""

T = TypeVar("T")


class Action(msgspec.Struct, frozen=True):
    """What the platform team knows of a topic: tags of every pattern that fits, the rest of the first that says it."""

    risk_tags: tuple[str, ...]
    pool: str = DEFAULT_POOL
    retry_safe: bool = False
    category: str | None = None
    facts: Mapping[str, str] = {}
    reversible: bool | None = None
    audience: str | None = None
    payload_schema: Mapping[str, Any] | None = None
    retry_identity: tuple[str, ...] = ()


class _Compiled(msgspec.Struct, frozen=True):
    """A rule's static half, and the residual rule it leaves when that fits."""

    globs: tuple[Glob, ...]
    any_tags: frozenset[str]
    all_tags: frozenset[str]
    only_tags: frozenset[str] | None
    rule: ResidualRule

    def fits(self, topic: str, tags: frozenset[str]) -> bool:
        """Whether topic and tags are as the rule wants them; a field that is not given wants nothing."""
        if self.any_tags and self.any_tags.isdisjoint(tags):
            return False
        if not self.all_tags <= tags:
            return False
        if self.only_tags is not None and not tags <= self.only_tags:
            return False
        return not self.globs or any(glob.matches(topic) for glob in self.globs)


class CompiledPolicy:
    """One snapshot, ready to judge. Judging is pure; what is remembered between calls changes no answer."""

    def __init__(self, bundle: Bundle) -> None:
        self.snapshot_name = bundle.snapshot_name
        self.snapshot_digest = bundle.snapshot_digest
        self.constraint_types: Mapping[str, ConstraintType] = bundle.constraint_types
        self.agents: Mapping[str, AgentEntry] = {agent.id: agent for agent in bundle.agents.agents}
        self.reviewers: Mapping[str, ReviewerEntry] = {person.id: person for person in bundle.reviewers.people}
        self.queues: Mapping[str, tuple[str, ...]] = {
            name: tuple(queue.members) for name, queue in bundle.reviewers.queues.items()
        }
        self.pools: tuple[str, ...] = tuple(
            sorted({DEFAULT_POOL, *(entry.pool for entry in bundle.actions.actions if entry.pool)})
        )
        contract = bundle.contract.evidence_contract if bundle.contract else None
        self.evidence_fields: tuple[str, ...] = tuple(contract.required_fields) if contract else EVIDENCE_FIELDS
        self.reject_if_incomplete: bool = contract.reject_if_incomplete if contract else True
        self._default_constraints: Constraints = dict(bundle.settings.default_constraints)
        self._default = self._default_rule(bundle)
        self._layers = tuple(
            tuple(self._compile(name, index, rule, plain) for index, (rule, plain) in enumerate(rules))
            for name, rules in _rules_by_layer(bundle)
        )
        self._actions = [(tuple(map(Glob, entry.topics)), entry) for entry in bundle.actions.actions]
        self._residues: dict[tuple[str, tuple[str, ...]], Residue] = {}
        self._settled: dict[tuple[str, tuple[str, ...]], Judgement] = {}
        self._action_by_topic: dict[str, Action] = {}

    def judge(self, subject: Subject) -> Judgement:
        """What this snapshot says of a subject. Treat the judgement as frozen: equal subjects may share it."""
        signature = (subject.topic, subject.risk_tags)
        settled = self._settled.get(signature)
        if settled is not None:
            return settled
        residue = self._residues.get(signature)
        if residue is None:
            residue = self._settle(*signature)
            if not any(rule.tests for layer in residue.layers for rule in layer):
                return _remember(self._settled, signature, evaluate(residue, {}))
            _remember(self._residues, signature, residue)
        return evaluate(residue, subject.facts)

    def action(self, topic: str) -> Action:
        """What `actions.yaml` says of a topic; the defaults where it says nothing."""
        found = self._action_by_topic.get(topic)
        return found if found is not None else _remember(self._action_by_topic, topic, self._find_action(topic))

    def agent(self, agent_id: str) -> AgentEntry | None:
        """An enrolled agent."""
        return self.agents.get(agent_id)

    def reviewer(self, reviewer_id: str) -> ReviewerEntry | None:
        """A person of `reviewers.yaml`."""
        return self.reviewers.get(reviewer_id)

    def merge_constraints(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> Constraints:
        """The tightest of both, by this bundle's constraint types."""
        return merge_constraints(a, b, self.constraint_types)

    def is_tighter_or_equal(self, candidate: Mapping[str, Any], ceiling: Mapping[str, Any]) -> list[str]:
        """The names in ``candidate`` that would loosen ``ceiling``, by this bundle's constraint types."""
        return is_tighter_or_equal(candidate, ceiling, self.constraint_types)

    def _settle(self, topic: str, risk_tags: tuple[str, ...]) -> Residue:
        tags = frozenset(risk_tags)
        layers = []
        for compiled in self._layers:
            residue: list[ResidualRule] = []
            for each in compiled:
                if each.fits(topic, tags):
                    residue.append(each.rule)
                    if not each.rule.tests:
                        break
            if residue:
                layers.append(tuple(residue))
        return Residue(tuple(layers), self._default, self.constraint_types)

    def _compile(self, layer: str, index: int, rule: Rule, plain: Any) -> _Compiled:
        match: Match = rule.match
        return _Compiled(
            globs=tuple(map(Glob, match.topics or ())),
            any_tags=frozenset(match.risk_tags or ()),
            all_tags=frozenset(match.risk_tags_all or ()),
            only_tags=None if match.risk_tags_only is None else frozenset(match.risk_tags_only),
            rule=self._residual(layer, index, rule, plain),
        )

    def _residual(self, layer: str, index: int, rule: Rule, plain: Any) -> ResidualRule:
        word = DECISIONS[rule.decision]
        constraints = dict(rule.constraints)
        if word == "ALLOW_WITH_CONSTRAINTS" and not constraints:
            constraints = self._default_constraints
        ref = RuleRef(
            layer=layer,
            id=rule.id or f"{layer}/{index}",
            content_hash=content_hash(plain),
            decision=word,
            reason=rule.reason,
        )
        return ResidualRule(ref, RANKS[word], tests_of(rule.match.fact_tests()), constraints)

    def _default_rule(self, bundle: Bundle) -> ResidualRule:
        word = DECISIONS[bundle.settings.default]
        ref = RuleRef(
            layer=DEFAULT_LAYER,
            id=DEFAULT_LAYER,
            content_hash=content_hash({"default": bundle.settings.default}),
            decision=word,
            reason="no rule matches",
        )
        constraints = self._default_constraints if word == "ALLOW_WITH_CONSTRAINTS" else {}
        return ResidualRule(ref, RANKS[word], (), constraints)

    def _find_action(self, topic: str) -> Action:
        fitting = [entry for globs, entry in self._actions if any(glob.matches(topic) for glob in globs)]
        facts: dict[str, str] = {}
        for entry in reversed(fitting):
            facts.update(entry.facts)
        retry = _first(fitting, "retry")
        return Action(
            risk_tags=tuple(sorted({tag for entry in fitting for tag in entry.risk_tags})),
            pool=_first(fitting, "pool") or DEFAULT_POOL,
            retry_safe=retry == "safe",
            category=_first(fitting, "category"),
            facts=facts,
            reversible=_first(fitting, "reversible"),
            audience=_first(fitting, "audience"),
            payload_schema=_first(fitting, "payload_schema"),
            retry_identity=tuple(_first(fitting, "retry_identity") or ()),
        )


def compile_bundle(bundle: Bundle) -> CompiledPolicy:
    """Compile a checked bundle; it raises nothing that checking has not raised."""
    return CompiledPolicy(bundle)


def content_hash(rule: Any) -> str:
    """SHA-256, 64 hex digits, of the RFC 8785 JSON of a rule as its document holds it."""
    return hashlib.sha256(rfc8785.dumps(rule)).hexdigest()


def _rules_by_layer(bundle: Bundle) -> list[tuple[str, list[tuple[Rule, Any]]]]:
    """Layers by name, each with its rules and their plain JSON."""
    plain_by_layer: dict[str, Any] = {}
    for file, document in bundle.documents.items():
        stem = file.rpartition(".")[0]
        if stem in bundle.layers and isinstance(document, dict):
            plain_by_layer[stem] = document["rules"]
    return [
        (name, list(zip(layer.rules, plain_by_layer[name], strict=True)))
        for name, layer in sorted(bundle.layers.items())
    ]


def _first(entries: Sequence[ActionEntry], field: str) -> Any:
    """The field of the first entry that gives it."""
    return next((value for entry in entries if (value := getattr(entry, field)) is not None), None)


K = TypeVar("K")


def _remember(memory: dict[K, T], key: K, value: T) -> T:
    """Keep a value, forgetting the oldest one when there are too many."""
    if len(memory) >= SIGNATURES_MAX:
        del memory[next(iter(memory))]
    memory[key] = value
    return value
