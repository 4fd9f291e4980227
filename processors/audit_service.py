"""Answers every `audit` verb over loopback, from the process that projects: an embedded store opens in one only.

A bearer token from the run folder (0600, new at each start) is asked for before anything else. Auditors' SQL goes
through `audit_query` and a read-only connection; other answers are the service's own statements.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from sluicegate.processors.audit_query import (
    COMBINATORS_SQL,
    DATABASES_SQL,
    FUNCTIONS_SQL,
    QUERY_CHARS_MAX,
    Vocabulary,
    check_text,
    check_tree,
    wrapped,
)
from sluicegate.processors.projector import Projector
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable
from sluicegate.streams.clickhouse import QUERY_ROWS_MAX, Answer, QueryFailed, ReadingRoom, database_name, store_dsn
from sluicegate.streams.keys import write_private
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.registry import registry_for

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

TOKEN_FILE: Final = "audit-token"
ENDPOINT_FILE: Final = "audit-endpoint"
LOOPBACK: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 4 * QUERY_CHARS_MAX
CONNECTION_SEC_MAX: Final = 15
WAIT_SEC_MAX: Final = 300.0
JOB_ID_CHARS_MAX: Final = 1_000

_TIMELINE: Final = f"SELECT * FROM job_timeline WHERE job_id = {{job:String}} LIMIT {QUERY_ROWS_MAX + 1}"
_TABLES: Final = """SELECT name, engine = 'View' AS is_view, comment FROM system.tables
WHERE database = currentDatabase() ORDER BY name"""
_COLUMNS: Final = """SELECT name, type, comment FROM system.columns
WHERE database = currentDatabase() AND table = {table:String} ORDER BY position"""
_SHOW_TABLES: Final = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
_DESCRIBE: Final = re.compile(r"\s*desc(?:ribe)?(?:\s+table)?\s+`?(\w+)`?\s*;?\s*", re.IGNORECASE)
_COVERAGE: Final = f"SELECT * FROM coverage LIMIT {QUERY_ROWS_MAX + 1}"


class Audit:
    """What the service answers, without HTTP."""

    def __init__(self, room: ReadingRoom, projector: Projector | None = None) -> None:
        """``room`` must be prepared. Without a projector, `health` and waiting are unavailable."""
        self._room = room
        self._projector = projector
        self._vocabulary = Vocabulary.of(
            [(str(name), bool(is_aggregate)) for name, is_aggregate in room.ask_engine(FUNCTIONS_SQL)],
            [str(row[0]) for row in room.ask_engine(COMBINATORS_SQL)],
        )

    def query(self, sql: str) -> Answer:
        """An auditor's SELECT, `SHOW TABLES` or `DESCRIBE <table>`.

        Raises BadInput for what is not allowed or fails in the engine.
        """
        if _SHOW_TABLES.fullmatch(sql):
            return self._room.read(_TABLES)
        if described := _DESCRIBE.fullmatch(sql):
            found = self._room.read(_COLUMNS, {"table": described[1]})
            if not found.rows:
                raise BadInput(f"no table `{described[1]}`; `SHOW TABLES` names them")
            return found
        sql = check_text(sql)
        whole = wrapped(sql, QUERY_ROWS_MAX)
        try:
            databases = [str(row[0]) for row in self._room.ask_engine(DATABASES_SQL)]
            check_tree(self._room.explain_ast(whole), self._vocabulary, self._room.database, databases)
            return self._room.read(whole)
        except QueryFailed as error:
            raise BadInput(f"the query failed: {error}") from None

    def timeline(self, job_id: str) -> Answer:
        """Every event about one job, oldest first."""
        if not job_id or len(job_id) > JOB_ID_CHARS_MAX:
            raise BadInput(f"give the id of a job, at most {JOB_ID_CHARS_MAX} characters")
        return self._room.read(_TIMELINE, {"job": job_id})

    def coverage(self, wait_sec: float = 0) -> Answer:
        """Per partition how far it is projected. Raises Unavailable when ``wait_sec`` passed without full coverage."""
        if wait_sec > 0 and not self._running().drain(min(wait_sec, WAIT_SEC_MAX)):
            raise Unavailable(
                f"after {wait_sec:g} s the projection does not yet cover the log; ask again, or wait longer "
                f"({self._running().status().behind} offsets behind)"
            )
        return self._room.read(_COVERAGE)

    def health(self) -> dict[str, Any]:
        """The projector's status."""
        found: dict[str, Any] = msgspec.to_builtins(self._running().status())
        return found

    def _running(self) -> Projector:
        if self._projector is None:
            raise Unavailable("no projector runs in this process; start `sluicegate run projector`")
        return self._projector


class AuditService:
    """The HTTP server around an `Audit`, on its own threads."""

    def __init__(self, audit: Audit, run_dir: Path, port: int = 0) -> None:
        """Binds loopback; ``port`` 0 picks a free one. Raises Unavailable when the port is taken."""
        self.audit = audit
        token = secrets.token_urlsafe(32)
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(audit, token))
        except OSError as error:
            raise Unavailable(
                f"port {port} cannot be had ({error.strerror}); set `audit_port` to another, or 0"
            ) from None
        self._server.daemon_threads = True
        self.endpoint = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._endpoint_file = run_dir / ENDPOINT_FILE
        write_private(run_dir / TOKEN_FILE, token.encode() + b"\n", replace=True)
        write_private(self._endpoint_file, self.endpoint.encode() + b"\n", replace=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="audit-service", daemon=True)

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


def serve(
    settings: Settings,
    ddl: Sequence[str],
    stop: threading.Event,
    on_start: Callable[[Projector], object] = lambda _projector: None,
) -> None:
    """Project and answer until ``stop`` is set; what `sluicegate run projector` does.

    ``ddl`` makes the tables; ``on_start`` is called once with the projector, before it reads. Raises what opening the
    store, the broker or the projection raises; starting again is always safe.
    """
    room = ReadingRoom(store_dsn(settings), database_name(settings.tenant))
    try:
        room.prepare(ddl)
        codec = Codec(registry_for(settings.registry_url))
        projector = Projector(kafka_config(settings, "projector"), settings.tenant, room, codec)
        service = AuditService(Audit(room, projector), settings.run_dir, settings.audit_port)
        service.start()
        try:
            on_start(projector)
            projector.run(stop)
        finally:
            service.stop()
    finally:
        room.close()


def _handler(audit: Audit, token: str) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        """One request. HTTP/1.0: a connection carries one answer, and none is left waiting."""

        timeout = CONNECTION_SEC_MAX
        server_version = "sluicegate"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the signature is the standard library's
            """Nothing: queries are the auditor's business, and standard error is for errors."""

        def _answer(self, method: str) -> None:
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if hmac.compare_digest(given, expected):
                status, found = _reply(audit, method, self.path, self._body)
            else:
                text = f"the token is not the one in `{TOKEN_FILE}` of the run folder; read it again"
                status, found = HTTPStatus.UNAUTHORIZED, {"error": text}
            content = msgspec.json.encode(found) if isinstance(found, Answer) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _body(self) -> str:
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                raise BadInput("no Content-Length; send the SQL as the body") from None
            if not 0 <= length <= BODY_BYTES_MAX:
                raise BadInput(f"a body of {length} bytes; give at most {BODY_BYTES_MAX}")
            try:
                return self.rfile.read(length).decode("utf-8")
            except UnicodeDecodeError:
                raise BadInput("the SQL is not UTF-8; send it so") from None

    return Handler


def _reply(
    audit: Audit, method: str, target: str, body: Callable[[], str]
) -> tuple[HTTPStatus, Answer | dict[str, Any]]:
    """The status and content of one authorised request; ``body`` reads what was sent with it."""
    parts = urlsplit(target)
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    replies: dict[tuple[str, str], Callable[[], Answer | dict[str, Any]]] = {
        ("GET", "/timeline"): lambda: audit.timeline(asked.get("job", "")),
        ("POST", "/query"): lambda: audit.query(body()),
        ("GET", "/coverage"): lambda: audit.coverage(_seconds(asked.get("wait_sec", "0"))),
        ("GET", "/health"): audit.health,
    }
    reply = replies.get((method, parts.path))
    if reply is None:
        known = ", ".join(f"{verb} {path}" for verb, path in replies)
        return HTTPStatus.NOT_FOUND, {"error": f"nothing answers `{method} {parts.path}`; ask for one of {known}"}
    try:
        return HTTPStatus.OK, reply()
    except BadInput as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
    except SluicegateError as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= WAIT_SEC_MAX:
        raise BadInput(f"`wait_sec` is `{text[:40]}`; give seconds from 0 to {WAIT_SEC_MAX:g}")
    return found
