"""Features of an intent for the anomaly score: what is looked at, and into which small bin each of it falls.

Every fact comes from what the gate itself knows (time, size, how many of late) or from a path that the platform team
mapped, none from what an agent says of itself. Numbers fall into two bins to an octave by their exponent and leading
bit, so that no logarithm of the C library decides about a bin.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

FEATURES: Final = ("rate", "hour", "amount", "affected_users", "payload_size", "shape", "new_target")
"""Names of the features, in the order of their bins. All come from what the gate knows or the platform team mapped."""

Bins = tuple[int, ...]
"""One bin per feature, then the target folded to its places in the bitmap (0 where there is none)."""

ABSENT: Final = 0
ODD: Final = 1
"""The bin of a number that is negative or none (NaN)."""
_RATE_BINS: Final = 26
_HOUR_BINS: Final = 24
_AMOUNT_BINS: Final = 52
_USERS_BINS: Final = 42
_SIZE_BINS: Final = 36
_SHAPE_BINS: Final = 32
_TARGET_BINS: Final = 3
WIDTHS: Final = (_RATE_BINS, _HOUR_BINS, _AMOUNT_BINS, _USERS_BINS, _SIZE_BINS, _SHAPE_BINS, _TARGET_BINS)
_SEEN: Final = 1
_NEW: Final = 2

_HOUR_MS: Final = 3_600_000
_AMOUNT_LOW: Final = -2
"""Amounts below 2**-2 share one bin."""
_USERS_LOW: Final = 0
_SIZE_LOW: Final = 5

TARGET_BITS: Final = 20
"""Of a target's hash that are kept: two places of 10 bits in a sketch's bitmap."""

_SHAPE_DEPTH_MAX: Final = 6
_SHAPE_NODES_MAX: Final = 128
_SHAPE_KEY_CHARS_MAX: Final = 64
_TARGET_CHARS_MAX: Final = 4_096


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the features are made of, from trusted data only.

    ``recent_count`` are the agent's intents within the last 10 minutes, this one included. ``amount_usd`` and
    ``affected_users`` are facts of the platform team's mapping, None where the payload has none. ``shape`` is
    ``shape_of(payload)``, ``target`` is ``target_of(value)``, None where the mapping names no target.
    """

    at_ms: int
    recent_count: int
    amount_usd: float | None = None
    affected_users: float | None = None
    payload_bytes: int
    shape: int
    target: int | None = None


def shape_of(payload: Any) -> int:
    """A 32-bit hash of a parsed payload's keys and kinds of values, never of the values.

    Lists count by the kinds of their first entries, not by their length. Bounded: what lies deeper than 6 levels or
    after 128 nodes does not count. Whoever may choose keys freely can find some that fall into a bin in use: the
    shape shows what changed, it stops nobody by itself.
    """
    parts: list[str] = []
    _describe(payload, _SHAPE_DEPTH_MAX, parts)
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode("utf-8", "replace"), digest_size=4).digest())


def _describe(value: Any, depth: int, parts: list[str]) -> None:
    if len(parts) >= _SHAPE_NODES_MAX:
        return
    if isinstance(value, Mapping):
        parts.append("{")
        if depth:
            for key in sorted(map(str, value)):
                if len(parts) >= _SHAPE_NODES_MAX:
                    break
                parts.append(key[:_SHAPE_KEY_CHARS_MAX])
                _describe(value.get(key), depth - 1, parts)
        parts.append("}")
    elif isinstance(value, list | tuple):
        parts.append("[")
        if depth and value:
            _describe(value[0], depth - 1, parts)
            parts.extend(sorted({_kind(entry) for entry in value[1:8]} - {_kind(value[0])}))
        parts.append("]")
    else:
        parts.append(_kind(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "b"
    if isinstance(value, int | float):
        return "n"
    if isinstance(value, str):
        return "s"
    return "0" if value is None else type(value).__name__


def target_of(value: Any) -> int | None:
    """A 64-bit hash of a target as the payload names it, None for none; 1 and 1.0 are one target, 1 and "1" are two."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        text = "s" + value[:_TARGET_CHARS_MAX]
    else:
        text = "j" + json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)[:_TARGET_CHARS_MAX]
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())


def bins_by(knows: Callable[[int], bool], observation: Observation) -> Bins:
    """The bins of an observation; ``knows`` says of a folded target whether the agent has met it."""
    target = observation.target
    if target is None:
        folded, known = 0, ABSENT
    else:
        # Both places come from the low bits of a hash, so they are as good as two hashes.
        folded = target & ((1 << TARGET_BITS) - 1)
        known = _SEEN if knows(folded) else _NEW
    return (
        _half_octave(observation.recent_count, 0, _RATE_BINS),
        (observation.at_ms // _HOUR_MS) % 24,
        _half_octave(observation.amount_usd, _AMOUNT_LOW, _AMOUNT_BINS),
        _half_octave(observation.affected_users, _USERS_LOW, _USERS_BINS),
        _half_octave(observation.payload_bytes, _SIZE_LOW, _SIZE_BINS),
        observation.shape % _SHAPE_BINS,
        known,
        folded,
    )


def _half_octave(value: float | None, low: int, width: int) -> int:
    """The bin of a number: absent, odd, below 2**low, then two to an octave, and the last for all that is larger."""
    if value is None:
        return ABSENT
    if not value >= 0:
        return ODD
    try:
        mantissa, exponent = math.frexp(value)
    except OverflowError:
        return width - 1
    if mantissa > 1:
        return width - 1
    if exponent <= low or mantissa == 0:
        return 2
    return min(3 + 2 * (exponent - 1 - low) + (mantissa >= 0.75), width - 1)
