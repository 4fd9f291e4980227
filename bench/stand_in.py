"""A worker that runs nothing: it takes every grant as it comes and says what a handler would have returned.

Its transactions are those of a worker: the starts of some grants with their offsets, and beside them, as of jobs that
have ended in the meantime, the outputs of those before. It does not look at signatures or terms.
"""

from __future__ import annotations

from typing import Final

from sluicegate.bench.clean_documents import documents_of
from sluicegate.clients.attempts import Finished, WorkerEvents
from sluicegate.clients.grants import Grants
from sluicegate.clients.intake import Waiting
from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.codec import Codec
from sluicegate.streams.engine import Out
from sluicegate.streams.kafka import POLL_SEC
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import DEFAULT_POOL, physical
from sluicegate.streams.transact import Transactor

OUTPUT_BYTES: Final = 1_000
DISTINCT: Final = 200
"""Outputs that it has ready, and returns in turn."""
REDACTED_OF: Final = 10
"""One of so many holds an address that does not leave."""


def outputs() -> list[bytes]:
    """What the handlers would have returned."""
    found = documents_of(OUTPUT_BYTES, DISTINCT)
    return [
        json_bytes({**each, "contact": "anna@example.com"} if number % REDACTED_OF == 0 else each)
        for number, each in enumerate(found)
    ]


class StandIn:
    """Works for the default pool; a step is one transaction."""

    def __init__(self, settings: Settings, instance: str) -> None:
        user, codec = f"worker.{DEFAULT_POOL}", Codec(registry_for(settings.registry_url))
        group = physical(settings.tenant, user)
        member = f"{group}.{instance}"
        self._transactor = Transactor(
            kafka_config(settings, user),
            member,
            tenant=settings.tenant,
            transaction_timeout_ms=settings.transaction_timeout_ms,
        )
        self._grants = Grants(settings, user, group, member, DEFAULT_POOL, codec)
        self._events = WorkerEvents(codec, f"{DEFAULT_POOL}/{instance}")
        self._outputs, self._count = outputs(), 0
        self._running: list[Waiting] = []

    @property
    def ready(self) -> bool:
        """Whether it was given partitions."""
        return self._grants.assigned

    def step(self) -> None:
        """Take what is there, and end what was taken before."""
        self._grants.poll(POLL_SEC if not self._running else 0.0)
        taken = self._grants.waiting
        ended = [out for each in self._running for out in self._ended(each)]
        started = [self._events.started(each.grant, each.record.headers) for each in taken if each.grant is not None]
        if not ended and not taken:
            return
        offsets = self._grants.offsets(taken)
        self._transactor.commit([*started, *ended], offsets, self._grants.metadata() if offsets else None)
        self._grants.take(taken)
        self._running = taken

    def _ended(self, found: Waiting) -> list[Out]:
        if found.grant is None:
            return []
        self._count += 1
        content = self._outputs[self._count % DISTINCT]
        return self._events.output(Finished(grant=found.grant, succeeded=True, content=content), found.record.headers)

    def close(self) -> None:
        """Leave the group."""
        self._grants.close()
        self._transactor.close()
