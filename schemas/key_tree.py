"""A puncturable tree of keys: from one seed a key for each job, of which any single one can be made to never have been.

The tree is the pseudorandom function of Goldreich, Goldwasser and Micali (How to construct random functions, 1986)
with 16 branches and 10 levels: a node's seed gives its children's, the leaf at ten hex digits is the key. Puncturing is
as in Green and Miers (Forward secure asynchronous messaging from puncturable encryption, 2015): the seed above a leaf
is replaced by those of the siblings along the path, 15 a level, from which everything else still derives and the leaf
does not. Nodes are kept as prefix (0 to 10 hex digits) to seed (32 bytes); no prefix is the beginning of another one.
Pure: where the seeds are kept, and made, is the store's work.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

import msgspec

from sluicegate.schemas.errors import SealingError

SEED_BYTES: Final = 32
LEVELS: Final = 10
"""Ten digits are 40 bits: of a million jobs in one tree two share a key with a chance of 0.4; they go together."""
DIGITS: Final = "0123456789abcdef"
SEEDS_PER_PUNCTURE_MAX: Final = LEVELS * (len(DIGITS) - 1)
ROOT: Final = ""
_STEPS: Final = {digit: b"sluicegate.tree.v1" + bytes([number]) for number, digit in enumerate(DIGITS)}


class Puncture(msgspec.Struct, frozen=True):
    """What one puncture does to the nodes: the one that must go, and those that stand for the rest of it."""

    gone: str
    stay: dict[str, bytes]


def prefixes(digits: str) -> tuple[str, ...]:
    """Every node on the way to a leaf, the root first: one of them at most has a seed. Raises SealingError."""
    if len(digits) != LEVELS or not all(digit in _STEPS for digit in digits):
        raise SealingError(f"`{digits[:40]}` names no leaf; give {LEVELS} lower-case hex digits")
    return tuple([digits[:level] for level in range(LEVELS + 1)])


def leaf(nodes: Mapping[str, bytes], digits: str) -> bytes | None:
    """The key (32 bytes) at a leaf; None when it was punctured. ``nodes`` may hold no more than `prefixes` names."""
    for prefix in prefixes(digits):
        seed = nodes.get(prefix)
        if seed is not None:
            for digit in digits[len(prefix) :]:
                seed = hmac.digest(seed, _STEPS[digit], "sha256")
            return seed
    return None


def puncture(nodes: Mapping[str, bytes], digits: str) -> Puncture | None:
    """How to take one leaf away; None when it is gone already. ``nodes`` as for `leaf`."""
    for prefix in prefixes(digits):
        seed = nodes.get(prefix)
        if seed is not None:
            stay: dict[str, bytes] = {}
            for level in range(len(prefix), LEVELS):
                children = {digit: hmac.digest(seed, step, "sha256") for digit, step in _STEPS.items()}
                seed = children.pop(digits[level])
                stay.update({digits[:level] + digit: child for digit, child in children.items()})
            return Puncture(prefix, stay)
    return None
