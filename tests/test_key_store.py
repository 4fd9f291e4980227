"""The key store: a real file, real processes; what is erased is gone for everybody and from the disk."""

from __future__ import annotations

import hmac
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sluicegate.schemas.errors import BadInput, InvariantBroken, KeyErased, SealingError, Unavailable
from sluicegate.schemas.key_ids import job_digits, job_key, quarantine_key
from sluicegate.schemas.payload import SALT_BYTES
from sluicegate.streams import key_store
from sluicegate.streams.key_store import ErasedUnit, KeyStore, StoreKeyring

OCTOBER_MS, NOVEMBER_MS = 1_792_000_000_000, 1_795_000_000_000
WHY = ("asked to by the customer", "operator/omar")
SALT = bytes(SALT_BYTES)
HEAD = (
    "import sys\nfrom pathlib import Path\n"
    "from sluicegate.streams.key_store import KeyStore\nstore = KeyStore(Path(sys.argv[1]), make=True)\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "keystore.db"


@pytest.fixture
def store(path: Path) -> KeyStore:
    return KeyStore(path, make=True)


def key_of(job_id: str, agent: str = "support", at_ms: int = NOVEMBER_MS) -> str:
    return job_key("t", agent, at_ms, job_id).text


def held_of(job_id: str, request_id: str = "r", agent: str = "support") -> str:
    return quarantine_key(job_key("t", agent, NOVEMBER_MS, job_id), request_id).text


def seeds_in(path: Path) -> set[bytes]:
    """Every seed that the tables hold now, read by a connection of the test."""
    connection = sqlite3.connect(path)
    try:
        return {seed for (seed,) in connection.execute("SELECT seed FROM seeds")}
    finally:
        connection.close()


def on_disk(path: Path) -> bytes:
    """Every byte of the folder's files."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()))


def run(program: str, path: Path, *words: str) -> str:
    """What a program of another process prints; it has the store as `store`."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(path), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_file_is_for_its_owner_only(store: KeyStore, path: Path) -> None:
    """File, journal and folder; a file that others may read is refused."""
    store.leaf(key_of("j"), create=True)
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(BadInput, match="open to other users"):
        KeyStore(path).check()


def test_a_missing_store_is_not_made_in_passing(path: Path) -> None:
    """Whoever only reads must not leave an empty store behind, in which every key would be unknown."""
    with pytest.raises(BadInput, match="no key store"):
        KeyStore(path).leaf(key_of("j"))
    assert not path.exists()


def test_a_unit_is_made_once_and_only_when_asked(store: KeyStore) -> None:
    """Reading makes nothing; a job's key stays what it was."""
    with pytest.raises(SealingError, match="has no unit of agent `support` for 2026-11"):
        store.leaf(key_of("j"))
    first = store.leaf(key_of("j"), create=True)
    assert store.leaf(key_of("j")) == first
    assert KeyStore(store._file.path).leaf(key_of("j"), create=True) == first


def test_every_name_has_a_key_of_its_own(store: KeyStore) -> None:
    """Jobs, agents, months, classes and requests never share one."""
    names = [
        *[
            key_of(job, agent, at)
            for job in ("j", "k")
            for agent in ("support", "ops")
            for at in (OCTOBER_MS, NOVEMBER_MS)
        ],
        *[held_of(job, request) for job in ("j", "k") for request in ("r", "q")],
    ]
    assert len({store.leaf(name, create=True) for name in names}) == len(names)


@pytest.mark.parametrize("seed", range(4))
def test_an_erased_job_is_gone_and_every_other_key_is_unchanged(store: KeyStore, seed: int) -> None:
    """Whatever is erased, in whatever order: its keys of both classes, nobody else's."""
    chance = random.Random(seed)
    jobs = [f"job-{number}" for number in range(60)]
    keys = {job: (store.leaf(key_of(job), create=True), store.leaf(held_of(job))) for job in jobs}
    gone = chance.sample(jobs, 20)
    for job in gone:
        assert store.erase_job("t", "support", job, *WHY) == (ErasedUnit("support", "2026-11", before=False),)
    for name in [each(job) for job in gone for each in (key_of, held_of)]:
        with pytest.raises(KeyErased):
            store.leaf(name)
    left = {job: (store.leaf(key_of(job)), store.leaf(held_of(job))) for job in jobs if job not in gone}
    assert left == {job: keys[job] for job in left}


def test_what_was_erased_says_when_by_whom_and_why(store: KeyStore) -> None:
    """Whoever meets it must not take it for a fault."""
    store.leaf(key_of("j"), create=True)
    store.erase_job("t", "support", "j", *WHY)
    said = r"was erased at 20\d\d-\d\d-\d\dT[0-9:]{8}\+00:00 by `operator/omar`: asked to by the customer"
    with pytest.raises(KeyErased, match=said):
        store.leaf(key_of("j"))


def test_after_an_agents_erasure_nothing_of_it_opens(store: KeyStore) -> None:
    """All months, also for a job that comes later in one of them; other agents are not touched."""
    keys = StoreKeyring(store, creates=True)
    names = [key_of(job, at_ms=at) for job in ("j", "k") for at in (OCTOBER_MS, NOVEMBER_MS)]
    envelopes = [keys.seal(b"{}", SALT, name) for name in names]
    other = keys.seal(b"{}", SALT, key_of("j", "ops"))
    erased = store.erase_agent("t", "support", *WHY)
    assert erased == (ErasedUnit("support", "2026-10", before=False), ErasedUnit("support", "2026-11", before=False))
    for envelope in envelopes:
        with pytest.raises(KeyErased):
            keys.open(envelope)
    for name in (key_of("new"), held_of("j")):
        with pytest.raises(KeyErased):
            store.leaf(name, create=True)
    assert keys.open(other) == (b"{}", SALT)


def test_months_narrow_an_erasure(store: KeyStore) -> None:
    """An erasure unit is a month of an agent: one of them can go alone."""
    for at in (OCTOBER_MS, NOVEMBER_MS):
        store.leaf(key_of("j", at_ms=at), create=True)
    store.erase_agent("t", "support", *WHY, months=["2026-10"])
    assert store.leaf(key_of("j"))
    with pytest.raises(KeyErased):
        store.leaf(key_of("j", at_ms=OCTOBER_MS))
    with pytest.raises(SealingError, match="is no month"):
        store.erase_agent("t", "support", *WHY, months=["2026-1"])


def test_a_job_without_its_agent_is_erased_in_every_unit(store: KeyStore) -> None:
    """Its hash is a leaf in each: no log need be read to find it. Another tenant's are not touched."""
    agents = ("support", "ops", "billing")
    for agent in agents:
        store.leaf(key_of("j", agent), create=True)
    elsewhere = job_key("u", "support", NOVEMBER_MS, "j").text
    store.leaf(elsewhere, create=True)
    assert [unit.agent_id for unit in store.erase_job("t", None, "j", *WHY)] == sorted(agents)
    for agent in agents:
        with pytest.raises(KeyErased):
            store.leaf(key_of("j", agent))
        assert store.leaf(key_of("k", agent))
    assert store.leaf(elsewhere)


def test_a_destroyed_output_leaves_the_job_readable(store: KeyStore) -> None:
    """Destroying what was quarantined takes its key alone."""
    store.leaf(key_of("j"), create=True)
    store.erase_job("t", "support", "j", *WHY, output_only=True)
    assert store.leaf(key_of("j"))
    with pytest.raises(KeyErased):
        store.leaf(held_of("j"))


def test_erasing_again_does_nothing_and_says_so(store: KeyStore) -> None:
    """The first reason stands."""
    store.leaf(key_of("j"), create=True)
    store.erase_job("t", "support", "j", *WHY)
    assert store.erase_job("t", "support", "j", "another", "operator/eve")[0].before
    with pytest.raises(KeyErased, match="by `operator/omar`"):
        store.leaf(key_of("j"))


def test_what_cannot_be_erased_is_named(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's unit, no reason, too many units, too many jobs one by one: nothing changes, and it says what to do."""
    with pytest.raises(BadInput, match="no unit of agent `nobody`"):
        store.erase_agent("t", "nobody", *WHY)
    for agent in ("support", "ops"):
        store.leaf(key_of("j", agent), create=True)
    with pytest.raises(BadInput, match="say why"):
        store.erase_job("t", "support", "j", " ", "me")
    monkeypatch.setattr(key_store, "UNITS_MAX", 1)
    with pytest.raises(BadInput, match="name agent or months"):
        store.erase_job("t", None, "j", *WHY)
    monkeypatch.setattr(key_store, "PUNCTURES_MAX", 2)
    for job in ("a", "b"):
        store.erase_job("t", "support", job, *WHY)
    with pytest.raises(BadInput, match="erase that month of the agent whole"):
        store.erase_job("t", "support", "j", *WHY)
    assert store.leaf(key_of("j"))
    store.erase_agent("t", "support", *WHY)


@pytest.mark.parametrize("seed", range(3))
def test_erased_bytes_are_not_on_the_disk(store: KeyStore, path: Path, seed: int) -> None:
    """No file of the folder holds a seed that is in no table any more, whatever was made and erased before."""
    chance = random.Random(seed)
    agents = [f"agent-{number}" for number in range(6)]
    for agent in agents:
        store.leaf(key_of("j", agent), create=True)
    ever = seeds_in(path)
    for _ in range(40):
        store.erase_job("t", chance.choice(agents), f"job-{chance.randrange(10**6)}", *WHY)
        ever |= seeds_in(path)
    store.erase_agent("t", "agent-3", *WHY)
    gone, disk = ever - seeds_in(path), on_disk(path)
    assert len(gone) > 100
    assert [seed.hex() for seed in gone if seed in disk] == []
    assert all(seed in disk for seed in seeds_in(path))


def test_bytes_that_sqlite_leaves_behind_are_found_and_overwritten(store: KeyStore, path: Path) -> None:
    """The file is searched after each erasure and rebuilt if it must be: nothing rests on one setting of SQLite's."""
    store.leaf(key_of("j"), create=True)
    before = seeds_in(path)
    store._file.connection().execute("PRAGMA secure_delete = OFF")
    store.erase_agent("t", "support", *WHY)
    assert not any(seed in on_disk(path) for seed in before)


def test_a_killed_process_leaves_nothing_of_an_erased_key(store: KeyStore, path: Path) -> None:
    """Killed after its commit and before the journal was wiped: the next to open the file wipes it."""
    store.leaf(key_of("j"), create=True)
    before = seeds_in(path)
    program = (
        "import os\nfrom sluicegate.streams.key_file import KeyFile\nwipe = KeyFile.wipe_journal\n"
        "def dying(self, connection):\n"
        "    wipe(self, connection) if self._open is None else os._exit(9)\n"
        "KeyFile.wipe_journal = dying\n"
        "store.erase_job('t', 'support', 'j', 'why', 'me')\n"
    )
    with pytest.raises(subprocess.CalledProcessError):
        run(program, path)
    gone = before - seeds_in(path)
    assert len(gone) == 2
    assert any(seed in on_disk(path) for seed in gone), "the journal was not left behind: this test shows nothing"
    KeyStore(path).check()
    assert not any(seed in on_disk(path) for seed in gone)


ERASING = (
    "for job in sys.argv[2:]:\n    store.erase_job('t', 'support', job, 'why', 'me')\n    print(job, flush=True)\n"
)


def path_seeds(root: bytes, digits: str) -> set[bytes]:
    """Every seed from a root down to a leaf: what must be nowhere once the leaf is erased."""
    found, seed = {root}, root
    for digit in digits:
        seed = hmac.digest(seed, b"sluicegate.tree.v1" + bytes([int(digit, 16)]), "sha256")
        found.add(seed)
    return found


@pytest.mark.parametrize(
    "seed", [*range(4), *[pytest.param(seed, marks=pytest.mark.campaign) for seed in range(4, 150)]]
)
def test_a_kill_at_any_moment_loses_no_key_and_undoes_no_erasure(store: KeyStore, path: Path, seed: int) -> None:
    """What was erased stays so and is not on the disk; what was not is unchanged; the file is whole."""
    chance = random.Random(seed)
    jobs = [f"job-{number}" for number in range(40)]
    keys = {job: store.leaf(key_of(job), create=True) for job in jobs}
    roots, erased = seeds_in(path), set[str]()
    while len(erased) < 20:
        done = set(list_until_killed(path, [job for job in jobs if job not in erased], chance))
        for job in jobs:
            try:
                assert store.leaf(key_of(job)) == keys[job]
                assert job not in done | erased
            except KeyErased:
                done.add(job)
        erased |= done
        disk = on_disk(path)
        for job in erased:
            assert not any(bytes_ in disk for root in roots for bytes_ in path_seeds(root, job_digits(job)))


def list_until_killed(path: Path, jobs: list[str], chance: random.Random) -> list[str]:
    """The jobs that a process said it had erased, one by one, until it was killed at some moment."""
    command = [sys.executable, "-c", f"{HEAD}{ERASING}", str(path), *jobs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(chance.randint(1, 6))]
        until = time.perf_counter() + chance.random() * 0.006  # the time that one erasure takes, or so
        while time.perf_counter() < until:
            pass
        process.kill()
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


def test_an_erasure_is_seen_by_other_processes_at_their_next_call(store: KeyStore, path: Path) -> None:
    """A key that this process remembers is not given once another one has erased it."""
    first = store.leaf(key_of("j"), create=True)
    assert run("print(store.leaf(sys.argv[2]).hex())", path, key_of("j")) == f"{first.hex()}\n"
    assert store.leaf(key_of("j")) == first
    run("store.erase_job('t', 'support', 'j', 'why', 'me')", path)
    with pytest.raises(KeyErased):
        store.leaf(key_of("j"))
    assert store.leaf(key_of("k"))


def test_processes_that_begin_at_once_agree_on_a_key(path: Path) -> None:
    """One of them makes file and unit, all get the same key: two seeds of one unit would lose what one sealed."""
    program = "print(store.leaf(sys.argv[2], create=True).hex())"
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(run(program, path, key_of("j")))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_threads_share_a_store(store: KeyStore) -> None:
    """Readers and erasers in one process: each key is whole or erased, nothing else is raised."""
    store.leaf(key_of("keep"), create=True)
    found: list[bytes] = []
    raised: list[Exception] = []

    def work(number: int) -> None:
        try:
            for each in range(20):
                store.erase_job("t", "support", f"{number}-{each}", *WHY)
                found.append(store.leaf(key_of("keep")))
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
            raised.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert raised == []
    assert set(found) == {store.leaf(key_of("keep"))}


def test_a_forked_process_opens_the_file_anew(store: KeyStore) -> None:
    """SQLite forbids to carry a connection over a fork; the parent's goes on."""
    first = store.leaf(key_of("j"), create=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        found = store.leaf(key_of("j"))
        own = store._file._open is not None and store._file._open[0] == os.getpid()
        os.write(writing, found if own else b"the parent's connection")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == first
    os.close(reading)
    os.close(writing)
    assert store.leaf(key_of("j")) == first


def test_a_damaged_or_newer_store_is_named(path: Path, store: KeyStore) -> None:
    """The process must end: a lost key is no erased one, and no fault of the job that it was for."""
    store.leaf(key_of("j"), create=True)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM seeds")
    connection.close()
    with pytest.raises(InvariantBroken, match="has lost key"):
        store.leaf(key_of("j"))
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(Unavailable, match="has format 7"):
        store.leaf(key_of("j"))
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(Unavailable, match="is damaged"):
        store.leaf(key_of("j"))


def test_opening_makes_no_unit(store: KeyStore) -> None:
    """An envelope that names a unit nobody made must not bring it about, not even for one who may seal."""
    sealed = StoreKeyring(store, creates=True).seal(b"{}", SALT, key_of("j"))
    sealed.key_id = key_of("j", "ghost")
    with pytest.raises(SealingError, match="has no unit of agent `ghost`"):
        StoreKeyring(store, creates=True).open(sealed)
