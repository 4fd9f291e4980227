"""The handler's side: what a handler gets, and how its process speaks to the worker.

Nothing here needs a thread, and all of it works from any process that a handler forks: notes and spending go under one
lock that holds between processes too, and being asked to stop is the state of a pipe, which everyone can look at.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import json
import math
import os
import re
import select
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any, Final, Protocol

import msgspec

from sluicegate.clients.frames import (
    AMOUNT_CHARS_MAX,
    ERROR_CHARS_MAX,
    KIND,
    LENGTH_BYTES,
    NAME_CHARS_MAX,
    OUTPUT_BYTES_MAX,
    BadFrame,
    Note,
    Raised,
    Returned,
    Said,
    Spend,
    Spent,
    frame_of,
    spent,
)
from sluicegate.clients.stopping import Stopped, Stopping
from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.errors import BadInput, BadPayload, SluicegateError

READ_BYTES: Final = 65_536
REASON_BYTES_MAX: Final = 2_000


class BudgetExceeded(SluicegateError):
    """More was to be spent than the grant's limit leaves: nothing of it may be done."""


class Spender(Protocol):
    """Who keeps the ledger. The amount is in decimal digits."""

    def spend(self, budget: str, amount: str) -> Spent: ...


class Budget:
    """What a constraint of the grant leaves to spend. The worker keeps the ledger: a copy in a fork is the same one.

    Raises BadInput for a name that the handler was not registered with, in `spends` or `limits`.
    """

    def __init__(self, name: str, spender: Spender | None) -> None:
        self.name, self._spender = name, spender

    def _ask(self, amount: str) -> str | None:
        answer = Spent() if self._spender is None else self._spender.spend(self.name, amount)
        if answer.refused is not None:
            raise (BudgetExceeded if answer.exceeded else BadInput)(answer.refused)
        return answer.left

    @property
    def left(self) -> float:
        """What is left, in the constraint's unit; infinity where the grant sets no limit of this name."""
        left = self._ask("0")
        return math.inf if left is None else int(left) if left.isdigit() else float(left)

    def spend(self, amount: float | Decimal) -> None:
        """Take ``amount`` before doing what costs it. Raises BudgetExceeded, and takes nothing then.

        Raises BadInput for what is no amount: below 0, not finite, not a number.
        """
        if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal):
            raise BadInput(f"a value of type `{type(amount).__name__}` is no amount; give a number from 0")
        digits = str(amount) if not isinstance(amount, int) or amount.bit_length() <= AMOUNT_CHARS_MAX else ""
        if not 0 < len(digits) <= AMOUNT_CHARS_MAX:
            raise BadInput(f"a number of more than {AMOUNT_CHARS_MAX} digits is no amount")
        self._ask(digits)  # the shortest that give this number, so that 0.1 is a tenth


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler gets. ``progress(note)`` is a sign of life with a word for people, at any time.

    A handler that runs for long looks at ``stopping`` now and then: `is_set`, `wait` in place of a sleep, or `check`,
    which raises `Stopped`. ``credentials`` are those that the worker chose for the grant's constraints.
    """

    job_id: str
    topic: str
    payload: Any
    constraints: dict[str, Any]
    attempt: int
    agent_id: str
    on_behalf_of: str | None = None
    progress: Callable[[str], None]
    stopping: Stopping = msgspec.field(default_factory=Stopping)
    credentials: dict[str, str] = {}
    spender: Spender | None = None

    def budget(self, name: str) -> Budget:
        """The budget that the constraint of this name sets, such as `max_amount_usd`."""
        return Budget(name, self.spender)


Handler = Callable[[Call], Any]
"""Returns JSON (a coroutine function is awaited); what it raises is the job's failure."""


class Bell(Stopping):
    """`Stopping` by a pipe: it is set once the worker has written to it or is gone, in every process that has it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def is_set(self) -> bool:
        return self.wait(0.0)

    def wait(self, timeout_sec: float | None = None) -> bool:
        if super().is_set():
            return True
        looking = select.poll()
        looking.register(self._descriptor, select.POLLIN)
        if not looking.poll(None if timeout_sec is None else max(timeout_sec, 0.0) * 1_000):
            return False
        reason = ""
        with suppress(OSError):  # another process of this handler may have read it
            reason = os.read(self._descriptor, REASON_BYTES_MAX).decode(errors="replace")
        self.ask(reason or "asked to stop")
        return True


class Channel:
    """The pipes to the worker: ``up`` for what the handler says, ``down`` for the call and for answers."""

    def __init__(self, up: int, down: int) -> None:
        self._up, self._down = up, down
        self._thread_lock = threading.Lock()
        self._file = tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else os.fdopen(os.memfd_create("lock"))  # noqa: SIM115
        os.register_at_fork(after_in_child=self._fork)

    def _fork(self) -> None:
        self._thread_lock = threading.Lock()  # whoever held it is a thread of the other process

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, over threads and over forked processes: the kernel frees the lock of one that dies."""
        with self._thread_lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _write(self, frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            view = view[os.write(self._up, view) :]

    def hear(self) -> bytes:
        """The next frame from the worker; raises BadFrame when there is none any more."""
        # Never more than is asked for: what is left over would be lost to the other processes of the handler.
        return self._exactly(int.from_bytes(self._exactly(LENGTH_BYTES), "big"))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = os.read(self._down, min(size - len(data), READ_BYTES))
            if not more:
                raise BadFrame("the worker is gone")
            data += more
        return bytes(data)

    def say(self, word: Said) -> None:
        """Tell the worker; BrokenPipeError when it is gone."""
        frame = frame_of(word)
        with self._alone():
            self._write(frame)

    def spend(self, budget: str, amount: str) -> Spent:
        """Ask the worker for a part of the budget."""
        frame = frame_of(Spend(budget[:NAME_CHARS_MAX], amount))
        with self._alone():
            self._write(frame)
            return spent(self.hear())


def _raised(error: BaseException) -> Raised:
    name = type(error).__name__[:NAME_CHARS_MAX]
    kind = name if re.fullmatch(KIND, name) else "Exception"
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  # a handler's own exception may fail at that too
        message = ""
    printable = message.encode(errors="replace").decode()[:ERROR_CHARS_MAX]
    return Raised(kind, printable, isinstance(error, Stopped))


def run_call(handler: Handler, call: Call) -> Said:
    """Run a handler to its end; whatever it does, there is an answer."""
    try:
        value = handler(call)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001  # SystemExit of a handler is its failure too
        return _raised(error)
    try:
        content = json_bytes(value)
    except BadPayload as error:
        return Raised("BadOutput", f"the handler returned {error}"[:ERROR_CHARS_MAX], stopped=False)
    if len(content) > OUTPUT_BYTES_MAX:
        message = f"the handler returned {len(content)} bytes, at most {OUTPUT_BYTES_MAX}; store it and return a link"
        return Raised("OutputTooLarge", message, stopped=False)
    return Returned(msgspec.Raw(content))


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it comes over the pipe."""

    job_id: str
    topic: str
    payload: Any
    constraints: dict[str, Any]
    attempt: int
    agent_id: str
    on_behalf_of: str | None
    credentials: dict[str, str]


def serve_call(handler: Handler, up: int, down: int, bell: int) -> None:
    """The whole work of a handler's process: read the call, run the handler, say what became of it."""
    channel = Channel(up, down)
    # The standard parser, as the worker read the payload with it: numbers stay the same.
    given = msgspec.convert(json.loads(channel.hear()), Given)
    call = Call(
        **{name: getattr(given, name) for name in given.__struct_fields__},
        progress=lambda note: channel.say(Note(str(note)[:ERROR_CHARS_MAX])),
        stopping=Bell(bell),
        spender=channel,
    )
    channel.say(run_call(handler, call))
