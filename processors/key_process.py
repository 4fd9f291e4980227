"""`sluicegate run keys`: the key service, with what the log says of requests and of who has looked at them.

A person gets the keys of what an approval request carries, and that of a quarantined output once `approval.events`
holds their view. Both are read from the log as it is now: a question about what is not known yet waits until the end
that the log had when it was asked has been read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from sluicegate.processors.control import Control
from sluicegate.processors.key_service import KeyAnswers, KeyService
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.events import ApprovalRequest, ViewAccepted
from sluicegate.streams.engine import ControlSource, Record
from sluicegate.streams.identity import Verifier
from sluicegate.streams.kafka import Tail
from sluicegate.streams.key_store import KeyStore, key_store_path
from sluicegate.streams.keys import trusted_pools

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

POLL_SEC: Final = 0.1
CATCH_UP_SEC_MAX: Final = 5.0
REQUESTS_MAX: Final = 100_000
"""Requests whose keys are known, and views, the latest of each."""
USER: Final = "keys"


class Requests:
    """What the log says of requests, read by one thread and asked by many."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._codec = codec
        self._tail = Tail(settings, USER, ("approval.requests", "approval.events"), group=USER, start="beginning")
        self._known = threading.Condition()
        self._carried: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._viewed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._wanted = self._reached = 0
        self.caught_up = False

    def carried(self, request_id: str) -> Collection[str]:
        """The names of the keys of what a request carries; none for one that is not in the log."""
        self._until(lambda: request_id in self._carried)
        with self._known:
            return self._carried.get(request_id, frozenset())

    def viewed(self, request_id: str, person_id: str) -> bool:
        """Whether the desk has committed that this person viewed this request."""
        self._until(lambda: (request_id, person_id) in self._viewed)
        with self._known:
            return (request_id, person_id) in self._viewed

    def _until(self, known: Callable[[], bool]) -> None:
        """Wait until it is known, or all has been read that stood in the log when this was called."""
        with self._known:
            if known():
                return
            self._wanted += 1
            ticket = self._wanted
            if not self._known.wait_for(lambda: known() or self._reached >= ticket, CATCH_UP_SEC_MAX):
                raise Unavailable("the log of requests cannot be read to its end now; ask again")

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop. Raises NotPermitted or Unavailable."""
        while not stop.is_set():
            with self._known:
                ticket = self._wanted
            behind = not self.caught_up or ticket > self._reached
            ends = {place: self._tail.span(*place)[1] for place in self._tail.positions()} if behind else {}
            while not stop.is_set():
                self._fold(self._tail.poll(POLL_SEC))
                if all(self._tail.positions()[place] >= end for place, end in ends.items()):
                    break
            with self._known:
                self._reached = max(self._reached, ticket)
                self.caught_up = True
                self._known.notify_all()

    def _fold(self, records: list[Record]) -> None:
        for record in records:
            event = self._codec.decode_or_none(record.value)
            with self._known:
                if isinstance(event, ApprovalRequest) and record.topic == "approval.requests":
                    held = (event.payload, event.context, event.raw, event.output)
                    names = frozenset(each.key_id for each in held if each is not None and each.key_id)
                    self._carried.setdefault(event.request_id, names)
                elif isinstance(event, ViewAccepted) and record.topic == "approval.events":
                    self._viewed[event.request_id, event.approver_id] = None
                else:
                    continue
                for memory in (self._carried, self._viewed):
                    while len(memory) > REQUESTS_MAX:
                        memory.popitem(last=False)
                self._known.notify_all()

    def close(self) -> None:
        """Let the connection go."""
        self._tail.close()


def serve(
    settings: Settings,
    codec: Codec,
    control: ControlSource[Control],
    stop: threading.Event,
    on_start: Callable[[Requests], None],
) -> None:
    """Answer until told to stop. Raises what ended it: BadInput without a key store, NotPermitted, Unavailable."""
    store = KeyStore(key_store_path(settings))
    store.check()
    pools = trusted_pools(settings)

    def verifier(key_id: str) -> Verifier | None:
        return pools.get(key_id) or control.current().key(key_id)

    requests = Requests(settings, codec)
    service = KeyService(
        KeyAnswers(store, settings.tenant, verifier, requests.viewed, requests.carried), settings.run_dir
    )
    try:
        service.start()
        on_start(requests)
        requests.run(stop)
    finally:
        service.stop()
        requests.close()
        store.close()
