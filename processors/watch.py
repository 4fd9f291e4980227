"""The watch: time as an event. `TimerRequest` in, `TimerFired` out when its time has come.

The order of work, which is all there is to its correctness:

1. Requests wait in an inbox. A turn takes what is there, folds it (`sluicegate.processors.timers`), stores the
   entries and waits for the broker. Only then are the requests' offsets acknowledged.
2. The turn sends the firings that are due and waits for the broker. Only then are their entries deleted.

A crash between any two of these leaves a request to be read again (and known to be old) or a firing to be sent again
under the same bytes; a step that gets one twice finds its timer not armed. Turns run one after the other, and a
revocation waits for the turn under way, so nothing is written for a partition that is another instance's.

The judge of *when* is the broker: the firing's append time comes back with the acknowledgement, and a firing appended
before its time (this machine's clock is ahead) stays open and is sent again, since the step it wakes ignores it. Time
on this machine only decides when to try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import faust
import msgspec
from faust.types import EventT

from sluicegate.processors.timers import TURN_TIMERS_MAX, Timer, TimerBook
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import InvariantBroken, SluicegateError, Unavailable, Undecodable
from sluicegate.schemas.events import TimerFired, TimerRequest
from sluicegate.streams.changelog import WATCH_CHANGELOG
from sluicegate.streams.connection import await_broker
from sluicegate.streams.faust_app import (
    SEND_SEC_MAX,
    SESSION_TIMEOUT_SEC,
    ChangelogTable,
    FaustConfig,
    changelog_table,
    make_app,
)
from sluicegate.streams.logins import faust_credentials, kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import APPLICATIONS, TIMER_OWNERS, physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

log = logging.getLogger(__name__)

OPEN_TIMERS_MAX: Final = 1_000_000
"""How many timers one instance holds open; beyond it requests wait in their topic until some have fired."""
INBOX_REQUESTS_MAX: Final = 4_000
TURN_REQUESTS_MAX: Final = 1_000
READY_SEC_MAX: Final = 60.0
STOP_SEC_MAX: Final = 10.0
_IDLE_SEC_MAX: Final = 1.0


class WatchStatus(msgspec.Struct, frozen=True):
    """What the watch says of itself. ``late_ms_max`` is the worst firing so far, by the broker's append time."""

    ready: bool
    open_timers: int
    waiting_requests: int
    requests_total: int
    fired_total: int
    refused_total: int
    early_total: int
    late_ms_max: int
    late_ms_last: int


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Watch:
    """One instance of the watch on a Faust application that is not started yet."""

    def __init__(
        self, app: faust.App, table: ChangelogTable, codec: Codec, tenant: str, clock: Callable[[], int] = _wall_ms
    ) -> None:
        self.app = app
        self.table = table
        self.ready = asyncio.Event()
        self._codec = codec
        self._tenant = tenant
        self._clock = clock
        self._fired = {
            owner: app.topic(physical(tenant, f"timer.fired.{owner}"), key_serializer="raw", value_serializer="raw")
            for owner in TIMER_OWNERS
        }
        self._books: dict[int, TimerBook] = {}
        self._inbox: deque[EventT[Any]] = deque()
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._counts = dict.fromkeys(("requests", "fired", "refused", "early", "late_max", "late_last"), 0)
        self._connect()

    def status(self) -> WatchStatus:
        """A snapshot; may be called from any thread."""
        counts = self._counts
        return WatchStatus(
            ready=self.ready.is_set(),
            open_timers=sum(len(book) for book in tuple(self._books.values())),
            waiting_requests=len(self._inbox),
            requests_total=counts["requests"],
            fired_total=counts["fired"],
            refused_total=counts["refused"],
            early_total=counts["early"],
            late_ms_max=counts["late_max"],
            late_ms_last=counts["late_last"],
        )

    async def run(self) -> None:
        """Turn after turn until cancelled. Raises what a send raises: the process then ends and begins anew."""
        while True:
            self._wake.clear()
            try:
                async with self._turn, asyncio.timeout(SEND_SEC_MAX):
                    worked = await self._fold() | await self._fire()
            except TimeoutError:
                raise Unavailable(
                    f"the broker took nothing from the watch in {SEND_SEC_MAX:g} s; is it running?"
                ) from None
            if not worked:
                rested_from = time.monotonic()
                await self._rest()
                if time.monotonic() - rested_from > SESSION_TIMEOUT_SEC:
                    raise Unavailable("the process was suspended for longer than its session; its partitions are gone")

    async def finish(self, turns: asyncio.Task[None]) -> None:
        """End ``turns``, the task of `run`, between two turns: cut short, a turn would fire again at the next start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SEC_MAX), self._turn:
                turns.cancel()

    def _connect(self) -> None:
        requests = self.app.topic(
            physical(self._tenant, "timer.requests"), key_serializer="raw", value_serializer="raw", value_type=bytes
        )

        @self.app.agent(requests, name="watch.requests")
        async def take(stream: Any) -> None:
            async for event in stream.noack().events():
                await self._offer(event)

        self.table.on_recover(self._recovered)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)

    async def _offer(self, event: EventT[Any]) -> None:
        while len(self._inbox) >= INBOX_REQUESTS_MAX:
            self._room.clear()
            await self._room.wait()
        self._inbox.append(event)
        self._wake.set()

    async def _recovered(self) -> None:
        async with self._turn:
            self._books = {}
            for partition in self.table.active_partitions:
                book = TimerBook(partition)
                leftovers = book.restore(self.table.entries(partition))
                await self.table.write(partition, leftovers)
                self._books[partition] = book
        self.ready.set()
        self._wake.set()
        log.info("timers recovered: %d open on partitions %s", self.status().open_timers, sorted(self._books))

    async def _revoked(self, *_sender: Any, **_signal: Any) -> None:
        self.ready.clear()
        async with self._turn:  # what the turn under way writes is still ours
            self._books = {}
            self._inbox.clear()
            self._room.set()

    async def _fold(self) -> bool:
        room = OPEN_TIMERS_MAX - sum(len(book) for book in self._books.values())
        taken: list[EventT[Any]] = []
        writes: dict[int, list[tuple[bytes, bytes | None]]] = {}
        while self._inbox and len(taken) < min(room, TURN_REQUESTS_MAX):
            event = self._inbox.popleft()
            if event.message.generation_id != self.app.consumer_generation_id:
                continue  # read before a rebalance; whoever has the partition now reads it again
            taken.append(event)
            timer = self._timer(event)
            if timer is None:
                continue
            book = self._books.get(timer.partition)
            if book is None:
                raise InvariantBroken(f"a request of partition {timer.partition} came before its timers were recovered")
            writes.setdefault(timer.partition, []).extend(book.fold(timer))
        self._room.set()
        for partition, batch in writes.items():
            await self.table.write(partition, batch)
        for event in taken:
            event.ack()
        self._counts["requests"] += len(taken)
        return bool(taken)

    def _timer(self, event: EventT[Any]) -> Timer | None:
        message = event.message
        try:
            request = self._codec.decode(message.value or b"")
        except Undecodable as error:
            self._refuse(message, str(error))
            return None
        if not isinstance(request, TimerRequest):
            self._refuse(message, f"`{type(request).__name__}` is no timer request")
            return None
        if request.owner not in TIMER_OWNERS:
            self._refuse(message, f"nobody called `{request.owner}` can be woken")
            return None
        return Timer(
            owner=request.owner,
            record_key=message.key or b"",
            key=request.key,
            timer_id=request.timer_id,
            fire_at_ms=request.fire_at_ms,
            partition=message.partition,
            offset=message.offset,
        )

    def _refuse(self, message: Any, why: str) -> None:
        # Only our own steps may write requests, so this is a fault of a build; the record itself stays in the log.
        self._counts["refused"] += 1
        log.error("timer request refused at %s/%d/%d: %s", message.topic, message.partition, message.offset, why)

    async def _fire(self) -> bool:
        now_ms = self._clock()
        due = {partition: book.due(now_ms, TURN_TIMERS_MAX) for partition, book in self._books.items()}
        sends = [(timer, await self._send(timer)) for timers in due.values() for timer in timers]
        fired: dict[int, list[Timer]] = {}
        for timer, sent in sends:
            appended_at_ms = (await sent).timestamp
            late_ms = appended_at_ms - timer.fire_at_ms
            if late_ms < 0:
                self._counts["early"] += 1
                self._books[timer.partition].again(timer, self._clock() - late_ms)
                continue
            self._counts["fired"] += 1
            self._counts["late_last"] = late_ms
            self._counts["late_max"] = max(late_ms, self._counts["late_max"])
            fired.setdefault(timer.partition, []).append(timer)
        for partition, timers in fired.items():
            await self.table.write(partition, self._books[partition].settle(timers))
        return bool(sends)

    async def _send(self, timer: Timer) -> Any:
        event = TimerFired(owner=timer.owner, key=timer.key, timer_id=timer.timer_id, fire_at_ms=timer.fire_at_ms)
        event_id = f"watch/{timer.owner}/{timer.key}/{timer.timer_id}/{timer.fire_at_ms}"
        headers = {
            "ce_specversion": b"1.0",
            "ce_id": event_id.encode(),
            "ce_source": f"sluicegate/{self._tenant}/watch".encode(),
            "ce_type": b"sluicegate.TimerFired.v1",
            "content-type": b"application/avro",
        }
        topic = self._fired[timer.owner]
        return await topic.send(key=timer.record_key, value=self._codec.encode(event), headers=headers)

    async def _rest(self) -> None:
        moments = [at_ms for book in self._books.values() if (at_ms := book.next_at_ms()) is not None]
        until_sec = (min(moments) - self._clock()) / 1000 if moments else _IDLE_SEC_MAX
        try:
            async with asyncio.timeout(min(max(until_sec, 0.001), _IDLE_SEC_MAX)):
                await self._wake.wait()
        except TimeoutError:
            pass


def make_watch(config: FaustConfig, codec: Codec) -> Watch:
    """The watch of an instance with its application and its table, not started. Needs a running event loop."""
    app = make_app(config)
    table = changelog_table(app, "timers", physical(config.tenant, WATCH_CHANGELOG))
    return Watch(app, table, codec, config.tenant)


async def run_watch(watch: Watch, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set. Raises Unavailable when it cannot become ready or loses the broker."""
    await watch.app.start()
    turns = asyncio.create_task(watch.run(), name="watch.turns")
    stopping = asyncio.create_task(stop.wait(), name="watch.stop")
    ended = asyncio.create_task(watch.app.wait_until_stopped(), name="watch.app")
    ready = asyncio.create_task(watch.ready.wait(), name="watch.ready")
    tasks = (turns, stopping, ended)
    try:
        await asyncio.wait((*tasks, ready), timeout=READY_SEC_MAX, return_when=asyncio.FIRST_COMPLETED)
        if not (ready.done() or any(task.done() for task in tasks)):
            raise Unavailable(
                f"the watch got no partition in {READY_SEC_MAX:g} s; check its group, its topics and their access lists"
            )
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        _check(watch, turns, stop)
        await watch.finish(turns)
    finally:
        watch.ready.clear()
        for task in (*tasks, ready):
            task.cancel()
        await asyncio.gather(*tasks, ready, return_exceptions=True)
        await _stop(watch.app)


def _check(watch: Watch, turns: asyncio.Task[None], stop: asyncio.Event) -> None:
    failure = turns.exception() if turns.done() and not turns.cancelled() else watch.app.crash_reason
    if isinstance(failure, SluicegateError):
        raise failure
    if failure is not None:
        what = f"{type(failure).__name__}: {failure}"
        raise Unavailable(f"the watch cannot go on ({what}); it begins anew from its changelog") from failure
    if not stop.is_set():
        raise Unavailable("the watch's application stopped by itself; it begins anew from its changelog")


async def _stop(app: faust.App) -> None:
    stopping = asyncio.create_task(app.stop(), name="watch.stopping")
    await asyncio.wait({stopping}, timeout=STOP_SEC_MAX)  # parts of Faust swallow a cancellation, so none is sent
    if not stopping.done():
        # A process that cannot end is worse than one that ends rudely: nobody would start it anew.
        rude = threading.Timer(STOP_SEC_MAX, os._exit, (1,))
        rude.daemon = True
        rude.start()
        log.warning("the application did not stop in %g s; what it held is in its changelog", STOP_SEC_MAX)


async def serve_watch(config: FaustConfig, codec: Codec, on_start: Callable[[Watch], None] | None = None) -> None:
    """Run the watch as a process does: until SIGTERM or SIGINT. ``on_start`` gets it, for a health endpoint."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = make_watch(config, codec)
    if on_start is not None:
        on_start(watch)
    await run_watch(watch, stop)


def main(settings: Settings, instance: str, on_start: Callable[[Watch], None] | None = None) -> None:
    """The whole process of one instance. Returns after SIGTERM or SIGINT.

    Raises LoginRefused or Unavailable when there is no way to the broker, InvariantBroken for a contradiction in what
    is stored; whoever started it starts it anew.
    """
    await_broker(kafka_config(settings, "watch"))
    config = FaustConfig(
        application=APPLICATIONS["watch"],
        instance=instance,
        bootstrap=settings.servers,
        state_dir=settings.run_dir / "state" / "watch" / instance,
        credentials=faust_credentials(settings, "watch"),
        tenant=settings.tenant,
    )
    asyncio.run(serve_watch(config, Codec(registry_for(settings.registry_url)), on_start))
