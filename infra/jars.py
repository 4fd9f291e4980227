"""Kafka's jars: fetched once into the user's cache folder, each one checked against the committed lock at every start.

`kafka.lock` names every jar by coordinates, size and SHA-256. Nothing is resolved at run time, so nothing that the lock
does not name can get onto the class path. ``python -m sluicegate.infra.jars`` resolves anew and prints a lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from filelock import FileLock

from sluicegate.schemas.errors import SluicegateError, Unavailable

KAFKA_VERSION: Final = "4.3.1"
ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
"""What the lock is made from; without an slf4j binding the broker starts but logs no denial."""
LOCK_PATH: Final = Path(__file__).with_name("kafka.lock")
CACHE_VARIABLE: Final = "SLUICEGATE_CACHE"
_TRIES: Final = 3
_TRY_AGAIN_SEC: Final = 1.0
_THREADS: Final = 4
_HTTP_SEC_MAX: Final = 30


class JarRefused(SluicegateError):
    """A jar that is not the one that the lock names; it is not used."""


class LockedJar(NamedTuple):
    """One line of the lock."""

    sha256: str
    size_bytes: int
    group: str
    artifact: str
    version: str

    @property
    def file(self) -> str:
        """Its name in the cache folder."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        """Its name in a repository."""
        return f"{self.group}:{self.artifact}:{self.version}"


def cache_folder() -> Path:
    """The user's cache folder of Sluicegate: `SLUICEGATE_CACHE`, else below `XDG_CACHE_HOME` or `~/.cache`."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sluicegate"


def read_lock(path: Path = LOCK_PATH) -> tuple[LockedJar, ...]:
    """The jars that the lock names, in class path order. Raises JarRefused for a lock that cannot be read."""
    jars = []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            sha256, size, coordinates = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(LockedJar(sha256, int(size), group, artifact, version))
        except ValueError:
            raise JarRefused(
                f"`{path}` line {number} is not `sha256 size group:artifact:version`; restore it"
            ) from None
    return tuple(jars)


def kafka_jars(lock: Path = LOCK_PATH, cache: Path | None = None) -> list[Path]:
    """Every jar of the lock, verified, fetched if it is not in the cache folder yet.

    Safe when several processes start at once: one fetches, the others wait. Raises JarRefused when a jar is not the
    one in the lock, Unavailable when it cannot be fetched.
    """
    jars = read_lock(lock)
    folder = (cache or cache_folder()) / f"kafka-{KAFKA_VERSION}"
    missing = _missing(jars, folder)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = _missing(jars, folder)  # whoever held the lock may have fetched them
            if missing:
                _fetch(missing, folder)
    return [folder / jar.file for jar in jars]


def _missing(jars: Iterable[LockedJar], folder: Path) -> list[LockedJar]:
    """The jars that are absent. Raises JarRefused for one that is there and differs."""
    missing = []
    for jar in jars:
        path = folder / jar.file
        if not path.exists():
            missing.append(jar)
        elif (found := _sha256(path)) != jar.sha256:
            raise JarRefused(
                f"`{path}` has SHA-256 {found}, the lock names {jar.sha256}; delete that file to have it fetched again"
            )
    return missing


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(jars: list[LockedJar], folder: Path) -> None:
    """Into a folder aside, checked, and only then under their names: what is in the cache folder is whole."""
    aside = folder / f".fetch-{os.getpid()}"
    total = sum(jar.size_bytes for jar in jars)
    title = f"Kafka {KAFKA_VERSION}, once: {len(jars)} jars, {total / 1e6:.0f} MB"
    try:
        with _progress(title, total) as advance, ThreadPoolExecutor(_THREADS) as pool:
            for jar, path in zip(jars, pool.map(lambda jar: _obtain(jar, aside), jars), strict=True):
                if (found := _sha256(path)) != jar.sha256:
                    raise JarRefused(
                        f"`{jar.coordinates}` came with SHA-256 {found}, the lock names {jar.sha256}; it is not used:"
                        " look into your mirror or proxy"
                    )
                path.replace(folder / jar.file)
                advance(jar.size_bytes)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _obtain(jar: LockedJar, aside: Path) -> Path:
    """One jar, from the user's local Maven repository if the same is there, else from the network."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    place = Path(*jar.group.split("."), jar.artifact, jar.version, jar.file)
    at_hand = Path(settings.repo_cache) / place
    if at_hand.exists() and _sha256(at_hand) == jar.sha256:
        aside.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(at_hand, aside / jar.file))
    # A user's own mirrors, from jgo's settings file, come before jgo's default repository.
    remote = {**settings.repositories, **MavenContext().remote_repos} if settings.repositories else None
    context = MavenContext(repo_cache=aside, remote_repos=remote, timeout=_HTTP_SEC_MAX)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(_TRIES):
        try:
            return Path(artifact.resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo raises RuntimeError for a 404
            (aside / place).unlink(missing_ok=True)  # jgo takes half a file for a whole one
            last = error
            time.sleep(_TRY_AGAIN_SEC * attempt)
    raise Unavailable(
        f"Kafka's jar `{jar.coordinates}` cannot be fetched ({type(last).__name__}); the embedded broker needs the"
        f" network once: go online and try again, copy `{aside.parent}` from a machine that has it, or set `bootstrap`"
        " to your own Kafka"
    ) from last


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A line on standard error that moves on a terminal, and one plain line elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"fetching {title}", highlight=False)
        yield lambda _size: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"fetching {title}", total=total)
        yield lambda size: progress.advance(task, size)


def resolve_lock() -> str:
    """A lock made anew from `ENDPOINT`, as text."""
    import jgo

    lines = ["# Kafka's jars: SHA-256, bytes, coordinates. Made by `python -m sluicegate.infra.jars`."]
    artifacts: list[Any] = sorted(jgo.resolve(ENDPOINT), key=str)
    for artifact in artifacts:
        path = Path(artifact.resolve())
        name = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.append(f"{_sha256(path)} {path.stat().st_size} {name}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(resolve_lock())
