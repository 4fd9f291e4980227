"""What may leave of an output: path rules first, then what was detected, by the rule of its topic and audience. Pure.

The strictest wins: whatever is to be quarantined holds the whole output. A redacted document is looked through again
until it is clean, and one that does not become so is quarantined: review never fails open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from sluicegate.policies.output_document import FOREIGN_TENANT, AudienceWord
from sluicegate.policies.output_policy import CompiledRule, OutputPolicy
from sluicegate.policies.places import ROOT, Place, place_text, plain_key
from sluicegate.policies.redaction import HELD, REDACTED, REMOVED, REPLACED, Span, Working
from sluicegate.policies.scan import Finding, scan
from sluicegate.schemas.errors import BadPayload
from sluicegate.schemas.payload import parse_strict
from sluicegate.schemas.records import RedactionDetail, SafetyWord

FIELDS_MAX: Final = 1_000
"""How many fields of one output may be redacted; an output with more is quarantined as a whole."""
PASSES_MAX: Final = 6
"""How often a document is looked through: what stood beside something taken out may only now be seen."""
REASON_CHARS_MAX: Final = 1_000
DEFAULT_TENANT: Final = "default"
TENANT_KEY: Final = "tenant-key"
"""The detector that reads `tenants.keys`."""
NOT_JSON: Final = "Not JSON"
NOT_CLEAN: Final = "What was redacted does not become clean"
_TYPES: Final[Mapping[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}


class Review(msgspec.Struct, frozen=True):
    """What review says of one output.

    ``document`` is what leaves, as JSON: the very bytes given for ALLOW, None for QUARANTINE. ``redacted`` is what a
    person who releases it redacted would let out, with ``redacted_details``; None where nothing could be made of it
    that is sure to be clean. ``classes`` are all that was found, what a rule allows too. ``reason`` holds nothing of
    the output.
    """

    decision: SafetyWord
    rule: str
    details: tuple[RedactionDetail, ...] = ()
    document: bytes | None = None
    redacted: bytes | None = None
    redacted_details: tuple[RedactionDetail, ...] = ()
    classes: tuple[str, ...] = ()
    reason: str = ""


class _Held(Exception):
    """The output cannot be looked through, so nothing of it leaves. The text is the reason."""


class _Field(msgspec.Struct):
    """What is done with one field, and why."""

    removed: bool = False
    reasons: dict[str, None] = {}
    held: dict[str, None] = {}


def review(content: bytes, *, topic: str, audience: AudienceWord, tenant: str | None, policy: OutputPolicy) -> Review:
    """Review an output, JSON as a worker returned it.

    ``tenant`` is the job's: what belongs to another one must not leave. None, like `default`, is where there is but one
    tenant, which has no name: keys that name a tenant say nothing then, and each that has identifiers is another one.
    Raises nothing for any ``content``: what fails is quarantined.
    """
    rule = policy.rule(topic, audience)
    try:
        return _Reviewing(content, rule, None if tenant == DEFAULT_TENANT else tenant, policy).review()
    except _Held as held:
        return _quarantined(rule, str(held))
    except Exception as error:  # noqa: BLE001  # a fault of ours must not let anything through; its text may quote the output
        return _quarantined(rule, f"Review failed: {type(error).__name__}")


def _quarantined(rule: CompiledRule, reason: str) -> Review:
    details = (RedactionDetail(field=ROOT, reason=reason, action=HELD),)
    return Review(decision="QUARANTINE", rule=rule.id, details=details, reason=reason)


def tags_of_phrases(document: Any, policy: OutputPolicy) -> frozenset[str]:
    """The phrase classes that a parsed document holds, to be judged as tags of an intent.

    Where it cannot be looked through to the end it counts as holding them all.
    """
    found = scan(document, policy.phrase_detectors)
    if found.exceeded is not None:
        return policy.phrase_classes
    return frozenset(each.klass for each in found.findings) & policy.phrase_classes


class _Reviewing:
    """The review of one output."""

    def __init__(self, content: bytes, rule: CompiledRule, tenant: str | None, policy: OutputPolicy) -> None:
        self.content = content
        self.rule = rule
        self.tenant = tenant
        self.policy = policy
        self.fields: dict[Place, _Field] = {}
        self.classes: set[str] = set()
        self.telling_keys: set[Place] = set()
        """Keys in which something was found, whatever a rule does with it: details are kept for ever, in the clear."""

    def review(self) -> Review:
        """What is said of the output. Raises _Held."""
        original = self._parsed(self.content)
        working: Working | None = None
        walked = self._walked(original)
        for place, reason in walked.removals:
            working = working or Working(self.content)
            working.remove(place)
            field = self._field(place)
            field.removed = True
            field.reasons[reason] = None
        foreign = [
            finding
            for finding in walked.foreign
            if finding.path not in self.fields and not self._is_inside_removed(finding.path)
        ]
        for _ in range(PASSES_MAX):
            acting = self._acting(original if working is None else working.document, foreign)
            if not acting:
                break
            working = working or Working(self.content)
            for place, findings in acting.items():
                self._take_out(working, place, findings)
            foreign = []
        else:
            raise _Held(NOT_CLEAN)
        if working is None:
            return self._outcome((), self.content)
        written = working.written()
        # What was looked through had an empty entry where one was dropped; what leaves is looked through as it is.
        again = self._parsed(written)
        walked = self._walked(again)
        if walked.removals or self._acting(again, walked.foreign):
            raise _Held(NOT_CLEAN)
        return self._outcome(self._in_order(original), written)

    def _parsed(self, content: bytes) -> Any:
        limits = self.rule.limits
        if len(content) > limits.bytes_max:
            raise _Held(f"Larger than {limits.bytes_max} bytes")
        try:
            document = parse_strict(content)
        except BadPayload as problem:
            deep = str(problem).startswith("nested deeper")
            raise _Held(f"Nested deeper than {limits.depth_max}" if deep else NOT_JSON) from None
        kind = _TYPES[type(document)]
        if kind not in limits.types and content is self.content:
            raise _Held(f"JSON of type {kind} where {' or '.join(limits.types)} is wanted")
        return document

    def _walked(self, document: Any) -> _Walk:
        """What keys alone say of the document. Raises _Held where it nests too deeply."""
        walk = _Walk(self.rule, self.policy.tenant_keys if self.tenant else frozenset(), self.tenant or "")
        walk.look(document, (), self.rule.limits.depth_max)
        for keys, reason in self.rule.paths:
            walk.removals += [(place, reason) for place in _led_to(document, (), keys)]
        return walk

    # --- finding

    def _acting(self, document: Any, foreign: list[Finding]) -> dict[Place, list[Finding]]:
        """What was found and may not stay, by place. Raises _Held where the document cannot be looked through."""
        found = scan(document, self.policy.detectors, tenant=self.tenant)
        if found.exceeded is not None:
            raise _Held(f"Cannot be looked through: {found.exceeded}")
        acting: dict[Place, list[Finding]] = {}
        for finding in (*found.findings, *foreign):
            if self.tenant is not None and self.policy.owners.get(finding.detector) == self.tenant:
                continue
            self.classes.add(finding.klass)
            if finding.in_key:
                self.telling_keys.add(finding.path)
            if self.rule.action(finding.klass) != "allow":
                acting.setdefault(finding.path, []).append(finding)
        return acting

    # --- taking out

    def _field(self, place: Place) -> _Field:
        field = self.fields.get(place)
        if field is None:
            if len(self.fields) >= FIELDS_MAX:
                raise _Held(f"More than {FIELDS_MAX} fields to redact")
            field = self.fields[place] = _Field()
        return field

    def _take_out(self, working: Working, place: Place, findings: list[Finding]) -> None:
        """Take what was found in one field out of it, and remember why."""
        field = self._field(place)
        spans: list[Span] = []
        whole = False
        for finding in findings:
            action = self.rule.action(finding.klass)
            reason = self.policy.reason(finding.klass)
            (field.held if action == "quarantine" else field.reasons)[reason] = None
            field.removed |= finding.in_key or action == "remove"
            if finding.in_key:
                continue
            if finding.start is None or finding.end is None:
                whole = True
            else:
                spans.append((finding.start, finding.end))
        if field.removed:
            working.remove(place)
        else:
            working.replace(place, None if whole else spans)

    # --- saying so

    def _in_order(self, original: Any) -> tuple[tuple[Place, _Field], ...]:
        """The fields in the order of the original document."""
        indexes: dict[int, dict[str, int]] = {}

        def rank(entry: tuple[Place, _Field]) -> tuple[int, ...]:
            here: Any = original
            ranks: list[int] = []
            for step in entry[0]:
                if isinstance(step, str):
                    known = indexes.setdefault(id(here), {})
                    if not known:
                        known.update({key: number for number, key in enumerate(here)})
                    ranks.append(known[step])
                else:
                    ranks.append(step)
                here = here[step]
            return tuple(ranks)

        return tuple(sorted(self.fields.items(), key=rank))

    def _outcome(self, fields: tuple[tuple[Place, _Field], ...], written: bytes) -> Review:
        held = [
            RedactionDetail(field=self._text(place), reason="; ".join(field.held), action=HELD)
            for place, field in fields
            if field.held
        ]
        if self.rule.quarantine is not None:
            held.insert(0, RedactionDetail(field=ROOT, reason=self.rule.quarantine, action=HELD))
        details = tuple(
            RedactionDetail(
                field=self._text(place),
                reason="; ".join({**field.reasons, **field.held}),
                action=REMOVED if field.removed else REPLACED,
            )
            for place, field in fields
            if not self._is_inside_removed(place)
        )
        decision: SafetyWord = "QUARANTINE" if held else "REDACT" if details else "ALLOW"
        said = tuple(held) or details
        reasons = "; ".join(dict.fromkeys(each for detail in said for each in detail.reason.split("; ")))
        return Review(
            decision=decision,
            rule=self.rule.id,
            details=said,
            document=None if held else written,
            redacted=written,
            redacted_details=details,
            classes=tuple(sorted(self.classes)),
            reason=reasons[:REASON_CHARS_MAX],
        )

    def _is_inside_removed(self, place: Place) -> bool:
        return any(
            (above := self.fields.get(place[:length])) is not None and above.removed for length in range(len(place))
        )

    def _text(self, place: Place) -> str:
        """The text of a place, without the keys that nobody may see."""
        steps = list(place)
        for length in range(1, len(place) + 1):
            if place[:length] in self.telling_keys:
                steps[length - 1] = REDACTED
        return place_text(steps)


class _Walk:
    """One walk over a document: what names remove, and which values under a tenant's key name another tenant."""

    __slots__ = ("_depth_max", "_known", "_names", "_tenant", "_tenant_keys", "foreign", "removals")

    def __init__(self, rule: CompiledRule, tenant_keys: frozenset[str], tenant: str) -> None:
        self._depth_max = rule.limits.depth_max
        self._names = rule.names
        self._tenant_keys = tenant_keys
        self._tenant = tenant
        self._known: dict[str, str | bool] = {}
        """Of each key: the reason for removing it, whether it names a tenant."""
        self.removals: list[tuple[Place, str]] = []
        self.foreign: list[Finding] = []

    def look(self, value: Any, place: Place, levels: int) -> None:
        """Look at a value and all in it; the innermost value is a level, too. Raises _Held for more levels."""
        if levels < 2 and value and value.__class__ in (dict, list):
            raise _Held(f"Nested deeper than {self._depth_max}")
        if value.__class__ is list:
            for index, item in enumerate(value):
                if item.__class__ is dict or item.__class__ is list:
                    self.look(item, (*place, index), levels - 1)
        elif value.__class__ is dict:
            known = self._known
            for key, item in value.items():
                mark = known.get(key)
                if mark is None:
                    plain = plain_key(key)
                    mark = known[key] = self._names.get(plain) or plain in self._tenant_keys
                if mark.__class__ is str:
                    self.removals.append(((*place, key), str(mark)))
                    continue
                if item.__class__ is dict or item.__class__ is list:
                    self.look(item, (*place, key), levels - 1)
                if mark:
                    self._named(item, (*place, key))

    def _named(self, value: Any, place: Place) -> None:
        """Look at what stands under a key that names a tenant: a name, or a list of names."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                self._named(item, (*place, index))
        elif value.__class__ in (str, int) and str(value) not in (self._tenant, REDACTED):
            self.foreign.append(Finding(place, False, TENANT_KEY, FOREIGN_TENANT, None, None))


def _led_to(value: Any, place: Place, keys: tuple[str, ...]) -> Iterator[Place]:
    """Where the keys of a path lead; lists on the way are gone through."""
    if not keys:
        yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            if plain_key(key) == keys[0]:
                yield from _led_to(item, (*place, key), keys[1:])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _led_to(item, (*place, index), keys)
