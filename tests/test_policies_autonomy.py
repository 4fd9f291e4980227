"""How levels move: the cases that a policy author reads, a second computation, and the evidence."""

from __future__ import annotations

import datetime
import itertools
import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.autonomy import AutonomyTerms, EProcess
from sluicegate.policies.documents import AutonomyDocument
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.histories import read_events, scored

CASES = yaml.safe_load((Path(__file__).parent / "corpus" / "autonomy.yaml").read_text())["cases"]
BEGAN = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
FORM = re.compile(r"(\d+) (\w+)(?: x (\d+))?(?: of (\w+))?(?: = (\d))?(?: by (\w+))?")
CRITERIA = {
    "min_successful_actions": 3,
    "max_error_rate": 0.25,
    "review_period_days": 0.125,
    "requires_human_sign_off": True,
}
TRIGGERS = ["policy_violation", "safety_incident", {"error_rate_above": 0.3}]


def _terms(policy: dict[str, Any]) -> AutonomyTerms:
    rules = [{"match": {"topics": ["*"]}, "decision": "allow"}]
    levels = {f"level_{number}": {"name": "a level", "rules": rules} for number in range(4)}
    criteria = policy.get("promotion_criteria", {})
    document = {
        "autonomy_levels": levels,
        "promotion_criteria": None if criteria is None else {**CRITERIA, **criteria},
        "demotion_triggers": policy.get("demotion_triggers", TRIGGERS),
    }
    return AutonomyTerms(AutonomyDocument.model_validate(document))


def _at(minute: int) -> str:
    return (BEGAN + datetime.timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")


def _lines(history: list[str]) -> str:
    lines = []
    for entry in history:
        found = FORM.fullmatch(entry)
        assert found is not None, entry
        minute, word, times, job, level, agent = found.groups()
        for number in range(int(times or 1)):
            line: dict[str, Any] = {"at": _at(int(minute) + number), "agent_id": agent or "a", "event": word}
            if level is not None:
                line["level"] = int(level)
            elif word not in ("signed_off", "sign_off_refused") and (
                job is not None or word in ("succeeded", "failed")
            ):
                line["job_id"] = f"job-{job or int(minute) + number}"
            lines.append(json.dumps(line))
    return "\n".join(lines)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_history_gives_its_changes(case: dict[str, Any]) -> None:
    """Each case of the corpus holds."""
    events = read_events("events.jsonl", _lines(case["history"]))
    found = [
        f"{(datetime.datetime.fromisoformat(event.at) - BEGAN) // datetime.timedelta(minutes=1)} "
        f"{change.change} {change.level}"
        for event, change in scored(_terms(case.get("policy", {})), events)
    ]
    assert found == case["changes"]


class Plain:
    """The same rules once more, by going through the whole history each time."""

    def __init__(self) -> None:
        self.level, self.asked, self.finished = 0, False, dict[str, tuple[int, bool]]()
        self.errors: set[str] = set()
        self.succeeded: set[str] = set()

    def take(self, minute: int, word: str, job: str) -> list[str]:
        said = []
        if word == "succeeded" and job not in self.succeeded | self.errors:
            self.succeeded.add(job)
            self.finished[job] = (minute, True)
        elif word in ("failed", "found_wrong", "found_harmful") and job not in self.errors:
            self.errors.add(job)
            self.finished[job] = (minute, False)
        elif word == "policy_violation" and self.level:
            said.append(self._move("demoted", 0))
        elif word == "signed_off" and self.asked:
            self.asked = False
            if self._good(minute):
                said.append(self._move("promoted", self.level + 1))
        elif word == "sign_off_refused":
            self.asked, self.finished = False, {}
        good, bad = self._counts(minute)
        if self.level and good + bad >= 20 and bad / (good + bad) > 0.3 + 1e-12:
            said.append(self._move("demoted", self.level - 1))
        elif not self.asked and self.level < 3 and self._good(minute):
            self.asked = True
            said.append(f"requested {self.level + 1}")
        return said

    def _move(self, word: str, level: int) -> str:
        self.level, self.asked, self.finished = level, False, {}
        return f"{word} {level}"

    def _counts(self, minute: int) -> tuple[int, int]:
        inside = [good for at, good in self.finished.values() if at >= minute - 180]
        return sum(inside), len(inside) - sum(inside)

    def _good(self, minute: int) -> bool:
        good, bad = self._counts(minute)
        return good >= 3 and bad / (good + bad) <= 0.25


@pytest.mark.parametrize("seed", range(40))
def test_a_second_computation_agrees(seed: int) -> None:
    """Random histories give the same changes when everything is counted anew at each event."""
    chance = random.Random(seed)
    words = ["succeeded"] * 12 + ["failed", "found_wrong", "found_harmful", "found_correct", "signed_off", "signed_off"]
    words += ["sign_off_refused", "policy_violation"] if seed % 2 else []
    plain, minute, lines, wanted = Plain(), 0, [], []
    for _ in range(600):
        minute += chance.choice((0, 0, 1, 1, 2, 5, 30))
        word, job = chance.choice(words), f"j{chance.randrange(400)}"
        line = {"at": _at(minute), "agent_id": "a", "event": word}
        if word not in ("signed_off", "sign_off_refused", "policy_violation"):
            line["job_id"] = job
        lines.append(json.dumps(line))
        wanted += [(_at(minute), said) for said in plain.take(minute, word, job)]
    events = read_events("e.jsonl", "\n".join(lines))
    found = [(event.at, f"{change.change} {change.level}") for event, change in scored(_terms({}), events)]
    assert found == wanted
    assert len(wanted) > 5


def test_the_evidence_takes_what_it_is_known_to_take() -> None:
    """2 % against 0.5 % at 95 %: 198 actions without an error, some 91 to 92 more for each (facts of the method)."""
    process = EProcess(Decimal("0.02"), Decimal("0.005"), Decimal("0.95"))
    wanted = [process.wanted(errors) for errors in range(4)]
    assert wanted[0] == 198
    assert {after - before for before, after in itertools.pairwise(wanted)} <= {91, 92}
    assert process.value(198, 0) >= 20 > process.value(197, 0)
    assert process.enough(198, 0)
    assert not process.enough(197, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"at": "2026-11-01", "agent_id": "a", "event": "failed"}', "e.jsonl:2:8: error: `2026-11-01` is no time"),
        ('{"at": "2026-11-01T00:00:00", "agent_id": "a", "event": "failed"}', "is no time"),
        ('{"at": "2026-10-01T00:00:00Z", "agent_id": "a", "event": "failed"}', "lies before the event above"),
        ('{"at": "2026-11-02T00:00:00Z", "agent_id": "a", "event": "fail"}', "fail"),
        ('{"at": "2026-11-02T00:00:00Z", "agent_id": "a", "event": "level_set"}', "`level_set` needs a `level`"),
        ('{"at": "2026-11-02T00:00:00Z", "agent_id": "a", "event": "failed", "level": 1}', "has no `level`"),
        ('{"at": "2026-11-02T00:00:00Z", "agent_id": "a", "event": "level_set", "level": 4}', "4"),
        ('{"at": "2026-11-02T00:00:00Z", "event": "failed"}', "agent_id"),
        ('{"at": "2026-11-02T00:00:00Z", "agent_id": "a", "event": "failed", "job": "x"}', "unknown key `job`"),
        ("{", "e.jsonl:2"),
        ("[]", "e.jsonl:2"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(line: str, said: str) -> None:
    """A history that cannot be used says in which line and why."""
    first = '{"at": "2026-11-01T00:00:00.5+00:00", "agent_id": "a", "event": "succeeded"}'
    with pytest.raises(PolicyFaults, match=r"e\.jsonl:2") as refused:
        read_events("e.jsonl", f"{first}\n{line}\n")
    assert said in str(refused.value)
