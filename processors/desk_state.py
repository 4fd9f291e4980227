"""What a desk remembers: an entry per request, a card for all."""

from __future__ import annotations

import msgspec

from sluicegate.processors.plane import Card
from sluicegate.schemas.events import ResolutionOutcome


class Open(msgspec.Struct, kw_only=True):
    """One request: encoded without its payload while open; who resolved it and when, afterwards."""

    request: bytes
    job_id: str
    agent_id: str
    expires_at_ms: int
    escalations: int = 0
    """How often it was overdue, where it does not expire."""
    outcome: ResolutionOutcome | None = None
    by: str | None = None
    resolved_at_ms: int = 0
    forget_at_ms: int = 0


class DeskCard(Card, kw_only=True):
    """Bounded, one per desk."""

    open: int = 0


def entry_name(request_id: str) -> str:
    """The name of a request's entry."""
    return f"request/{request_id}"


def timer_name(request_id: str) -> str:
    """The id of the timer of a request's deadline."""
    return f"expire/{request_id}"
