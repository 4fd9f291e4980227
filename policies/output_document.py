"""`output-policy.yaml` as a strict model: what may leave of an output, by topic and audience.

What a model cannot say of it is checked in `sluicegate.policies.output_faults`; it is asked through
`sluicegate.policies.output_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field

from sluicegate.policies.fields import FACT, Name, Patterns, RuleId, Strict, Text, Version
from sluicegate.policies.places import is_name, place_steps, plain_key
from sluicegate.schemas.payload import DEPTH_MAX

AudienceWord = Literal["customer", "internal", "agent"]
ActionWord = Literal["allow", "redact", "remove", "quarantine"]
TypeWord = Literal["object", "array", "string", "number", "boolean", "null"]
AUDIENCES: Final[tuple[AudienceWord, ...]] = get_args(AudienceWord)
STRICTEST: Final[AudienceWord] = "customer"
"""Who is assumed to read an output of which nobody says for whom it is."""
FOREIGN_TENANT: Final = "foreign_tenant"
DATA_CLASSES: Final = ("credential", "card", "iban", "ssn", "email", "phone", "ip", FOREIGN_TENANT)
"""What a rule that does not name them redacts."""
PHRASE_CLASSES: Final = ("promise", "legal_threat", "vip")
"""What a rule that does not name them lets pass: a tone is no secret."""
REASONS: Final[Mapping[str, str]] = {
    "credential": "Credential detected",
    "card": "Payment data detected",
    "iban": "Payment data detected",
    "ssn": "PII detected",
    "email": "PII detected",
    "phone": "PII detected",
    "ip": "PII detected",
    FOREIGN_TENANT: "Identifier of another tenant",
    "promise": "Promise to a customer",
    "legal_threat": "Legal threat",
    "vip": "Important customer",
}
"""Why something of a class is taken out, unless `reasons` says otherwise."""
NOT_FOR_CUSTOMERS: Final = "Internal-only data in customer-facing output"
NOT_FOR_READER: Final = "Not for this audience"

RULES_MAX: Final = 500
NAMES_MAX: Final = 500
"""How many names or paths one list may hold."""
PHRASES_MAX: Final = 500
"""How many phrases one class may have."""
PHRASE_CHARS_MAX: Final = 200
BYTES_MAX: Final = 16 * 1024 * 1024
"""No scan takes more, so no document may allow more."""
BYTES_MAX_DEFAULT: Final = 1024 * 1024
TENANT_PREFIX: Final = "tenant-identifier-"
PHRASE_PREFIX: Final = "phrases-"
"""The ids of the detectors that are made of `tenants.identifiers` and of `phrases` begin so."""

ClassName = Annotated[str, Field(pattern=FACT)]
FieldName = Annotated[str, Field(min_length=1, max_length=200)]
FieldNames = Annotated[list[FieldName], Field(min_length=1, max_length=NAMES_MAX)]
Phrases = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=PHRASE_CHARS_MAX)]],
    Field(min_length=1, max_length=PHRASES_MAX),
]


class OutputMatch(Strict):
    """When a rule holds: all given fields fit."""

    topics: Patterns | None = None
    audience: Annotated[list[AudienceWord], Field(min_length=1)] | None = None


class OutputLimits(Strict):
    """What an output may be like; beyond it, it is quarantined."""

    bytes_max: Annotated[int, Field(ge=1, le=BYTES_MAX)] | None = None
    depth_max: Annotated[int, Field(ge=1, le=DEPTH_MAX)] | None = None
    types: Annotated[list[TypeWord], Field(min_length=1)] | None = None


class OutputBody(Strict):
    """What a rule, or the default, does with an output."""

    remove: FieldNames | None = None
    detect: dict[ClassName, ActionWord] = {}
    limits: OutputLimits = OutputLimits()
    quarantine: Text | None = None


class OutputRule(OutputBody):
    """One rule."""

    id: RuleId | None = None
    match: OutputMatch


class Tenants(Strict):
    """How other tenants are recognised.

    ``keys`` hold a tenant's name; the group of each of ``patterns`` is one, anywhere in a text; ``identifiers`` are
    what each tenant's own look like.
    """

    keys: FieldNames | None = None
    patterns: Annotated[list[Text], Field(max_length=NAMES_MAX)] = []
    identifiers: dict[Name, Annotated[list[Text], Field(min_length=1, max_length=NAMES_MAX)]] = {}


class OutputPolicyDocument(Strict):
    """What may leave, by topic and audience."""

    version: Version | None = None
    rules: Annotated[list[OutputRule], Field(max_length=RULES_MAX)] = []
    default: OutputBody | None = None
    limits: OutputLimits = OutputLimits()
    detectors: list[dict[str, Any]] = []
    phrases: dict[ClassName, Phrases] = {}
    tenants: Tenants = Tenants()
    reasons: dict[FieldName, Text] = {}


def removal_steps(text: str) -> tuple[str, ...] | None:
    """The keys of a path of `remove`, as ``plain_key`` has them; None for a name, and for what is neither.

    A path names no entry of a list: once another entry is removed, one would stand in its place.
    """
    steps = None if is_name(text) else place_steps(text)
    if steps is None:
        return None
    keys = [plain_key(step) for step in steps if isinstance(step, str)]
    return tuple(keys) if len(keys) == len(steps) else None
