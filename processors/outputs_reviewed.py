"""What review makes of an output: from its content, or, where its key is erased, from what the log says of it. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from sluicegate.policies.output_policy import audience_of
from sluicegate.policies.places import ROOT
from sluicegate.policies.redaction import HELD
from sluicegate.policies.review import Review, review
from sluicegate.processors.control_recall import ERASED, PAYLOAD_ERASED, Recalled
from sluicegate.processors.outputs_state import BREACH, Attempt
from sluicegate.processors.plane import Turn
from sluicegate.schemas.errors import KeyErased, SealingError
from sluicegate.schemas.events import Output, Quarantined, RedactionDetail, Refused, Result, Sealed
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.key_ids import parse_key_id, quarantine_key
from sluicegate.schemas.payload import NONE, SALT_BYTES
from sluicegate.schemas.sealing import AES_256_GCM

RELEASE_REDACTED: Final = "release_redacted"
NOTHING_SHOWN: Final = b"null"
"""What stands in a request that has no room, or nothing, to show."""
REQUEST_BYTES_MAX: Final = 900_000
"""What the raw output and its masked form may weigh together in a request."""


class Reviewed(msgspec.Struct, frozen=True):
    """What review says of an output, and what was sealed upon it.

    ``leaves`` and ``result_hash`` are of what may leave; of what is held ``raw`` is all of it, ``redacted`` what a
    person may let out, None where that is nothing, and ``shown`` what the request shows of it.
    """

    review: Review
    leaves: Sealed | None = None
    result_hash: str = ""
    raw: Sealed | None = None
    redacted: Sealed | None = None
    shown: Sealed | None = None


UNREADABLE: Final = Reviewed(Review(decision="QUARANTINE", rule=PAYLOAD_ERASED, reason=ERASED))
"""An output whose key was erased before anybody reviewed it: its handler ran, and nothing of it leaves."""


def reviewed(turn: Turn, event: Output, attempt: Attempt) -> Reviewed | tuple[str, str]:
    """What review makes of an output, or a refusal's code and message."""
    broken = [*attempt.breached, *event.breached]
    try:
        return _from_content(turn, event, attempt, broken)
    except KeyErased:
        recalled = turn.control.recalled
        return UNREADABLE if recalled is None else _from_log(event, recalled, broken)


def _from_content(turn: Turn, event: Output, attempt: Attempt, broken: list[str]) -> Reviewed | tuple[str, str]:
    """Review an output; or a refusal's code and message. Raises KeyErased."""
    try:
        content, _ = turn.control.keys.open(event.output)
    except KeyErased:
        raise
    except SealingError as error:
        return "malformed", str(error)
    if hashlib.sha256(content).hexdigest() != event.output_hash or len(content) != event.output_size_bytes:
        return "hash_mismatch", "hash or size is not that of the output"
    found = _broken(_review(turn, content, attempt), broken)
    if found.decision != "QUARANTINE":
        document = found.document or b""
        leaves = event.output if document == content else sealed_here(turn, event, document)
        return Reviewed(found, leaves, hashlib.sha256(document).hexdigest())
    redacted = None if found.redacted is None else sealed_here(turn, event, found.redacted)
    raw = sealed_here(turn, event, content, _held_key(event, request_id(event)))
    fits = redacted is not None and len(redacted.content) + len(event.output.content) <= REQUEST_BYTES_MAX
    shown = redacted if redacted is not None and fits else sealed_here(turn, event, NOTHING_SHOWN)
    return Reviewed(found, raw=raw, redacted=redacted, shown=shown)


def _from_log(event: Output, recalled: Recalled, broken: list[str]) -> Reviewed | tuple[str, str]:
    """What stands in the log of an output that can no longer be opened; what follows from hashes follows here, too."""
    said = recalled.review(event.grant_id)
    if said is None:
        return UNREADABLE
    if isinstance(said, Refused):
        return said.code, said.message
    asked = recalled.request(request_id(event))
    rule = said.rule if said.rule != BREACH or broken else ""
    found = Review(
        decision="QUARANTINE" if isinstance(said, Quarantined) else said.output_safety_decision,
        rule=rule,
        details=tuple(said.redaction_details),
        redacted_details=() if asked is None else tuple(asked.redaction_details),
        classes=tuple(said.classes),
        reason=said.reason or "",
    )
    if broken:
        held = _broken(found, broken)
        found = msgspec.structs.replace(held, details=found.details, redacted_details=found.redacted_details)
    if found.decision == "ALLOW":
        return Reviewed(found, event.output, event.output_hash)
    if found.decision == "REDACT" and isinstance(said, Result):
        return Reviewed(found, under(said.output, event.output.key_id), said.result_hash)
    if asked is None:
        return UNREADABLE
    raw = under(asked.raw, _held_key(event, request_id(event)))
    redacted = asked.payload if RELEASE_REDACTED in asked.choices else None
    return Reviewed(found, raw=raw, redacted=redacted, shown=asked.payload)


def under(sealed: Sealed | None, key_id: str) -> Sealed | None:
    """An envelope as it stands in the log, under the key that it must be under."""
    return None if sealed is None else msgspec.structs.replace(sealed, key_id=key_id, algorithm=AES_256_GCM)


def _review(turn: Turn, content: bytes, attempt: Attempt) -> Review:
    policy = turn.control.policy
    audience = audience_of(policy.action(attempt.topic).audience)
    tenant = turn.control.tenant
    return review(content, topic=attempt.topic, audience=audience, tenant=tenant, policy=policy.output_policy)


def _broken(found: Review, breached: list[str]) -> Review:
    """What is held whatever review says: the output of an attempt that went beyond a constraint."""
    if not breached:
        return found
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(breached))
    reason = f"Its attempt broke {names}"
    held = RedactionDetail(field=ROOT, reason=reason, action=HELD)
    details = (held, *(found.details if found.decision == "QUARANTINE" else ()))
    redacted, redacted_details = found.redacted, found.redacted_details
    if found.decision != "QUARANTINE":
        redacted, redacted_details = found.document, found.details
    return msgspec.structs.replace(
        found,
        decision="QUARANTINE",
        rule=BREACH,
        details=details,
        document=None,
        redacted=redacted,
        redacted_details=redacted_details,
        reason=reason,
    )


def sealed_here(turn: Turn, event: Output, content: bytes, key_id: str | None = None) -> Sealed:
    """Seal what this step made, by default under the key of the job; the same whenever the step is run again."""
    said = f"{turn.key}/{event.job_id}/{turn.card.seq}"
    salt = hashlib.sha256(said.encode()).digest()[:SALT_BYTES]
    return turn.control.keys.seal(content, salt, event.output.key_id if key_id is None else key_id, said)


def _held_key(event: Output, request: str) -> str:
    """The name of the key of a held output: beyond those who may read the job."""
    if event.output.algorithm == NONE:
        return ""
    return quarantine_key(parse_key_id(event.output.key_id), request).text


def request_id(event: Output) -> str:
    """The id of the request that would hold an output."""
    return derived_id("request", "output", event.grant_id, event.output_hash)
