"""What may leave: `output-policy.yaml` made ready to be asked by topic and audience. Pure.

The first rule that fits topic and audience holds for an output. Where none does, `default` holds; without one the
output is quarantined, since nobody has said what may leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, get_args

import msgspec
import re2

from sluicegate.policies.detectors import Detectors, DetectorSpec, Recogniser, builtin_specs
from sluicegate.policies.output_document import (
    AUDIENCES,
    BYTES_MAX_DEFAULT,
    FOREIGN_TENANT,
    NOT_FOR_CUSTOMERS,
    NOT_FOR_READER,
    PHRASE_CLASSES,
    PHRASE_PREFIX,
    REASONS,
    STRICTEST,
    TENANT_PREFIX,
    ActionWord,
    AudienceWord,
    OutputBody,
    OutputLimits,
    OutputPolicyDocument,
    TypeWord,
    removal_steps,
)
from sluicegate.policies.patterns import Glob
from sluicegate.policies.places import plain_key
from sluicegate.schemas.payload import DEPTH_MAX

PHRASES_CHARS_MAX: Final = 900
"""How long the pattern of several phrases becomes before another one begins."""


class Limits(msgspec.Struct, frozen=True):
    """What an output may be like: its size in bytes, how deep it nests, and what stands at its root."""

    bytes_max: int = BYTES_MAX_DEFAULT
    depth_max: int = DEPTH_MAX
    types: tuple[str, ...] = get_args(TypeWord)

    def within(self, given: OutputLimits) -> Limits:
        """These limits, where ``given`` says no others."""
        return Limits(
            given.bytes_max or self.bytes_max,
            given.depth_max or self.depth_max,
            self.types if given.types is None else tuple(given.types),
        )


class CompiledRule(msgspec.Struct, frozen=True):
    """A rule ready to be asked.

    ``names`` are removed at any depth, ``paths`` from the root; keys as ``plain_key`` has them, each with its reason.
    """

    id: str
    limits: Limits
    names: Mapping[str, str]
    paths: tuple[tuple[tuple[str, ...], str], ...]
    actions: Mapping[str, ActionWord]
    quarantine: str | None

    def action(self, klass: str) -> ActionWord:
        """What is done with something of a class; what no document and no table knows is redacted."""
        return self.actions.get(klass, "redact")


class OutputPolicy:
    """One document, ready to be asked. What is remembered between calls changes no answer."""

    def __init__(self, document: OutputPolicyDocument, recognisers: Sequence[Recogniser] = ()) -> None:
        """``document`` has passed `check_output_policy`. ``recognisers`` find what no pattern can."""
        self._base = Limits().within(document.limits)
        self._reasons = document.reasons
        self._phrase_classes = frozenset({*PHRASE_CLASSES, *document.phrases})
        self._rules: list[tuple[tuple[Glob, ...], frozenset[str], OutputBody, str]] = [
            (
                tuple(map(Glob, rule.match.topics or ("*",))),
                frozenset(rule.match.audience or AUDIENCES),
                rule,
                rule.id or f"rules/{index}",
            )
            for index, rule in enumerate(document.rules)
        ]
        self._default = document.default
        self._compiled: dict[tuple[str, str], CompiledRule] = {}
        self.tenant_keys: frozenset[str] = frozenset(map(plain_key, document.tenants.keys or ()))
        added = added_detectors(document)
        patterns = document.tenants.patterns
        self.owners: Mapping[str, str] = added.owners
        """From a detector's id to the tenant whose identifiers it knows."""
        self.detectors: Detectors = Detectors.build(extra=added.specs, foreign=patterns, recognisers=recognisers)
        tags = [spec for spec in (*builtin_specs(), *added.specs) if spec.klass in self._phrase_classes]
        self.phrase_detectors: Detectors = Detectors(tags)

    def rule(self, topic: str, audience: AudienceWord) -> CompiledRule:
        """The rule that holds for an output on ``topic`` that ``audience`` reads."""
        for globs, audiences, body, name in self._rules:
            if audience in audiences and any(glob.matches(topic) for glob in globs):
                return self._compile(name, body, audience)
        return self._compile("default", _NOBODY_SAYS if self._default is None else self._default, audience)

    def reason(self, klass: str) -> str:
        """Why something of a class is taken out."""
        return self._reasons.get(klass) or REASONS.get(klass) or f"`{klass}` detected"

    @property
    def phrase_classes(self) -> frozenset[str]:
        """The classes that are phrases, and may be tags of an intent."""
        return self._phrase_classes

    def _compile(self, name: str, body: OutputBody, audience: AudienceWord) -> CompiledRule:
        known = self._compiled.get((name, audience))
        if known is not None:
            return known
        other = NOT_FOR_CUSTOMERS if audience == STRICTEST else NOT_FOR_READER
        names: dict[str, str] = {}
        paths: list[tuple[tuple[str, ...], str]] = []
        for each in body.remove or ():
            reason = self._reasons.get(each, other)
            steps = removal_steps(each)
            if steps is None:
                names.setdefault(plain_key(each), reason)
            else:
                paths.append((steps, reason))
        actions: dict[str, ActionWord] = dict.fromkeys(self._phrase_classes, "allow")
        compiled = CompiledRule(
            id=name,
            limits=self._base.within(body.limits),
            names=names,
            paths=tuple(paths),
            actions=actions | body.detect,
            quarantine=body.quarantine,
        )
        self._compiled[name, audience] = compiled
        return compiled


_NOBODY_SAYS: Final = OutputBody(quarantine="No rule says what may leave here")


def audience_of(said: str | None) -> AudienceWord:
    """The audience that `actions.yaml` means: unset, or a word that is none of ours, is the strictest."""
    return next((each for each in AUDIENCES if each == said), STRICTEST)


class Added(msgspec.Struct, frozen=True):
    """The detectors that a document adds, and of which tenant some of them are."""

    specs: tuple[DetectorSpec, ...]
    owners: Mapping[str, str]
    """From a detector's id to the tenant whose identifiers it knows."""


def added_detectors(document: OutputPolicyDocument) -> Added:
    """The detectors that a document adds: its own, those of its phrases, and one for each look of an identifier."""
    specs = [msgspec.convert(data, DetectorSpec) for data in document.detectors]
    for klass, phrases in document.phrases.items():
        specs += _phrase_detectors(klass, phrases)
    owners: dict[str, str] = {}
    for tenant, patterns in document.tenants.identifiers.items():
        for pattern in patterns:
            name = f"{TENANT_PREFIX}{len(owners)}"
            owners[name] = tenant
            specs.append(DetectorSpec(id=name, klass=FOREIGN_TENANT, pattern=pattern))
    return Added(tuple(specs), owners)


def _phrase_detectors(klass: str, phrases: Sequence[str]) -> Iterator[DetectorSpec]:
    """Phrases as detectors, as many in one as its pattern may be long; whole words, in any case, any space between."""
    parts = [_words(phrase) for phrase in phrases]
    start = length = 0
    for index, part in enumerate([*parts, ""]):
        if index == len(parts) or (index > start and length + len(part) + 1 > PHRASES_CHARS_MAX):
            pattern = rf"(?i)(?:{'|'.join(parts[start:index])})"
            yield DetectorSpec(id=f"{PHRASE_PREFIX}{klass[:40]}-{start}", klass=klass, pattern=pattern)
            start, length = index, 0
        length += len(part) + 1


def _words(phrase: str) -> str:
    """A phrase as a pattern. RE2 knows the ends of words in ASCII only, so only there are they asked for."""
    words = phrase.split()
    first, last = (r"\b" if letter.isascii() and letter.isalnum() else "" for letter in (words[0][0], words[-1][-1]))
    return first + r"\s+".join(re2.escape(word) for word in words) + last
