"""Payloads: strict JSON bytes, the sealed envelope around them, and the job hash that binds an approval.

The hash is taken over the exact submitted bytes, never over JSON that was parsed and written again, so that
nothing between submission and worker can change a byte unseen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

from sluicegate.schemas.errors import BadPayload, SealingError
from sluicegate.schemas.records import Sealed

SALT_BYTES: Final = 16
DEPTH_MAX: Final = 64
"""How deeply a payload may nest."""
NONE: Final = "none"
"""The algorithm of the embedded default: the envelope is there, its content in the clear."""


_LENGTHS: Final = tuple(size.to_bytes(4, "big") for size in range(2_048))
"""Every record is framed several times over, most parts are short."""


def framed(*parts: bytes) -> bytes:
    """The parts, each behind its length in four bytes: no two different lists give the same bytes."""
    found = []
    for part in parts:
        size = len(part)
        found.append(_LENGTHS[size] if size < 2_048 else size.to_bytes(4, "big"))
        found.append(part)
    return b"".join(found)


def job_hash(payload: bytes, topic: str, agent_id: str, risk_tags: Sequence[str], salt: bytes) -> str:
    """SHA-256 in hex over the payload's exact bytes, the topic, the agent, the submitted tags and the salt."""
    tags = framed(*[tag.encode() for tag in risk_tags])
    return hashlib.sha256(
        framed(b"sluicegate.job.v1", payload, topic.encode(), agent_id.encode(), tags, salt)
    ).hexdigest()


def seal(content: bytes, salt: bytes) -> Sealed:
    """Seal content with algorithm `none`. ``salt`` has 16 bytes."""
    if len(salt) != SALT_BYTES:
        raise SealingError(f"a salt of `{len(salt)}` bytes; give {SALT_BYTES}")
    return Sealed(algorithm=NONE, key_id="", nonce=b"", content=salt + content)


def unseal(sealed: Sealed) -> tuple[bytes, bytes]:
    """The (content, salt) of an envelope. Raises SealingError when it cannot be opened here."""
    if sealed.algorithm != NONE:
        raise SealingError(f"algorithm `{sealed.algorithm}` is unknown here; this build opens `{NONE}` only")
    if len(sealed.content) < SALT_BYTES:
        raise SealingError("the envelope is shorter than its salt")
    return sealed.content[SALT_BYTES:], sealed.content[:SALT_BYTES]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadPayload(f"key `{twice}` stands twice in one object; keep one")
    return found


def _no_constant(word: str) -> Any:
    raise BadPayload(f"`{word}` is not JSON; send null or a string")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadPayload(f"`{text[:40]}` is too large for a number; send a string")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        deepest += 1
    return deepest


def parse_strict(content: bytes) -> Any:
    """Parse strict JSON; raises BadPayload for duplicate keys, NaN, infinities, bad UTF-8 and absurd depth."""
    try:
        value = _DECODER.decode(content.decode("utf-8"))
    except RecursionError:
        raise BadPayload(f"nested deeper than {DEPTH_MAX} levels; flatten it") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise BadPayload(f"not JSON ({error}); send one JSON value in UTF-8") from None
    if content.count(b"{") + content.count(b"[") >= DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise BadPayload(f"nested deeper than {DEPTH_MAX} levels; flatten it")
    return value
