"""What is built and installed: the wheel, the source archive, the lock, the extras."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
from house import NAMESPACE, ROOT, pyproject, reached, rooms

NOT_SHIPPED: Final = ("infra/typings/", "__pycache__/")
LOCK: Final = (ROOT / "requirements.lock").read_text()
COPIED: Final = ("pyproject.toml", "README.md", "LICENSE")


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements: Iterable[str]) -> set[str]:
    """The normal names in a list of requirement lines."""
    return {normal(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]) for line in requirements}


def shipped_files() -> set[str]:
    """Every file in the folders that are packages, as a wheel names it, declared in pyproject.toml or not."""
    names = set()
    for room in rooms():
        for path in (ROOT / room).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not path.is_symlink() and not any(part in f"{name}/" for part in NOT_SHIPPED):
                names.add(f"{NAMESPACE}/{name}")
    return names


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that a build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for room in rooms():
        shutil.copytree(ROOT / room, copy / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED:
        shutil.copy(ROOT / name, copy / name)
    return copy


def build(source: Path, kind: str) -> Path:
    """Build a ``wheel`` or an ``sdist`` without asking a registry; return the archive."""
    out = source / "out" / kind
    done = subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The project's wheel."""
    return build(source, "wheel")


def test_the_wheel_holds_exactly_the_folders(wheel: Path) -> None:
    """Every file of every package folder is in the wheel, but for the links of type checkers; nothing else is."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == shipped_files(), "name the missing files under [tool.setuptools.package-data]"


def test_the_namespace_has_no_root_module(wheel: Path) -> None:
    """`sluicegate` is a namespace: no file of the wheel stands directly in it."""
    assert [name for name in zipfile.ZipFile(wheel).namelist() if re.fullmatch(r"sluicegate/[^/]+", name)] == []


def test_the_source_archive_is_enough_and_follows_no_link(source: Path) -> None:
    """It holds what a wheel is made from and nothing of infra/typings, whose links would repeat every folder."""
    with tarfile.open(build(source, "sdist")) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name.partition("/")[2] for name in shipped_files()} <= held
    assert {"pyproject.toml", "LICENSE"} <= held
    assert [name for name in held if "typings" in name] == []


def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Modules and data files come from the installed wheel: nothing asks for the checkout."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120)
    program = (
        "import importlib.resources as r, sluicegate.schemas, sluicegate.streams.topics as t\n"
        "print(t.__file__)\n"
        "print(sum(f.name.endswith('.avsc') for f in (r.files(sluicegate.schemas) / 'avro').iterdir()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    where, schemas = done.stdout.split()
    assert Path(where).is_relative_to(site)
    assert int(schemas) == len(list((ROOT / "schemas" / "avro").glob("*.avsc")))
    shipped = site / "sluicegate" / "policies" / "bundles" / "demo"
    checked = subprocess.run(
        [sys.executable, "-m", "sluicegate.cli.main", "policy", "check", str(shipped), "--json"],
        env={"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(checked.stdout)["ok"] is True


def test_the_base_dependencies_are_enough_for_clients() -> None:
    """Without any extra a program can submit, work and review: each library that clients reach is a base dependency."""
    base = names_of(pyproject()["project"]["dependencies"])
    owners = packages_distributions()
    for path in sorted((ROOT / "clients").glob("*.py")):
        for module in reached(path):
            top = module.split(".")[0]
            if top == NAMESPACE or top in sys.stdlib_module_names or top not in owners:
                continue
            assert {normal(owner) for owner in owners[top]} & base, f"{path.name} reaches `{top}`"


def test_the_base_dependencies_name_no_engine() -> None:
    """Quix Streams and Faust come by the extra `engine`, ClickHouse by its own."""
    base = names_of(pyproject()["project"]["dependencies"])
    assert base.isdisjoint({"quixstreams", "faust-streaming", "aiokafka", "clickhouse-connect", "chdb"})


def test_the_lock_names_no_address() -> None:
    """Where packages come from is the installing machine's choice."""
    assert "://" not in LOCK
    assert [line for line in LOCK.splitlines() if line.startswith("-")] == []


def test_every_locked_package_has_hashes() -> None:
    """What is installed is what was locked, byte for byte."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK)
    assert len(entries) > 50
    assert [entry.split(" ")[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


def test_the_lock_covers_every_requirement() -> None:
    """A dependency added to pyproject.toml is locked too (`make lock`), but for the one extra that few want."""
    project = pyproject()["project"]
    extras = dict(project["optional-dependencies"])
    found = re.search(r"^LOCKED := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert extras.keys() - set(found[1].split()) == {"all", "presidio"}
    del extras["presidio"]
    asked = names_of([*project["dependencies"], *chain(*extras.values())])
    locked = names_of(line for line in LOCK.splitlines() if re.match(r"[a-z0-9]", line))
    assert asked - locked - {NAMESPACE} == set()
