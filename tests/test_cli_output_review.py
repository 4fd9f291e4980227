"""`sluicegate output review`: what may leave of an output, through the command line, without a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.cli.main import run

CORPUS = Path(__file__).parent / "corpus"
ARTICLE = CORPUS / "article"
OUTPUT = yaml.safe_load((CORPUS / "review-article.yaml").read_text())["cases"][0]["document"]
OWN = """rules:
  - { id: pay, match: { topics: ["job.pay.*"] }, remove: [cost] }
  - { id: inside, match: { topics: ["*"], audience: [internal] }, detect: { ssn: allow } }
  - { id: all, match: { topics: ["*"] }, detect: { ssn: quarantine } }
"""


class Desk:
    """A working folder with the command line beside it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capsys = capsys

    def write(self, name: str, content: Any) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def answer(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The one object on stdout of `output review --json`."""
        assert run(["output", "review", *words, "--json"]) == code
        out = self.capsys.readouterr().out
        assert out.count("\n") == 1
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    def say(self, *words: str, code: int = 0) -> str:
        """What people see."""
        assert run(["output", "review", *words]) == code
        return self.capsys.readouterr().out


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


def test_the_answer_has_the_articles_five_keys_and_the_document(desk: Desk) -> None:
    """The keys of output-safety-result.json, spelled as there, then `document`; `job_id` is null: there is no job."""
    expected = json.loads((ARTICLE / "output-safety-result.json").read_text())
    answer = desk.answer("--policies", str(ARTICLE), desk.write("o.json", OUTPUT))
    assert list(answer) == [*expected, "document"]
    assert {**answer, "job_id": expected["job_id"], "policy_snapshot": expected["policy_snapshot"]} == {
        **expected,
        "document": {
            "response": {"message": "Your refund was sent.", "customer_data": {"name": "Ada", "ssn": "[REDACTED]"}}
        },
    }
    assert answer["job_id"] is None
    assert answer["policy_snapshot"].startswith("v1:")


def test_a_clean_output_is_allowed_as_given(desk: Desk) -> None:
    """ALLOW: no details, the document as given, exit 0."""
    answer = desk.answer(desk.write("o.json", '{"b": [1, 2.5, 12345678901234567890123], "a": "Grüße"}'))
    assert answer["output_safety_decision"] == "ALLOW"
    assert (answer["original_fields_redacted"], answer["redaction_details"]) == (0, [])
    assert answer["document"] == {"b": [1, 2.5, 12345678901234567890123], "a": "Grüße"}
    assert list(answer["document"]) == ["b", "a"]


def test_a_redacted_output_is_no_failure(desk: Desk) -> None:
    """REDACT: exit 0, since what leaves is clean; the details are counted."""
    answer = desk.answer(desk.write("o.json", {"a": [{"ssn": "536-22-8471"}], "b": "mail ada@mail-example.org"}))
    assert answer["output_safety_decision"] == "REDACT"
    assert answer["original_fields_redacted"] == 2
    assert [detail["field"] for detail in answer["redaction_details"]] == ["a[0].ssn", "b"]
    assert answer["document"] == {"a": [{"ssn": "[REDACTED]"}], "b": "mail [REDACTED]"}


def test_a_quarantined_output_shows_nothing(desk: Desk) -> None:
    """QUARANTINE: `document` null, each detail `held`, exit 1; what is held stands nowhere in the answer."""
    answer = desk.answer(desk.write("o.json", {"log": "AKIAQ4J7XW2MN5RTB3KD", "ssn": "536-22-8471"}), code=1)
    assert answer["output_safety_decision"] == "QUARANTINE"
    assert answer["document"] is None
    assert answer["redaction_details"] == [{"field": "log", "reason": "Credential detected", "action": "held"}]
    assert "AKIA" not in json.dumps(answer)
    assert "536-22" not in json.dumps(answer)


@pytest.mark.parametrize("content", [b"", b"plain words", b"\xff\xfe", b'{"a": 1', b'{"a": 1, "a": 2}', b"[1] [2]"])
def test_a_file_that_is_not_json_is_quarantine(desk: Desk, content: bytes) -> None:
    """It is no unusable input: review says what would become of it."""
    answer = desk.answer(desk.write("o.json", content), code=1)
    assert answer["output_safety_decision"] == "QUARANTINE"
    assert answer["redaction_details"] == [{"field": "$", "reason": "Not JSON", "action": "held"}]
    assert answer["document"] is None


def test_a_bundle_without_an_output_policy_has_the_shipped_one(desk: Desk) -> None:
    """The snapshot is the bundle's, the rules are those of the package."""
    desk.write("p/a.yaml", 'rules: [{ match: { topics: ["*"] }, decision: deny }]\n')
    file = desk.write("o.json", {"internal_notes": "x"})
    answer = desk.answer("--policies", "p", file)
    assert answer["redaction_details"][0]["action"] == "field removed"


def test_rules_are_chosen_by_topic_and_audience(desk: Desk) -> None:
    """`--topic` and `--audience` are the job's; without them it is no topic, and customers read it."""
    own = desk.write("p/output-policy.yaml", OWN)
    file = desk.write("o.json", {"ssn": "536-22-8471", "cost": 3})
    assert desk.answer("--policies", own, file, code=1)["output_safety_decision"] == "QUARANTINE"
    assert desk.answer("--policies", own, "--audience", "internal", file)["output_safety_decision"] == "ALLOW"
    answer = desk.answer("--policies", own, "--topic", "job.pay.bill", "--audience", "internal", file)
    assert answer["document"] == {"ssn": "[REDACTED]"}


def test_several_places_are_one_bundle(desk: Desk) -> None:
    """`--policies` may be repeated, as for the other verbs."""
    own = desk.write("q/output-policy.yaml", OWN)
    rules = desk.write("p/a.yaml", 'rules: [{ match: { topics: ["*"] }, decision: deny }]\n')
    file = desk.write("o.json", {"ssn": "536-22-8471"})
    assert desk.answer("--policies", rules, "--policies", own, file, code=1)["document"] is None


def test_people_read_decision_rule_and_details(desk: Desk) -> None:
    """Without --json: the decision and who made it, the details, the document on one line."""
    said = desk.say(desk.write("o.json", {"ssn": "536-22-8471"})).splitlines()
    assert said[0].startswith("REDACT by `customer` of ")
    assert said[1:] == ["field\treason\taction", "ssn\tPII detected\treplaced with [REDACTED]", '{"ssn": "[REDACTED]"}']


def test_what_an_output_holds_cannot_steer_a_terminal(desk: Desk) -> None:
    """Escapes of a hostile key or value are spelt out."""
    said = desk.say(desk.write("o.json", {"\u001b[2J": "536-22-8471", "a": "\u202egnp"}))
    assert "\u001b" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.json"], "cannot read `nowhere.json`: no such file or directory"),
        (["--audience", "customers", "o.json"], "`customers` is no audience; did you mean `customer`?"),
        (["--policies", "nowhere", "o.json"], "cannot read `nowhere`"),
    ],
)
def test_input_that_cannot_be_used_is_exit_2(desk: Desk, words: list[str], message: str) -> None:
    """A file that is not there is no output; one object still goes to stdout."""
    desk.write("o.json", {})
    answer = desk.answer(*words, code=2)
    assert answer["ok"] is False
    assert message in answer["error"]


def test_faulty_policies_review_nothing(desk: Desk) -> None:
    """Exit 1 with the faults, as for the other verbs; no decision is made by half a bundle."""
    own = desk.write("p/output-policy.yaml", "rules:\n  - { match: { topic: [x] } }\n")
    answer = desk.answer("--policies", own, desk.write("o.json", {}), code=1)
    assert answer["ok"] is False
    assert answer["faults"][0]["message"] == "unknown key `topic`"


def test_identifiers_of_another_tenant_than_this_one_are_held(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenant is that of the settings; the default one has no name that an output could hold."""
    file = desk.write("o.json", {"tenant_id": "globex"})
    assert desk.answer(file)["output_safety_decision"] == "ALLOW"
    monkeypatch.setenv("SLUICEGATE_TENANT", "acme")
    assert desk.answer(file, code=1)["output_safety_decision"] == "QUARANTINE"
    monkeypatch.setenv("SLUICEGATE_TENANT", "globex")
    assert desk.answer(file)["output_safety_decision"] == "ALLOW"


def test_review_needs_neither_kafka_nor_clickhouse(desk: Desk) -> None:
    """Seen from outside: a process that reviewed a file has loaded neither client library."""
    file = desk.write("o.json", {"ssn": "536-22-8471"})
    program = (
        "import sys\nfrom sluicegate.cli.main import run\n"
        f"code = run(['output', 'review', '--json', {file!r}])\n"
        "roots = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(code or len(roots & {'confluent_kafka', 'quixstreams', 'faust', 'clickhouse_connect', 'chdb'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["output_safety_decision"]) == (0, "REDACT")
