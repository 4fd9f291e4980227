"""One attempt's process as the worker sees it: what it says, what it spends, when it must end, and that it has ended.

`wait` returns only once everything of the attempt is gone, so nothing of it runs on when the log says that it ended.
Time is kept twice: here, to ask the handler to stop at its `max_runtime_sec`; and by the keeper, which hears no
handler, to kill ``KILL_AFTER_SEC`` later.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from sluicegate.clients.budget import BudgetExceeded, Ledger
from sluicegate.clients.call import REASON_BYTES_MAX, Given
from sluicegate.clients.capabilities import NETWORK, RUNTIME
from sluicegate.clients.frames import (
    CALL_BYTES_MAX,
    BadFrame,
    Frames,
    Note,
    Raised,
    Returned,
    Spend,
    Spent,
    frame_of,
    said,
)
from sluicegate.clients.judging import Terms
from sluicegate.clients.keeper import PROXIES, REPORT_BYTES_MAX, WAIT_SEC_MAX, Ended, Listening, Request, report_of
from sluicegate.clients.proxy import ForwardProxy
from sluicegate.clients.relay import Relay
from sluicegate.clients.sandbox import Place
from sluicegate.clients.zygote_process import Zygote
from sluicegate.schemas.errors import BadInput

KILL_AFTER_SEC: Final = 2.0
"""How long a handler may take to end once it is asked to stop for its run time; then it is killed."""
PROCESSES_MAX: Final = 512
"""Processes that one attempt may have at once."""
CHUNK_BYTES: Final = 65_536
REST_BYTES_MAX: Final = 1 << 21
"""How much is read of a process that is gone: more than a pipe can hold."""


class Breach(msgspec.Struct, frozen=True):
    """What a handler did, or tried to do, beyond a constraint of its grant."""

    constraint: str
    detail: str
    prevented: bool


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a handler's process. ``broken`` says what it said that is no word of its."""

    said: Returned | Raised | None
    ended: Ended
    overran: bool
    broken: str | None = None


class HandlerProcess:
    """A handler in a process of its own; `start` it once, then `wait` in a thread. All else is for any thread.

    ``hidden`` are the paths it must not see, ``note`` takes its signs of life, ``log`` what it prints (else discarded).
    """

    def __init__(
        self,
        zygote: Zygote,
        handler: int,
        given: Given,
        terms: Terms,
        *,
        hidden: Sequence[Place] = (),
        note: Callable[[str], None] = lambda _: None,
        log: Callable[[bytes], None] | None = None,
        processes_max: int = PROCESSES_MAX,
    ) -> None:
        self._zygote, self._handler, self._given, self._terms = zygote, handler, given, terms
        self._hidden, self._note, self._log = hidden, note, log
        self._processes_max = processes_max
        self.breaches: queue.SimpleQueue[Breach] = queue.SimpleQueue()
        self._ledger = Ledger(terms.budget)
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._proxy: ForwardProxy | None = None
        self._relay: Relay | None = None
        self._frames = Frames()
        self._outgoing = bytearray()
        self._said: Returned | Raised | None = None
        self._broken: str | None = None
        self._overran = self._killing = False
        self._asked: str | None = None
        self._bell: int | None = None
        self._printed: int | None = None
        self._status: socket.socket | None = None

    def start(self) -> None:
        """Fork it. Raises Unavailable, BadInput; nothing runs then."""
        isolation = self._zygote.ready().isolation
        environment = dict(self._zygote.environment)
        self._outgoing += frame_of(self._given, CALL_BYTES_MAX)  # first: what cannot be said leaves nothing open
        self._outgoing_max = len(self._outgoing) + CHUNK_BYTES
        if self._terms.network is not None:
            self._proxy = ForwardProxy(
                self._terms.network, self._refused, over="unix" if isolation.namespaces else "tcp"
            )
            if not isolation.namespaces:
                self._proxy.start()
                environment |= dict.fromkeys(PROXIES, str(self._proxy.url))
        runtime = self._terms.runtime_sec_max
        request = Request(
            handler=self._handler,
            namespaces=isolation.namespaces,
            network=self._terms.network is not None,
            hidden=tuple(self._hidden),
            environment=environment,
            processes_max=self._processes_max,
            kill_after_sec=None if runtime is None else runtime + KILL_AFTER_SEC,
        )
        self._open(request)

    def _open(self, request: Request) -> None:
        self._up, up = os.pipe()
        down, self._down = os.pipe()
        bell, ringing = os.pipe()
        ours, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self._log is None:
            printed = os.open(os.devnull, os.O_WRONLY)
        else:
            self._printed, printed = os.pipe()
        with self._lock:
            self._bell, self._status = ringing, ours
        theirs = [status.fileno(), up, down, bell, printed]
        self.started_at = time.monotonic()
        try:
            self._zygote.fork(request, theirs)
        except BaseException:
            self._close()
            raise
        finally:
            status.close()
            for descriptor in theirs[1:]:
                os.close(descriptor)
        for ours_to_use in (self._up, self._down, self._printed):
            if ours_to_use is not None:
                os.set_blocking(ours_to_use, False)
        with self._lock:
            self._pass_on()

    def ask(self, reason: str) -> None:
        """Ask the handler to stop; the first reason stays. Holds too if it is not started yet."""
        with self._lock:
            self._asked = self._asked or reason
            self._pass_on()

    def kill(self) -> None:
        """End everything of it, at once, or as soon as it is started."""
        with self._lock:
            self._killing = True
            self._pass_on()

    def _pass_on(self) -> None:
        if self._bell is not None and self._asked is not None:
            with suppress(OSError):
                os.write(self._bell, self._asked.encode(errors="replace")[:REASON_BYTES_MAX])
            os.close(self._bell)  # that it is closed is what every process of the handler sees
            self._bell = None
        if self._status is not None and self._killing:
            with suppress(OSError):
                self._status.send(b"kill")

    def _refused(self, detail: str) -> None:
        self.breaches.put(Breach(NETWORK, detail, prevented=True))

    def wait(self) -> Ending:
        """Serve the process until all of it is gone. Whatever is raised, it is killed and nothing stays open."""
        try:
            return self._serve()
        except BaseException:
            self.kill()
            self._close()
            raise

    def _serve(self) -> Ending:
        ended: Ended | None = None
        runtime = self._terms.runtime_sec_max
        deadline = None if runtime is None else self.started_at + runtime
        status = self._status
        assert status is not None
        with selectors.DefaultSelector() as looking:
            looking.register(status, selectors.EVENT_READ)
            looking.register(self._up, selectors.EVENT_READ)
            if self._printed is not None:
                looking.register(self._printed, selectors.EVENT_READ)
            while ended is None:
                self._send(looking)
                left = WAIT_SEC_MAX if deadline is None else min(max(deadline - time.monotonic(), 0), WAIT_SEC_MAX)
                ready = {key.fd for key, _ in looking.select(left)}
                if deadline is not None and time.monotonic() >= deadline:
                    deadline = None
                    self._overrun(runtime)
                if self._up in ready and not self._hear():
                    looking.unregister(self._up)
                if self._printed in ready and not self._copy():
                    looking.unregister(self._printed)
                if status.fileno() in ready:
                    ended = self._report(status)
        # What it had said before it ended; whom it gave its pipes to, outside, may write on for ever.
        self._rest(self._hear)
        if self._printed is not None:
            self._rest(self._copy)
        self._close()
        # The keeper's clock began later than ours, so that what it killed for its time has overrun here too.
        overran = self._overran or ended.why == "deadline"
        return Ending(said=self._said, ended=ended, overran=overran, broken=self._broken)

    def _rest(self, take: Callable[[], bool]) -> None:
        for _ in range(REST_BYTES_MAX // CHUNK_BYTES):
            if not take():
                return

    def _overrun(self, runtime: float | None) -> None:
        if self._said is None:
            self._overran = True
            self.ask(f"`{RUNTIME}` of {runtime:g} s has passed")

    def _report(self, status: socket.socket) -> Ended | None:
        """What the keeper says; None if the process goes on."""
        try:
            try:
                words, descriptors, _, _ = socket.recv_fds(status, REPORT_BYTES_MAX, 1)
            except ConnectionResetError:  # it ended without reading our last word; its own still comes
                words, descriptors, _, _ = socket.recv_fds(status, REPORT_BYTES_MAX, 1)
            report = report_of(words) if words else Ended(why="sandbox", detail="its keeper was killed")
        except (OSError, msgspec.MsgspecError) as error:
            return Ended(why="sandbox", detail=f"its keeper cannot be understood: {error}")
        if not isinstance(report, Listening):
            return report
        self._relay = Relay(socket.socket(fileno=descriptors[0]), self._connect)
        return None

    def _connect(self) -> socket.socket:
        """A connection to the proxy, which is started for the first."""
        with self._lock:
            if self._proxy is None:
                raise OSError("the attempt is over")
            if self._proxy.path is None:
                self._proxy.start()
            path = self._proxy.path
        found = socket.socket(socket.AF_UNIX)
        found.connect(str(path))
        return found

    def _hear(self) -> bool:
        """Take what the process says; False once there is nothing, or nothing that counts, any more."""
        try:
            data = os.read(self._up, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data or self._broken is not None:
            return False
        try:
            for frame in self._frames.take(data):
                self._take(frame)
        except BadFrame as error:
            self._broken = str(error)
            self.kill()
        return True

    def _take(self, frame: bytes) -> None:
        if self._said is not None:  # the first answer counts; all that still runs is being killed
            return
        word = said(frame)
        if isinstance(word, Note):
            self._note(word.text)
        elif isinstance(word, Spend):
            self._outgoing += frame_of(self._spend(word))
            if len(self._outgoing) > self._outgoing_max:
                raise BadFrame("it asks and does not read the answers")
        else:
            self._said = word
            self.kill()

    def _spend(self, asked: Spend) -> Spent:
        try:
            amount = Decimal(asked.amount)
            left = self._ledger.spend(asked.budget, amount) if amount else self._ledger.left(asked.budget)
        except BudgetExceeded as error:
            if asked.budget not in self._told:
                self._told.add(asked.budget)
                self.breaches.put(Breach(asked.budget, str(error), prevented=True))
            return Spent(refused=str(error), exceeded=True)
        except (BadInput, InvalidOperation) as error:
            return Spent(refused=str(error))
        return Spent(left=None if left is None else f"{left:f}")

    def _send(self, looking: selectors.BaseSelector) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._down, self._outgoing[:CHUNK_BYTES])]
        except BlockingIOError:
            if self._down not in looking.get_map():
                looking.register(self._down, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:  # it has ended, or nobody reads there any more
            self._outgoing.clear()
        if self._down in looking.get_map():
            looking.unregister(self._down)

    def _copy(self) -> bool:
        assert self._printed is not None
        assert self._log is not None
        try:
            data = os.read(self._printed, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if data:
            with suppress(OSError):  # a full disk is no reason to hold the handler up
                self._log(data)
        return bool(data)

    def _close(self) -> None:
        with self._lock:
            if self._relay is not None:
                self._relay.stop()
            proxy, self._proxy = self._proxy, None
            for descriptor in (self._up, self._down, self._bell, self._printed):
                if descriptor is not None:
                    os.close(descriptor)
            if self._status is not None:
                self._status.close()
            self._bell = self._status = None
        if proxy is not None:
            proxy.stop()
