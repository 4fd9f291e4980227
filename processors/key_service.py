"""Gives keys to those who may not read the key store: a loopback service that answers signed questions only.

An agent gets the keys of its own jobs, and a unit for the month that is now; a pool of workers gets keys of jobs; a
person gets the keys of what an approval request carries, and that of a quarantined output only once the desk has
committed that this person viewed this request. A question counts within 60 s and once. What it was told, an asker may
keep; an erasure holds for every question after it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from sluicegate.schemas.errors import KeyErased, SealingError, SluicegateError, Unavailable
from sluicegate.schemas.key_ids import KeyId, month_of, parse_key_id, request_digits
from sluicegate.streams.identity import AHEAD_MAX_MS, STALE_AFTER_MS, Keys
from sluicegate.streams.key_request import (
    BODY_BYTES_MAX,
    ENDPOINT_FILE,
    PATH,
    WINDOW_MS,
    KeyQuestion,
    KeyRefused,
    encoded_key,
    parse_asked,
    question_message,
)
from sluicegate.streams.key_store import KeyStore
from sluicegate.streams.keys import write_private

LOOPBACK: Final = "127.0.0.1"
CONNECTION_SEC_MAX: Final = 10
STOP_LOOK_SEC: Final = 0.1
QUESTIONS_MAX: Final = 100_000
"""Questions that one asker may have within the time in which a nonce is remembered (two minutes)."""
ASKERS: Final = ("agent", "person", "pool")

Viewed = Callable[[str, str], bool]
"""Whether the desk has committed that this person (second) viewed this request (first)."""
Carried = Callable[[str], Collection[str]]
"""The key ids of the envelopes that a request carries; none for a request that nobody opened."""

_STATUS: Final = {
    "malformed": HTTPStatus.BAD_REQUEST,
    "not_yours": HTTPStatus.FORBIDDEN,
    "not_current": HTTPStatus.FORBIDDEN,
    "not_viewed": HTTPStatus.FORBIDDEN,
    "too_many": HTTPStatus.TOO_MANY_REQUESTS,
}


def now_ms() -> int:
    """This machine's clock, in ms since the epoch."""
    return time.time_ns() // 1_000_000


class KeyAnswers:
    """What the service answers, without HTTP. Safe to share between threads."""

    def __init__(
        self,
        store: KeyStore,
        tenant: str,
        verifiers: Keys,
        viewed: Viewed,
        carried: Carried,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """``verifiers`` finds the key of ``agent/ID``, ``person/ID`` or ``pool/NAME``."""
        self._store, self._tenant, self._verifiers = store, tenant, verifiers
        self._viewed, self._carried, self._clock = viewed, carried, clock
        self._began_ms = clock()
        self._nonces = Nonces()

    def key(self, body: bytes) -> bytes:
        """The key that a signed question asks for.

        Raises KeyRefused, saying why; KeyErased; SealingError for a unit that nobody made; Unavailable for the store.
        """
        asked, question = parse_asked(body)
        kind, _, name = asked.by.partition("/")
        verifier = self._verifiers(asked.by) if kind in ASKERS and name else None
        if verifier is None:
            raise KeyRefused("unknown_key", f"`{asked.by[:80]}` is not enrolled here; enrol it, and publish the policy")
        if not verifier.verify(question_message(asked.by, asked.question), asked.signature):
            raise KeyRefused("bad_signature", f"the signature is not one of `{asked.by}` over this question")
        self._check_fresh(asked.by, question)
        try:
            key_id = parse_key_id(question.key_id)
        except SealingError as error:
            raise KeyRefused("malformed", str(error)) from None
        if key_id.tenant != self._tenant:
            raise KeyRefused("not_yours", f"`{question.key_id}` is of another tenant; this service is `{self._tenant}`")
        if kind == "agent":
            self._check_agent(name, key_id, question)
        elif kind == "pool":
            _check_pool(name, key_id, question)
        else:
            self._check_person(name, key_id, question)
        return self._store.leaf(question.key_id, question.create)

    def _check_fresh(self, by: str, question: KeyQuestion) -> None:
        now = self._clock()
        if question.tenant != self._tenant:
            raise KeyRefused("not_yours", f"asked of tenant `{question.tenant[:80]}`; this service is `{self._tenant}`")
        if abs(now - question.issued_at_ms) > WINDOW_MS:
            raise KeyRefused("stale", f"asked more than {WINDOW_MS // 1000} s from now; set the clock, or ask again")
        if question.issued_at_ms < self._began_ms:
            # What was answered before this process began is not remembered: it must not be answered again.
            raise KeyRefused("stale", "asked before this service began; ask again")
        self._nonces.use(by, question.nonce, now)

    def _check_agent(self, name: str, key_id: KeyId, question: KeyQuestion) -> None:
        if key_id.agent_id != name or key_id.request:
            raise KeyRefused("not_yours", f"`{question.key_id}` is no key of a job of `{name}`")
        now = self._clock()
        if question.create and not month_of(now - STALE_AFTER_MS) <= key_id.month <= month_of(now + AHEAD_MAX_MS):
            raise KeyRefused(
                "not_current", f"{key_id.month} is not this month; a unit is made for what is submitted now"
            )

    def _check_person(self, name: str, key_id: KeyId, question: KeyQuestion) -> None:
        request_id = question.request_id
        if not request_id or question.create or question.key_id not in self._carried(request_id):
            raise KeyRefused(
                "not_yours", f"`{question.key_id}` opens nothing that a request you named carries; name it"
            )
        if key_id.request and (key_id.request != request_digits(request_id) or not self._viewed(request_id, name)):
            raise KeyRefused(
                "not_viewed",
                f"the desk has not recorded that `{name}` viewed request `{request_id[:80]}`; view it first",
            )


def _check_pool(name: str, key_id: KeyId, question: KeyQuestion) -> None:
    if key_id.request or question.create:
        raise KeyRefused("not_yours", f"`{question.key_id}` is no key of a job; pool `{name}` gets no other")


class Nonces:
    """Which questions were answered, for as long as their times could be taken for now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[set[str], deque[tuple[int, str]]]] = {}

    def use(self, by: str, nonce: str, now: int) -> None:
        """Take a nonce of one asker. Raises KeyRefused: `repeated`, or `too_many` where it cannot be remembered."""
        with self._lock:
            known, order = self._seen.setdefault(by, (set(), deque()))
            while order and order[0][0] < now - 2 * WINDOW_MS:
                known.discard(order.popleft()[1])
            if nonce in known:
                raise KeyRefused("repeated", "this very question was asked before; ask again with a new nonce")
            if len(order) >= QUESTIONS_MAX:
                most = f"more than {QUESTIONS_MAX} questions of `{by}` in {2 * WINDOW_MS // 1000} s"
                raise KeyRefused("too_many", f"{most}; wait, and keep the keys you got")
            known.add(nonce)
            order.append((now, nonce))


class KeyService:
    """The HTTP server around `KeyAnswers`, on its own threads."""

    def __init__(self, answers: KeyAnswers, run_dir: Path, port: int = 0) -> None:
        """Binds loopback; ``port`` 0 picks a free one. Raises Unavailable when the port is taken."""
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(answers))
        except OSError as error:
            raise Unavailable(f"port {port} cannot be had ({error.strerror}); name another, or 0") from None
        self._server.daemon_threads = True
        self.endpoint = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._endpoint_file = run_dir / ENDPOINT_FILE
        write_private(self._endpoint_file, self.endpoint.encode() + b"\n", replace=True)
        self._thread = threading.Thread(target=self._serve, name="key-service", daemon=True)

    def _serve(self) -> None:
        self._server.serve_forever(STOP_LOOK_SEC)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and take the endpoint back if it is still ours."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        with contextlib.suppress(OSError):  # gone already is what was wanted
            if self._endpoint_file.read_text("utf-8").strip() == self.endpoint:
                self._endpoint_file.unlink()


def _handler(answers: KeyAnswers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One question. HTTP/1.0: a connection carries one answer, and none is left waiting."""

        timeout = CONNECTION_SEC_MAX
        server_version = "sluicegate"
        sys_version = ""

        def do_POST(self) -> None:
            status, found = _reply(answers, self.path, self._body)
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the signature is the standard library's
            """Nothing: who asked for which key is nobody's business, and standard error is for errors."""

        def _body(self) -> bytes:
            text = self.headers.get("Content-Length", "")
            length = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
            if not 0 <= length <= BODY_BYTES_MAX:
                raise KeyRefused("malformed", f"give a Content-Length of at most {BODY_BYTES_MAX} bytes")
            return self.rfile.read(length)

    return Handler


def _reply(answers: KeyAnswers, path: str, body: Callable[[], bytes]) -> tuple[HTTPStatus, dict[str, str]]:
    if path != PATH:
        return HTTPStatus.NOT_FOUND, {"code": "nothing_here", "error": f"nothing answers here; ask for `POST {PATH}`"}
    try:
        return HTTPStatus.OK, {"key": encoded_key(answers.key(body()))}
    except KeyRefused as error:
        return _STATUS.get(error.code, HTTPStatus.UNAUTHORIZED), {"code": error.code, "error": str(error)}
    except KeyErased as error:
        return HTTPStatus.GONE, {"code": "erased", "error": str(error)}
    except SealingError as error:
        return HTTPStatus.NOT_FOUND, {"code": "unknown_unit", "error": str(error)}
    except SluicegateError as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"code": "unavailable", "error": str(error)}
