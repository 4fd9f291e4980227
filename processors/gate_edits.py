"""What a person changed in a payload before approving it: the job that is judged anew, granted and run. Pure."""

from __future__ import annotations

import hashlib
import json

import msgspec

from sluicegate.policies.paths import compile_path, write_path
from sluicegate.processors.plane import Turn
from sluicegate.schemas.errors import BadPayload, KeyErased, SealingError
from sluicegate.schemas.events import Intent, Resolution, Sealed
from sluicegate.schemas.payload import SALT_BYTES, job_hash, parse_strict


def edited(turn: Turn, intent: Intent, event: Resolution) -> Intent | str:
    """The intent with the edits of a resolution and the hash of what it is now; or why they cannot be applied.

    Raises KeyErased where nobody can read them, or the payload, any more.

    The desk has held the paths to those that the rules permit; the values are sealed, and are first read here.
    """
    if event.edits is None:
        return intent
    try:
        return _applied(turn, intent, event, event.edits)
    except KeyErased:
        if turn.control.recalled is None:
            raise
        found = turn.control.recalled.edited(intent)
        return found if isinstance(found, str) else msgspec.structs.replace(intent, payload=found[0], job_hash=found[1])


def _applied(turn: Turn, intent: Intent, event: Resolution, edits: Sealed) -> Intent | str:
    try:
        values = parse_strict(turn.control.keys.open(edits)[0])
    except KeyErased:
        raise
    except (SealingError, BadPayload) as error:
        return f"the approved edits cannot be read: {error}"
    if not isinstance(values, dict) or sorted(values) != event.edited:
        return "the approved edits are not those that the desk has counted"
    content, salt = turn.control.keys.open(intent.payload)
    payload = json.loads(content)
    for path, value in values.items():
        if not write_path(payload, compile_path(path), value):
            return f"the approved edit of `{path}` finds nothing there"
    content = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    if len(content) > turn.control.settings.payload_bytes_max:
        return f"the edited payload has {len(content)} bytes, limit {turn.control.settings.payload_bytes_max}"
    own = hashlib.sha256(salt + event.request_id.encode()).digest()[:SALT_BYTES]
    digest = job_hash(content, intent.topic, intent.agent_id, intent.risk_tags, own)
    sealed = turn.control.keys.seal(content, own, intent.payload.key_id, event.request_id)
    return msgspec.structs.replace(intent, payload=sealed, job_hash=digest)
