"""The other verbs that need no broker, through the command line: `policy check`, `test` and `diff`."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_place import ACTIONS, AGENTS, BROKEN, FENCE, RULES, WARNED, Place, made

from sluicegate.cli.main import run

ARTICLE = str(Path(__file__).parent / "corpus" / "article")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    return made(tmp_path, capsys, monkeypatch)


# --- check


def test_check_takes_several_files_and_folders_as_one_bundle(place: Place) -> None:
    """`policy check PATH...`: what one file declares the others may use, and the snapshot is that of all together."""
    extra = place.write("extra/fence.yaml", FENCE)
    answer, _ = place.json("check", "p", extra)
    assert (answer["ok"], answer["faults"]) == (True, [])
    place.write("all/fence.yaml", FENCE)
    for name in ("money.yaml", "actions.yaml", "agents.yaml"):
        place.write(f"all/{name}", (place.root / "p" / name).read_text())
    assert place.json("check", "all")[0]["snapshot"] == answer["snapshot"]
    assert place.json("check", "p")[0]["snapshot"] != answer["snapshot"]


def test_check_takes_the_articles_seven_files(place: Place) -> None:
    """They pass unmodified, as a folder and one by one."""
    files = sorted(str(path) for path in Path(ARTICLE).iterdir())
    assert len(files) == 7
    answer, _ = place.json("check", ARTICLE)
    assert answer["ok"] is True
    assert place.json("check", *files)[0] == answer


def test_check_lists_every_fault_with_all_its_fields(place: Place) -> None:
    """`file`, `line`, `column`, `text`, `message`, `fix`, `severity`; exit 1."""
    place.write("p/broken.yaml", BROKEN)
    answer, _ = place.json("check", "p", code=1)
    assert answer["ok"] is False
    assert answer["snapshot"] is None
    (fault,) = answer["faults"]
    assert fault == {
        "file": "broken.yaml",
        "line": 2,
        "column": 41,
        "text": "denied",
        "message": "`denied` is not known here",
        "fix": "did you mean `deny`?",
        "severity": "error",
    }


def test_a_warning_leaves_exit_0(place: Place) -> None:
    """Warnings stand among the faults, and the bundle is good."""
    place.write("p/warned.yaml", WARNED)
    answer, _ = place.json("check", "p")
    assert answer["ok"] is True
    assert [fault["severity"] for fault in answer["faults"]] == ["warning"]


def test_the_same_file_name_twice_is_a_fault(place: Place) -> None:
    """A bundle holds each name once; which files they are is said."""
    other = place.write("q/money.yaml", FENCE)
    answer, _ = place.json("check", "p", other, code=1)
    assert [fault["message"] for fault in answer["faults"]] == [f"`money.yaml` is given twice, by `p` and by `{other}`"]


@pytest.mark.parametrize("words", [("check", "nowhere"), ("check", "p", "nowhere"), ("check", "empty")])
def test_what_cannot_be_read_at_all_is_unusable(place: Place, words: tuple[str, ...]) -> None:
    """Exit 2; with --json the one object says why, and so does stderr."""
    (place.root / "empty").mkdir()
    answer, err = place.json(*words, code=2)
    assert answer["ok"] is False
    assert words[-1] in answer["error"]
    assert err == f"error: {answer['error']}\n"


# --- test

CASES = """cases:
  - name: a small bill is paid
    intent: { topic: pay.bill, payload: { order: { total: 5 } }, confidence: 0.9 }
    expect: { decision: ALLOW, rules: [money/small] }
  - name: a large bill waits
    intent: { topic: pay.bill, payload: { order: { total: 500 } }, confidence: 0.9 }
    expect: { decision: REQUIRE_APPROVAL, constraints: { max_runtime_sec: 60, read_only: true } }
"""


def test_cases_beside_a_bundle_pass(place: Place) -> None:
    """PASS, the case and the time for each; exit 0."""
    place.write("p/cases/bills.yaml", CASES)
    answer, _ = place.json("test", "p")
    assert (answer["ok"], answer["passed"], answer["failed"]) == (True, 2, 0)
    assert [(case["file"], case["name"], case["ok"], case["reason"]) for case in answer["cases"]] == [
        ("bills.yaml", "a small bill is paid", True, None),
        ("bills.yaml", "a large bill waits", True, None),
    ]
    assert all(case["duration_ms"] > 0 for case in answer["cases"])
    assert run(["policy", "test", "p"]) == 0
    out = place.capsys.readouterr().out.splitlines()
    assert out[0].startswith("PASS bills.yaml: a small bill is paid (")
    assert out[0].endswith(" ms)")
    assert out[-1].startswith("2 passed, 0 failed in ")


def test_a_case_that_fails_is_told_with_its_reason(place: Place) -> None:
    """FAIL, what was expected, what came and why; exit 1."""
    place.write("p/cases/bills.yaml", CASES.replace("total: 500", "total: 50").replace("a large", "a \u202elarge"))
    answer, _ = place.json("test", "p", code=1)
    assert (answer["ok"], answer["passed"], answer["failed"]) == (False, 1, 1)
    assert answer["cases"][1]["reason"].startswith("expected REQUIRE_APPROVAL, got ALLOW; ")
    assert run(["policy", "test", "p"]) == 1
    out = place.capsys.readouterr().out
    assert "FAIL bills.yaml: a \\u202elarge bill waits (" in out
    assert "     expected REQUIRE_APPROVAL, got ALLOW" in out
    assert "1 passed, 1 failed" in out


def test_cases_are_no_part_of_the_bundle(place: Place) -> None:
    """The snapshot is the same with and without them."""
    before = place.json("check", "p")[0]
    place.write("p/cases/bills.yaml", CASES)
    assert place.json("check", "p")[0] == before
    assert place.json("test", "p")[0]["policy_snapshot"] == before["snapshot"]


def test_a_bundle_without_cases_is_unusable(place: Place) -> None:
    """No folder, an empty one, a file that holds none or a wrong one: exit 2, since nothing was tested."""
    _, err = place.json("test", "p", code=2)
    assert "put cases there" in err
    (place.root / "p" / "cases").mkdir()
    place.json("test", "p", code=2)
    place.write("p/cases/bills.yaml", "cases: []\n")
    place.json("test", "p", code=2)
    place.write("p/cases/bills.yaml", CASES.replace("expect", "expects"))
    answer, err = place.json("test", "p", code=2)
    assert "bills.yaml:4:5: error: unknown key `expects`; did you mean `expect`?" in err
    assert len(answer["faults"]) == 4


def test_a_broken_bundle_is_not_tested(place: Place) -> None:
    """Faults, exit 1, no case runs."""
    place.write("p/cases/bills.yaml", CASES)
    place.write("p/broken.yaml", BROKEN)
    answer, err = place.json("test", "p", code=1)
    assert answer["ok"] is False
    assert "cases" not in answer
    assert "broken.yaml:2:41" in err


# --- diff


def test_diff_says_in_words_what_changes(place: Place) -> None:
    """Exit 0 whatever changes; the same bundle has no difference."""
    place.write("q/money.yaml", RULES.replace("amount_usd_above: 100", "amount_usd_above: 900"))
    place.write("q/actions.yaml", ACTIONS)
    place.write("q/agents.yaml", AGENTS)
    answer, err = place.json("diff", "p", "q")
    assert err == ""
    assert answer["before"] == place.json("check", "p")[0]["snapshot"]
    assert answer["after"] == place.json("check", "q")[0]["snapshot"]
    (sentence,) = answer["differences"]
    assert "large" in sentence
    assert "900" in sentence
    assert run(["policy", "diff", "p", "q"]) == 0
    assert place.capsys.readouterr().out == sentence + "\n"
    assert place.json("diff", "p", "p")[0]["differences"] == []
    assert run(["policy", "diff", "p", "p"]) == 0
    assert place.capsys.readouterr().out == "nothing changes\n"


def test_a_broken_side_has_no_difference(place: Place) -> None:
    """Faults, exit 1; what cannot be read is exit 2."""
    place.write("q/broken.yaml", BROKEN)
    for words in (("p", "q"), ("q", "p")):
        answer, err = place.json("diff", *words, code=1)
        assert answer["faults"][0]["file"] == "broken.yaml"
        assert "1 fault in q" in err
    place.json("diff", "p", "nowhere", code=2)
