"""The handlers of one worker: which takes a topic, what it can be held to, and the process it is run in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sluicegate.clients.call import Given, Handler
from sluicegate.clients.capabilities import Capability, capability, credential_sets, enforce
from sluicegate.clients.handler_log import HandlerLog
from sluicegate.clients.handler_process import HandlerProcess
from sluicegate.clients.judging import Refuse, Start
from sluicegate.clients.sandbox import Isolation, Place, place
from sluicegate.clients.zygote_process import Zygote, isolation, scrubbed
from sluicegate.schemas.errors import BadInput, Unavailable

Credentials = Mapping[str, Mapping[str, str]]
"""Sets of credentials by the true constraints that choose them; the usual set is named by an empty text."""


class Registered(NamedTuple):
    """One handler, as `handles` was told of it."""

    pattern: re.Pattern[str]
    handler: Handler
    capability: Capability


def _pattern(glob: str) -> re.Pattern[str]:
    if not glob or any(sign in glob for sign in "?["):
        raise BadInput(
            f"topic pattern `{glob}` is not usable; `*` stands for any characters, `?` and `[` are not known"
        )
    return re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)


class Handlers:
    """Registered with `add`; from `begin` to `end` there is a zygote that processes are forked from."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        hidden: Sequence[Path] = (),
        log_path: Path | None = None,
    ) -> None:
        self._environment = dict(environment or {})
        self._credentials = {name: dict(found) for name, found in (credentials or {}).items()}
        self._sets = credential_sets(self._credentials)
        self._hidden, self._log_path = tuple(hidden), log_path
        self._places: list[Place] = []
        self._log: HandlerLog | None = None
        self._registered: list[Registered] = []
        self._zygote: Zygote | None = None

    def __bool__(self) -> bool:
        return bool(self._registered)

    def add(
        self,
        glob: str,
        handler: Handler,
        *,
        limits: Mapping[str, str] | None = None,
        spends: Collection[str] = (),
        enforces: Collection[str] = (),
    ) -> None:
        """Register a handler. Raises BadInput for a pattern or a registration that cannot mean anything."""
        can = capability(glob, limits=limits, spends=spends, enforces=enforces)
        self._registered.append(Registered(_pattern(glob), handler, can))

    @property
    def capabilities(self) -> list[Capability]:
        """What each can be held to, in the order they are asked in."""
        return [each.capability for each in self._registered]

    @property
    def credential_sets(self) -> frozenset[str]:
        """The names of the sets of credentials."""
        return self._sets

    def find(self, topic: str) -> int | None:
        """The number of the first handler whose pattern fits."""
        fits = (number for number, each in enumerate(self._registered) if each.pattern.fullmatch(topic))
        return next(fits, None)

    def hold(self, number: int, start: Start) -> Start | Refuse:
        """The start with the terms that this handler is held to, or why it must not start."""
        found = enforce(start.constraints, start.payload, self._registered[number].capability, self._sets)
        return found if isinstance(found, Refuse) else Start(start.payload, start.constraints, found)

    def begin(self) -> None:
        """Start the zygote; it loads the handlers while the caller does something else. Raises BadInput."""
        if self._log_path is not None:
            try:
                self._log = HandlerLog(self._log_path)
            except OSError as error:
                raise BadInput(f"handlers cannot log to `{self._log_path}`: {error.strerror}") from None
        self._places = [place(path) for path in self._hidden]
        handlers = [(each.capability.topics, each.handler) for each in self._registered]
        self._zygote = Zygote(handlers, scrubbed(os.environ, self._environment))

    def ready(self) -> Isolation:
        """Wait until handlers are loaded. Raises BadInput for one that cannot be, Unavailable."""
        if self._zygote is None:
            raise Unavailable("the handlers have no process yet; call `begin` first")
        return self._zygote.ready().isolation

    @property
    def isolation(self) -> Isolation:
        """What handlers' processes get on this machine."""
        return isolation() if self._zygote is None else self.ready()

    def process(self, number: int, given: Given, start: Start, note: Callable[[str], None]) -> HandlerProcess:
        """A process for one attempt, not yet started. It gets the credentials that the terms choose, and no other."""
        if self._zygote is None:
            raise Unavailable("the handlers have no process yet; call `begin` first")
        return HandlerProcess(
            self._zygote,
            number,
            given,
            start.terms,
            hidden=self._places,
            note=note,
            log=None if self._log is None else self._log.write,
        )

    def credentials_of(self, start: Start) -> dict[str, str]:
        """The credentials that the terms choose."""
        return self._credentials.get(start.terms.credential_set, {})

    def end(self) -> None:
        """End the zygote, and whatever still runs."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()
