"""What a monitor calls: report an incident, which costs an agent its level before its next intent is judged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import Incident
from sluicegate.schemas.ids import derived_id
from sluicegate.streams.identity import Signer
from sluicegate.streams.kafka import Publisher
from sluicegate.streams.keys import monitor_signer
from sluicegate.streams.registry import registry_for

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

INCIDENTS: Final = "agent.incidents"
MONITOR: Final = "monitor"
CHARS_MAX: Final = 4_000
"""The longest kind or note."""


class Monitor:
    """One monitor's client. ``close`` it, or use it in a ``with`` block.

    Raises BadInput when the monitor has no key here, LoginRefused, NotPermitted or Unavailable for the broker.
    """

    def __init__(
        self, settings: Settings, monitor_id: str = MONITOR, *, user: str = MONITOR, signer: Signer | None = None
    ) -> None:
        self._signer = signer or monitor_signer(settings, monitor_id)
        self._codec = Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, user)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._publisher.close()

    def report(
        self, agent_id: str, kind: str, note: str, job_id: str | None = None, incident_id: str | None = None
    ) -> str:
        """Put an incident of an agent on record; its id, which is made from content and time unless one is given.

        The same id again is the same incident. Raises BadInput for an empty kind or note, or one that is too long.
        """
        for name, text in (("kind", kind), ("note", note)):
            if not text.strip() or len(text) > CHARS_MAX:
                raise BadInput(f"the {name} of an incident has 1 to {CHARS_MAX} characters; say what happened")
        now_ms = time.time_ns() // 1_000_000
        found = incident_id or derived_id("incident", agent_id, kind, note, job_id or "", now_ms)
        event = Incident(incident_id=found, agent_id=agent_id, job_id=job_id, kind=kind, note=note)
        self._publisher.publish_signed(self._signer, self._codec, INCIDENTS, agent_id.encode(), event, found, now_ms)
        return found
