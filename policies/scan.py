"""One pass over a parsed JSON document: every key, text and number, as it stands and in its decodings.

All entries are joined into one text of bytes, so that a prefilter and a few patterns meet a document once and not once
for each of its values. A decoding is a further such text (`decodings`), looked through in the same way. Work is bounded
by counts: entries, depth, layers of decoding, decoded bytes, candidates, findings. At the first limit the scan stops
and says which; what was found until then stands, and the caller must not let the document through.

A value split over several entries of a document is not put together again. A decoding that changes letters (base64,
hex) is covered as the whole run. Nothing here reads a clock: the same document, detectors and limits, the same scan.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import msgspec

from sluicegate.policies.decodings import AFTER_KEY, ENTRY, Layer, layers_of
from sluicegate.policies.detectors import Detectors, Hit

Path = tuple[str | int, ...]


class ScanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan may cost.

    ``decoded_times_max`` is a multiple of the document, which never counts for less than
    ``decoded_bytes_floor``; ``candidate_times_max`` bounds in the same way the bytes of all candidates that patterns
    propose and validators refuse; ``decodings_max`` is how deep decodings may lie in one another; ``depth_max`` is the
    document's own depth.
    """

    depth_max: int = 64
    entries_max: int = 200_000
    bytes_max: int = 16 * 1024 * 1024
    decodings_max: int = 4
    decoded_times_max: int = 4
    decoded_bytes_floor: int = 32 * 1024
    candidates_max: int = 20_000
    candidate_times_max: int = 64
    findings_max: int = 5_000


SCAN_LIMITS: Final = ScanLimits()
NUMBER_MIN: Final = 1_000_000
"""Numbers nearer to zero hold nothing of any class."""
NUMBER_BITS_MAX: Final = 4096
FLOAT_EXACT_MAX: Final = 2.0**63
_NAMING: Final = ("name", "key", "Name", "Key", "field", "header", "label")
_SAYING_NOTHING: Final = ("value", "Value", "number", "raw")
SAID_CHARS_MAX: Final = 100
"""How long a text may be that is taken for the name of what stands beside it."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """Something found at a path of the document. ``in_key``: in the last key of the path, not in its value.

    ``start`` and ``end`` count characters of the original text; None is the whole value (a key, a number).
    """

    path: Path
    in_key: bool
    detector: str
    klass: str
    start: int | None
    end: int | None


class Scan(msgspec.Struct, frozen=True):
    """What was found, in the document's order, and the limit that stopped the scan, or None."""

    findings: tuple[Finding, ...]
    exceeded: str | None = None


class _Exceeded(Exception):
    """A limit was reached; its text is the reason."""


def scan(document: Any, detectors: Detectors, limits: ScanLimits = SCAN_LIMITS, *, tenant: str | None = None) -> Scan:
    """Everything the detectors find in a document as `json.loads` gives it.

    ``tenant`` is the job's own: its identifiers are not foreign; without one all are. What a recogniser raises is not
    caught.
    """
    entries = _Entries(limits)
    found: dict[Finding, int] = {}
    try:
        entries.read(document)
        _search(entries, detectors, limits, tenant, found)
    except _Exceeded as reached:
        return Scan(_in_order(found), str(reached))
    return Scan(_in_order(found))


def _in_order(found: dict[Finding, int]) -> tuple[Finding, ...]:
    """In the document's order, without those that another of the same class covers."""
    kept: list[Finding] = []
    reached: dict[tuple[int, bool, str], float] = {}
    for each in sorted(found, key=lambda one: (found[one], one.start or 0, -(one.end or math.inf), one.detector)):
        at, end = (found[each], each.in_key, each.klass), math.inf if each.end is None else each.end
        if end > reached.get(at, -1):
            reached[at] = end
            kept.append(each)
    return tuple(kept)


class _Entries:
    """The document's keys and values as one text, and the way back from there."""

    def __init__(self, limits: ScanLimits) -> None:
        self.limits = limits
        self.texts: list[str] = []
        self.owners: list[tuple[Path, str | int | None, bool, bool]] = []
        """Of each entry: the path of what holds it, its last step, whether its key is its own, whether it is a text."""
        self.keyed = 0
        self.clean = False
        self.starts: list[int] = []
        self.data = b""

    def read(self, document: Any) -> None:
        """Take the document apart. Raises _Exceeded."""
        self._take(document, (), None, None, 0)
        if len(self.texts) > self.limits.entries_max:
            raise _Exceeded(f"more than {self.limits.entries_max} keys and values")
        joined = "\0".join(self.texts)
        if joined.count("\0") != len(self.texts) - 1 or joined.count("\1") != self.keyed:
            # The document has our separators in it. Read it again with another control character for them.
            self.texts, self.owners, self.keyed, self.clean = [], [], 0, True
            self._take(document, (), None, None, 0)
            joined = "\0".join(self.texts)
        self.data = joined.encode("utf-8", "surrogatepass")
        if len(self.data) > self.limits.bytes_max:
            raise _Exceeded(f"more than {self.limits.bytes_max} bytes of text")

    def _take(self, value: Any, path: Path, step: str | int | None, key: str | None, depth: int) -> None:
        """Take one value that stands under ``step`` in ``path``; ``key`` is the nearest name above it."""
        own = step is not None and step is key
        if not isinstance(value, dict | list):
            is_text = isinstance(value, str)
            text = value if is_text else _number(value)
            if text or own:
                self._add(text, path, step, key, own, is_text)
            return
        if depth >= self.limits.depth_max:
            raise _Exceeded(f"more than {self.limits.depth_max} levels")
        if len(self.texts) > self.limits.entries_max:
            raise _Exceeded(f"more than {self.limits.entries_max} keys and values")
        if own:
            self._add("", path, step, key, own, False)
        inner = path if step is None else (*path, step)
        if isinstance(value, list):
            for place, each in enumerate(value):
                self._take(each, inner, place, key, depth + 1)
        elif self.clean:
            pair = _read_with(value, key)
            for name, each in value.items():
                self._take(each, inner, name, pair[1] if pair is not None and name == pair[0] else name, depth + 1)
        else:
            # As the branch above, without a call for each text: most of a document is this.
            pair = _read_with(value, key)
            for name, each in value.items():
                if pair is not None and name == pair[0]:
                    self._take(each, inner, name, pair[1], depth + 1)
                elif isinstance(each, str):
                    self.keyed += 1
                    self.texts.append(f"{name}\1{each}")
                    self.owners.append((inner, name, True, True))
                else:
                    self._take(each, inner, name, name, depth + 1)

    def _add(self, text: str, path: Path, step: str | int | None, key: str | None, own: bool, is_text: bool) -> None:
        if self.clean:
            text = text.replace("\0", "\2").replace("\1", "\2")
            key = key.replace("\0", "\2").replace("\1", "\2") if key is not None else None
        if key is None:
            self.texts.append(text)
        else:
            self.keyed += 1
            self.texts.append(f"{key}\1{text}")
        self.owners.append((path, step, own, is_text))

    def findings(self, hit: Hit, start: int, end: int) -> Iterator[tuple[int, Finding]]:
        """The findings of a hit whose origin in the document's text is this span, with the place of each entry."""
        if not self.starts:
            self.starts = [0]
            at = self.data.find(ENTRY)
            while at >= 0:
                self.starts.append(at + 1)
                at = self.data.find(ENTRY, at + 1)
        last = bisect_right(self.starts, end - 1) - 1
        for place in range(bisect_right(self.starts, start) - 1, last + 1):
            begin = self.starts[place]
            stop = self.starts[place + 1] - 1 if place + 1 < len(self.starts) else len(self.data)
            path, step, own, is_text = self.owners[place]
            key_end = self.data.find(AFTER_KEY, begin, stop)
            full = path if step is None else (*path, step)
            if own and start < key_end:
                yield place, Finding(full, True, hit.detector, hit.klass, None, None)
            value_start = key_end + 1 if key_end >= 0 else begin
            first, final = max(start, value_start), min(end, stop)
            if first >= final:
                continue
            if is_text:
                begins = _characters(self.data[value_start:first])
                ends = begins + _characters(self.data[first:final])
                yield place, Finding(full, False, hit.detector, hit.klass, begins, max(ends, begins + 1))
            else:
                yield place, Finding(full, False, hit.detector, hit.klass, None, None)


def _read_with(value: dict[str, Any], key: str | None) -> tuple[str, str] | None:
    """The key that does not say what its value is, and what does: `{"name": "DB_PASSWORD", "value": ...}`.

    `value` is read beside the name that stands beside it, `number` and the like beside the key above.
    """
    said = key
    for naming in _NAMING:
        if naming in value and isinstance(value[naming], str):
            said = value[naming]
            break
    if said is None or not 0 < len(said) <= SAID_CHARS_MAX:
        return None
    for naming in _SAYING_NOTHING:
        if naming in value:
            return naming, said if said is not key else f"{key} {naming}"
    return None


def _number(value: Any) -> str:
    """The digits of a number in which something can hide, else nothing. Raises _Exceeded for what JSON has not."""
    if value is None or value is True or value is False:
        return ""
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= FLOAT_EXACT_MAX:
            return ""
        value = int(value)
    if not isinstance(value, int):
        raise _Exceeded(f"a value of the kind {type(value).__name__}, which JSON has not")
    if -NUMBER_MIN < value < NUMBER_MIN:
        return ""
    if value.bit_length() > NUMBER_BITS_MAX:
        raise _Exceeded(f"a number of more than {NUMBER_BITS_MAX} bits")
    return str(value)


_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def _characters(data: bytes) -> int:
    """How many characters begin in these bytes of UTF-8."""
    return len(data.translate(None, _CONTINUATION))


def _search(
    entries: _Entries, detectors: Detectors, limits: ScanLimits, tenant: str | None, found: dict[Finding, int]
) -> None:
    """Look through the document's text and its decodings, breadth first. Raises _Exceeded."""
    left_bytes = max(limits.decoded_bytes_floor, limits.decoded_times_max * len(entries.data))
    left_candidates, left_refused = limits.candidates_max, limits.candidate_times_max * (left_bytes + len(entries.data))
    layers, seen = [Layer(entries.data)], {entries.data}
    for layer in layers:
        for hit in chain(detectors.hits(layer.data, tenant), _recognised(layer.data, detectors)):
            left_candidates -= 1
            if isinstance(hit, int):
                left_refused -= hit
            if left_candidates < 0 or left_refused < 0:
                raise _Exceeded(f"more than {limits.candidates_max} candidates, or too long ones")
            if isinstance(hit, int):
                continue
            for place, finding in entries.findings(hit, *layer.origin(hit.start, hit.end)):
                found.setdefault(finding, place)
            if len(found) > limits.findings_max:
                raise _Exceeded(f"more than {limits.findings_max} findings")
        for made in layers_of(layer):
            if made.data in seen:
                continue
            if made.depth > limits.decodings_max:
                if made.trivial:
                    continue
                raise _Exceeded(f"decodings more than {limits.decodings_max} deep")
            left_bytes -= len(made.data)
            if left_bytes < 0:
                raise _Exceeded(f"decodings of more than {limits.decoded_times_max} times the document")
            seen.add(made.data)
            layers.append(made)


def _recognised(data: bytes, detectors: Detectors) -> Iterator[Hit]:
    """What the recognisers find, entry by entry."""
    if not detectors.recognisers:
        return
    at = 0
    for entry in data.split(ENTRY):
        key, mark, value = entry.partition(AFTER_KEY)
        named = key.decode("utf-8", "replace") if mark else None
        texts = [(value, at + len(key) + 1, named), (key, at, None)] if mark else [(entry, at, None)]
        for raw, begin, name in texts:
            text = raw.decode("utf-8", "replace")
            for recogniser in detectors.recognisers:
                for match in recogniser.find(text, name) if text else ():
                    start = begin + len(text[: match.start].encode())
                    yield Hit(match.detector, match.klass, start, begin + len(text[: match.end].encode()))
        at += len(entry) + 1
