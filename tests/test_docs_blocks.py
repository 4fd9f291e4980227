"""What the README shows is run: its programs against a running tenant, its commands by name, its tests by file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_kafka import RunningBroker
from fixtures_up import Tenant, running_up

from sluicegate.cli.main import run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WAIT_SEC = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def program(word: str) -> str:
    found = [block for block in blocks("python") if word in block]
    assert len(found) == 1, f"the README has {len(found)} programs with `{word}`"
    return found[0]


@pytest.fixture(scope="module")
def up(broker: RunningBroker, kafka_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    with running_up(broker, kafka_dir, tmp_path_factory.mktemp("docs"), "docs") as tenant:
        yield tenant


def start(up: Tenant, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=up.policies.parent,
        env={**os.environ, **up.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_agent_worker_and_reviewer_of_the_readme_work_together(up: Tenant) -> None:
    """The three programs as printed: the deploy is held, approved with a tighter limit, run, and its result read."""
    worker, agent = start(up, program("Worker(")), start(up, program("Agent("))
    try:
        assert agent.stdout is not None
        assert "REQUIRE_APPROVAL" in agent.stdout.readline()
        said, deadline = "", time.monotonic() + WAIT_SEC
        while "accepted" not in said and time.monotonic() < deadline:
            said = start(up, program("Reviewer(")).communicate(timeout=WAIT_SEC)[0]
        assert "accepted" in said
        result = agent.communicate(timeout=WAIT_SEC)[0]
    finally:
        for process in (worker, agent):
            process.kill()
        worked = worker.communicate()[0]
    assert "'deployed': '1.4.2'" in result, worked
    assert "'within_sec': 300" in result


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line.strip()])
def test_commands_of_the_readme_exist(line: str) -> None:
    """Each make target and each verb stands as written; the demo itself is run by its own test."""
    words = line.split("#", maxsplit=1)[0].split()
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        assert words[0] == "sluicegate"
        assert run([*words[1:], "--help"]) == 0


def test_every_test_the_readme_names_is_there() -> None:
    """A guarantee that names its test names a file that exists."""
    named = set(re.findall(r"`(tests/\w+\.py)`", README))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_verb_the_readme_names_has_help() -> None:
    """`sluicegate NOUN VERB` in the text is a command."""
    for words in sorted(set(re.findall(r"`sluicegate ([a-z-]+(?: [a-z][a-z-]*)?)", README))):
        assert run([*words.split(), "--help"]) == 0, f"`sluicegate {words}`"
