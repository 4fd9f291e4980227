"""`policy check --workers`: what no worker can enforce is said before anything is granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from policy_place import ACTIONS, AGENTS, RULES, Place, made

from sluicegate.cli.main import run
from sluicegate.clients.capabilities import capability, manifest

WORKERS = """- pool: default
  credentials: ["", read_only]
  handles:
    - topics: "pay.*"
      constraints: { max_runtime_sec: worker, max_output_bytes: worker, network_allowlist: worker }
"""
SHORT = "{ max_runtime_sec: worker }"


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    return made(tmp_path, capsys, monkeypatch)


def faults(place: Place, workers: str, code: int) -> list[tuple[str, int, str, str]]:
    """(file, line, severity, message) of each fault."""
    place.write("workers.yaml", workers)
    answer, _ = place.json("check", "p", "--workers", "workers.yaml", code=code)
    assert answer["ok"] is (code == 0)
    return [(each["file"], each["line"], each["severity"], each["message"]) for each in answer["faults"]]


def ruled(place: Place, constraints: str, topics: str = "pay.*", more: str = "") -> None:
    """One rule, with its constraints in line 5."""
    place.write(
        "p/money.yaml",
        f"rules:\n  - id: one\n    match: {{ topics: ['{topics}'] {more} }}\n    decision: allow_with_constraints\n"
        f"    constraints: {constraints}\n",
    )


def worker(topics: str, constraints: str = "{}", pool: str = "default", credentials: str = "['']") -> str:
    return (
        f"- pool: {pool}\n  credentials: {credentials}\n  handles:\n"
        f"    - {{ topics: '{topics}', constraints: {constraints} }}\n"
    )


def test_workers_that_enforce_all_are_fine(place: Place) -> None:
    """Runtime by the worker, `read_only` by a credential set: no fault."""
    assert faults(place, WORKERS, 0) == []


def test_what_no_worker_enforces_is_an_error_at_the_constraint(place: Place) -> None:
    """File and line of the constraint, its name, rule and handler, what to do; exit 1; printed like other faults."""
    workers = WORKERS.replace(", read_only", "")
    message = "no worker enforces `read_only` of `large` for `pay.*` in pool `default`"
    assert faults(place, workers, 1) == [("money.yaml", 6, "error", message)]
    assert run(["policy", "check", "p", "--workers", "workers.yaml"]) == 1
    out = place.capsys.readouterr().out
    assert (
        f"money.yaml:6:41: error: {message}\n    read_only\n    fix: give the worker a credential set `read_only`"
        in out
    )


@pytest.mark.parametrize("word", ["argument", "budget", "handler"])
def test_a_typed_limit_needs_a_word_of_who_enforces_it(place: Place, word: str) -> None:
    """`max_amount_usd` is enforced where the handler's registration says how, and nowhere else."""
    ruled(place, "{ max_amount_usd: 10 }")
    assert faults(place, worker("pay.*", f"{{ max_amount_usd: {word} }}"), 0) == []
    assert len(faults(place, worker("pay.*", SHORT), 1)) == 1


def test_another_worker_of_the_pool_is_enough(place: Place) -> None:
    """No worker: one that enforces it in the same pool, on the same topics, suffices; in another pool it does not."""
    ruled(place, "{ max_amount_usd: 10 }")
    lacking, able = worker("pay.*", SHORT), worker("pay.bill", "{ max_amount_usd: budget }")
    assert faults(place, lacking + able, 0) == []
    other = worker("pay.*", "{ max_amount_usd: budget }", pool="other")
    assert len(faults(place, lacking + other, 1)) == 1


def test_the_first_handler_that_takes_a_topic_is_asked(place: Place) -> None:
    """A handler behind a wider one never gets a job: what it enforces counts for nothing, nor does what it lacks."""
    ruled(place, "{ max_amount_usd: 10 }", topics="pay.bill")
    able, wide = "{ topics: pay.bill, constraints: { max_amount_usd: budget } }", '{ topics: "*" }'
    head = "- pool: default\n  handles:\n"
    assert faults(place, f"{head}    - {able}\n    - {wide}\n", 0) == []
    assert len(faults(place, f"{head}    - {wide}\n    - {able}\n", 1)) == 1


def test_default_constraints_and_levels_are_checked(place: Place) -> None:
    """`default_constraints` where a rule names none, and the rules of autonomy levels: each at its own line."""
    place.write("p/bundle.yaml", "default_constraints:\n  max_affected_rows: 5\n")
    place.write("p/money.yaml", "rules:\n  - { match: { topics: ['pay.*'] }, decision: allow_with_constraints }\n")
    place.write(
        "p/levels.yaml",
        "autonomy_levels:\n  level_0:\n    name: new\n    rules:\n      - match: { topics: ['pay.*'] }\n"
        "        decision: require_approval\n        constraints: { max_affected_users: 3 }\n",
    )
    found = faults(place, worker("pay.*", SHORT), 1)
    assert [(file, line) for file, line, _, _ in found] == [("bundle.yaml", 2), ("levels.yaml", 7)]


def test_a_topic_that_no_handler_takes_is_a_warning(place: Place) -> None:
    """At the action's topic; nothing is refused for it."""
    place.write("p/actions.yaml", ACTIONS + '  - { topics: ["drop.*"], pool: heavy }\n')
    assert faults(place, WORKERS, 0) == [("actions.yaml", 3, "warning", "no handler of pool `heavy` takes `drop.*`")]


def test_the_pool_of_the_action_counts(place: Place) -> None:
    """A worker of another pool enforces nothing for it."""
    place.write("p/actions.yaml", ACTIONS.replace("risk_tags: [money]", "risk_tags: [money], pool: heavy"))
    ruled(place, "{ max_amount_usd: 10 }")
    able, lacking = worker("pay.*", "{ max_amount_usd: budget }"), worker("pay.*", SHORT, pool="heavy")
    assert len(faults(place, able + lacking, 1)) == 1


def test_an_allowlist_that_no_worker_can_read_is_an_error(place: Place) -> None:
    """A `network_allowlist` entry that is no host, address or block would refuse every grant."""
    ruled(place, '{ network_allowlist: ["https://api.example.com/"] }')
    ((file, line, severity, message),) = faults(place, WORKERS, 1)
    assert (file, line, severity) == ("money.yaml", 5, "error")
    assert message.startswith("`https://api.example.com/` in the allowlist is no host, address or block")


@pytest.mark.parametrize(
    ("constraints", "by", "fine"),
    [
        ("{ floor: 5 }", "argument", False),  # merges to the larger value: a lower limit
        ("{ floor: 5 }", "handler", True),
        ("{ may_write: false }", "argument", False),
        ("{ may_write: false }", "handler", True),
        ("{ read_only: false }", "argument", True),
        ("{ path_allowlist: ['/a'] }", "argument", False),  # it would refuse each such grant
        ("{ path_allowlist: ['/a'] }", "handler", True),
    ],
)
def test_words_count_only_for_what_they_can_enforce(place: Place, constraints: str, by: str, fine: bool) -> None:
    """A worker checks upper limits of numbers, and `false` asks for something but with `read_only` and `dry_run`."""
    types = "{ floor: { type: number, merge: max }, may_write: { type: boolean, merge: and } }"
    place.write("p/bundle.yaml", f"constraint_types: {types}\n")
    ruled(place, constraints)
    name = constraints.split()[1].rstrip(":")
    assert len(faults(place, worker("pay.*", f"{{ {name}: {by} }}"), 0 if fine else 1)) == (0 if fine else 1)


def test_several_true_constraints_need_one_set_together(place: Place) -> None:
    """`dry_run+read_only` is a set of its own; two sets are not it."""
    ruled(place, "{ read_only: true, dry_run: true }")
    assert faults(place, worker("pay.*", credentials="[dry_run+read_only]"), 0) == []
    assert len(faults(place, worker("pay.*", credentials="[dry_run, read_only]"), 1)) == 2


@pytest.mark.parametrize(
    ("workers", "line", "message"),
    [
        ("pool: default\n", 1, "this is no list"),
        ("- pool: default\n", 1, "`handles` is missing"),
        ("- pool: Default\n  handles: [{ topics: a }]\n", 1, "`Default` is no valid name here"),
        ("- pool: default\n  handles: [{ topic: a }]\n", 2, "unknown key `topic`"),
        ("- pool: default\n  handles: []\n", 2, "`handles` is empty"),
        ("- pool: default\n  handles: [{ topics: 'a?' }]\n", 2, "`?` means nothing in a pattern"),
        ("- pool: default\n  handles: [{ topics: a, constraints: { x: us } }]\n", 2, "`us` is not known here"),
        ("- pool: default\n  credentials: [b+a]\n  handles: [{ topics: a }]\n", 2, "no grant chooses the cred"),
        ("", 1, "the document is empty"),
    ],
)
def test_a_broken_manifest_is_a_fault_with_its_line(place: Place, workers: str, line: int, message: str) -> None:
    """Manifests are read as strictly as policies."""
    found = faults(place, workers, 1)
    assert any(
        (file, at, severity) == ("workers.yaml", line, "error") and said.startswith(message)
        for file, at, severity, said in found
    ), found


def test_a_manifest_that_is_not_there_is_unusable(place: Place) -> None:
    """Exit 2, and the one object says why."""
    answer, _ = place.json("check", "p", "--workers", "nowhere.yaml", code=2)
    assert "cannot read `nowhere.yaml`" in answer["error"]


def test_a_workers_own_manifest_is_read(place: Place) -> None:
    """What `manifest` gives, in JSON, is what the check reads."""
    handlers = [capability("pay.*", limits={"max_amount_usd": "order.total"}, enforces=("path_allowlist",))]
    made_by: list[dict[str, Any]] = [manifest("default", handlers, {"", "read_only"})]
    place.write("p/money.yaml", RULES)
    place.write("p/agents.yaml", AGENTS)
    import json

    (place.root / "workers.json").write_text(json.dumps(made_by))
    answer, _ = place.json("check", "p", "--workers", "workers.json")
    assert (answer["ok"], answer["faults"]) == (True, [])
