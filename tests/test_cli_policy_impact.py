"""`policy impact` and `policy baseline` through the command line: files of intents, copies of the log, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from policy_place import BROKEN, RULES, Place, made
from world import World

from sluicegate.cli.main import run
from sluicegate.streams.logcopy import write_copy

AT_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC

SPLIT = """rules:
  - { match: { amount_usd_1h_above: 109, amount_usd_above: 55 }, decision: deny }
  - { match: { topics: ["pay.*"] }, decision: require_approval }
"""


def intent(job: str, total: Any, at_ms: int | None = AT_MS, agent: str = "payer") -> dict[str, Any]:
    found = {"job_id": job, "agent_id": agent, "topic": "pay.bill", "payload": {"order": {"total": total}}}
    return {**found, "confidence": 0.9} | ({} if at_ms is None else {"at_ms": at_ms})


def lines(*intents: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in intents)


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    """Policies before in `p`, and in `q` those that ask from 10 dollars on."""
    found = made(tmp_path, capsys, monkeypatch)
    for name in ("actions.yaml", "agents.yaml"):
        found.write(f"q/{name}", (tmp_path / "p" / name).read_text())
    found.write("q/money.yaml", RULES.replace("above: 100", "above: 10"))
    return found


# --- recorded intents


def test_recorded_intents_are_compared_with_the_policies_before(place: Place) -> None:
    """JSON lines: what tightens is counted by its rule, shares and requests an hour stand for both sides."""
    file = place.write("i.jsonl", lines(intent("a", 5), intent("b", 50), intent("c", 500)))
    answer, _ = place.json("impact", "--policies", "q", "--against", "p", "--intents", file)
    assert answer["ok"] is True
    assert (answer["before"]["held"], answer["after"]["held"]) == (1, 2)
    assert (answer["tightened"], answer["widened"]) == ({"money/large": 1}, [])
    assert answer["after"]["requests_busiest_hour"] == 2
    back, _ = place.json("impact", "--policies", "p", "--against", "q", "--intents", file)
    assert [(each["job_id"], each["before"], each["after"]) for each in back["widened"]] == [
        ("b", "REQUIRE_APPROVAL", "ALLOW")
    ]
    assert next(iter(answer)) == "ok"
    assert list(answer)[1] == "break_glass_count"


def test_without_policies_before_everything_is_new(place: Place) -> None:
    """Nothing is compared; a list in YAML or JSON will do."""
    as_yaml = place.write("i.yaml", "- {job_id: a, agent_id: payer, topic: pay.bill, payload: {order: {total: 500}}}\n")
    as_json = place.write("i.json", json.dumps([intent("a", 500, None)]))
    for file in (as_yaml, as_json):
        answer, _ = place.json("impact", "--policies", "p", "--intents", file)
        assert (answer["new"], answer["before"], answer["after"]["held"]) == (1, None, 1)
        assert (answer["without_time"], answer["after"]["requests_per_hour_mean"]) == (1, None)


def test_intents_before_since_are_not_counted(place: Place) -> None:
    """A span reaches back from the newest intent; one without a time cannot be placed, and is skipped."""
    days = [intent("a", 5), intent("b", 5, AT_MS + 86_400_000), intent("c", 5, None)]
    file = place.write("i.jsonl", lines(*days))
    answer, _ = place.json("impact", "--policies", "p", "--intents", file, "--since", "12h")
    assert (answer["intents"], answer["skipped"]) == (1, {"its time is not known": 1})
    dated, _ = place.json("impact", "--policies", "p", "--intents", file, "--since", "2026-01-01T00:00")
    assert dated["intents"] == 2


def test_intents_are_judged_in_the_order_of_their_times(place: Place) -> None:
    """Whatever the order of the lines; one without a time stands alone, in no window but its own."""
    place.write("w/actions.yaml", (place.root / "p" / "actions.yaml").read_text())
    place.write("w/money.yaml", SPLIT)
    timed = [intent("late", 60, AT_MS + 1), intent("early", 50)]
    answer, _ = place.json("impact", "--policies", "w", "--intents", place.write("a.jsonl", lines(*timed)))
    assert answer["after"]["decisions"] == {"REQUIRE_APPROVAL": 1, "DENY": 1}
    untimed = [intent("a", 60, None), intent("b", 60, None), intent("c", 50, None)]
    alone, _ = place.json("impact", "--policies", "w", "--intents", place.write("b.jsonl", lines(*untimed)))
    assert alone["after"]["decisions"] == {"REQUIRE_APPROVAL": 3}


def test_a_bundle_that_enrols_nobody_is_judged_all_the_same(place: Place) -> None:
    """A single file of rules can be tried before there is a whole bundle, and the report says so."""
    file = place.write("i.jsonl", lines(intent("a", 5)))
    answer, _ = place.json("impact", "--policies", "p/money.yaml", "--policies", "p/actions.yaml", "--intents", file)
    assert (answer["enrols_nobody"], answer["after"]["decisions"]) == (True, {"ALLOW": 1})


def test_a_bundle_that_only_observes_shows_what_it_would_hold(place: Place) -> None:
    """Where nothing stood before, what would act is what one wants to see."""
    place.write("p/bundle.yaml", "mode: observe\n")
    file = place.write("i.jsonl", lines(intent("a", 500)))
    answer, _ = place.json("impact", "--policies", "p", "--intents", file)
    assert (answer["only_observed"], answer["after"]["held"]) == (1, 1)


def test_people_read_a_short_report(place: Place) -> None:
    """Head, both sides, rules, then what widens one by one."""
    file = place.write("i.jsonl", lines(intent("a\x1b[2J", 50)))
    assert run(["policy", "impact", "--policies", "p", "--against", "q", "--intents", file]) == 0
    out = place.capsys.readouterr().out
    assert "on 1 intent of 1 agent, 2026-01-01 00:00:00Z to 2026-01-01 00:00:00Z" in out
    assert "held\t100.0% (above 5 to 10 %)\t0.0% (below 5 to 10 %)" in out
    assert "widened: 1\n" in out
    assert "a\\x1b[2J of payer on pay.bill: REQUIRE_APPROVAL -> ALLOW (money/large -> money/small)" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("i.jsonl", lines(intent("a", 5)) + '{"job_id": "b"\n', "i.jsonl:2:15: error: this is not JSON"),
        (
            "i.jsonl",
            lines(intent("a", 5), intent("a", 6)),
            "i.jsonl:2:12: error: job `a` of agent `payer` stands twice",
        ),
        ("i.jsonl", '{"job_id": "a", "agent_id": "x", "topc": "t"}\n', "i.jsonl:1:34: error: unknown key `topc`"),
        ("i.jsonl", "\n\n", "i.jsonl:1:1: error: the file holds no intent"),
        (
            "i.yaml",
            "- {job_id: a, agent_id: x, topic: t, at_ms: soon}\n",
            "i.yaml:1:45: error: expected a whole number",
        ),
        ("i.yaml", "- x\n", "i.yaml:1:3: error: an intent is a mapping of keys"),
        ("i.yaml", "a: 1\n", "i.yaml:1:1: error: this is no list"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_line(place: Place, name: str, text: str, said: str) -> None:
    """Exit 2, and with --json one object."""
    file = place.write(name, text)
    answer, err = place.json("impact", "--policies", "p", "--intents", file, code=2)
    assert answer["ok"] is False
    assert said in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--policies", "bad", "--intents", "i.jsonl"), 1),
        (("--policies", "p", "--intents", "i.jsonl", "--against", "bad"), 1),
        (("--policies", "p", "--intents", "none.jsonl"), 2),
        (("--policies", "p", "--against", "q"), 2),
        (("--policies", "p", "--intents", "i.jsonl", "--since", "soon"), 2),
        (("--policies", "p", "--intents", "i.jsonl", "--log", "log"), 2),
        (("--policies", "p", "--log", "none"), 2),
        (("--policies", "p"), 3),
    ],
)
def test_exit_codes(place: Place, words: tuple[str, ...], code: int) -> None:
    """1 for faults of the policies, 2 for unusable input, 3 where no broker answers."""
    place.write("i.jsonl", lines(intent("a", 5)))
    place.write("bad/x.yaml", BROKEN)
    assert place.json("impact", *words, code=code)[0]["ok"] is False


# --- the log, in a copy


def copied(place: Place) -> str:
    world = World()
    world.submit("j1", "job.deploy.web")
    (place.root / "log").touch()
    write_copy(place.root / "log", "default", 3, {}, world.records())
    return str(place.root / "log")


def test_the_log_says_what_was_decided_before(place: Place) -> None:
    """A copy of it is enough; agents that the new bundle does not enrol are refused, and listed."""
    answer, _ = place.json("impact", "--policies", "p", "--log", copied(place))
    assert answer["before"]["decisions"] == {"REQUIRE_APPROVAL": 1}
    assert answer["after"]["decisions"] == {"REFUSED": 1}
    assert [each["agent_id"] for each in answer["refused"]] == ["deployer"]


def test_a_log_without_enough_results_gives_no_baseline(place: Place) -> None:
    """Exit 1, and no file."""
    answer, _ = place.json("baseline", "--log", copied(place), code=1)
    assert (answer["ok"], answer["file"], answer["topics"]) == (False, None, {})
    assert not (place.root / "baseline.json").exists()
