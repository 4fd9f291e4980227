"""What a reviewer calls: the open requests, one request whole, approve and deny with the desk's answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
import rfc8785

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, SealingError, Undecodable
from sluicegate.schemas.events import (
    ApprovalRequest,
    Event,
    Refused,
    RequestOpened,
    Resolved,
    Sealed,
    Verdict,
    VerdictAccepted,
    VerdictWord,
)
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.payload import unseal
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Signer
from sluicegate.streams.kafka import POLL_SEC, Publisher, Tail, signed_headers
from sluicegate.streams.keys import person_signer
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

DEFAULT_DESK: Final = "desk"
VERDICTS: Final = "approval.verdicts"
WAIT_SEC: Final = 55.0
CATCH_UP_SEC_MAX: Final = 15.0
"""How long a list waits for a desk that holds a transaction open (it is aborted after 10 s)."""
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
    constraints: dict[str, Any]
    policy_snapshot: str
    job_hash: str
    attempt: int
    created_at_ms: int
    expires_at_ms: int
    outcome: str | None = None
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


def _text(sealed: Sealed | None) -> str | None:
    if sealed is None:
        return None
    try:
        content, _ = unseal(sealed)
        return visible(json.dumps(json.loads(content), ensure_ascii=False, indent=2, sort_keys=True))
    except (SealingError, ValueError) as error:
        return f"(cannot be shown: {visible(str(error))})"


class DeskFold:
    """The fold of a desk's requests and events: what is open, what became of the rest. Pure."""

    def __init__(self, desk: str = DEFAULT_DESK) -> None:
        self._desk = desk
        self._asked: OrderedDict[str, ApprovalRequest] = OrderedDict()
        self._opened: set[str] = set()
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
            case Resolved(request_id=found):
                self._ended[found] = event
                self._trim()
            case VerdictAccepted():
                self._verdicts.setdefault(event.request_id, []).append(f"{event.approver_id} {event.verdict}")
                self._answered(event, "accepted")
            case Refused():
                self._answered(event, "refused")
            case _:
                pass

    def _answered(self, event: VerdictAccepted | Refused, status: Literal["accepted", "refused"]) -> None:
        place = (event.cause.partition, event.cause.offset)
        if event.cause.topic != VERDICTS or place not in self._answers:
            return
        if isinstance(event, VerdictAccepted):
            found = VerdictAnswer(request_id=event.request_id, verdict_id=event.verdict_id, status=status)
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

    def _view(self, asked: ApprovalRequest) -> Request:
        ended = self._ended.get(asked.request_id)
        return Request(
            request_id=asked.request_id,
            kind=asked.kind,
            queue=asked.queue,
            job_id=asked.job_id,
            agent_id=asked.agent_id,
            agent_owner=asked.agent_owner,
            agent_version=asked.agent_version,
            on_behalf_of=asked.on_behalf_of,
            topic=asked.topic,
            risk_tags=tuple(asked.risk_tags),
            payload=_text(asked.payload) or "",
            context=_text(asked.context),
            reason=asked.reason,
            rules=tuple(f"{rule.layer}/{rule.id}" for rule in asked.rules),
            facts={fact.name: (fact.value, fact.source) for fact in asked.facts},
            level=asked.level,
            constraints=json.loads(asked.constraints),
            policy_snapshot=asked.policy_snapshot,
            job_hash=asked.job_hash,
            attempt=asked.attempt,
            created_at_ms=asked.created_at_ms,
            expires_at_ms=asked.expires_at_ms,
            outcome=None if ended is None else ended.outcome,
            by=None if ended is None else ended.by,
            verdicts=tuple(self._verdicts.get(asked.request_id, ())),
        )


class Reviewer:
    """One person's client. Safe to share between threads; ``close`` it, or use it in a ``with`` block.

    Raises BadInput when the person has no key here, LoginRefused, NotPermitted or Unavailable for the broker.
    """

    def __init__(
        self,
        settings: Settings,
        person_id: str,
        *,
        desk: str = DEFAULT_DESK,
        user: str = "reviewer",
        signer: Signer | None = None,
    ) -> None:
        self.person_id, self.desk = person_id, desk
        self._tenant = settings.tenant
        self._signer = signer or person_signer(settings, person_id)
        self._codec = Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, user)
        topics = ("approval.requests", "approval.events")
        self._tail = Tail(settings, user, topics, group=user, start="beginning", key=desk.encode())
        self._fold = DeskFold(desk)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            self._tail.close()
        self._publisher.close()

    def requests(self, queue: str | None = None) -> list[Request]:
        """The open requests, oldest first, as of now."""
        with self._lock:
            self._catch_up()
            return self._fold.open(queue)

    def show(self, request_id: str) -> Request:
        """One request, also one that has ended. Raises BadInput when there is none of this id."""
        with self._lock:
            self._catch_up()
            found = self._fold.find(request_id)
        if found is None:
            raise BadInput(f"no request `{request_id}` at desk `{self.desk}`; list the open ones and copy an id")
        return found

    def approve(
        self,
        request_id: str,
        reason: str | None = None,
        constraints: Mapping[str, Any] | None = None,
        timeout_sec: float = WAIT_SEC,
    ) -> VerdictAnswer:
        """Approve, perhaps under tighter constraints; returns the desk's answer."""
        return self._decide(request_id, "approve", reason, constraints or {}, timeout_sec)

    def deny(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """Deny; the agent gets the reason. Returns the desk's answer. Raises BadInput without a reason."""
        if not reason.strip():
            raise BadInput("a denial needs a reason; the agent is told it")
        return self._decide(request_id, "deny", reason, {}, timeout_sec)

    def _decide(
        self, request_id: str, word: VerdictWord, reason: str | None, constraints: Mapping[str, Any], timeout_sec: float
    ) -> VerdictAnswer:
        now_ms = time.time_ns() // 1_000_000  # the moment of the call: before anything else can take time
        shown = self.show(request_id)
        verdict = Verdict(
            verdict_id=derived_id("verdict", request_id, self.person_id, now_ms, word),
            request_id=request_id,
            desk=self.desk,
            verdict=word,
            approver_id=self.person_id,
            policy_snapshot=shown.policy_snapshot,
            job_hash=shown.job_hash,
            decision_ts_ms=now_ms,
            reason=reason,
            constraints=rfc8785.dumps(dict(constraints)).decode(),
        )
        with self._lock:
            return self._send(verdict, now_ms, timeout_sec)

    def _send(self, verdict: Verdict, now_ms: int, timeout_sec: float) -> VerdictAnswer:
        key, value = self.desk.encode(), self._codec.encode(verdict)
        topic = physical(self._tenant, VERDICTS)
        headers = signed_headers(self._signer, topic, verdict, verdict.verdict_id, now_ms, key, value)
        place = self._publisher.publish(VERDICTS, key, value, headers)
        self._fold.expect(
            place.partition, place.offset
        )  # the tail is polled under this lock only: no answer was missed
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            self._fold_all(self._tail.poll(POLL_SEC))
            answer = self._fold.answer(place.partition, place.offset)
            if answer is not None:
                return msgspec.structs.replace(answer, request_id=verdict.request_id, verdict_id=verdict.verdict_id)
        message = (
            f"the desk has not answered in {timeout_sec:g} s; the verdict stands in the log and is judged when it runs"
        )
        return VerdictAnswer(
            request_id=verdict.request_id, verdict_id=verdict.verdict_id, status="unanswered", message=message
        )

    def _catch_up(self) -> None:
        ends = {place: self._tail.span(*place)[1] for place in self._tail.positions()}
        deadline = time.monotonic() + CATCH_UP_SEC_MAX
        while any(at < ends[place] for place, at in self._tail.positions().items()) and time.monotonic() < deadline:
            self._fold_all(self._tail.poll(POLL_SEC))

    def _fold_all(self, records: list[Record]) -> None:
        for record in records:
            if record.key == self.desk.encode():
                try:
                    self._fold.see(self._codec.decode(record.value))
                except Undecodable:  # a newer build's event; the list goes on without it
                    continue


class AsyncReviewer:
    """`Reviewer` for asyncio: ``async with AsyncReviewer(settings, "rosa") as reviewer``."""

    def __init__(self, settings: Settings, person_id: str, **more: Any) -> None:
        self._make = lambda: Reviewer(settings, person_id, **more)
        self._made: Reviewer | None = None

    async def __aenter__(self) -> Self:
        self._made = await asyncio.to_thread(self._make)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._made is not None:
            await asyncio.to_thread(self._made.close)
            self._made = None

    @property
    def _reviewer(self) -> Reviewer:
        if self._made is None:
            raise BadInput("the reviewer is not connected; use it in an `async with` block")
        return self._made

    async def requests(self, queue: str | None = None) -> list[Request]:
        """As `Reviewer.requests`."""
        return await asyncio.to_thread(self._reviewer.requests, queue)

    async def show(self, request_id: str) -> Request:
        """As `Reviewer.show`."""
        return await asyncio.to_thread(self._reviewer.show, request_id)

    async def approve(
        self,
        request_id: str,
        reason: str | None = None,
        constraints: Mapping[str, Any] | None = None,
        timeout_sec: float = WAIT_SEC,
    ) -> VerdictAnswer:
        """As `Reviewer.approve`."""
        return await asyncio.to_thread(self._reviewer.approve, request_id, reason, constraints, timeout_sec)

    async def deny(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """As `Reviewer.deny`."""
        return await asyncio.to_thread(self._reviewer.deny, request_id, reason, timeout_sec)
