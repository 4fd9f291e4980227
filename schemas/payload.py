"""Payloads: strict JSON bytes, the sealed envelope around them, and the job hash that binds an approval.

The hash is taken over the exact submitted bytes, never over JSON that was parsed and written again, so that
nothing between submission and worker can change a byte unseen.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from sluicegate.schemas.errors import BadPayload, SealingError
from sluicegate.schemas.records import Sealed

SALT_BYTES: Final = 16
DEPTH_MAX: Final = 64
"""How deeply a payload may nest; the innermost value is a level, too."""
DIGITS_MAX: Final = 640
"""How long a whole number may be written: no setting of an interpreter makes it take fewer digits."""
SHOWN_CHARS_MAX: Final = 40
"""How much of a key a message tells."""
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
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadPayload(f"key `{key[:SHOWN_CHARS_MAX]}` stands twice in one object; keep one")
            seen.add(key)
    return found


def _no_constant(word: str) -> Any:
    raise BadPayload(f"`{word}` is not JSON; send null or a string")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadPayload("a number is too large; send it as a string")
    return value


def _whole(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise BadPayload(f"a whole number has more than {DIGITS_MAX} characters; send it as a string")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
)
# Possessive, so that a string without an end is read once, too.
_BRACKET: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _is_deep(content: bytes) -> bool:
    """Whether the innermost value stands deeper than allowed, by the brackets alone: a parser's stack is no measure."""
    if content.count(b"{") + content.count(b"[") < DEPTH_MAX:
        return False
    depth = 0
    for found in _BRACKET.finditer(content):
        first = content[found.start()]
        if first in b"[{":
            depth += 1
            if depth >= DEPTH_MAX:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def parse_strict(content: bytes) -> Any:
    """Parse strict JSON; the same bytes give the same value or the same words on every machine and every Python.

    Raises BadPayload for duplicate keys, NaN, infinities, whole numbers of absurd length, bad UTF-8, half a surrogate
    pair (RFC 8259, section 8.2: what readers make of one is unpredictable, and none can be signed or shown) and
    absurd depth. Its message holds of the payload no more than the beginning of a key.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadPayload("not UTF-8; send one JSON value in UTF-8") from None
    if _is_deep(content):
        raise BadPayload(f"nested deeper than {DEPTH_MAX} levels; flatten it")
    if b"\\u" in content and any(found.group(1) for found in _ESCAPE.finditer(content)):
        raise BadPayload("half a surrogate pair is no Unicode; send whole characters")
    try:
        return _DECODER.decode(text)
    except ValueError:
        raise BadPayload("not JSON; send one JSON value in UTF-8") from None
