"""A bundle made ready to judge: each rule compiled once, each topic with its tags settled once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Final

import msgspec
import rfc8785

from sluicegate.policies import documents as docs
from sluicegate.policies.actions import DEFAULT_POOL, Action, Actions, remember
from sluicegate.policies.anomaly import Sketch, read_baseline
from sluicegate.policies.autonomy import AutonomyTerms
from sluicegate.policies.constraints import Constraints, ConstraintType, is_tighter_or_equal, merge_constraints
from sluicegate.policies.evaluate import RANKS, Judgement, ResidualRule, Residue, Subject, evaluate
from sluicegate.policies.facts import tests_of
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.index import RuleIndex
from sluicegate.policies.load import Bundle, shipped_output_policy
from sluicegate.policies.matching import StaticMatch
from sluicegate.policies.output_policy import OutputPolicy
from sluicegate.policies.sampling import AuditTerms
from sluicegate.policies.windows import Window, windows_among
from sluicegate.schemas.records import DecisionWord, RuleError, RuleRef

__all__ = ["DEFAULT_POOL", "Action", "CompiledPolicy", "compile_bundle", "content_hash"]

SIGNATURES_MAX: Final = 4_096
"""How many signatures (topic, tags, level, class) are kept settled at a time."""
DEFAULT_LAYER: Final = "default"
AUTONOMY: Final = "autonomy"
"""The layer that the agent's level is."""
MODE_LAYER: Final = "mode"
ACTIONS_LAYER: Final = "actions"
PAYLOAD_SCHEMA: Final = "payload-schema"
SCHEMA_SAID: Final = "the payload is not as actions.yaml wants it: "
"""What a denial by it says before the fault."""
"""The rule by which a payload that does not fit its action's schema is denied."""
DEFAULT_CLASS: Final = "default"
OBSERVE: Final = "observe"
EVIDENCE_FIELDS: Final = ("policy_snapshot", "job_hash", "approver_id", "decision_ts")
"""What a verdict must carry when no contract says otherwise."""

_Signature = tuple[str, tuple[str, ...], int, str]


class _Settled(msgspec.Struct, frozen=True):
    """What is left of a bundle for one signature. ``acting`` is None when everything acts."""

    whole: Residue
    acting: Residue | None


class _Compiled(msgspec.Struct, frozen=True):
    """A rule's static half, and the residual rule it leaves when that fits."""

    match: StaticMatch
    rule: ResidualRule


class _Layer(msgspec.Struct, frozen=True):
    """The rules of one document, or of one level, in order."""

    name: str
    rules: tuple[_Compiled, ...]
    observed: bool
    index: RuleIndex

    def residue(self, topic: str, tags: frozenset[str]) -> tuple[ResidualRule, ...]:
        """The rules that fit, up to the first that asks for no fact."""
        found: list[ResidualRule] = []
        for each in self.index.candidates(topic, tags):
            compiled = self.rules[each]
            if compiled.match.fits(topic, tags):
                found.append(compiled.rule)
                if not compiled.rule.tests:
                    break
        return tuple(found)


class CompiledPolicy:
    """One snapshot, ready to judge. Judging is pure; what is remembered between calls changes no answer."""

    def __init__(self, bundle: Bundle) -> None:
        settings = bundle.settings
        self.snapshot_name = bundle.snapshot_name
        self.snapshot_digest = bundle.snapshot_digest
        self.constraint_types: Mapping[str, ConstraintType] = bundle.constraint_types
        self.agents: Mapping[str, docs.AgentEntry] = {agent.id: agent for agent in bundle.agents.agents}
        self.reviewers: Mapping[str, docs.ReviewerEntry] = {person.id: person for person in bundle.reviewers.people}
        self.queues: Mapping[str, tuple[str, ...]] = {
            name: tuple(queue.members) for name, queue in bundle.reviewers.queues.items()
        }
        self.sign_off: docs.SignOff | None = settings.sign_off
        self.break_glass: docs.BreakGlass | None = settings.break_glass
        contract = bundle.contract.evidence_contract if bundle.contract else None
        self.evidence_fields: tuple[str, ...] = tuple(contract.required_fields) if contract else EVIDENCE_FIELDS
        self.reject_if_incomplete: bool = contract.reject_if_incomplete if contract else True
        self._actions = Actions(bundle.actions)
        self.pools: tuple[str, ...] = self._actions.pools
        self._classes = settings.classes
        self._observes = settings.mode == OBSERVE
        self._default_constraints: Constraints = dict(settings.default_constraints)
        self._default = self._default_rule(settings.default)
        self._editable: dict[tuple[str, str, str], frozenset[str]] = {}
        self._layers = tuple(self._compile_layers(bundle))
        self._levels = self._compile_levels(bundle)
        self._levels_observed = bundle.autonomy is not None and bundle.autonomy.document.mode == OBSERVE
        self.autonomy = None if bundle.autonomy is None else AutonomyTerms(bundle.autonomy.document)
        """How levels move, where the bundle has an autonomy document."""
        self.audit = None if bundle.audit is None else AuditTerms(bundle.audit.document)
        """Which finished jobs people look at, where the bundle has an audit document."""
        self.facts_asked = frozenset(self._facts_asked())
        """The facts that some rule compares, or that make an audit mandatory."""
        self.windows: tuple[Window, ...] = windows_among(self.facts_asked)
        self._baseline: Mapping[str, Sketch] = (
            {} if bundle.baseline is None else read_baseline(bundle.baseline.model_dump(exclude={"version"}))
        )
        self._output_document = bundle.output_policy
        self._settled: dict[_Signature, Judgement] = {}
        self._residues: dict[_Signature, _Settled] = {}

    def judge(self, subject: Subject) -> Judgement:
        """What this snapshot says of a subject. Treat the judgement as frozen: equal subjects may share it."""
        if subject.fault is not None:
            return self._acting(subject, _denied(subject.fault))
        level = subject.level if self._levels is not None else 0
        signature = (subject.topic, subject.risk_tags, level, subject.agent_class if self._classes else "")
        known = self._settled.get(signature)
        if known is not None:
            return known
        settled = self._residues.get(signature)
        if settled is None:
            settled = self._settle(subject, level)
            if not any(rule.tests for layer in settled.whole.layers for rule in layer):
                return remember(self._settled, signature, self._evaluate(settled, subject), SIGNATURES_MAX)
            remember(self._residues, signature, settled, SIGNATURES_MAX)
        return self._evaluate(settled, subject)

    def action(self, topic: str) -> Action:
        """What `actions.yaml` says of a topic; the defaults where it says nothing."""
        return self._actions.of(topic)

    @cached_property
    def output_policy(self) -> OutputPolicy:
        """What may leave of an output: by the bundle's `output-policy.yaml`, else by the shipped one."""
        return _shipped() if self._output_document is None else OutputPolicy(self._output_document)

    def agent(self, agent_id: str) -> docs.AgentEntry | None:
        """An enrolled agent."""
        return self.agents.get(agent_id)

    def class_of(self, agent_id: str) -> str:
        """The class of an agent; that of nobody in particular where it is not enrolled."""
        agent = self.agents.get(agent_id)
        return DEFAULT_CLASS if agent is None else agent.agent_class

    def has_confidence(self, agent_class: str) -> bool:
        """Whether agents of a class can be more or less sure: then confidence is declared for every topic."""
        entry = self._classes.get(agent_class)
        said = None if entry is None else entry.confidence
        return agent_class != docs.WITHOUT_CONFIDENCE if said is None else said

    @property
    def levels(self) -> tuple[int, ...] | None:
        """The levels that the autonomy document defines; None without one."""
        return None if self._levels is None else tuple(sorted(self._levels))

    def level(self, agent_id: str, domain: str = "") -> int | None:
        """The level an agent begins at, 0 unless `agents.yaml` says another; None without an autonomy document."""
        if self._levels is None:
            return None
        agent = self.agents.get(agent_id)
        first = None if agent is None else agent.initial_level
        return 0 if first is None else first.domains.get(domain, first.level)

    def domain(self, topic: str) -> str:
        """The domain of a topic, in which agents have a level of their own; empty for none."""
        return "" if self.autonomy is None else self.autonomy.domain(topic)

    def baseline(self, topic: str) -> Sketch | None:
        """What all agents together did on a topic, for those who have not learned enough of their own."""
        return self._baseline.get(topic)

    def reviewer(self, reviewer_id: str) -> docs.ReviewerEntry | None:
        """A person of `reviewers.yaml`."""
        return self.reviewers.get(reviewer_id)

    def merge_constraints(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> Constraints:
        """The tightest of both, by this bundle's constraint types."""
        return merge_constraints(a, b, self.constraint_types)

    def is_tighter_or_equal(self, candidate: Mapping[str, Any], ceiling: Mapping[str, Any]) -> list[str]:
        """The names in ``candidate`` that would loosen ``ceiling``, by this bundle's constraint types."""
        return is_tighter_or_equal(candidate, ceiling, self.constraint_types)

    def residue(self, subject: Subject) -> Residue:
        """The rules that are left for a subject's topic, tags and level, by layer, observed ones too."""
        return self._settle(subject, subject.level).whole

    # --- settling

    def _evaluate(self, settled: _Settled, subject: Subject) -> Judgement:
        whole = evaluate(settled.whole, subject.facts)
        if settled.acting is None or self._only_observed(subject.agent_class):
            return self._acting(subject, whole)
        acting = evaluate(settled.acting, subject.facts)
        return msgspec.structs.replace(acting, observed=whole)

    def _acting(self, subject: Subject, whole: Judgement) -> Judgement:
        """What acts of a judgement: all of it, or nothing where everything is only observed."""
        if not self._only_observed(subject.agent_class):
            return whole
        return Judgement(
            decision="ALLOW",
            rules=(_OBSERVED,),
            constraints={},
            missing=whole.missing,
            errors=whole.errors,
            reason=_OBSERVED.reason or "",
            observed=whole,
        )

    def _only_observed(self, agent_class: str) -> bool:
        entry = self._classes.get(agent_class)
        return self._observes or (entry is not None and entry.mode == OBSERVE)

    def _settle(self, subject: Subject, level: int) -> _Settled:
        tags = frozenset(subject.risk_tags)
        whole: list[tuple[ResidualRule, ...]] = []
        acting: list[tuple[ResidualRule, ...]] = []
        errors: tuple[RuleError, ...] = ()
        for layer in self._layers_at(level):
            residue = layer.residue(subject.topic, tags)
            if residue:
                whole.append(residue)
                if not layer.observed:
                    acting.append(residue)
        if self._levels is not None and level not in self._levels:
            errors = (RuleError(layer=AUTONOMY, id=f"level_{level}", error=_NO_LEVEL),)
        types = self.constraint_types
        return _Settled(
            Residue(tuple(whole), self._default, types, errors),
            None if len(acting) == len(whole) else Residue(tuple(acting), self._default, types, errors),
        )

    def _layers_at(self, level: int) -> Iterator[_Layer]:
        """The layers in the order of their names; the agent's level is the layer `autonomy`."""
        own = (
            None
            if self._levels is None
            else self._levels.get(level) or _no_level(level, observed=self._levels_observed)
        )
        for layer in self._layers:
            if own is not None and own.name < layer.name:
                yield own
                own = None
            yield layer
        if own is not None:
            yield own

    # --- compiling

    def _compile_layers(self, bundle: Bundle) -> Iterator[_Layer]:
        for name, layer in sorted(bundle.layers.items()):
            plain = _plain(bundle, layer.file)["rules"]
            rules = tuple(
                self._compile(name, f"{name}/{index}", rule, plain[index])
                for index, rule in enumerate(layer.document.rules)
            )
            yield _layer(name, rules, observed=layer.document.mode == OBSERVE)

    def _compile_levels(self, bundle: Bundle) -> dict[int, _Layer] | None:
        if bundle.autonomy is None:
            return None
        document = bundle.autonomy.document
        plain = _plain(bundle, bundle.autonomy.file)["autonomy_levels"]
        levels: dict[int, _Layer] = {}
        for key, level in document.autonomy_levels.items():
            rules = tuple(
                self._compile(AUTONOMY, f"{key}/{index}", rule, plain[key]["rules"][index])
                for index, rule in enumerate(level.rules)
            )
            levels[int(key.removeprefix("level_"))] = _layer(AUTONOMY, rules, observed=document.mode == OBSERVE)
        return levels

    def editable(self, rules: Iterable[RuleRef]) -> tuple[str, ...]:
        """The payload paths that whoever approves may give other values: those that all these rules permit."""
        permitted = [self._editable.get((rule.layer, rule.id, rule.content_hash), frozenset()) for rule in rules]
        return tuple(sorted(frozenset.intersection(*permitted))) if permitted else ()

    def _facts_asked(self) -> Iterator[str]:
        for layer in (*self._layers, *(self._levels or {}).values()):
            for each in layer.rules:
                for test in each.rule.tests:
                    yield test.fact
        if self.audit is not None:
            yield from self.audit.facts_asked

    def _compile(self, layer: str, name: str, rule: docs.Rule, plain: Any) -> _Compiled:
        match = rule.match
        word = DECISIONS[rule.decision]
        constraints = dict(rule.constraints)
        if word == "ALLOW_WITH_CONSTRAINTS" and not constraints:
            constraints = self._default_constraints
        ref = RuleRef(
            layer=layer, id=rule.id or name, content_hash=content_hash(plain), decision=word, reason=rule.reason
        )
        if rule.editable:
            self._editable[ref.layer, ref.id, ref.content_hash] = frozenset(rule.editable)
        return _Compiled(
            StaticMatch.of(match), ResidualRule(ref, RANKS[word], tests_of(match.fact_tests()), constraints)
        )

    def _default_rule(self, default: str) -> ResidualRule:
        word = DECISIONS[default]
        ref = _own_rule(DEFAULT_LAYER, DEFAULT_LAYER, word, "no rule matches")
        constraints = self._default_constraints if word == "ALLOW_WITH_CONSTRAINTS" else {}
        return ResidualRule(ref, RANKS[word], (), constraints)


def compile_bundle(bundle: Bundle) -> CompiledPolicy:
    """Compile a checked bundle; it raises nothing that checking has not raised."""
    return CompiledPolicy(bundle)


@cache
def _shipped() -> OutputPolicy:
    return OutputPolicy(shipped_output_policy())


def content_hash(rule: Any) -> str:
    """SHA-256, 64 hex digits, of the RFC 8785 JSON of a rule as its document holds it."""
    return hashlib.sha256(rfc8785.dumps(rule)).hexdigest()


_NO_LEVEL: Final = "the autonomy document does not define this level"


def _own_rule(layer: str, name: str, word: DecisionWord, reason: str) -> RuleRef:
    """A rule that no document writes: its content is what it says."""
    content = {layer: name} if layer != DEFAULT_LAYER else {"default": word.lower()}
    return RuleRef(layer=layer, id=name, content_hash=content_hash(content), decision=word, reason=reason)


_OBSERVED: Final = _own_rule(MODE_LAYER, OBSERVE, "ALLOW", "policy is only observed here")


def _denied(fault: str) -> Judgement:
    """A payload that is not what the platform team says it must be."""
    reason = f"{SCHEMA_SAID}{fault}"
    ref = _own_rule(ACTIONS_LAYER, PAYLOAD_SCHEMA, "DENY", reason)
    return Judgement(decision="DENY", rules=(ref,), constraints={}, missing=(), errors=(), reason=reason)


def _no_level(level: int, *, observed: bool) -> _Layer:
    """What stands in for a level that nobody has defined: a person decides."""
    ref = _own_rule(AUTONOMY, f"level_{level}", "REQUIRE_APPROVAL", _NO_LEVEL)
    rule = ResidualRule(ref, RANKS["REQUIRE_APPROVAL"], (), {})
    return _layer(AUTONOMY, (_Compiled(StaticMatch(), rule),), observed=observed)


def _layer(name: str, rules: tuple[_Compiled, ...], *, observed: bool) -> _Layer:
    index = RuleIndex()
    for number, each in enumerate(rules):
        match = each.match
        index.add(number, [glob.pattern for glob in match.globs], match.any_tags, match.all_tags)
    return _Layer(name, rules, observed, index)


def _plain(bundle: Bundle, file: str) -> Any:
    """A document as it was written, which is what hashes are over."""
    return bundle.documents[file]
