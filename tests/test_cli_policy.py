"""`policy check`, and the agents' file that `agents enroll` edits."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sluicegate.cli.agents_file import with_agent
from sluicegate.cli.configuration import shipped_policies
from sluicegate.cli.main import run
from sluicegate.cli.prepare import git_state
from sluicegate.policies.faults import PolicyFaults
from sluicegate.schemas.errors import BadInput

BROKEN = """version: v1
rules:
  - id: hold
    match:
      topics: ["job.[x]"]
    decision: requires_approval
    reasn: oops
"""
NEW = {"id": "crawler", "owner": "ken", "version": "1", "key": {"kind": "hmac"}, "class": "default"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped policies."""
    place = tmp_path / "policies"
    shutil.copytree(shipped_policies(), place)
    return place


def test_check_prints_every_fault_like_a_compiler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault stands with file, line, column, what is wrong, the text there and the remedy; exit 1."""
    (tmp_path / "rules.yaml").write_text(BROKEN)
    assert run(["policy", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "rules.yaml:5:" in said
    assert "rules.yaml:6:" in said
    assert "rules.yaml:7:" in said
    assert said.count("fix: ") == int(said.splitlines()[-1].split()[0]) >= 3
    assert "requires_approval" in said


def test_check_gives_the_same_faults_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json is one object with `ok` and all faults, each with its fields."""
    (tmp_path / "rules.yaml").write_text(BROKEN)
    assert run(["policy", "check", "--json", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert {fault["line"] for fault in found["faults"]} == {5, 6, 7}
    assert set(found["faults"][0]) == {"file", "line", "column", "text", "message", "fix", "severity"}


def test_check_of_the_shipped_policies_is_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing configured the shipped policies are checked, and they are good."""
    monkeypatch.chdir(tmp_path)
    assert run(["policy", "check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["faults"] == []
    assert found["snapshot"].startswith("v1:")


def test_enrolling_keeps_comments_and_order(folder: Path) -> None:
    """The agent is added at the end of the list; every line that was there is still there."""
    before = (folder / "agents.yaml").read_text()
    assert with_agent(folder, "agents.yaml", NEW) == (True, True)
    after = (folder / "agents.yaml").read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    old, new = yaml.safe_load(before)["agents"], yaml.safe_load(after)["agents"]
    assert new == [*old, NEW]


def test_enrolling_twice_changes_nothing(folder: Path) -> None:
    """An agent that stands there keeps its entry, byte for byte."""
    with_agent(folder, "agents.yaml", NEW)
    before = (folder / "agents.yaml").read_bytes()
    assert with_agent(folder, "agents.yaml", {**NEW, "owner": "mei"}) == (False, True)
    assert (folder / "agents.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "agents: []\n",
        "version: v1\nagents: []   # none yet\n",
        "agents:\n- {id: a, owner: ken, version: '1', key: {kind: hmac}}",
        "agents:\n  - id: a\n    owner: ken\n    version: '1'\n    key:\n      kind: hmac\n# the end\n",
        "agents:\n  - id: a\n    owner: ken\n    version: '1'\n    key: {kind: hmac}\n\nversion: v1\n",
    ],
)
def test_enrolling_into_lists_of_any_shape(folder: Path, text: str) -> None:
    """Empty lists, flow entries, comments or keys after the list: the agent is the last of the list, the rest stays."""
    (folder / "agents.yaml").write_text(text)
    before = yaml.safe_load(text)
    with_agent(folder, "agents.yaml", NEW)
    after = (folder / "agents.yaml").read_text()
    assert yaml.safe_load(after) == {**before, "agents": [*before["agents"], NEW]}
    assert after.count("#") == text.count("#")


def test_enrolling_makes_the_file(folder: Path) -> None:
    """A folder without agents.yaml gets one."""
    (folder / "agents.yaml").unlink()
    with_agent(folder, "agents.yaml", NEW)
    assert yaml.safe_load((folder / "agents.yaml").read_text()) == {"agents": [NEW]}


def test_an_agent_needs_an_owner(folder: Path) -> None:
    """Without an owner nobody is kept from approving their own agent's job, so it is refused."""
    with pytest.raises(BadInput, match="--owner"):
        with_agent(folder, "agents.yaml", {**NEW, "owner": ""})


def test_what_would_break_the_bundle_is_not_written(folder: Path) -> None:
    """A name that the documents refuse leaves the file as it was."""
    before = (folder / "agents.yaml").read_bytes()
    with pytest.raises(PolicyFaults):
        with_agent(folder, "agents.yaml", {**NEW, "id": "no good/\n"})
    assert (folder / "agents.yaml").read_bytes() == before


def test_the_shipped_policies_are_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`agents enroll` without a folder of one's own says to copy the shipped one."""
    monkeypatch.chdir(tmp_path)
    assert run(["agents", "enroll", "crawler", "--owner", "ken"]) == 2
    assert "copy them" in capsys.readouterr().err


def test_git_state_says_commit_and_dirt(folder: Path) -> None:
    """A snapshot names the commit it is from, and whether the files differ from it."""
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    assert git_state(folder)[1] is False
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    commit, dirty = git_state(folder)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (folder / "bundle.yaml").write_text("version: v2\n")
    assert git_state(folder) == (commit, True)
