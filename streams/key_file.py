"""The file of the key store: a SQLite database from whose bytes on the disk a deleted key is gone, too.

- ``secure_delete`` overwrites what is deleted with zeros; after an erasure the file's pages are searched for the bytes
  that must be gone, and the file is rebuilt if one holds them still;
- a rollback journal keeps pages as they were, so SQLite may not unlink it (``journal_mode=PERSIST``): it is filled with
  zeros first, after each transaction; a write-ahead log would keep every page ever written;
- the next to open the file, or to see that it changed, does what a process that was killed between the two did not.

Copies are beyond it: backups, what a file system or a drive keeps of blocks that were overwritten, a snapshot.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sluicegate.schemas.errors import BadInput, InvariantBroken, Unavailable

BUSY_SEC_MAX: Final = 10
SOUGHT_MAX: Final = 200
"""Erased seeds whose bytes are looked for in the file afterwards."""
VERSION: Final = 1
_PRAGMAS: Final = ("secure_delete = ON", "journal_mode = PERSIST", "synchronous = EXTRA", "temp_store = MEMORY")
_SCHEMA: Final = (
    """CREATE TABLE units(id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, agent TEXT NOT NULL, month TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL, UNIQUE(tenant, agent, month))""",
    """CREATE TABLE seeds(unit INTEGER NOT NULL, class TEXT NOT NULL, prefix TEXT NOT NULL, seed BLOB NOT NULL,
    PRIMARY KEY(unit, class, prefix)) WITHOUT ROWID""",
    # Without a class: both; without a job: the whole unit.
    """CREATE TABLE erased(unit INTEGER NOT NULL, class TEXT, job TEXT, reason TEXT NOT NULL, by_whom TEXT NOT NULL,
    at_ms INTEGER NOT NULL)""",
    "CREATE INDEX erased_of ON erased(unit, job)",
    f"PRAGMA user_version = {VERSION}",
)


class KeyFile:
    """The database, opened when it is first asked for and anew in a process that was forked.

    Its user keeps threads apart. Raises BadInput when it is missing (unless ``make``) or open to other users.
    """

    def __init__(self, path: Path, *, make: bool) -> None:
        self.path, self._make = path, make
        self._journal = path.with_name(f"{path.name}-journal")
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._inherited: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Let the file go; it is opened again when it is asked for."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def connection(self) -> sqlite3.Connection:
        """This process's connection; another object than before says that nothing known before holds."""
        if self._open is not None and self._open[0] != os.getpid():
            self._inherited.append(self._open[1])  # never closed here: SQLite forbids to carry one over a fork
            self._open = None
        if self._open is None:
            self._open = os.getpid(), self._connected()
        return self._open[1]

    @contextlib.contextmanager
    def writing(self, connection: sqlite3.Connection) -> Iterator[None]:
        """One transaction, on the disk when it is over, with nothing left in the journal."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            self.wipe_journal(connection)

    def look_for(self, connection: sqlite3.Connection, gone: Sequence[bytes]) -> None:
        """Erased bytes must not be in the file: rebuild it once if they are. Raises InvariantBroken when they stay."""
        if not _held(connection, gone):
            return
        try:
            connection.execute("VACUUM")
        finally:
            self.wipe_journal(connection)
        if _held(connection, gone):
            raise InvariantBroken(f"`{self.path}` still holds bytes of an erased key; keep the file from everybody")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Errors of SQLite and of the file as Unavailable: no step may take them for a fault of what it opens."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise Unavailable(f"key store `{self.path}` cannot be used now ({error}); try again") from None
        except sqlite3.DatabaseError as error:
            raise Unavailable(f"key store `{self.path}` is damaged ({error}); restore it from a backup") from None

    def _connected(self) -> sqlite3.Connection:
        _check_file(self.path, self._make)
        where = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            where, uri=True, timeout=BUSY_SEC_MAX, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if _version(connection) == 0:
                with self.writing(connection):
                    if _version(connection) == 0:  # nobody else was first
                        for statement in _SCHEMA:
                            connection.execute(statement)
            self._check_version(connection)
            self.wipe_journal(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version != VERSION:
            raise Unavailable(f"`{self.path}` has format {version}, this build reads {VERSION}; use its own build")

    def wipe_journal(self, connection: sqlite3.Connection) -> None:
        """Fill the journal with zeros, then let it go. Nobody writes meanwhile: the write lock is ours."""
        if not self._journal.exists():
            return
        connection.execute("BEGIN IMMEDIATE")  # a journal to roll back from has been rolled back by now
        try:
            with contextlib.suppress(FileNotFoundError), self._journal.open("r+b") as file:
                file.write(bytes(os.fstat(file.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
                self._journal.unlink()  # each read would look into it
        finally:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _held(connection: sqlite3.Connection, gone: Sequence[bytes]) -> bool:
    pages = connection.serialize()  # through SQLite: opening and closing the file here would drop this process's locks
    step = max(1, len(gone) // SOUGHT_MAX)
    return any(seed in pages for seed in gone[::step])


def _check_file(path: Path, make: bool) -> None:
    if make:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadInput(
            f"no key store `{path}` ({error.strerror}); do this where the processors run, or start them once"
        ) from None
    if mode & 0o077:
        raise BadInput(f"key store `{path}` is open to other users; run `chmod 600 {path}` and ask who has read it")
