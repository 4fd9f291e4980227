"""The anomaly score: how seldom an agent did something like this, as a p-value that means what it says.

An observation falls into one small bin per named feature. A sketch of fixed size, one per agent and topic, counts the
bins of what was learned. How strange an observation is (its nonconformity) is the sum over the features of
-log2(share of its bin), in 1/16 bits. The sketch also counts how strange each learned event was when it came, before
it was counted; the share of those at least as strange is the conformal p-value (Vovk, Gammerman and Shafer,
*Algorithmic Learning in a Random World*, 2005), ties counted against strangeness. The score is min(1, -log10(p) / 3):
0.8 means that about 4 of 1,000 ordinary events are as strange. A raw strangeness has no such meaning.

All that is binned and counted is integer arithmetic, without the C library's logarithms; only the score itself, rounded
to four decimals, takes one. So another machine that recomputes a decision finds the same score.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from sluicegate.policies.features import (
    ABSENT,
    FEATURES,
    ODD,
    TARGET_BITS,
    WIDTHS,
    Bins,
    Observation,
    bins_by,
    shape_of,
    target_of,
)

__all__ = [
    "COLD_START_EVENTS",
    "FEATURES",
    "FORMAT_VERSION",
    "SKETCH_BYTES",
    "Bins",
    "Observation",
    "Score",
    "Sketch",
    "Source",
    "baseline_document",
    "bins_of",
    "pool",
    "read_baseline",
    "score",
    "shape_of",
    "target_of",
    "value_of",
]

BURN_IN_EVENTS: Final = 32
"""To a sketch that has seen fewer everything is strange; to remember how much would hide what comes later."""
COLD_START_EVENTS: Final = 300
"""Learned events before a sketch is asked: below 251 no p-value could give a score above 0.8."""

Source = Literal["own", "pooled", "cold_start"]

FORMAT_VERSION: Final = 1
"""Of the bytes and of the bins' meaning. Bins of another version must not be learned."""

_UNIT: Final = 16
"""What one event adds to a count, so that halving forgets by and by instead of dropping what was seen once."""
_FEATURE_EVENTS_MAX: Final = 2_000
"""Events that the features' counts hold before they are halved."""
_SCORE_EVENTS_MAX: Final = 2_000
"""The same for the counts of past strangeness; half of it still tells p of 0.1 % apart."""
_PRIOR: Final = 2
"""Units that every bin has before anything was seen (additive smoothing, an eighth of an event): small, so that what
was never seen stands out from what is merely seldom."""

_INDEX_BITS: Final = TARGET_BITS // 2
_BITMAP_BITS: Final = 1 << _INDEX_BITS
_BITMAP_BYTES: Final = _BITMAP_BITS // 8
_YOUNG_BITS_MAX: Final = 192
"""Bits set in the young generation before it becomes the old one: a new target is taken for a known one at most about
7 times in 100 (two places each, two generations)."""

_STRANGE_FINE: Final = (128, 640)
"""Strangeness between 8 and 40 bits is counted by quarters of a bit: the tail that a p-value is about lies there."""
_STRANGE_STEP: Final = (16, 4, 32)
"""Widths below, in and above that range, in 1/16 bits."""
_STRANGE_FROM: Final = (0, _STRANGE_FINE[0] // _STRANGE_STEP[0])
_STRANGE_ABOVE: Final = _STRANGE_FROM[1] + (_STRANGE_FINE[1] - _STRANGE_FINE[0]) // _STRANGE_STEP[1]
_STRANGE_BINS: Final = _STRANGE_ABOVE + 20


class Score(NamedTuple):
    """``value`` from 0 to 1 in 4 decimals; ``source`` says which sketch was asked; ``p`` is None where none was."""

    value: float
    source: Source
    p: float | None


def _offsets() -> tuple[int, ...]:
    return tuple(sum(WIDTHS[:feature]) for feature in range(len(WIDTHS)))


def _neighbours() -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """For each feature and bin the places of its left neighbour, itself and its right one.

    Numbers and hours borrow from their neighbours, so that a slow drift finds the next bin half known; a bin at an
    end, an absent or odd one, a shape and a target's newness have none.
    """
    found = []
    for feature, (offset, width) in enumerate(zip(_offsets(), WIDTHS, strict=True)):
        places = []
        for index in range(width):
            left = right = index
            if FEATURES[feature] == "hour":
                left, right = (index - 1) % width, (index + 1) % width
            elif FEATURES[feature] not in {"shape", "new_target"} and index > ODD:
                left, right = max(index - 1, ODD + 1), min(index + 1, width - 1)
            places.append((offset + left, offset + index, offset + right))
        found.append(tuple(places))
    return tuple(found)


_NEAR: Final = _neighbours()
_COUNTS: Final = sum(WIDTHS)
_PRIOR_OF_ALL: Final = tuple(4 * _PRIOR * width for width in WIDTHS)
_LOG_BITS: Final = 11
_LOG: Final = tuple(
    (((1 << (_LOG_BITS - 1)) + low) ** 32).bit_length() // 2 - 16 * _LOG_BITS for low in range(1 << (_LOG_BITS - 1))
)
"""16 * log2 of numbers of 11 bits, rounded, less 16 * 11: from the length of their 32nd power, so exact anywhere."""


def _log2(number: int) -> int:
    """log2 of a positive number in 1/16 bits, from its 11 leading bits."""
    length = number.bit_length()
    shift = length - _LOG_BITS
    lead = number >> shift if shift >= 0 else number << -shift
    return _LOG[lead - (1 << (_LOG_BITS - 1))] + 16 * length


def _strange_bin(strangeness: int) -> int:
    if strangeness < _STRANGE_FINE[0]:
        return strangeness // _STRANGE_STEP[0]
    if strangeness < _STRANGE_FINE[1]:
        return _STRANGE_FROM[1] + (strangeness - _STRANGE_FINE[0]) // _STRANGE_STEP[1]
    return min(_STRANGE_ABOVE + (strangeness - _STRANGE_FINE[1]) // _STRANGE_STEP[2], _STRANGE_BINS - 1)


_BIG_ENDIAN: Final = array("H", b"\x01\x00")[0] != 1
_HEADER: Final = struct.Struct("<HHQLL")
_BITMAPS_AT: Final = _HEADER.size + 2 * (_COUNTS + _STRANGE_BINS)
SKETCH_BYTES: Final = _BITMAPS_AT + 2 * _BITMAP_BYTES
"""Size of every sketch, whatever it has seen."""
_EMPTY: Final = _HEADER.pack(FORMAT_VERSION, 0, 0, 0, 0) + bytes(SKETCH_BYTES - _HEADER.size)


class Sketch:
    """What one agent's learned events on one topic were like, in a fixed number of bytes.

    ``n`` counts every event ever learned; the counts forget. Raises ValueError for content of another format.
    """

    __slots__ = ("_counts", "_feature_units", "_old", "_strange", "_strange_units", "_young", "_young_bits", "n")

    n: int
    _feature_units: int
    _strange_units: int
    _young_bits: int

    def __init__(self, content: bytes = _EMPTY) -> None:
        if len(content) != SKETCH_BYTES:
            raise ValueError(f"a sketch has {SKETCH_BYTES} bytes, this one `{len(content)}`")
        header = _HEADER.unpack_from(content)
        version, self._young_bits, self.n, self._feature_units, self._strange_units = header
        if version != FORMAT_VERSION:
            raise ValueError(f"the sketch is of format `{version}`, this version reads {FORMAT_VERSION}")
        counts = array("H")
        counts.frombytes(content[_HEADER.size : _BITMAPS_AT])
        counts = _little_endian(counts)
        self._counts, self._strange = counts[:_COUNTS], counts[_COUNTS:]
        self._young = bytearray(content[_BITMAPS_AT : _BITMAPS_AT + _BITMAP_BYTES])
        self._old = bytearray(content[_BITMAPS_AT + _BITMAP_BYTES :])

    def knows(self, folded: int) -> bool:
        """Whether a target was learned in this generation of the bitmap or in the one before."""
        first, second = folded & (_BITMAP_BITS - 1), folded >> _INDEX_BITS & (_BITMAP_BITS - 1)
        return any(
            bits[first >> 3] >> (first & 7) & 1 and bits[second >> 3] >> (second & 7) & 1
            for bits in (self._young, self._old)
        )

    def strangeness(self, bins: Sequence[int]) -> int:
        """The nonconformity in 1/16 bits. Raises ValueError for bins that are none of this format."""
        counts = self._counts
        total = 4 * self._feature_units
        found = 0
        try:
            for near, index, prior in zip(_NEAR, bins[:-1], _PRIOR_OF_ALL, strict=True):
                left, middle, right = near[index]
                found += _log2(total + prior) - _log2(counts[left] + 2 * counts[middle] + counts[right] + 4 * _PRIOR)
        except (IndexError, ValueError):
            raise _unfit(bins) from None
        if min(bins) < 0:
            raise _unfit(bins)
        return max(found, 0)

    def p_value(self, bins: Sequence[int]) -> float:
        """The share of learned events at least as strange, this one counted among them: above 0, at most 1."""
        tail = sum(self._strange[_strange_bin(self.strangeness(bins)) :])
        return (_UNIT + tail) / (_UNIT + self._strange_units)

    def learn(self, bins: Sequence[int]) -> None:
        """Count an event: first how strange it was, then its bins and its target. Raises ValueError as strangeness."""
        strangeness = self.strangeness(bins)
        if self.n >= BURN_IN_EVENTS:
            self._strange[_strange_bin(strangeness)] += _UNIT
            self._strange_units += _UNIT
        counts = self._counts
        for near, index in zip(_NEAR, bins, strict=False):
            counts[near[index][1]] += _UNIT
        self._feature_units += _UNIT
        self.n += 1
        if bins[-2] != ABSENT:
            self._remember(bins[-1])
        if self._feature_units >= _FEATURE_EVENTS_MAX * _UNIT:
            self._counts = array("H", [count >> 1 for count in counts])
            self._feature_units >>= 1
        if self._strange_units >= _SCORE_EVENTS_MAX * _UNIT:
            # Rounded up, so that forgetting never makes what comes look stranger; the last unit goes.
            self._strange = array("H", [(count + 1) >> 1 if count > 1 else 0 for count in self._strange])
            self._strange_units = sum(self._strange)

    def _remember(self, folded: int) -> None:
        for place in (folded & (_BITMAP_BITS - 1), folded >> _INDEX_BITS & (_BITMAP_BITS - 1)):
            mask = 1 << (place & 7)
            if not self._young[place >> 3] & mask:
                self._young[place >> 3] |= mask
                self._young_bits += 1
        if self._young_bits >= _YOUNG_BITS_MAX:
            self._age()

    def _age(self) -> None:
        self._old, self._young, self._young_bits = self._young, bytearray(_BITMAP_BYTES), 0

    def to_bytes(self) -> bytes:
        """The whole state in SKETCH_BYTES bytes, little-endian."""
        header = _HEADER.pack(FORMAT_VERSION, self._young_bits, self.n, self._feature_units, self._strange_units)
        counts = _little_endian(self._counts + self._strange).tobytes()
        return b"".join((header, counts, self._young, self._old))

    def check(self) -> None:
        """Raise ValueError when the counts do not add up: for sketches that came from outside."""
        if not (0 <= self._strange_units == sum(self._strange) < _SCORE_EVENTS_MAX * _UNIT):
            raise ValueError("the counts of past strangeness do not add up; compute the sketch again from the log")
        at = 0
        for name, width in zip(FEATURES, WIDTHS, strict=True):
            # Halving rounds each count down, so a sum may lag by less than two units a bin.
            lag = self._feature_units - sum(self._counts[at : at + width])
            if not (0 <= lag <= 2 * width and self._feature_units < _FEATURE_EVENTS_MAX * _UNIT):
                raise ValueError(f"the counts of `{name}` do not add up; compute the sketch again from the log")
            at += width

    @classmethod
    def from_bytes(cls, content: bytes) -> Sketch:
        """Raises ValueError for what is no sketch of this format."""
        return cls(content)


def _little_endian(counts: array[int]) -> array[int]:
    if _BIG_ENDIAN:
        counts = counts[:]
        counts.byteswap()
    return counts


def _unfit(bins: Sequence[int]) -> ValueError:
    return ValueError(f"`{list(bins)}` are no bins of the {len(FEATURES)} features; take them from `bins_of`")


def bins_of(sketch: Sketch | None, observation: Observation) -> Bins:
    """The bins of an observation; whether its target is new is looked up in the agent's own ``sketch``."""
    return bins_by(_knows_nothing if sketch is None else sketch.knows, observation)


def _knows_nothing(_: int) -> bool:
    return False


def value_of(p: float) -> float:
    """min(1, -log10(p) / 3) in 4 decimals, for a p-value above 0: 0.8 is p of about 0.4 %, 1 is 0.1 % or less."""
    return min(1.0, round(-math.log10(p) / 3, 4) + 0.0)


def score(own: Sketch | None, pooled: Sketch | None, bins: Sequence[int]) -> Score:
    """The score by the agent's own sketch, else by the topic's pooled one, else 0: who has learned 300 events.

    The bins are those of ``bins_of(own, ...)``. The pooled sketch is not asked about the target: to an agent that is
    new itself every target is. Raises ValueError for bins of another format.
    """
    if own is not None and own.n >= COLD_START_EVENTS:
        p = own.p_value(bins)
        return Score(value_of(p), "own", p)
    if pooled is not None and pooled.n >= COLD_START_EVENTS:
        p = pooled.p_value(_targetless(bins))
        return Score(value_of(p), "pooled", p)
    return Score(0.0, "cold_start", None)


def pool(events: Iterable[Sequence[int]]) -> Sketch:
    """One sketch of many agents' events of a topic, without their targets. Raises ValueError for unfit bins.

    The sketch forgets, so the events must come in the order of time, not agent by agent.
    """
    sketch = Sketch()
    for bins in events:
        sketch.learn(_targetless(bins))
    return sketch


def _targetless(bins: Sequence[int]) -> Bins:
    return (*bins[:-2], ABSENT, 0)


def baseline_document(sketches: Mapping[str, Sketch]) -> dict[str, Any]:
    """The pooled sketch of each topic as plain JSON, which `read_baseline` reads."""
    topics = {
        topic: {"n": sketch.n, "sketch": base64.b64encode(sketch.to_bytes()).decode()}
        for topic, sketch in sorted(sketches.items())
    }
    return {"baseline_format": FORMAT_VERSION, "topics": topics}


def read_baseline(document: Any) -> dict[str, Sketch]:
    """The pooled sketch of each topic. Raises ValueError, with the topic, for a document that is damaged."""
    if not isinstance(document, Mapping) or document.get("baseline_format") != FORMAT_VERSION:
        found = document.get("baseline_format") if isinstance(document, Mapping) else document
        raise ValueError(
            f"`{str(found)[:80]}` is no baseline of format {FORMAT_VERSION}; compute the baseline again from the log"
        )
    topics = document.get("topics")
    if not isinstance(topics, Mapping) or document.keys() != {"baseline_format", "topics"}:
        raise ValueError("a baseline has `baseline_format` and `topics`; compute the baseline again from the log")
    return {topic: _read_sketch(topic, entry) for topic, entry in topics.items()}


def _read_sketch(topic: str, entry: Any) -> Sketch:
    if not isinstance(entry, Mapping) or entry.keys() != {"n", "sketch"} or not isinstance(entry["sketch"], str):
        raise ValueError(f"baseline of `{topic}`: an entry has `n` and `sketch`; compute the baseline again")
    try:
        sketch = Sketch.from_bytes(base64.b64decode(entry["sketch"], validate=True))
        sketch.check()
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"baseline of `{topic}`: {error}") from None
    if sketch.n != entry["n"]:
        raise ValueError(f"baseline of `{topic}`: `n` says `{entry['n']}`, the sketch {sketch.n}; compute it again")
    return sketch
