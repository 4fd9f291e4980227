"""What is wrong with an intent before any policy is asked: its content, and the limits of its agent. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sluicegate.policies.intents import CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX
from sluicegate.processors.control import Control
from sluicegate.processors.control_recall import ERASED, PAYLOAD_ERASED
from sluicegate.processors.gate_state import GateCard
from sluicegate.processors.plane import Turn
from sluicegate.schemas.errors import BadPayload, KeyErased, SealingError
from sluicegate.schemas.events import Intent
from sluicegate.schemas.key_ids import key_fault
from sluicegate.schemas.payload import NONE, job_hash, parse_strict
from sluicegate.streams.topics import DAY_MS

INTENT_REST_BYTES_MAX: Final = 262_144
"""What an intent may weigh besides its payload: context, tags, parents, names. A request must hold it all."""


Fault = tuple[str, str]
"""A refusal's code and message."""


def content_fault(intent: Intent, control: Control) -> tuple[Any, Fault | None]:
    """The payload of an intent, and what is wrong with its own content, or None."""
    fault = _form_fault(intent, control.tenant) or _seal_fault(intent, control)
    if fault is not None:
        return None, fault
    try:
        content, salt = control.keys.open(intent.payload)
        payload = parse_strict(content)
    except KeyErased:
        if control.recalled is None:
            return None, (PAYLOAD_ERASED, ERASED)
        return control.recalled, control.recalled.content_fault()
    except (SealingError, BadPayload) as error:
        return None, ("malformed", str(error))
    if job_hash(content, intent.topic, intent.agent_id, intent.risk_tags, salt) != intent.job_hash:
        message = "the job hash is not that of payload, topic, agent, tags and salt; compute it anew"
        return None, ("hash_mismatch", message)
    return payload, None


def _seal_fault(intent: Intent, control: Control) -> Fault | None:
    """Whether payload and context are sealed as the tenant wants it, under the key of this very job."""
    for sealed in (intent.payload, *(() if intent.context is None else (intent.context,))):
        if sealed.algorithm == NONE:
            if control.settings.sealing != NONE:
                return "unsealed", "payloads are sealed here; set `sealing` as the gate has it"
            continue
        fault = key_fault(sealed.key_id, control.tenant, intent.agent_id, intent.job_id)
        if fault is not None:
            return "malformed", fault
    return None


def _form_fault(intent: Intent, tenant: str) -> Fault | None:
    if not 0 < len(intent.job_id) <= CHARS_MAX or not 0 < len(intent.topic) <= CHARS_MAX:
        return "malformed", f"job id and topic have 1 to {CHARS_MAX} characters"
    if intent.tenant != tenant:
        return (
            "malformed",
            f"for tenant `{intent.tenant[:CHARS_MAX]}`, and this is `{tenant}`; name the one you write to",
        )
    if len(intent.risk_tags) > TAGS_MAX or not all(0 < len(tag) <= TAG_CHARS_MAX for tag in intent.risk_tags):
        return "malformed", f"at most {TAGS_MAX} tags of 1 to {TAG_CHARS_MAX} characters each"
    if intent.confidence is not None and not 0.0 <= intent.confidence <= 1.0:
        return "malformed", f"confidence `{intent.confidence}` is not between 0 and 1"
    return None


def _topics_fault(card: GateCard, topic: str, at_ms: int, topics_max: int) -> Fault | None:
    """Count a topic against the day. What is judged is remembered by topic, and each is somebody's to understand."""
    if card.day != at_ms // DAY_MS:
        card.day, card.topics_today = at_ms // DAY_MS, []
    known = int.from_bytes(hashlib.sha256(topic.encode("utf-8", "surrogatepass")).digest()[:8])
    if known in card.topics_today:
        return None
    if len(card.topics_today) >= topics_max:
        message = f"more than {topics_max} distinct topics in this day; put what varies into the payload"
        return "topics_per_day_max", message
    card.topics_today = [*card.topics_today, known]
    return None


def rate_fault(turn: Turn) -> Fault | None:
    """Count an intent of the agent against the minute, whatever it holds and whether it comes again."""
    card, most = turn.card, turn.control.settings.intents_per_min_max
    minute = turn.at_ms // 60_000
    if card.minute != minute:
        card.minute, card.minute_intents = minute, 0
    card.minute_intents += 1
    if card.minute_intents <= most:
        return None
    return "intents_per_min_max", f"more than {most} intents in this minute; wait for the next"


def limit_fault(turn: Turn, intent: Intent) -> Fault | None:
    """Which limit the agent has reached, or None. Counts the topic against the day."""
    limits, card = turn.control.settings, turn.card
    size, whole = len(intent.payload.content), len(turn.record.value)
    if whole > limits.payload_bytes_max + INTENT_REST_BYTES_MAX:
        return "intent_bytes_max", f"`{whole}` bytes of intent besides its payload's limit; shorten its context"
    if size > limits.payload_bytes_max:
        return "payload_bytes_max", f"`{size}` bytes of payload, limit {limits.payload_bytes_max}; send a reference"
    if card.in_flight >= limits.in_flight_max:
        return "in_flight_max", f"{card.in_flight} jobs in flight, limit {limits.in_flight_max}; wait for results"
    if card.open_requests >= limits.open_requests_max:
        return (
            "open_requests_max",
            f"{card.open_requests} open requests, limit {limits.open_requests_max}; wait for people",
        )
    return _topics_fault(card, intent.topic, turn.at_ms, limits.topics_per_day_max)
