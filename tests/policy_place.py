"""A folder of policies in a temporary place, and the command line beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cli.main import run

RULES = """rules:
  - id: large
    match: { topics: ["pay.*"], amount_usd_above: 100 }
    decision: require_approval
    reason: much money
    constraints: { max_runtime_sec: 60, read_only: true }
  - match: { topics: ["pay.*"], confidence_below: 0.5 }
    decision: require_approval
  - { id: small, match: { topics: ["pay.*"] }, decision: allow }
  - { id: never, match: { topics: ["drop.*"] }, decision: deny, reason: lost for ever }
"""
FENCE = """rules:
  - id: fence
    match: { topics: ["pay.*"] }
    decision: allow_with_constraints
    constraints: { max_runtime_sec: 30 }
"""
ACTIONS = """actions:
  - { topics: ["pay.*"], risk_tags: [money], facts: { amount_usd: order.total } }
"""
AGENTS = """agents:
  - { id: payer, owner: ken, version: "1", key: { kind: hmac } }
"""
WARNED = "rules:\n  - { match: { topics: [x] }, decision: deny, constraints: { read_only: true } }\n"
BROKEN = "rules:\n  - { match: { topics: [x] }, decision: denied }\n"
INTENT = {"job_id": "j-1", "agent_id": "payer", "topic": "pay.bill"}


class Place:
    """A folder of policies and the command line beside it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capsys = capsys

    def write(self, name: str, content: str | dict[str, Any]) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def json(self, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
        """The one object on stdout of a verb with --json, and its stderr."""
        assert run(["policy", *words, "--json"]) == code
        out, err = self.capsys.readouterr()
        assert out.count("\n") == 1
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer, err

    def explain(self, intent: dict[str, Any] | str, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
        """`policy explain` by the folder `p`."""
        name = "intent.json" if isinstance(intent, dict) else "intent.yaml"
        file = self.write(name, intent)
        return self.json("explain", "--policies", str(self.root / "p"), "--intent", file, *words, code=code)


def made(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place with a sound bundle in its folder `p`, as the working folder."""
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, capsys)
    place.write("p/money.yaml", RULES)
    place.write("p/actions.yaml", ACTIONS)
    place.write("p/agents.yaml", AGENTS)
    return place
