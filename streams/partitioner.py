"""Which partition a key belongs to: murmur2, byte for byte as Java's client and librdkafka's `murmur2_random`."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The unsigned 32-bit hash that Kafka's default partitioner takes of a key."""
    length = len(key)
    whole = length & ~3
    found = _SEED ^ length
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = (word * _MULTIPLIER) & _MASK
        mixed = ((mixed ^ (mixed >> 24)) * _MULTIPLIER) & _MASK
        found = ((found * _MULTIPLIER) & _MASK) ^ mixed
    if length != whole:
        found ^= int.from_bytes(key[whole:], "little")
        found = (found * _MULTIPLIER) & _MASK
    found = ((found ^ (found >> 13)) * _MULTIPLIER) & _MASK
    return found ^ (found >> 15)


@lru_cache(maxsize=65_536)
def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic of so many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
