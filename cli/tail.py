"""`sluicegate tail`: the log as sentences, live."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sluicegate.cli.configuration import READER, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.schemas.codec import Codec
    from sluicegate.schemas.events import Event
    from sluicegate.streams.engine import Record

POLL_SEC = 0.2
QUIET = ("Progressed", "Noted", "TimerRequest", "TimerFired", "AttemptOpened", "Granted")
"""What an impatient reader does not need: housekeeping, and what another event says as well."""
REQUESTS_MAX = 100_000
"""Requests of the wanted queue that are remembered, to tell what later events are about."""


class Filter:
    """Which events are wanted. A request's queue stands in the request only, so later events go by its id."""

    def __init__(self, agent: str = "", queue: str = "", everything: bool = False) -> None:
        self._agent = agent
        self._queue = queue
        self._everything = everything
        self._requests: set[str] = set()

    def wants(self, event: Event) -> bool:
        """Whether to show an event; to be asked about every event, in order."""
        if not self._everything and type(event).__name__ in QUIET:
            return False
        if self._agent and getattr(event, "agent_id", None) != self._agent:
            return False
        if not self._queue:
            return True
        request = getattr(event, "request_id", None) or ""
        if getattr(event, "queue", None) == self._queue and len(self._requests) < REQUESTS_MAX:
            self._requests.add(request)
        return request in self._requests


def tail(
    agent: Annotated[str, typer.Option("--agent", help="Only what is about this agent.")] = "",
    queue: Annotated[str, typer.Option("--queue", help="Only requests of this queue and what becomes of them.")] = "",
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest record kept.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with what comes, or print all there is and end.")
    ] = True,
    everything: Annotated[bool, typer.Option("--all", help="Housekeeping too: timers, heartbeats, notes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the log as plain sentences as it grows; with --json one JSON document a line. Ends with Ctrl-C."""
    out = Output(as_json)
    found = settings()
    from sluicegate.cli.log_reading import log_topics
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.kafka import Tail
    from sluicegate.streams.registry import registry_for

    codec = Codec(registry_for(found.registry_url))
    wanted = Filter(agent, queue, everything)
    # to end at the ends having begun there would always print nothing
    start: Literal["beginning", "end"] = "beginning" if from_beginning or not follow else "end"
    reader = Tail(found, READER, log_topics(found), group=READER, start=start)
    if out.on_terminal and follow:
        out.note("following the log; Ctrl-C ends")
    waiting: list[Record] = []
    try:
        while follow or not reader.at_end():
            came = reader.poll(POLL_SEC)
            if not follow:
                waiting += came  # the past can be put in order; what is live is shown as it comes
                continue
            for record in sorted(came, key=_order):
                _show(out, codec, wanted, record)
        for record in sorted(waiting, key=_order):
            _show(out, codec, wanted, record)
    except KeyboardInterrupt:
        pass
    finally:
        reader.close()


def _order(record: Record) -> tuple[int, int, int]:
    """Time, then the order in which events of one millisecond follow from each other."""
    from sluicegate.streams.topics import BY_NAME, spec_of

    return record.timestamp_ms, list(BY_NAME).index(spec_of(record.topic).name), record.offset


def _show(out: Output, codec: Codec, wanted: Filter, record: Record) -> None:
    from sluicegate.cli.sentences import sentence
    from sluicegate.schemas.errors import Undecodable

    try:
        event = codec.decode(record.value)
    except Undecodable as error:
        if out.as_json:
            out.record({**_place(record), "type": None, "error": str(error)})
        else:
            out.say(f"{_clock(record.timestamp_ms)}  {record.topic:20} cannot be read: {visible(str(error))}")
        return
    if wanted.wants(event):
        if out.as_json:
            out.record({**_place(record), "type": type(event).__name__, "event": _body(event)})
        else:
            out.say(f"{_clock(record.timestamp_ms)}  {record.topic:20} {sentence(event)}")


def _place(record: Record) -> dict[str, Any]:
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return {**place, "timestamp_ms": record.timestamp_ms, "key": record.key.decode("utf-8", "backslashreplace")}


def _body(event: Event) -> Any:
    """The event without sealed bytes: a terminal is no place for payloads."""
    import msgspec

    from sluicegate.streams.tables import unsealed_body

    return unsealed_body(msgspec.to_builtins(event, builtin_types=(bytes,)))


def _clock(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%H:%M:%S.%f")[:-3]
