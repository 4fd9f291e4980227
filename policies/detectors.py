"""What is looked for in an output: detectors as data, one automaton over their keywords, one RE2 pattern each.

A detector with keywords is asked only where one of them occurs (case does not matter); one without is always asked,
so its pattern must refuse quickly. What counts is the pattern's first group, the whole match where it has none; the
validator has the last word. Patterns see a whole document at once, entry by entry: they need no anchors and get none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, Protocol

import ahocorasick_rs
import msgspec
import re2
import yaml

from sluicegate.policies.decodings import ENTRY, entry_around, odd_characters
from sluicegate.policies.faults import suggest
from sluicegate.policies.secrecy import Span
from sluicegate.policies.validators import VALIDATORS, Validator
from sluicegate.schemas.errors import BadInput

CLASSES: Final = (
    "credential",
    "card",
    "iban",
    "ssn",
    "email",
    "phone",
    "ip",
    "foreign_tenant",
    "promise",
    "legal_threat",
    "vip",
)
"""The classes of the detectors that come with Sluicegate; a user's own detector may name a new one."""

STRETCH_BYTES: Final = 512
"""How much of a document a pattern of a user is asked about at a time."""
READ_ON_BYTES_MAX: Final = 2048
"""How far a pattern may read on beyond what counts."""
PATTERN_CHARS_MAX: Final = 1000
PROGRAM_SIZE_MAX: Final = 5000
"""The size of a compiled pattern, in RE2's instructions."""
KEYWORDS_MAX: Final = 64
KEYWORD_CHARS_MIN: Final = 1
KEYWORD_CHARS_MAX: Final = 64
EXTRA_DETECTORS_MAX: Final = 200

FILES: Final = ("credentials.yaml", "personal.yaml", "phrases.yaml")

Confidence = Literal["low", "medium", "high"]


class DetectorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"klass": "class"}):
    """A detector as it is written in YAML; ``klass`` is its key `class`.

    ``keywords``: one of them stands wherever the pattern can match; none: the pattern is always asked.
    ``exclude_group_equal``: a match whose group is this text is no finding, whatever its case.
    """

    id: str
    klass: str
    pattern: str
    keywords: tuple[str, ...] = ()
    validator: str | None = None
    confidence: Confidence = "medium"
    exclude_group_equal: str | None = None


class Match(msgspec.Struct, frozen=True):
    """What a recogniser found in a text, in characters."""

    detector: str
    klass: str
    start: int
    end: int


class Recogniser(Protocol):
    """Finds what no pattern can. Pure: the same text gives the same matches. Whatever it raises is the scan's error."""

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        """The matches in a text; ``key`` is the name it stands under, None in a list and for a key itself."""
        ...


class Hit(msgspec.Struct, frozen=True):
    """A detector's match in bytes."""

    detector: str
    klass: str
    start: int
    end: int


class _Compiled:
    __slots__ = ("excluded", "foreign", "group", "id", "klass", "pattern", "source", "validator")

    def __init__(self, spec: DetectorSpec, foreign: bool = False) -> None:
        self.id = spec.id
        self.klass = spec.klass
        self.source = spec.pattern
        self.pattern: Any = _compiled(spec.pattern)
        self.group = 1 if self.pattern.groups else 0
        self.validator: Validator | None = VALIDATORS[spec.validator] if spec.validator else None
        self.excluded = _folded(spec.exclude_group_equal) if spec.exclude_group_equal is not None else None
        self.foreign = foreign

    def accepted(self, data: bytes, span: Span, tenant: bytes | None) -> Span | None:
        """The span that counts, None when the match is none."""
        text = data[span[0] : span[1]]
        if not text or (self.excluded is not None and text.lower() == self.excluded):
            return None
        if self.foreign and tenant is not None and text.lower() == tenant:
            return None
        return span if self.validator is None else self.validator(data, *span)


class Detectors:
    """A compiled set of detectors. Made by ``build``; may be shared by threads and used for any number of documents."""

    def __init__(
        self, specs: Sequence[DetectorSpec], foreign: Sequence[str] = (), recognisers: Sequence[Recogniser] = ()
    ) -> None:
        self.specs = tuple(specs)
        self.recognisers = tuple(recognisers)
        odd_characters()  # what a scan needs is ready before the first one
        self._all = [_Compiled(spec) for spec in specs]
        self._all += [
            _Compiled(DetectorSpec(id=f"foreign_tenant_{place}", klass="foreign_tenant", pattern=pattern), foreign=True)
            for place, pattern in enumerate(foreign, 1)
        ]
        self.classes = frozenset(each.klass for each in self._all)
        always = [at for at, each in enumerate(self._all) if at >= len(specs) or not specs[at].keywords]
        ours = frozenset(spec.id for spec in builtin_specs())
        gated = [at for at in always if self._all[at].id in ours]
        self._gates: list[tuple[Any, list[int]]] = [
            (_union([self._all[at].source]), [at]) for at in always if self._all[at].id not in ours
        ]
        if gated:
            self._gates.append((_union(specs[at].pattern for at in gated), gated))
        by_keyword: dict[bytes, list[int]] = {}
        for place, spec in enumerate(specs):
            for word in spec.keywords:
                by_keyword.setdefault(_folded(word), []).append(place)
        self._asked_by = list(by_keyword.values())
        self._automaton = ahocorasick_rs.BytesAhoCorasick(list(by_keyword)) if by_keyword else None

    @classmethod
    def build(
        cls,
        builtin: bool = True,
        extra: Sequence[DetectorSpec] = (),
        foreign: Sequence[str] = (),
        recognisers: Sequence[Recogniser] = (),
    ) -> Detectors:
        """The detectors that come with Sluicegate, if wanted, a user's own, and patterns of tenants' identifiers.

        The first group of a ``foreign`` pattern is a tenant's name (`tenant[-_/:]([a-z0-9-]+)`); it is a finding where
        it is not the tenant given to the scan. Raises BadInput.
        """
        specs = [*(builtin_specs() if builtin else ()), *extra]
        ids: set[str] = set()
        if len(extra) > EXTRA_DETECTORS_MAX:
            raise BadInput(f"more than {EXTRA_DETECTORS_MAX} own detectors; join some of them")
        for spec in specs:
            if spec.id in ids:
                raise BadInput(f"the id `{spec.id}` is taken; choose another")
            ids.add(spec.id)
        for spec in extra:
            if (problem := spec_problem(spec)) is not None:
                raise BadInput(problem)
        for pattern in foreign:
            if (problem := pattern_problem(pattern, groups_min=1)) is not None:
                raise BadInput(problem)
        return cls(specs, foreign, recognisers)

    def hits(self, data: bytes, tenant: str | None) -> Iterator[Hit | int]:
        """Each match in the data; of a candidate that turned out to be none its bytes, so that the caller can count."""
        folded = _folded(tenant) if tenant is not None else None
        for (start, end), places in self._asked(data).items():
            entry = data[start:end]
            for place in sorted(places):
                yield from _hits(self._all[place], entry, start, folded)

    def _asked(self, data: bytes) -> dict[Span, set[int]]:
        """For each entry the detectors that can match in it: by a keyword, or by a pattern that needs none."""
        asked: dict[Span, set[int]] = {}
        start, end = 0, -1
        found = self._automaton.find_matches_as_indexes(data.lower(), overlapping=True) if self._automaton else ()
        for word, at, _ in found:
            if not start <= at < end:
                start, end = entry_around(data, at)
            asked.setdefault((start, end), set()).update(self._asked_by[word])
        for gate, places in self._gates:
            for span in _entries_with(gate, data):
                asked.setdefault(span, set()).update(places)
        return asked


def _entries_with(gate: Any, data: bytes) -> Iterator[Span]:
    """The entries in which a pattern occurs.

    Searched a stretch of entries at a time: a pattern of a user that reaches over all that follows would otherwise read
    the rest of the document once for each entry.
    """
    at = 0
    while at < len(data):
        stop = data.find(ENTRY, at + STRETCH_BYTES)
        stop = len(data) if stop < 0 else stop
        met = gate.search(data, at, stop)
        if met is None:
            at = stop + 1
            continue
        # Where it reaches over entries it is asked in the first; those after it are searched next.
        span = entry_around(data, met.start())
        yield span
        at = span[1] + 1


def _hits(one: _Compiled, entry: bytes, offset: int, tenant: bytes | None) -> Iterator[Hit | int]:
    at = 0
    while (match := one.pattern.search(entry, at)) is not None:
        whole, span = match.span(), match.span(one.group)
        if span[0] < 0:
            # The group took no part in the match: all of it counts, rather than none.
            span = whole
        accepted = one.accepted(entry, span, tenant)
        if accepted is None:
            yield whole[1] - whole[0]
            at = whole[0] + 1 if one.validator is not None else max(whole[1], whole[0] + 1)
        else:
            yield Hit(one.id, one.klass, offset + accepted[0], offset + accepted[1])
            at = max(whole[0] + 1, accepted[1])
            if whole[1] - at > READ_ON_BYTES_MAX:
                # It read far beyond what counts, and would again. What else stands there is met when what is redacted
                # is looked through again.
                yield whole[1] - at
                at = whole[1]


def _folded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").lower()


def _compiled(pattern: str) -> Any:
    """The pattern over bytes of UTF-8. Raises re2.error."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


def _union(patterns: Iterable[str]) -> Any:
    options = re2.Options()
    options.never_capture = True
    return re2.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode(), options)


@cache
def builtin_specs() -> tuple[DetectorSpec, ...]:
    """The detectors that come with Sluicegate, read once from the package's data."""
    folder = resources.files("sluicegate.policies") / "detectors"
    found: list[DetectorSpec] = []
    for name in FILES:
        entries = yaml.load((folder / name).read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        found += msgspec.convert(entries["detectors"], list[DetectorSpec])
    return tuple(found)


def phrase_detector(name: str, klass: str, phrases: Sequence[str]) -> DetectorSpec:
    """A detector of phrases in any case and with any space between their words; they are text, not patterns."""
    words = [r"\s+".join(re2.escape(word) for word in phrase.split()) for phrase in phrases]
    joined = "|".join(word for word in words if word)
    return DetectorSpec(id=name, klass=klass, pattern=f"(?i)(?:{joined})" if joined else "", confidence="low")


def detector_problem(data: Mapping[str, Any]) -> str | None:
    """What is wrong with a detector as written in YAML, with what to do next; None when it can be used."""
    try:
        spec = msgspec.convert(dict(data), DetectorSpec)
    except (msgspec.ValidationError, TypeError, ValueError) as problem:
        return _said(str(problem))
    return spec_problem(spec)


def _said(problem: str) -> str:
    """A converter's message in our words."""
    if "unknown field" in problem:
        named = problem.split("`")[1] if "`" in problem else ""
        keys = ["id", "class", "pattern", "keywords", "validator", "confidence", "exclude_group_equal"]
        return f"a detector has no key `{named}`; {suggest(named, keys)}"
    if "missing required field" in problem:
        return f"the detector lacks `{problem.split('`')[1]}`; it needs `id`, `class` and `pattern`"
    return f"{problem[:1].lower()}{problem[1:]}; a detector is texts, `keywords` a list of them"


def spec_problem(spec: DetectorSpec) -> str | None:
    """As ``detector_problem``, for one that was read already."""
    if not _is_name(spec.id, "-_."):
        return f"`{spec.id}` is no id of a detector; use up to 64 of a-z, 0-9, `-`, `_` and `.`"
    if not _is_name(spec.klass, "_"):
        return f"`{spec.klass}` is no class; {suggest(spec.klass, CLASSES)}, or a word of a-z, 0-9 and `_`"
    if spec.validator is not None and spec.validator not in VALIDATORS:
        return f"there is no validator `{spec.validator}`; {suggest(spec.validator, VALIDATORS)}"
    if len(spec.keywords) > KEYWORDS_MAX:
        return f"the detector `{spec.id}` has more than {KEYWORDS_MAX} keywords; leave some out"
    for word in spec.keywords:
        if not KEYWORD_CHARS_MIN <= len(word) <= KEYWORD_CHARS_MAX or not word.isascii():
            limits = f"{KEYWORD_CHARS_MIN} to {KEYWORD_CHARS_MAX} ASCII characters"
            return f"the keyword `{word}` has not {limits}; choose another, or give no keywords"
    return pattern_problem(spec.pattern, groups_min=1 if spec.exclude_group_equal is not None else 0)


def _is_name(text: str, marks: str) -> bool:
    return 0 < len(text) <= 64 and all(each in "abcdefghijklmnopqrstuvwxyz0123456789" + marks for each in text)


def pattern_problem(pattern: str, groups_min: int = 0) -> str | None:
    """What is wrong with an RE2 pattern of a user, with what to do next; None when it can be used."""
    if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
        return f"a pattern has 1 to {PATTERN_CHARS_MAX} characters; this one has {len(pattern)}"
    if (anchor := _anchor(pattern)) is not None:
        return f"the pattern `{pattern}` has the anchor `{anchor}`; patterns look anywhere, use `\\b` for a word's end"
    try:
        compiled = _compiled(pattern)
    except re2.error as problem:
        said = problem.args[0] if problem.args else "it cannot be read"
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return f"the pattern `{pattern}` is not one of RE2: {said}; see the syntax page of RE2"
    except UnicodeEncodeError:
        return "the pattern is not valid Unicode; save the file as UTF-8"
    if compiled.search(b"") is not None:
        return f"the pattern `{pattern}` matches an empty text; make some part of it required"
    if compiled.programsize > PROGRAM_SIZE_MAX:
        return f"the pattern `{pattern}` is too large once compiled; use smaller repetitions"
    if compiled.groups > 1:
        return (
            f"the pattern `{pattern}` has {compiled.groups} groups; keep the one that matters, write `(?:` for others"
        )
    if compiled.groups < groups_min:
        return f"the pattern `{pattern}` has no group; put what is compared in `(` and `)`"
    return None


def _anchor(pattern: str) -> str | None:
    """The first anchor of a text's begin or end outside a character class."""
    in_class = escaped = False
    for place, letter in enumerate(pattern):
        if escaped:
            escaped = False
            if letter in "AzZ" and not in_class:
                return f"\\{letter}"
        elif letter == "\\":
            escaped = True
        elif in_class:
            in_class = letter != "]" or pattern[place - 1] == "["
        elif letter == "[":
            in_class = True
        elif letter in "^$":
            return letter
    return None
