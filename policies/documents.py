"""The documents that people write, as strict models: unknown keys, wrong types and wrong ranges are errors.

What a document is, its top-level keys or its name say (``kind_of``). Meaning that needs more than one field
(constraints, facts, references) is checked in `sluicegate.policies.meaning`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sluicegate.policies.criteria import PromotionCriteria, Trigger
from sluicegate.policies.fields import (
    LEVEL,
    Count,
    DecisionName,
    FactName,
    Mode,
    Name,
    Path,
    Paths,
    Patterns,
    PersonId,
    PoolName,
    Positive,
    PublicKey,
    Rate,
    RuleId,
    Seconds,
    Strict,
    Tag,
    Tags,
    Text,
    Version,
)
from sluicegate.policies.output_document import OutputPolicyDocument

APPROVALS_MAX: Final = 20
"""How many people one rule may ask for."""
DOMAINS_MAX: Final = 16
"""How many domains of topics may have levels of their own."""
REQUEST_KEYS: Final = ("route", "timeout_sec", "on_timeout", "tier", "approvals", "editable")
"""What a rule says of the request it opens; the desk acts on it."""
WITHOUT_CONFIDENCE: Final = "workflow"
"""The class of agents that has no confidence whatever the bundle says: an engine is not unsure."""


class Match(Strict):
    """When a rule applies: all given fields hold. Further keys are facts, checked in `checks`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())

    topics: Patterns | None = None
    risk_tags: Tags | None = None
    risk_tags_all: Tags | None = None
    risk_tags_only: list[Tag] | None = None

    def fact_tests(self) -> dict[str, Any]:
        """The keys that ask for facts: `<fact>_above`, `<fact>_below`, or a fact that is true or false."""
        return dict(self.model_extra or {})


class Rule(Strict):
    """One rule of a rules document or of an autonomy level."""

    id: RuleId | None = None
    match: Match
    decision: DecisionName
    reason: Text | None = None
    constraints: dict[str, Any] = {}
    route: Name | None = None
    timeout_sec: Seconds | None = None
    on_timeout: Literal["deny", "escalate", "approve"] | None = None
    tier: Literal["high", "medium", "low"] | None = None
    approvals: Annotated[int, Field(ge=1, le=APPROVALS_MAX)] | None = None
    editable: Paths | None = None


class RulesDocument(Strict):
    """A layer: the first rule that matches decides in it."""

    version: Version | None = None
    mode: Mode = "enforce"
    rules: Annotated[list[Rule], Field(min_length=1)]


class Level(Strict):
    """What an agent may do at one level of trust."""

    name: Text
    rules: Annotated[list[Rule], Field(min_length=1)]


class AutonomyDocument(Strict):
    """Graduated autonomy: the rules of the agent's level are one more layer. What moves a level acts later."""

    version: Version | None = None
    mode: Mode = "enforce"
    autonomy_levels: Annotated[dict[Annotated[str, Field(pattern=LEVEL)], Level], Field(min_length=1)]
    promotion_criteria: PromotionCriteria | None = None
    demotion_triggers: list[Trigger] = []
    domains: Annotated[dict[Name, Patterns], Field(max_length=DOMAINS_MAX)] = {}
    """Topics in which an agent has a level of its own; of two that hold a topic the first by name counts."""


class Weights(Strict):
    """How much likelier a tagged action is sampled."""

    risk_tags: dict[Tag, Annotated[float, Field(gt=0)]] = {}


class Sampling(Strict):
    """Which share of finished actions people look at."""

    rate: Rate
    strategy: Literal["uniform", "stratified"]
    weights: Weights | None = None
    normalise: bool = False
    """Whether all rates are scaled so that the last period's mix of jobs would have been looked at with `rate`."""


class Mandatory(Strict):
    """Actions that are always looked at."""

    match: Match


class Audit(Strict):
    """The audit section."""

    sampling: Sampling
    mandatory: list[Mandatory] = []
    routing: dict[Name, Name] = {}
    due_sec: Seconds = 86_400
    """After how long a sample that nobody has judged goes to another queue, and again each time as long."""
    escalation: Name | None = None
    """That queue; by default the one that is routed to by default."""


class AuditDocument(Strict):
    """Sampled audit: which finished jobs people look at."""

    version: Version | None = None
    audit: Audit


class QueuePolicy(Strict):
    """Service levels of the approval queue."""

    target_median_wait_sec: Seconds | None = None
    target_p95_wait_sec: Seconds | None = None
    max_open_requests_per_reviewer: Positive | None = None
    escalate_after_sec: Seconds | None = None


class FatigueControls(Strict):
    """Limits against hurried approvals."""

    auto_rebalance: bool = False
    cooldown_after_approvals: Positive | None = None
    sampled_second_review_rate: Rate = 0.0


class EvidenceContract(Strict):
    """What a verdict must carry."""

    required_fields: list[Name]
    reject_if_incomplete: bool = True


class ContractDocument(Strict):
    """The reviewers' operations contract."""

    version: Version | None = None
    approval_queue_policy: QueuePolicy
    routing: dict[Name, Name] = {}
    fatigue_controls: FatigueControls = FatigueControls()
    evidence_contract: EvidenceContract | None = None


class Branch(Strict):
    """One way on from a condition."""

    when: Text
    next: Name


class WorkflowStep(Strict):
    """One step of a workflow; checked now, run later."""

    type: Literal["action", "condition", "approval"]
    topic: Name | None = None
    reason: Text | None = None
    timeout_sec: Seconds | None = None
    on_timeout: Name | None = None
    depends_on: list[Name] = []
    branches: dict[Name, Branch] = {}
    constraints: dict[str, Any] = {}


class WorkflowDocument(Strict):
    """A workflow: what starts it and its steps."""

    version: Version | None = None
    name: Name
    trigger: Name
    steps: Annotated[dict[Name, WorkflowStep], Field(min_length=1)]


class Redaction(Strict):
    """One thing taken out of an output."""

    field: Text
    reason: Text
    action: Text


class OutputResultDocument(Strict):
    """A recorded result of output review: accepted beside policies, without effect."""

    job_id: Name
    output_safety_decision: Literal["ALLOW", "REDACT", "QUARANTINE"]
    original_fields_redacted: Count = 0
    redaction_details: list[Redaction] = []
    policy_snapshot: Text | None = None


class ConstraintTypeEntry(Strict):
    """A constraint type of the bundle's own."""

    type: Literal["number", "integer", "boolean", "list"]
    merge: Literal["min", "max", "or", "and", "intersection", "union"]


class SignOff(Strict):
    """Who, besides whoever activates it, must agree before a bundle becomes active."""

    people: Positive = 1
    roles: list[Name] = []


class BreakGlass(Strict):
    """Who may, for how long at most, have what waits for a person run at once; every run is reviewed afterwards."""

    role: Name
    max_sec: Annotated[Seconds, Field(le=24 * 3600)]


class ClassEntry(Strict):
    """What holds for a class of agents."""

    mode: Mode = "enforce"
    confidence: bool | None = None


class BundleDocument(Strict):
    """What holds for the bundle as a whole."""

    version: Version | None = None
    default: DecisionName = "require_approval"
    mode: Mode = "enforce"
    classes: dict[Name, ClassEntry] = {}
    default_constraints: dict[str, Any] = {}
    constraint_types: dict[FactName, ConstraintTypeEntry] = {}
    sign_off: SignOff | None = None
    break_glass: BreakGlass | None = None


class ActionEntry(Strict):
    """What the platform team knows of a topic; agents add to it and take nothing away."""

    topics: Patterns
    risk_tags: list[Tag] = []
    pool: PoolName | None = None
    retry: Literal["safe", "ask"] | None = None
    category: Name | None = None
    facts: dict[FactName, Path] = {}
    reversible: bool | None = None
    audience: Literal["customer", "internal", "agent"] | None = None
    phrases: bool | None = None
    payload_schema: dict[str, Any] | None = None
    retry_identity: Paths | None = None
    target: Path | None = None


class ActionsDocument(Strict):
    """The actions there are. A list, because the first pattern that says a thing wins and mappings have no order."""

    version: Version | None = None
    actions: list[ActionEntry]


class AgentKey(Strict):
    """How an agent signs: a shared key derived for it, or its own Ed25519 key."""

    kind: Literal["hmac", "ed25519"]
    public_key: PublicKey | None = None


class InitialLevel(Strict):
    """The level an agent begins at, in some domains another one, why, and who signed for it."""

    level: Annotated[int, Field(ge=0, le=99)]
    domains: dict[Name, Annotated[int, Field(ge=0, le=99)]] = {}
    reason: Text
    signer: PersonId


class AgentEntry(Strict):
    """One enrolled agent."""

    id: Name
    owner: PersonId
    version: Name
    key: AgentKey
    agent_class: Name = Field(alias="class", default="default")
    initial_level: InitialLevel | None = None
    pools: list[PoolName] | None = None


class AgentsDocument(Strict):
    """The agents there are."""

    version: Version | None = None
    agents: list[AgentEntry]


class ReviewerEntry(Strict):
    """One person. Without a public key nothing can be signed, so nothing they say counts yet."""

    id: PersonId
    name: Text
    public_key: PublicKey | None = None
    roles: list[Name] = []


class QueueEntry(Strict):
    """Who works on a queue."""

    members: list[PersonId] = []


class ReviewersDocument(Strict):
    """The people and their queues."""

    version: Version | None = None
    people: list[ReviewerEntry]
    queues: dict[Name, QueueEntry] = {}


class BaselineEntry(Strict):
    """What the agents together did on one topic, folded into a sketch of ``n`` events."""

    n: Count
    sketch: Text


class BaselineDocument(Strict):
    """The pooled baseline of the anomaly score, as `policy baseline` makes it from the log."""

    version: Version | None = None
    baseline_format: Positive
    topics: dict[Text, BaselineEntry]


KINDS_BY_NAME: Final[dict[str, type[BaseModel]]] = {
    "bundle": BundleDocument,
    "actions": ActionsDocument,
    "agents": AgentsDocument,
    "reviewers": ReviewersDocument,
    "output-policy": OutputPolicyDocument,
    "baseline": BaselineDocument,
}
KINDS_BY_KEYS: Final[tuple[tuple[tuple[str, ...], type[BaseModel]], ...]] = (
    (("rules",), RulesDocument),
    (("autonomy_levels",), AutonomyDocument),
    (("audit",), AuditDocument),
    (("approval_queue_policy",), ContractDocument),
    (("trigger", "steps"), WorkflowDocument),
    (("output_safety_decision",), OutputResultDocument),
)


def stem_of(file: str) -> str:
    """The file's name without folder and last suffix; it names the layer."""
    return PurePosixPath(file).stem


def kind_of(file: str, keys: set[str]) -> type[BaseModel] | None:
    """The model of a document by its name, else by its top-level keys; None when neither says."""
    named = KINDS_BY_NAME.get(stem_of(file))
    if named is not None:
        return named
    return next((model for wanted, model in KINDS_BY_KEYS if keys.issuperset(wanted)), None)
