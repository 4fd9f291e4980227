"""The writer and reader of the reading room, over clickhouse-connect.

One code for both: ``chdb:///path`` opens the store embedded in this process (one process per path, and one path per
process), anything else is a server's DSN. Writing and reading have a connection each: the reader's is read-only for
good, so that no query, whatever it says, can leave the writer in another state.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import clickhouse_connect
import msgspec
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable
from sluicegate.streams.tables import EVENTS, tables
from sluicegate.streams.topics import DEFAULT_TENANT

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

EMBEDDED: Final = "chdb://"
QUERY_SEC_MAX: Final = 10
QUERY_ROWS_MAX: Final = 10_000
RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
READER_MEMORY_BYTES_MAX: Final = 1024 * 1024 * 1024

WRITE_SETTINGS: Final = {"max_threads": 1, "max_insert_threads": 1, "async_insert": 0}
"""One insert makes one part, in order and before it returns: resuming rests on that."""
READ_SETTINGS: Final = {
    "max_threads": 1,
    "max_execution_time": QUERY_SEC_MAX,
    "timeout_overflow_mode": "throw",
    "max_result_rows": QUERY_ROWS_MAX + 1,
    "max_result_bytes": RESULT_BYTES_MAX,
    "result_overflow_mode": "throw",
    "max_memory_usage": READER_MEMORY_BYTES_MAX,
    "max_ast_depth": 200,
    "max_ast_elements": 5_000,
    "date_time_output_format": "iso",
    "output_format_json_quote_64bit_integers": 0,
    "allow_introspection_functions": 0,
    "readonly": 1,  # last: from here on no setting can be changed
}
Place = tuple[str, int]
"""A logical topic and a partition."""


class QueryFailed(SluicegateError):
    """The engine refused or gave up on a query; the text is the engine's, shortened."""


class Answer(msgspec.Struct, frozen=True):
    """The rows of a query. ``truncated`` says that there were more than `QUERY_ROWS_MAX`."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    truncated: bool = False


class Resume(msgspec.Struct, frozen=True):
    """Where a projection goes on: the next offset of each place, and typed rows that a crash left ahead of it."""

    next_offsets: dict[Place, int]
    ahead: dict[str, set[tuple[str, int, int]]]


def database_name(tenant: str) -> str:
    """The database of a tenant; raises BadInput for a name that no identifier can hold."""
    if not tenant.replace("-", "").replace("_", "").isalnum() or not tenant.isascii():
        raise BadInput(f"tenant `{tenant}` cannot name a database; use letters, digits, `-` and `_`")
    return "sluicegate" if tenant == DEFAULT_TENANT else f"sluicegate_{tenant}"


def store_dsn(settings: Settings) -> str:
    """The server that the settings name, or the embedded store in the run folder."""
    return settings.clickhouse_dsn or f"{EMBEDDED}{(settings.run_dir / 'clickhouse').resolve()}"


def _engine_text(error: Exception) -> str:
    """The engine's message in one short line, without its trailer."""
    text = " ".join(str(error).split())
    text = text.split(" (version ")[0].removeprefix("HTTPDriver for ")
    start = text.find("DB::Exception: ")
    while start >= 0:
        text = text[start + len("DB::Exception: ") :]
        start = text.find("DB::Exception: ")
    return text[:500]


class ReadingRoom:
    """The tables of one tenant. The writer half is for one thread; the reader half serialises its callers."""

    def __init__(self, dsn: str, database: str) -> None:
        """Open the store; ``database`` need not exist yet. Raises Unavailable when it cannot be opened."""
        self.dsn = dsn
        self.database = database
        if dsn.startswith(EMBEDDED):
            Path(dsn.removeprefix(EMBEDDED)).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = self._open({})
        self._reader: Client | None = None
        self._reading = threading.Lock()
        """Held while the reader's connection is in use: it takes one query at a time."""

    def _open(self, settings: Mapping[str, Any], database: str | None = None) -> Client:
        try:
            return clickhouse_connect.get_client(dsn=self.dsn, database=database, settings=dict(settings))
        except Exception as error:  # noqa: BLE001  # the driver raises its own, urllib3's and chdb's kinds; all mean the same here
            raise Unavailable(
                f"ClickHouse does not open at `{_without_password(self.dsn)}` ({_engine_text(error)}); "
                "an embedded store takes one process, a server must be running"
            ) from None

    def prepare(self, ddl: Sequence[str]) -> None:
        """Make database, tables and views from the given statements; may be run again."""
        for statement in ddl:
            self._writer.command(statement)
        if self._reader is None:
            self._reader = self._open(READ_SETTINGS, self.database)

    def insert(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Write rows, column by column, as one part. On any error the outcome is unknown: resume before going on."""
        self._writer.insert(
            table, columns, column_names=names, database=self.database, column_oriented=True, settings=WRITE_SETTINGS
        )

    def resume(self) -> Resume:
        """What is already here. Typed tables are written before `events`, so a crash can leave rows ahead of it."""
        places = self._writer.query(
            f"SELECT topic, partition, max(offset) + 1 FROM `{self.database}`.`{EVENTS}` GROUP BY topic, partition"
        ).result_rows
        next_offsets = {(str(topic), int(partition)): int(offset) for topic, partition, offset in places}
        ahead: dict[str, set[tuple[str, int, int]]] = {}
        for table in tables().values():
            found = self._writer.query(
                f"SELECT log_topic, log_partition, log_offset FROM `{self.database}`.`{table.name}` AS t LEFT JOIN "
                f"(SELECT topic, partition, max(offset) + 1 AS next FROM `{self.database}`.`{EVENTS}` "
                "GROUP BY topic, partition) AS e ON t.log_topic = e.topic AND t.log_partition = e.partition "
                "WHERE t.log_offset >= e.next"
            ).result_rows
            if found:
                ahead[table.name] = {(str(topic), int(partition), int(offset)) for topic, partition, offset in found}
        return Resume(next_offsets, ahead)

    def identity(self) -> list[tuple[str, str]]:
        """The (cluster id, tenant) pairs whose log is here; one, or none yet."""
        rows = self._writer.query(f"SELECT DISTINCT cluster_id, tenant FROM `{self.database}`.log_identity").result_rows
        return [(str(cluster), str(tenant)) for cluster, tenant in rows]

    def ask_engine(self, sql: str) -> Sequence[Sequence[Any]]:
        """Rows of a statement of ours about the engine itself; never an auditor's."""
        with self._reading:
            return self._reader_client().query(sql).result_rows

    def explain_ast(self, sql: str) -> list[str]:
        """The syntax tree of a SELECT, one node a line. Raises QueryFailed for a syntax error."""
        with self._reading:
            try:
                return [str(row[0]) for row in self._reader_client().query(f"EXPLAIN AST {sql}").result_rows]
            except ClickHouseError as error:
                self._renew_reader()
                raise QueryFailed(_engine_text(error)) from None

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Run a SELECT on the read-only connection, at most `QUERY_SEC_MAX` seconds and `QUERY_ROWS_MAX` rows.

        ``sql`` must have been checked. Raises QueryFailed.
        """
        with self._reading:
            try:
                raw = self._reader_client().raw_query(sql, parameters=dict(parameters or {}), fmt="JSONCompact")
                found = json.loads(raw)
            except ClickHouseError as error:
                self._renew_reader()
                raise QueryFailed(_engine_text(error)) from None
            except ValueError:
                self._renew_reader()
                raise QueryFailed("the engine broke off its answer; ask again, for less") from None
        rows = found["data"]
        names, types = [column["name"] for column in found["meta"]], [column["type"] for column in found["meta"]]
        return Answer(names, types, rows[:QUERY_ROWS_MAX], len(rows) > QUERY_ROWS_MAX)

    def _reader_client(self) -> Client:
        if self._reader is None:
            raise Unavailable("the reading room is not prepared yet; wait for the projector to start")
        return self._reader

    def _renew_reader(self) -> None:
        """A new reading connection: an embedded one answers the next query with what a failed one left behind."""
        if self._reader is not None:
            self._reader.close()
            self._reader = self._open(READ_SETTINGS, self.database)

    def close(self) -> None:
        """Close both connections; an embedded store can then be opened by another process."""
        with self._reading:
            for client in (self._reader, self._writer):
                if client is not None:
                    client.close()
            self._reader = None


def _without_password(dsn: str) -> str:
    """A DSN fit for a message."""
    scheme, found, rest = dsn.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}" if found else "the given DSN"
