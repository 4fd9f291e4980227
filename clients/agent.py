"""What an agent calls: submit a job, await what policy says of it and what came of it.

    agent = Agent(settings, "deployer")
    job = agent.submit("job.deploy.staging", {"version": "1.2"})
    print(job.result())

What became of a job is a value (`sluicegate.clients.outcomes`); only what keeps a caller from knowing it is raised.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from sluicegate.clients.answers import Answers
from sluicegate.clients.key_client import PATIENCE_SEC, keyring_of
from sluicegate.clients.outcomes import Handle
from sluicegate.clients.pending import AsyncPending, Pending
from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, RecordTooLarge, Unavailable
from sluicegate.schemas.events import Ask, Event, Intent, Withdrawal
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.key_ids import job_key
from sluicegate.schemas.payload import SALT_BYTES, job_hash
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.engine import RECORD_BYTES_MAX, Headers, Out, size_bytes
from sluicegate.streams.identity import Signer
from sluicegate.streams.kafka import Published, Publisher, signed_headers
from sluicegate.streams.keys import agent_signer
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

INTENTS: Final = "job.intents"
CONTEXT_BYTES_MAX: Final = 131_072
"""Payload, context and what a request adds to them must fit into one record."""
CHARS_MAX: Final = 200
"""How long a job id or a topic may be."""


class AgentSigner(Signer, Protocol):
    """Signs for an agent, and salts its jobs."""

    def salt(self, job_id: str) -> bytes: ...


def new_job_id() -> str:
    """A job id that nobody used."""
    return f"job-{uuid.uuid4().hex}"


def build_intent(
    signer: AgentSigner,
    tenant: str,
    agent_id: str,
    agent_version: str,
    topic: str,
    payload: Any,
    *,
    payload_bytes_max: int,
    job_id: str,
    keys: Keyring | None = None,
    now_ms: int = 0,
    risk_tags: Sequence[str] = (),
    confidence: float | None = None,
    context: Any = None,
    ask: Ask | str | None = None,
    correlation_id: str | None = None,
    on_behalf_of: str | None = None,
    parents: Sequence[str] = (),
    run_id: str | None = None,
    plan_hash: str | None = None,
) -> Intent:
    """The intent of one job; the same arguments give the same bytes and the same hash. Raises BadInput, BadPayload."""
    if isinstance(risk_tags, str) or isinstance(parents, str):
        raise BadInput("`risk_tags` and `parents` are lists of strings; put the one string into a list")
    if not (0 < len(topic) <= CHARS_MAX and 0 < len(job_id) <= CHARS_MAX):
        what = f"topic `{topic[:40]}` or job id `{job_id[:40]}`"
        raise BadInput(f"{what} cannot be used: each has 1 to {CHARS_MAX} characters")
    if confidence is not None and not (math.isfinite(confidence) and 0 <= confidence <= 1):
        raise BadInput(f"confidence `{confidence}` is not between 0 and 1; leave it out or mend it")
    content = json_bytes(payload)
    if len(content) + SALT_BYTES > payload_bytes_max:
        size = len(content) + SALT_BYTES
        text = f"the payload and its salt have `{size}` bytes, `payload_bytes_max` is {payload_bytes_max}"
        raise RecordTooLarge(f"{text}; store what is large elsewhere and submit a link to it")
    case = None if context is None else json_bytes(context)
    if case is not None and len(case) > CONTEXT_BYTES_MAX:
        raise RecordTooLarge(
            f"the context has `{len(case)}` bytes, at most {CONTEXT_BYTES_MAX} are shown to a reviewer"
        )
    salt, own_case = signer.salt(job_id), f"{job_id}#context"
    ring = NoKeyring() if keys is None else keys
    key_id = job_key(tenant, agent_id, now_ms, job_id).text
    return Intent(
        job_id=job_id,
        agent_id=agent_id,
        agent_version=agent_version,
        topic=topic,
        risk_tags=list(risk_tags),
        payload=ring.seal(content, salt, key_id, job_id),
        job_hash=job_hash(content, topic, agent_id, risk_tags, salt),
        context=None if case is None else ring.seal(case, signer.salt(own_case), key_id, own_case),
        confidence=confidence,
        parents=list(parents),
        run_id=run_id,
        on_behalf_of=on_behalf_of,
        plan_hash=plan_hash,
        ask=Ask(reason=ask) if isinstance(ask, str) else ask,
        correlation_id=correlation_id,
        tenant=tenant,
    )


class Agent:
    """One agent's client. Safe to share between threads; ``close`` it, or use it in a ``with`` block.

    Raises BadInput when the agent has no key here, LoginRefused or Unavailable when the broker cannot be reached.
    """

    def __init__(
        self, settings: Settings, agent_id: str, *, version: str = "", signer: AgentSigner | None = None
    ) -> None:
        self.agent_id, self.version = agent_id, version
        self._settings = settings
        self._user = f"agent.{agent_id}"
        self._signer: AgentSigner = signer or agent_signer(settings, agent_id)
        self.keys: Keyring = keyring_of(settings, self._signer, creates=True, patience_sec=PATIENCE_SEC)
        """What seals this agent's payloads and opens its results: keys of its own jobs, and of no other."""
        self._codec = Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, self._user)
        self._answers: Answers | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go; jobs go on without."""
        with self._lock:
            if self._answers is not None:
                self._answers.close()
                self._answers = None
        self._publisher.close()

    def _reader(self) -> Answers:
        with self._lock:
            if self._answers is None or self._answers.failure is not None:
                self._answers = Answers(self._settings, self._user, self.agent_id, self._codec)
            return self._answers

    def submit(
        self,
        topic: str,
        payload: Mapping[str, Any] | Sequence[Any] | bytes | None,
        *,
        risk_tags: Sequence[str] = (),
        job_id: str | None = None,
        confidence: float | None = None,
        context: Any = None,
        ask: Ask | str | None = None,
        correlation_id: str | None = None,
        on_behalf_of: str | None = None,
        parents: Sequence[str] = (),
        run_id: str | None = None,
        plan_hash: str | None = None,
        traceparent: str | None = None,
    ) -> Pending:
        """Submit a job; returns once the broker has it.

        Give a ``job_id`` of your own to be able to submit the very same job again after a crash: it will not run
        twice. ``ask`` wants a person's approval whatever policy says. Raises BadInput, BadPayload, RecordTooLarge
        before anything is sent; NotPermitted or Unavailable when the broker does not take it.
        """
        intent = build_intent(
            self._signer,
            self._settings.tenant,
            self.agent_id,
            self.version,
            topic,
            payload,
            payload_bytes_max=self._settings.payload_bytes_max,
            job_id=job_id or new_job_id(),
            keys=self.keys,
            now_ms=time.time_ns() // 1_000_000,
            risk_tags=risk_tags,
            confidence=confidence,
            context=context,
            ask=ask,
            correlation_id=correlation_id,
            on_behalf_of=on_behalf_of,
            parents=parents,
            run_id=run_id,
            plan_hash=plan_hash,
        )
        extra = () if traceparent is None else (("traceparent", traceparent.encode()),)
        reader = self._reader()
        decisions_from, results_from = reader.positions()
        handle = Handle(
            agent_id=self.agent_id,
            job_id=intent.job_id,
            job_hash=intent.job_hash,
            decisions_from=decisions_from,
            results_from=results_from,
        )
        pending = Pending(self, reader, handle)
        pending.hold_back()
        record_id = derived_id("intent", self.agent_id, intent.job_id, intent.job_hash)
        place = self._publish(intent, record_id, extra)
        pending.let_through(handle.at(place.partition, place.offset))
        return pending

    def resume(self, handle: Handle | str) -> Pending:
        """Wait again for a job of this agent, submitted here or in another process. Raises BadInput."""
        found = Handle.parse(handle) if isinstance(handle, str) else handle
        if found.agent_id != self.agent_id:
            raise BadInput(f"the handle is of agent `{found.agent_id}`, this is `{self.agent_id}`; resume it there")
        reader = self._reader()
        pending = Pending(self, reader, found)
        reader.rewind(found.decisions_from, found.results_from)
        return pending

    def find(self, job_id: str) -> Pending:
        """Wait for a job of this agent by its id alone; reads the agent's whole history once."""
        return self.resume(Handle.of_job(self.agent_id, job_id))

    def publish_withdrawal(self, job_id: str, reason: str | None) -> Published:
        """Write a withdrawal; `Pending.cancel` is what most callers want."""
        withdrawal = Withdrawal(job_id=job_id, agent_id=self.agent_id, reason=reason)
        return self._publish(withdrawal, derived_id("withdrawal", self.agent_id, job_id), ())

    def _publish(self, event: Event, record_id: str, extra: Headers) -> Published:
        topic, key, value = physical(self._settings.tenant, INTENTS), self.agent_id.encode(), self._codec.encode(event)
        now_ms = time.time_ns() // 1_000_000
        headers = signed_headers(self._signer, topic, event, record_id, now_ms, key, value, extra)
        size = size_bytes(Out(INTENTS, key, value, headers))
        if size > RECORD_BYTES_MAX:
            raise RecordTooLarge(f"the intent has `{size}` bytes, at most {RECORD_BYTES_MAX}; shorten tags or parents")
        return self._publisher.publish(INTENTS, key, value, headers)


class AsyncAgent:
    """`Agent` for asyncio: ``async with AsyncAgent(settings, "deployer") as agent``."""

    def __init__(
        self, settings: Settings, agent_id: str, *, version: str = "", signer: AgentSigner | None = None
    ) -> None:
        self._make = lambda: Agent(settings, agent_id, version=version, signer=signer)
        self._made: Agent | None = None

    async def __aenter__(self) -> Self:
        self._made = await asyncio.to_thread(self._make)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._made is not None:
            await asyncio.to_thread(self._made.close)
            self._made = None

    @property
    def _agent(self) -> Agent:
        if self._made is None:
            raise Unavailable("the agent is not connected; use it in an `async with` block")
        return self._made

    async def submit(
        self, topic: str, payload: Mapping[str, Any] | Sequence[Any] | bytes | None, **more: Any
    ) -> AsyncPending:
        """As `Agent.submit`, with the same keyword arguments."""
        return AsyncPending(await asyncio.to_thread(self._agent.submit, topic, payload, **more))

    async def resume(self, handle: Handle | str) -> AsyncPending:
        """As `Agent.resume`."""
        return AsyncPending(await asyncio.to_thread(self._agent.resume, handle))

    async def find(self, job_id: str) -> AsyncPending:
        """As `Agent.find`."""
        return AsyncPending(await asyncio.to_thread(self._agent.find, job_id))
