"""The demo happens, and fails when a part is missing; a checker that is not ours agrees with its log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from second_checker import check

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "schemas" / "avro"


def demo(*flags: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    run = command or [sys.executable, "-m", "sluicegate.examples.demo", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    return subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`make demo`, once, with a copy of its log."""
    copy = tmp_path_factory.mktemp("demo") / "copy.jsonl"
    flags = [
        "make",
        "demo",
        f"DEMO_FLAGS=--copy {copy}",
        f"BIN={Path(sys.executable).parent}",
        "-o",
        ".venv/.installed",
    ]
    return demo(command=flags), copy


def test_everything_in_the_story_happens(played: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """`make demo` ends by itself with exit 0, and each of its attacks is refused by the named party."""
    done, _ = played
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    refused = done.stdout.split("The attacks")[1].split("What the auditor reads")[0]
    for word in ("agent_mismatch", "id_reused", "grant_unsigned", "no_grant", "no second grant"):
        assert word in refused
    for what in ("writes a grant itself", "reads raw outputs", "deletes records"):
        assert f"refused by the broker's ACL: the agent {what}" in refused or what in refused


def test_no_password_is_printed(played: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Neither output stream holds a login's secret or a key."""
    done, _ = played
    for word in ("password", "sasl.", "PRIVATE KEY"):
        assert word not in done.stdout + done.stderr


def test_the_second_checker_agrees(played: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """It finds what `verify` finds: the forged grant, and nothing else; and it counts the same decisions."""
    done, copy = played
    found = check(copy, SCHEMAS)
    assert [fault["place"][0] for fault in found.faults] == ["job.grants.default"]
    forged = "/".join(map(str, found.faults[0]["place"]))
    assert f"foreign at {forged}" in done.stdout
    said: dict[str, str] = {}
    for line in done.stdout.split("verify: ")[1].splitlines():
        count, _, name = line.strip().partition(" ")
        if count.isdigit():
            said[name] = count
    ours = {name: int(said[name]) for name in ("Decision", "Granted", "Resolution", "Result") if name in said}
    assert ours == {name: found.counts[name] for name in ours}


def test_a_missing_processor_fails_the_demo() -> None:
    """Without the desk nobody is heard: the demo says what did not happen, and exits non-zero."""
    done = demo("--without", "desk", "--expect-sec", "3")
    assert done.returncode == 1, done.stdout[-2000:]
    assert "DID NOT HAPPEN: ken's approval" in done.stdout
    assert "the demo FAILED" in done.stdout
