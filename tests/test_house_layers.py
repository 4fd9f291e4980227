"""Which folder may import which, and what must stay out of the pure and of the light parts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from house import ROOT, eager_imports, imports, python_files, reached, room_of, rooms

EVERYTHING: Final = frozenset(
    "schemas policies streams processors clients cli web infra examples bench".split(),
)
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "schemas": frozenset(),
    "policies": frozenset({"schemas"}),
    "streams": frozenset({"schemas"}),
    "processors": frozenset({"schemas", "policies", "streams"}),
    "clients": frozenset({"schemas", "streams"}),
    "infra": frozenset({"schemas", "streams"}),
    "web": frozenset({"schemas", "policies", "clients"}),
    "cli": EVERYTHING,
    "examples": EVERYTHING,
    "bench": EVERYTHING,
}
ENGINES: Final = frozenset({"quixstreams", "rocksdict", "faust", "mode", "aiokafka"})
STORES: Final = frozenset({"clickhouse_connect", "chdb"})
SERVICES: Final = frozenset({"confluent_kafka"}) | ENGINES | STORES

PURE_STEPS: Final = frozenset("gate trust outputs desk workflows plane control".split())
"""Stems of the modules of processors/ that are pure (``gate``, ``gate_state``, ...)."""
LOADER: Final = "policies/load.py"
"""The one module of policies/ that reads files."""
CLOCKS_CHANCE_AND_IO: Final = frozenset(
    "time datetime random secrets uuid os sys socket threading asyncio subprocess shutil tempfile logging http urllib "
    "requests httpx structlog".split()
)


def is_pure(path: Path) -> bool:
    """Whether a file of the project holds judgement or a step."""
    if path.parent.name == "policies":
        return path.relative_to(ROOT).as_posix() != LOADER
    return path.parent.name == "processors" and path.stem.split("_")[0] in PURE_STEPS


def wrong_arrows(root: Path) -> list[str]:
    """Each import below ``root`` that leads from a folder to one that it may not know."""
    found = []
    for path in python_files(root):
        room = path.relative_to(root).parts[0]
        if room not in MAY_IMPORT:
            continue
        for asked in imports(path.read_text()):
            target = room_of(asked.module)
            if target and target != room and target not in MAY_IMPORT[room]:
                found.append(f"{path.relative_to(root)}:{asked.line}: {room} may not import {target}")
    return sorted(set(found))


def heavy(modules: Iterable[str], packages: frozenset[str]) -> set[str]:
    """Those of ``packages`` that are among the roots of ``modules``."""
    return {module.split(".")[0] for module in modules} & packages


def test_every_folder_that_is_a_package_has_its_arrows() -> None:
    """A new folder gets its line in the table, else nothing would hold it."""
    assert set(rooms()) <= set(MAY_IMPORT)


def test_imports_follow_the_arrows() -> None:
    """Judgement and transport never meet but in processors; nobody imports upward."""
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize(
    ("room", "statement"),
    [
        ("policies", "from sluicegate.streams import topics"),
        ("policies", "from sluicegate import streams"),
        ("streams", "import sluicegate.policies.load"),
        ("schemas", "def late() -> None:\n    import sluicegate.streams.topics"),
        ("clients", "from sluicegate.policies.evaluate import evaluate"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, room: str, statement: str) -> None:
    """The check itself can fail: for both forms of import, and inside a function."""
    (tmp_path / room).mkdir()
    (tmp_path / room / "wrong.py").write_text(statement + "\n")
    assert len(wrong_arrows(tmp_path)) == 1


def test_clients_reach_no_engine_and_no_store() -> None:
    """A program that submits or works needs neither Quix Streams nor Faust nor ClickHouse, not even late."""
    for path in sorted((ROOT / "clients").glob("*.py")):
        modules = reached(path) | {asked.module for asked in imports(path.read_text())}
        assert heavy(modules, ENGINES | STORES) == set(), path.name


def test_policies_and_steps_have_no_clock_no_chance_and_no_io() -> None:
    """The same inputs give the same outputs in production, in a backtest and in verify."""
    pure = [path for path in python_files() if is_pure(path)]
    assert pure
    wrong = [
        f"{path.relative_to(ROOT)}:{asked.line}: {asked.module}"
        for path in pure
        for asked in imports(path.read_text())
        if asked.module.split(".")[0] in CLOCKS_CHANCE_AND_IO | SERVICES
    ]
    assert wrong == []


def test_an_import_inside_a_function_is_a_late_one() -> None:
    """What stands in a function or is for type checkers loads nothing; what stands in a branch or a class does."""
    source = (
        "if TYPE_CHECKING:\n    import a\n"
        "class C:\n    import b\n    def f(self):\n        import c\n"
        "try:\n    import d\nexcept ImportError:\n    import e\n"
    )
    assert {asked.module for asked in eager_imports(source)} == {"b", "d", "e"}


def test_loading_the_command_line_loads_no_service() -> None:
    """A verb starts quickly: what speaks to Kafka or ClickHouse is imported by the verb that needs it."""
    for path in (ROOT / "cli").glob("main.py"):
        assert heavy(reached(path, eager=True), SERVICES) == set()


CLIENTS: Final = ", ".join(f"sluicegate.clients.{path.stem}" for path in sorted((ROOT / "clients").glob("[a-z]*.py")))


def loaded_by(program: str, folder: Path) -> set[str]:
    """The roots of all modules that are loaded when a Python process which ran ``program`` ends."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sorted({name.split('.')[0] for name in sys.modules}), sep='|'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + program], capture_output=True, text=True, cwd=folder, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split("|"))


def test_a_client_program_loads_no_engine_and_no_store(tmp_path: Path) -> None:
    """Seen from outside: a process that imported all of `clients` holds neither engine nor ClickHouse."""
    loaded = loaded_by(f"import {CLIENTS}", tmp_path)
    assert "confluent_kafka" in loaded
    assert loaded & (ENGINES | STORES) == set()


OFFLINE_PROGRAMS: Final = (
    "import sluicegate.schemas.events",
    "import sluicegate.policies.load, sluicegate.policies.evaluate",
    # The command line's offline verbs come here, as
    # "import sys; sys.argv = ['sluicegate', 'policy', 'check', ...]; from sluicegate.cli.main import main; main()".
)


@pytest.mark.parametrize("program", OFFLINE_PROGRAMS)
def test_an_offline_program_loads_neither_kafka_nor_clickhouse(program: str, tmp_path: Path) -> None:
    """Seen from outside, in a process of its own: neither client library is among the loaded modules."""
    assert loaded_by(program, tmp_path) & SERVICES == set()
