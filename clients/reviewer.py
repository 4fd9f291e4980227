"""What a reviewer calls: the open requests, one request whole, approve and deny with the desk's answer."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import rfc8785

from sluicegate.clients.desk_fold import DEFAULT_DESK, VERDICTS, DeskFold, Request, VerdictAnswer, opened_text
from sluicegate.clients.key_client import keyring_of
from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, Unavailable, Undecodable
from sluicegate.schemas.events import FindingWord, Sealed, Severity, Verdict, VerdictWord, Viewed
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.payload import SALT_BYTES
from sluicegate.schemas.sealing import Keyring
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Signer
from sluicegate.streams.kafka import POLL_SEC, Publisher, Tail
from sluicegate.streams.keys import person_signer
from sluicegate.streams.registry import registry_for

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

WAIT_SEC: Final = 55.0
RINGS_MAX: Final = 1_000
"""Requests whose keys a client keeps, the latest."""
CATCH_UP_SEC_MAX: Final = 15.0
"""How long a list waits for a desk that holds a transaction open (it is aborted after 10 s)."""


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
        self._settings = settings
        self._rings: dict[str, Keyring] = {}
        self._signer = signer or person_signer(settings, person_id)
        self._codec = Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, user)
        topics = ("approval.requests", "approval.events")
        self._tail = Tail(settings, user, topics, group=user, start="beginning", key=desk.encode())
        self._fold = DeskFold(desk, self._keys)
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
        edits: Mapping[str, Any] | None = None,
    ) -> VerdictAnswer:
        """Approve, perhaps under tighter constraints; returns the desk's answer.

        ``edits`` maps payload paths, of those that the request calls editable, to other values: what is approved is
        then the payload with them.
        """
        return self._decide(request_id, "approve", reason, constraints or {}, timeout_sec, edits=edits)

    def release(
        self, request_id: str, reason: str | None = None, *, redacted: bool, timeout_sec: float = WAIT_SEC
    ) -> VerdictAnswer:
        """Let a held output go to its caller, whole or redacted as the request shows it. Returns the desk's answer."""
        choice = "release_redacted" if redacted else "release"
        return self._decide(request_id, "approve", reason, {}, timeout_sec, choice)

    def destroy(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """Keep a held output back for good. Returns the desk's answer. Raises BadInput without a reason."""
        if not reason.strip():
            raise BadInput("to destroy an output needs a reason; its caller is told it")
        return self._decide(request_id, "deny", reason, {}, timeout_sec, "destroy")

    def find(
        self,
        request_id: str,
        finding: FindingWord,
        note: str | None = None,
        *,
        error_class: str | None = None,
        severity: Severity | None = None,
        timeout_sec: float = WAIT_SEC,
    ) -> VerdictAnswer:
        """Say what a sampled job was; an error has a class, a severity and a note. Returns the desk's answer."""
        word: VerdictWord = "approve" if finding == "correct" else "deny"
        return self._decide(
            request_id, word, note, {}, timeout_sec, finding, error_class=error_class, severity=severity
        )

    def view(self, request_id: str, timeout_sec: float = WAIT_SEC) -> str:
        """What a request for a held output keeps masked, as safe text; that you saw it is on record from then on.

        Raises BadInput when there is nothing to see or the desk refuses, Unavailable when it or the key service does
        not answer, KeyErased.
        """
        now_ms = time.time_ns() // 1_000_000
        self.show(request_id)
        viewed = Viewed(
            view_id=derived_id("view", request_id, self.person_id, now_ms),
            request_id=request_id,
            desk=self.desk,
            approver_id=self.person_id,
        )
        with self._lock:
            raw = self._fold.raw(request_id)
            if raw is None:
                raise BadInput(f"nothing of request `{request_id}` is masked; `show` shows all of it")
            answer = self._send(viewed, viewed.view_id, request_id, now_ms, timeout_sec)
        if answer.status == "unanswered":
            raise Unavailable(answer.message or "the desk has not answered")
        if answer.status == "refused":
            raise BadInput(f"the desk refused as `{answer.code}`: {answer.message}")
        return opened_text(raw, self._keys(request_id))

    def deny(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """Deny; the agent gets the reason. Returns the desk's answer. Raises BadInput without a reason."""
        if not reason.strip():
            raise BadInput("a denial needs a reason; the agent is told it")
        return self._decide(request_id, "deny", reason, {}, timeout_sec)

    def _decide(
        self,
        request_id: str,
        word: VerdictWord,
        reason: str | None,
        constraints: Mapping[str, Any],
        timeout_sec: float,
        choice: str | None = None,
        edits: Mapping[str, Any] | None = None,
        *,
        error_class: str | None = None,
        severity: Severity | None = None,
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
            choice=choice,
            edits=self._sealed(request_id, edits) if edits else None,
            edited=sorted(edits or ()),
            error_class=error_class,
            severity=severity,
        )
        with self._lock:
            return self._send(verdict, verdict.verdict_id, request_id, now_ms, timeout_sec)

    def _keys(self, request_id: str) -> Keyring:
        """What opens that which a request carries, kept for as long as the client lives."""
        if request_id not in self._rings:
            while len(self._rings) >= RINGS_MAX:
                del self._rings[next(iter(self._rings))]
            self._rings[request_id] = keyring_of(self._settings, self._signer, request_id=request_id)
        return self._rings[request_id]

    def _sealed(self, request_id: str, edits: Mapping[str, Any]) -> Sealed:
        with self._lock:
            key_id = self._fold.key_id(request_id)
            return self._keys(request_id).seal(json_bytes(dict(edits)), os.urandom(SALT_BYTES), key_id)

    def _send(
        self, event: Verdict | Viewed, event_id: str, request_id: str, now_ms: int, timeout_sec: float
    ) -> VerdictAnswer:
        desk = self.desk.encode()
        place = self._publisher.publish_signed(self._signer, self._codec, VERDICTS, desk, event, event_id, now_ms)
        self._fold.expect(
            place.partition, place.offset
        )  # the tail is polled under this lock only: no answer was missed
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            self._fold_all(self._tail.poll(POLL_SEC))
            answer = self._fold.answer(place.partition, place.offset)
            if answer is not None:
                return msgspec.structs.replace(answer, request_id=request_id, verdict_id=event_id)
        message = (
            f"the desk has not answered in {timeout_sec:g} s; the verdict stands in the log and is judged when it runs"
        )
        return VerdictAnswer(request_id=request_id, verdict_id=event_id, status="unanswered", message=message)

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
        edits: Mapping[str, Any] | None = None,
    ) -> VerdictAnswer:
        """As `Reviewer.approve`."""
        return await asyncio.to_thread(self._reviewer.approve, request_id, reason, constraints, timeout_sec, edits)

    async def deny(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """As `Reviewer.deny`."""
        return await asyncio.to_thread(self._reviewer.deny, request_id, reason, timeout_sec)

    async def release(
        self, request_id: str, reason: str | None = None, *, redacted: bool, timeout_sec: float = WAIT_SEC
    ) -> VerdictAnswer:
        """As `Reviewer.release`."""
        return await asyncio.to_thread(
            lambda: self._reviewer.release(request_id, reason, redacted=redacted, timeout_sec=timeout_sec)
        )

    async def destroy(self, request_id: str, reason: str, timeout_sec: float = WAIT_SEC) -> VerdictAnswer:
        """As `Reviewer.destroy`."""
        return await asyncio.to_thread(self._reviewer.destroy, request_id, reason, timeout_sec)

    async def find(
        self,
        request_id: str,
        finding: FindingWord,
        note: str | None = None,
        *,
        error_class: str | None = None,
        severity: Severity | None = None,
        timeout_sec: float = WAIT_SEC,
    ) -> VerdictAnswer:
        """As `Reviewer.find`."""
        return await asyncio.to_thread(
            lambda: self._reviewer.find(
                request_id, finding, note, error_class=error_class, severity=severity, timeout_sec=timeout_sec
            )
        )

    async def view(self, request_id: str, timeout_sec: float = WAIT_SEC) -> str:
        """As `Reviewer.view`."""
        return await asyncio.to_thread(self._reviewer.view, request_id, timeout_sec)
