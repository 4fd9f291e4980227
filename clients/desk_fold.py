"""What a reviewer's client knows of a desk: the fold of its requests and events. Pure."""

from __future__ import annotations

import json
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from sluicegate.schemas.errors import SealingError, Unavailable
from sluicegate.schemas.events import (
    ApprovalRequest,
    Event,
    RedactionDetail,
    Refused,
    RequestEscalated,
    RequestOpened,
    Resolved,
    Sealed,
    VerdictAccepted,
    ViewAccepted,
)
from sluicegate.schemas.sealing import Keyring, NoKeyring

DEFAULT_DESK: Final = "desk"
VERDICTS: Final = "approval.verdicts"
CLOSED_KEPT_MAX: Final = 10_000
"""Resolved requests that a reviewer's client remembers, the latest."""


def visible(text: str) -> str:
    """The text with every character that could hide or reorder others written as its escape.

    Escape sequences for terminals, bidirectional and zero-width characters must not change what a person reads.
    """
    return "".join(
        f"\\u{ord(sign):04x}"
        if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and sign != "\n"
        else sign
        for sign in text
    )


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its reviewer sees it. ``payload`` and ``context`` are safe text; context is the agent's claim.

    ``facts`` are those the judgement rests on: name to (value, None where it was unknown; where it comes from).
    """

    request_id: str
    kind: str
    queue: str
    job_id: str
    agent_id: str
    agent_owner: str | None
    agent_version: str
    on_behalf_of: str | None
    topic: str
    risk_tags: tuple[str, ...]
    payload: str
    context: str | None
    reason: str
    rules: tuple[str, ...]
    facts: dict[str, tuple[float | None, str]] = {}
    level: int | None = None
    domain: str | None = None
    """The agent's level, and the domain that a level is asked for in."""
    constraints: dict[str, Any]
    policy_snapshot: str
    job_hash: str
    attempt: int
    created_at_ms: int
    expires_at_ms: int
    choices: tuple[str, ...] = ()
    """What a verdict chooses from, where an output is decided; ``payload`` is then its masked form."""
    details: tuple[RedactionDetail, ...] = ()
    """What releasing it redacted takes out."""
    output_hash: str | None = None
    editable: tuple[str, ...] = ()
    """Payload paths that an approval may give other values."""
    output: str | None = None
    """The result of a finished job that is audited, as safe text."""
    ended: str | None = None
    approved_by: tuple[str, ...] = ()
    """How that job ended, and who approved it: they may not audit it."""
    escalations: int = 0
    """How often the request was overdue, where it does not expire."""
    outcome: str | None = None
    choice: str | None = None
    by: str | None = None
    verdicts: tuple[str, ...] = ()


class VerdictAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the desk said to a verdict. ``winner`` and ``winner_at_ms`` say who had decided first, and when."""

    request_id: str
    verdict_id: str
    status: Literal["accepted", "refused", "unanswered"]
    code: str | None = None
    message: str | None = None
    winner: str | None = None
    winner_at_ms: int | None = None


def opened_text(sealed: Sealed, keys: Keyring) -> str:
    """The JSON of an envelope as safe text. Raises SealingError, Unavailable, and ValueError for what is no JSON."""
    content, _ = keys.open(sealed)
    return visible(json.dumps(json.loads(content), ensure_ascii=False, indent=2, sort_keys=True))


def text_of(sealed: Sealed | None, keys: Keyring) -> str | None:
    """As `opened_text`, or why it cannot be shown now; None for None."""
    if sealed is None:
        return None
    try:
        return opened_text(sealed, keys)
    except (SealingError, Unavailable, ValueError) as error:
        return f"(cannot be shown: {visible(str(error))})"


class DeskFold:
    """The fold of a desk's requests and events: what is open, what became of the rest. Pure."""

    def __init__(self, desk: str = DEFAULT_DESK, keys: Callable[[str], Keyring] | None = None) -> None:
        """``keys`` gives what opens that which a request carries."""
        self._keys: Callable[[str], Keyring] = (lambda _: NoKeyring()) if keys is None else keys
        self._desk = desk
        self._asked: OrderedDict[str, ApprovalRequest] = OrderedDict()
        self._opened: set[str] = set()
        self._escalated: dict[str, RequestEscalated] = {}
        self._ended: OrderedDict[str, Resolved] = OrderedDict()
        self._verdicts: dict[str, list[str]] = {}
        self._answers: dict[tuple[int, int], VerdictAnswer | None] = {}

    def expect(self, partition: int, offset: int) -> None:
        """Keep the answer to the verdict at this place of `approval.verdicts`."""
        self._answers[partition, offset] = None

    def answer(self, partition: int, offset: int) -> VerdictAnswer | None:
        """The desk's answer, once; None while there is none."""
        found = self._answers[partition, offset]
        if found is not None:
            del self._answers[partition, offset]
        return found

    def see(self, event: Event) -> None:
        """Fold one event of the desk's key."""
        match event:
            case ApprovalRequest(request_id=found):
                self._asked.setdefault(found, event)
            case RequestOpened(request_id=found):
                self._opened.add(found)
            case RequestEscalated(request_id=found):
                self._escalated[found] = event
            case Resolved(request_id=found):
                self._escalated.pop(found, None)
                self._ended[found] = event
                self._trim()
            case VerdictAccepted():
                self._verdicts.setdefault(event.request_id, []).append(f"{event.approver_id} {event.verdict}")
                self._answered(event, "accepted")
            case ViewAccepted():
                self._answered(event, "accepted")
            case Refused():
                self._answered(event, "refused")
            case _:
                pass

    def _answered(
        self, event: VerdictAccepted | ViewAccepted | Refused, status: Literal["accepted", "refused"]
    ) -> None:
        place = (event.cause.partition, event.cause.offset)
        if event.cause.topic != VERDICTS or place not in self._answers:
            return
        if isinstance(event, VerdictAccepted):
            found = VerdictAnswer(request_id=event.request_id, verdict_id=event.verdict_id, status=status)
        elif isinstance(event, ViewAccepted):
            found = VerdictAnswer(request_id=event.request_id, verdict_id=event.view_id, status=status)
        else:
            found = VerdictAnswer(
                request_id="",
                verdict_id=event.ref or "",
                status=status,
                code=event.code,
                message=event.message,
                winner=event.winner,
                winner_at_ms=event.winner_at_ms,
            )
        self._answers[place] = found

    def _trim(self) -> None:
        while len(self._ended) > CLOSED_KEPT_MAX:
            oldest, _ = self._ended.popitem(last=False)
            self._asked.pop(oldest, None)
            self._opened.discard(oldest)
            self._verdicts.pop(oldest, None)

    def open(self, queue: str | None = None) -> list[Request]:
        """The open requests, oldest first."""
        ids = [found for found in self._asked if found in self._opened and found not in self._ended]
        views = [self._view(self._asked[found]) for found in ids]
        return [view for view in views if queue is None or view.queue == queue]

    def find(self, request_id: str) -> Request | None:
        """A request, open or remembered."""
        asked = self._asked.get(request_id)
        return None if asked is None else self._view(asked)

    def raw(self, request_id: str) -> Sealed | None:
        """The sealed raw output that a request holds, if it holds one."""
        asked = self._asked.get(request_id)
        return None if asked is None else asked.raw

    def key_id(self, request_id: str) -> str:
        """The name of the key under which what belongs to a request's job is sealed; empty where nothing is."""
        return self._asked[request_id].payload.key_id

    def _view(self, asked: ApprovalRequest) -> Request:
        ended, keys = self._ended.get(asked.request_id), self._keys(asked.request_id)
        late = self._escalated.get(asked.request_id)
        return Request(
            request_id=asked.request_id,
            kind=asked.kind,
            queue=asked.queue if late is None else late.queue,
            job_id=asked.job_id,
            agent_id=asked.agent_id,
            agent_owner=asked.agent_owner,
            agent_version=asked.agent_version,
            on_behalf_of=asked.on_behalf_of,
            topic=asked.topic,
            risk_tags=tuple(asked.risk_tags),
            payload=text_of(asked.payload, keys) or "",
            context=text_of(asked.context, keys),
            reason=asked.reason,
            rules=tuple(f"{rule.layer}/{rule.id}" for rule in asked.rules),
            facts={fact.name: (fact.value, fact.source) for fact in asked.facts},
            level=asked.level,
            domain=asked.domain,
            constraints=json.loads(asked.constraints),
            policy_snapshot=asked.policy_snapshot,
            job_hash=asked.job_hash,
            attempt=asked.attempt,
            created_at_ms=asked.created_at_ms,
            expires_at_ms=asked.expires_at_ms if late is None else late.expires_at_ms,
            choices=tuple(asked.choices),
            editable=tuple(asked.editable),
            details=tuple(asked.redaction_details),
            output_hash=asked.output_hash,
            output=text_of(asked.output, keys),
            ended=asked.ended,
            approved_by=tuple(asked.approved_by),
            escalations=0 if late is None else late.number,
            outcome=None if ended is None else ended.outcome,
            choice=None if ended is None else ended.choice,
            by=None if ended is None else ended.by,
            verdicts=tuple(self._verdicts.get(asked.request_id, ())),
        )
