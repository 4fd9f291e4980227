"""The key store: one SQLite file outside Kafka, in which erasing a key is the erasure of all that it sealed.

``keystore.db`` (0600) in the run folder holds a seed per erasure unit (tenant, agent, month) and class of keys, or what
punctures left of it (`schemas.key_tree`). What is erased is gone from the disk, too (`key_file`).
Any number of processes and threads may use the file; what one erases, every other one misses at its next call.
"""

from __future__ import annotations

import contextlib
import datetime
import hmac
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sluicegate.schemas.errors import BadInput, InvariantBroken, KeyErased, SealingError
from sluicegate.schemas.key_ids import CLASSES, QUARANTINE, KeyId, checked_month, job_digits, parse_key_id
from sluicegate.schemas.key_tree import ROOT, SEED_BYTES, leaf, prefixes, puncture
from sluicegate.schemas.payload import framed
from sluicegate.schemas.sealing import LeafKeyring
from sluicegate.streams.key_file import KeyFile

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

FILE: Final = "keystore.db"
PUNCTURES_MAX: Final = 2_000
"""Jobs erased one by one in one unit: each leaves up to 150 seeds, so this is about 15 MB of them."""
UNITS_MAX: Final = 1_000
"""Units that one erasure may touch."""
LEAVES_MAX: Final = 10_000
"""Keys that one process remembers."""
REASON_CHARS_MAX: Final = 1_000
_NODES: Final = "SELECT prefix, seed FROM seeds WHERE unit = ? AND class = ? AND prefix IN (?,?,?,?,?,?,?,?,?,?,?)"
_WHY: Final = """SELECT at_ms, by_whom, reason FROM erased WHERE unit = ? AND (job IS NULL OR job = ?)
AND (class IS NULL OR class = ?) ORDER BY at_ms LIMIT 1"""


class ErasedUnit(msgspec.Struct, frozen=True):
    """One erasure unit that an erasure met. ``before`` says that nothing was left there to erase."""

    agent_id: str
    month: str
    before: bool


class _Unit(msgspec.Struct, frozen=True):
    id: int
    agent_id: str
    month: str


def key_store_path(settings: Settings) -> Path:
    """Where the key store of this run folder stands."""
    return Path(settings.run_dir) / FILE


class KeyStore:
    """The file, opened at the first call and anew in a process that was forked. Safe to share between threads.

    Raises BadInput when it is missing (unless ``make``) or open to other users, Unavailable while another process
    holds it for more than 10 s, or when it is damaged.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self._file = KeyFile(path, make=make)
        self._lock = threading.Lock()
        self._known: tuple[sqlite3.Connection, int] | None = None
        self._leaves: dict[str, bytes] = {}
        self._nodes: dict[tuple[int, str], dict[str, bytes]] = {}
        self._units: dict[tuple[str, str, str], int] = {}

    def close(self) -> None:
        """Let the file go; the next call opens it again."""
        with self._lock:
            self._file.close()
            self._forget()

    def check(self) -> None:
        """Raises what any call would: the file is missing, open to others, busy or damaged."""
        with self._lock, self._file.told():
            self._file.connection()

    def leaf(self, key_id: str, create: bool = False) -> bytes:
        """The key of this name, 32 bytes; with ``create`` its unit is made when there is none.

        Raises KeyErased, which says when, by whom and why; SealingError for a unit that nobody made.
        """
        with self._lock, self._file.told():
            connection = self._file.connection()
            known = connection, connection.execute("PRAGMA data_version").fetchone()[0]
            if known != self._known:
                self._forget()
                self._known = known
                self._file.wipe_journal(connection)  # whoever changed it may have been killed right after
            found = self._leaves.get(key_id)
            if found is None:
                found = self._derived(connection, parse_key_id(key_id), create)
                if len(self._leaves) >= LEAVES_MAX:
                    self._forget()
                self._leaves[key_id] = found
            return found

    def erase_job(
        self,
        tenant: str,
        agent_id: str | None,
        job_id: str,
        reason: str,
        by: str,
        months: Collection[str] = (),
        *,
        output_only: bool = False,
    ) -> tuple[ErasedUnit, ...]:
        """Erase the keys of one job, in every unit of an agent or of all (None), or in these months only.

        ``output_only`` takes the keys of its quarantined outputs and leaves the others. No other job's key changes,
        but of those that share all ten digits. Again does nothing more. Raises BadInput when there is no such unit,
        too many are meant, or a unit has had `PUNCTURES_MAX` jobs erased.
        """
        digits, classes = job_digits(job_id), (QUARANTINE,) if output_only else CLASSES
        with self._erasure(tenant, agent_id, months, reason) as (connection, units, gone):
            before = {unit.id: not self._punctured(connection, unit, classes, digits, gone) for unit in units}
            key_class = QUARANTINE if output_only else None
            self._record(connection, [unit for unit in units if not before[unit.id]], key_class, digits, reason, by)
        return _met(units, before)

    def erase_agent(
        self, tenant: str, agent_id: str, reason: str, by: str, months: Collection[str] = ()
    ) -> tuple[ErasedUnit, ...]:
        """Erase every key of an agent, of all its months or of these; again does nothing more.

        What it submits later in an erased month cannot be sealed; the next month has a unit of its own. Raises
        BadInput when it has no such unit.
        """
        with self._erasure(tenant, agent_id, months, reason) as (connection, units, gone):
            before = {}
            for unit in units:
                seeds = connection.execute("SELECT seed FROM seeds WHERE unit = ?", (unit.id,)).fetchall()
                gone += [seed for (seed,) in seeds]
                connection.execute("DELETE FROM seeds WHERE unit = ?", (unit.id,))
                before[unit.id] = not seeds
            self._record(connection, [unit for unit in units if not before[unit.id]], None, None, reason, by)
        return _met(units, before)

    # --- reading

    def _derived(self, connection: sqlite3.Connection, key_id: KeyId, create: bool) -> bytes:
        unit = self._unit(connection, key_id)
        if unit is None and create:
            self._make_unit(connection, key_id)
            unit = self._unit(connection, key_id)
        if unit is None:
            raise SealingError(
                f"the key store `{self._file.path}` has no unit of agent `{key_id.agent_id}` for {key_id.month}; the "
                "first submission of a month makes it"
            )
        known = self._nodes.setdefault((unit, key_id.key_class), {})
        found = leaf(known, key_id.job)
        if found is None:
            nodes = self._read_nodes(connection, unit, key_id.key_class, key_id.job)
            found = leaf(nodes, key_id.job)
            if found is None:
                raise self._erased(connection, unit, key_id)
            known.update(nodes)
        if not key_id.request:
            return found
        return _request_key(found, key_id.request)

    def _forget(self) -> None:
        """Remember no key: the file may say something else by now."""
        self._leaves.clear()
        self._nodes.clear()
        self._units.clear()

    def _read_nodes(self, connection: sqlite3.Connection, unit: int, key_class: str, digits: str) -> dict[str, bytes]:
        return dict(connection.execute(_NODES, (unit, key_class, *prefixes(digits))).fetchall())

    def _unit(self, connection: sqlite3.Connection, key_id: KeyId) -> int | None:
        names = (key_id.tenant, key_id.agent_id, key_id.month)
        found = self._units.get(names)
        if found is None:
            asked = "SELECT id FROM units WHERE tenant = ? AND agent = ? AND month = ?"
            row = connection.execute(asked, names).fetchone()
            if row is not None:
                found = self._units[names] = int(row[0])
        return found

    def _erased(self, connection: sqlite3.Connection, unit: int, key_id: KeyId) -> KeyErased | InvariantBroken:
        row = connection.execute(_WHY, (unit, key_id.job, key_id.key_class)).fetchone()
        if row is None:
            return InvariantBroken(
                f"the key store `{self._file.path}` has lost key `{key_id.text}`; restore it from a backup"
            )
        at = datetime.datetime.fromtimestamp(row[0] / 1000, datetime.UTC).isoformat(timespec="seconds")
        return KeyErased(f"key `{key_id.text}` was erased at {at} by `{row[1]}`: {row[2]}", row[0])

    # --- writing

    def _make_unit(self, connection: sqlite3.Connection, key_id: KeyId) -> None:
        with self._file.writing(connection):
            added = connection.execute(
                "INSERT INTO units(tenant, agent, month, created_at_ms) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
                (key_id.tenant, key_id.agent_id, key_id.month, time.time_ns() // 1_000_000),
            )
            if added.rowcount == 1:  # else another process was first
                seeds = [(added.lastrowid, each, ROOT, secrets.token_bytes(SEED_BYTES)) for each in CLASSES]
                connection.executemany("INSERT INTO seeds(unit, class, prefix, seed) VALUES(?,?,?,?)", seeds)

    @contextlib.contextmanager
    def _erasure(
        self, tenant: str, agent_id: str | None, months: Collection[str], reason: str
    ) -> Iterator[tuple[sqlite3.Connection, list[_Unit], list[bytes]]]:
        """A transaction over the units meant; what the body puts into the list is then looked for in the file."""
        if not reason.strip() or len(reason) > REASON_CHARS_MAX:
            raise BadInput(f"the reason has 1 to {REASON_CHARS_MAX} characters; say why the key goes")
        for month in months:
            checked_month(month)
        gone: list[bytes] = []
        with self._lock, self._file.told():
            connection = self._file.connection()
            with self._file.writing(connection):
                units = self._meant(connection, tenant, agent_id, months)
                yield connection, units, gone
            self._forget()
            self._file.look_for(connection, gone)

    def _meant(
        self, connection: sqlite3.Connection, tenant: str, agent_id: str | None, months: Collection[str]
    ) -> list[_Unit]:
        rows = connection.execute(
            "SELECT id, agent, month FROM units WHERE tenant = ? AND (?2 IS NULL OR agent = ?2) ORDER BY agent, month",
            (tenant, agent_id),
        ).fetchall()
        units = [unit for unit in [_Unit(*row) for row in rows] if not months or unit.month in months]
        if not units:
            whose = "any agent" if agent_id is None else f"agent `{agent_id}`"
            when = f" in {', '.join(sorted(months))}" if months else ""
            raise BadInput(f"the key store has no unit of {whose}{when} in tenant `{tenant}`; nothing was erased")
        if len(units) > UNITS_MAX:
            raise BadInput(
                f"{len(units)} units are meant, at most {UNITS_MAX} are erased at once; name agent or months"
            )
        return units

    def _punctured(
        self, connection: sqlite3.Connection, unit: _Unit, classes: Sequence[str], digits: str, gone: list[bytes]
    ) -> bool:
        """Take a leaf from a unit's trees; whether there was one."""
        found = False
        for key_class in classes:
            nodes = self._read_nodes(connection, unit.id, key_class, digits)
            cut = puncture(nodes, digits)
            if cut is not None:
                found = True
                gone.append(nodes[cut.gone])
                at = (unit.id, key_class)
                connection.execute("DELETE FROM seeds WHERE unit = ? AND class = ? AND prefix = ?", (*at, cut.gone))
                rows = [(*at, prefix, seed) for prefix, seed in cut.stay.items()]
                connection.executemany("INSERT INTO seeds(unit, class, prefix, seed) VALUES(?,?,?,?)", rows)
        if found:
            count = "SELECT count(*) FROM erased WHERE unit = ? AND job IS NOT NULL"
            if connection.execute(count, (unit.id,)).fetchone()[0] >= PUNCTURES_MAX:
                raise BadInput(
                    f"{PUNCTURES_MAX} jobs of agent `{unit.agent_id}` in {unit.month} were erased one by one, which is "
                    "the most that a unit takes; nothing was erased, erase that month of the agent whole"
                )
        return found

    def _record(
        self,
        connection: sqlite3.Connection,
        units: Sequence[_Unit],
        key_class: str | None,
        job: str | None,
        reason: str,
        by: str,
    ) -> None:
        at_ms = time.time_ns() // 1_000_000
        rows = [(unit.id, key_class, job, reason, by, at_ms) for unit in units]
        connection.executemany("INSERT INTO erased(unit, class, job, reason, by_whom, at_ms) VALUES(?,?,?,?,?,?)", rows)


def _request_key(held: bytes, request: str) -> bytes:
    """The key of one quarantined output, below the job's leaf: that of one request says nothing of another's."""
    return hmac.digest(held, framed(b"sluicegate.quarantine.v1", request.encode()), "sha256")


def _met(units: Sequence[_Unit], before: Mapping[int, bool]) -> tuple[ErasedUnit, ...]:
    return tuple([ErasedUnit(unit.agent_id, unit.month, before[unit.id]) for unit in units])


class StoreKeyring(LeafKeyring):
    """Keys from the file on this machine: for processors, and for whoever owns the run folder."""

    def __init__(self, store: KeyStore, *, creates: bool = False) -> None:
        """With ``creates`` sealing makes the unit of a new month; opening never makes one."""
        self._store, self._creates = store, creates

    def leaf(self, key_id: str) -> bytes:
        """As `KeyStore.leaf`."""
        return self._store.leaf(key_id)

    def leaf_to_seal(self, key_id: str) -> bytes:
        """As `KeyStore.leaf`, perhaps of a new unit."""
        return self._store.leaf(key_id, self._creates)
