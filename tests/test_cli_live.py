"""The command line against a running tenant: `up` on the run's broker, each verb as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from fixtures_kafka import RunningBroker
from fixtures_up import Tenant, running_up

from sluicegate.cli.main import run
from sluicegate.clients.call import Call
from sluicegate.clients.worker import Worker
from sluicegate.streams.kafka import Publisher

TENANT = "cli"


@pytest.fixture(scope="module")
def up(broker: RunningBroker, kafka_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """`sluicegate up --json` on a Kafka that is not ours to start, with a copy of the shipped policies."""
    with running_up(broker, kafka_dir, tmp_path_factory.mktemp("up"), TENANT) as tenant:
        yield tenant


class Said(NamedTuple):
    """What a verb answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Stdout as the one JSON document it must be."""
        return json.loads(self.out)


class Cli:
    """Calls verbs in this process, as this tenant."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Said:
        self._capsys.readouterr()
        code = run(words)
        return Said(code, *self._capsys.readouterr())

    def held(self) -> tuple[str, str]:
        """Submit a job that waits for a person; its id and its request's id."""
        said = self("job", "submit", "job.deploy.staging", "{}", "--agent", "deployer", "--wait", "3", "--json")
        assert said.code == 4, said
        found = said.json()
        assert found["decision"]["decision"] == "REQUIRE_APPROVAL"
        return found["job_id"], found["decision"]["request_id"]


@pytest.fixture
def cli(up: Tenant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line of the tenant."""
    for name, value in up.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Cli(capsys)


def test_up_runs_each_processor_as_a_process_of_its_own(up: Tenant) -> None:
    """Seven processors, seven live processes, each with a health page; one JSON document says so."""
    processes = up.ready["processes"]
    assert set(processes) == {"gate.0", "outputs.0", "desk.0", "watch.0", "oversight.0", "keys.0", "projector.0"}
    assert len({each["pid"] for each in processes.values()}) == 7
    for each in processes.values():
        assert psutil.pid_exists(each["pid"])
        assert each["health_port"] > 0
    assert up.ready["policy_snapshot"].startswith("v1:")


def test_a_denial_reaches_the_agent_with_its_reason(cli: Cli) -> None:
    """A held job is listed, shown whole, denied; the agent's status says denied, by whom and why; exit 1."""
    job, request = cli.held()
    assert request in [each["request_id"] for each in cli("approvals", "list", "--as", "rosa", "--json").json()]
    shown = cli("approvals", "show", request, "--as", "ken")
    assert shown.code == 0
    for word in ("job.deploy.staging", "deployer", "rosa", "max_runtime_sec", "change-control/hold-production-changes"):
        assert word in shown.out
    assert cli("approvals", "deny", request, "--reason", "not on a Tuesday", "--as", "ken").code == 0
    status = cli("job", "status", job, "--agent", "deployer", "--wait", "20")
    assert status.code == 1
    assert "denied by person/ken: not on a Tuesday" in status.out
    late = cli("approvals", "approve", request, "--as", "mei")
    assert late.code == 1
    assert "ken was first" in late.out


def test_an_owner_does_not_approve_their_own_agents_job(cli: Cli) -> None:
    """The desk's refusal is exit 1 with its code."""
    _, request = cli.held()
    said = cli("approvals", "approve", request, "--as", "rosa")
    assert said.code == 1
    assert said.out.startswith("refused [")


def test_an_approval_may_tighten_and_never_loosen(cli: Cli) -> None:
    """A constraint above the ceiling is refused; one below it is taken and stands in the grant."""
    job, request = cli.held()
    assert cli("approvals", "approve", request, "--constraint", "max_runtime_sec=9000", "--as", "ken").code == 1
    assert cli("approvals", "approve", request, "--constraint", "max_runtime_sec=60", "--as", "ken").code == 0
    cli("audit", "coverage", "--wait", "20")
    rows = cli("audit", "query", f"SELECT constraints FROM granted WHERE job_id = '{job}'", "--json").json()["rows"]
    assert rows == [{"constraints": '{"max_runtime_sec":60}'}]


def test_a_job_is_withdrawn_before_it_starts(cli: Cli) -> None:
    """`job cancel` ends an open request; the outcome is withdrawn, not denied."""
    job, _ = cli.held()
    said = cli("job", "cancel", job, "--agent", "deployer", "--reason", "changed my mind", "--wait", "20", "--json")
    assert said.code == 0, said
    assert said.json()["answer"]["outcome"] == "withdrawn"


def test_an_unknown_job_is_said_to_be_unknown(cli: Cli) -> None:
    """No answer about a job is exit 4, in words that name both possible causes."""
    said = cli("job", "status", "job-nobody", "--agent", "deployer")
    assert said.code == 4
    assert "no such job" in said.out


def test_a_pause_holds_and_a_resume_lets_go(cli: Cli) -> None:
    """A paused scope is acknowledged by every gate, holds its jobs, and is judged again after the resume."""
    paused = cli("control", "pause", "agent:cleaner", "--reason", "drill", "--json").json()
    assert (paused["acknowledged"], paused["missing"]) == (["0"], [])
    held = cli("job", "submit", "job.report.read", "--agent", "cleaner", "--wait", "2", "--json").json()
    assert held["state"] == "held"
    assert "agent:cleaner" in cli("control", "show").out
    assert cli("control", "resume", "agent:cleaner").code == 0
    again = cli("job", "status", held["job_id"], "--agent", "cleaner", "--wait", "7", "--json").json()
    assert again["decision"]["decision"] == "ALLOW"
    assert cli("control", "resume", "agent:cleaner").code == 2
    assert cli("control", "pause", "nonsense").code == 2


def test_a_stop_pauses_its_scope_and_says_what_the_workers_answered(cli: Cli) -> None:
    """Where nothing runs it is done as soon as nothing more can start; it is one JSON document."""
    stopped = cli("control", "stop", "agent:cleaner", "--reason", "drill", "--json")
    assert stopped.code == 0
    found = stopped.json()
    assert (found["acknowledged"], found["answers"], found["silent"]) == (["0"], [], [])
    shown = cli("control", "show", "--json").json()
    assert (shown["paused"], shown["stops"][0]["command_id"]) == (["agent:cleaner"], found["command_id"])
    assert cli("control", "resume", "agent:cleaner").code == 0


def test_a_job_that_waits_for_a_person_is_over_once_it_is_revoked(cli: Cli) -> None:
    """An approval afterwards permits nothing, and `control show` says who took it back."""
    job, request = cli.held()
    assert cli("control", "revoke", f"job:{job}", "--reason", "leaked", "--json").json()["acknowledged"] == ["0"]
    assert cli("control", "show", "--json").json()["revocations"][0]["reason"] == "leaked"
    assert cli("approvals", "approve", request, "--as", "ken").code == 0
    ended = cli("job", "status", job, "--agent", "deployer", "--wait", "10", "--json").json()
    assert ended["outcome"]["outcome"] == "withdrawn"


def test_one_goes_back_to_the_policy_before(cli: Cli, up: Tenant) -> None:
    """Under the settings that hold; again goes forth again. Nobody breaks a glass that the policy does not have."""
    first = cli("control", "show", "--json").json()
    bundle = up.policies / "bundle.yaml"
    before = bundle.read_text()
    bundle.write_text(before.replace("max_runtime_sec: 300", "max_runtime_sec: 200"))
    second = cli("policy", "publish", "--json").json()["snapshot"]
    bundle.write_text(before)
    back = cli("policy", "rollback", "--reason", "oops", "--json").json()
    assert (back["snapshot"], back["previous"], back["awaiting_sign_off"]) == (first["policy_snapshot"], second, False)
    after = cli("control", "show", "--json").json()
    assert (after["policy_snapshot"], after["settings"]) == (first["policy_snapshot"], first["settings"])
    assert cli("policy", "rollback", "v1:none").code == 2
    assert cli("policy", "sign-off", second, "--as", "ken").code == 2
    assert cli("control", "break-glass", "everything", "--reason", "fire", "--as", "ken").code == 2


def test_the_tail_says_the_log_in_sentences(cli: Cli) -> None:
    """Sentences by default, JSON lines on request, filtered by agent and by queue; no sealed byte in either."""
    job, request = cli.held()
    said = cli("tail", "--from-beginning", "--no-follow").out
    assert f"deployer wants to run job.deploy.staging as job {job}" in said
    lines = [
        json.loads(line) for line in cli("tail", "--from-beginning", "--no-follow", "--all", "--json").out.splitlines()
    ]
    assert {"Intent", "Decision", "ApprovalRequest", "Command", "SnapshotPublished"} <= {line["type"] for line in lines}
    intent = next(line["event"] for line in lines if line["type"] == "Intent")
    assert set(intent["payload"]) == {"algorithm", "key_id", "size_bytes"}
    assert [line["timestamp_ms"] for line in lines] == sorted([line["timestamp_ms"] for line in lines])
    one = cli("tail", "--from-beginning", "--no-follow", "--agent", "researcher", "--json").out.splitlines()
    assert {json.loads(line)["event"]["agent_id"] for line in one} <= {"researcher"}
    queue = cli("tail", "--from-beginning", "--no-follow", "--queue", "default").out
    assert request in queue
    assert "wants to run" not in queue
    assert cli("tail", "--from-beginning", "--no-follow", "--queue", "nobody").out == ""


def test_a_level_is_given_with_a_reason_and_every_gate_knows(cli: Cli, up: Tenant) -> None:
    """An operator gives an agent a level; without a reason, or of nobody's name, nothing is sent."""
    said = cli("autonomy", "set", "deployer", "1", "--reason", "ran for a year elsewhere", "--json")
    assert said.code == 0, said
    found = said.json()
    assert (found["kind"], found["scope"], found["level"]) == ("set_level", "agent:deployer", 1)
    assert cli("autonomy", "set", "deployer", "1").code == 2
    assert cli("autonomy", "history", "no'body").code == 2
    cli.held()
    rows = cli("autonomy", "history", "deployer", "--wait", "20", "--json").json()["rows"]
    assert [(each["change"], each["level"], each["reason"]) for each in rows] == [
        ("set", 1, "ran for a year elsewhere")
    ]


def test_an_incident_costs_the_level(cli: Cli) -> None:
    """Reported by the monitor with a key here; another one has none, and an incident says what happened."""
    said = cli("agents", "incident", "deployer", "--kind", "safety", "--note", "it deployed on a Sunday", "--json")
    assert said.code == 0, said
    assert cli("agents", "incident", "deployer", "--kind", "safety", "--note", " ").code == 2
    assert cli("agents", "incident", "deployer", "--kind", "x", "--note", "y", "--monitor", "nobody").code == 2
    rows = cli("autonomy", "history", "deployer", "--wait", "20", "--json").json()["rows"]
    last = rows[-1]
    assert (last["change"], last["level"], last["by"]) == ("demoted", 0, "monitor/monitor")
    preview = cli("autonomy", "preview", "deployer", "1", "--json")
    assert preview.code == 0, preview
    assert preview.json()["intents"] > 0
    assert cli("autonomy", "preview", "deployer", "7").code == 2


def test_a_finished_job_is_looked_at_found_wrong_and_counted(cli: Cli, up: Tenant, tmp_path: Path) -> None:
    """A refund that must be looked at: its approver may not judge it, another person's word is a finding."""
    assert cli("audit", "report", "--period", "1d").code == 1  # nothing has finished yet
    order = '{"order":{"id":"o-1","total_usd":6000,"age_days":3},"customer":{"prior_refunds_this_quarter":0}}'
    said = cli("job", "submit", "job.support.refund", order, "--agent", "supporter", "--wait", "5", "--json").json()
    worker = Worker(up.settings(), "default")

    @worker.handles("job.support.*", spends=("max_amount_usd",))
    def refund(call: Call) -> dict[str, Any]:
        call.budget("max_amount_usd").spend(1500)
        return {"refunded": 1500}

    worker.start()
    try:
        assert cli("approvals", "approve", said["decision"]["request_id"], "--as", "mei").code == 0
        done = cli("job", "status", said["job_id"], "--agent", "supporter", "--wait", "30")
        assert done.code == 0, done
    finally:
        worker.stop()
    queue = cli("approvals", "list", "--as", "mei", "--json").json()
    (request,) = [each["request_id"] for each in queue if each["kind"] == "audit"]
    shown = cli("approvals", "show", request, "--as", "mei").out
    assert "approved by mei" in shown
    assert '"refunded": 1500' in shown
    assert cli("approvals", "finding", request, "wrong", "--as", "rosa").code == 2  # an error has a class and more
    said_of_it = ("--class", "wrong-customer", "--severity", "high", "--note", "paid to somebody else")
    refused = cli("approvals", "finding", request, "wrong", *said_of_it, "--as", "mei")
    assert (refused.code, refused.out.startswith("refused [own_approval]")) == (1, True)
    assert cli("approvals", "finding", request, "wrong", *said_of_it, "--as", "rosa").code == 0
    page = tmp_path / "report.html"
    report = cli("audit", "report", "--period", "1d", "--html", str(page), "--json")
    assert report.code == 0, report
    found = report.json()
    assert (found["whole"]["jobs"], found["whole"]["wrong"], found["whole"]["rate"]) == (1, 1, 1.0)
    assert "wrong-customer" in page.read_text()
    assert cli("confidence", "report").code in (0, 1)


def test_verify_is_clean_and_can_fail(cli: Cli, tmp_path: Path) -> None:
    """The live log and a copy of it are clean; a copy with one record less is not, exit 1."""
    cli.held()
    copy = tmp_path / "log.jsonl"
    live = cli("verify", "--copy", str(copy), "--json")
    assert live.code == 0, live
    assert live.json()["recomputed"]["Decision"] > 0
    offline = cli("verify", "--log", str(copy), "--json")
    assert (offline.code, offline.json()["recomputed"]) == (0, live.json()["recomputed"])
    lines = copy.read_text().splitlines(keepends=True)
    gone = next(number for number, line in enumerate(lines) if '"topic": "approval.requests"' in line)
    (tmp_path / "cut.jsonl").write_text("".join([*lines[:gone], *lines[gone + 1 :]]))
    cut = cli("verify", "--log", str(tmp_path / "cut.jsonl"))
    assert cut.code == 1
    assert "fault [" in cut.out


def test_an_erased_job_ends_and_the_log_is_still_verified(cli: Cli) -> None:
    """The key goes, the log says so; what waited for people is over, and its decision is recomputed from facts."""
    job, request = cli.held()
    asked = cli("erase", "--job", job, "--reason", "asked to")
    assert (asked.code, "here give --yes" in asked.err) == (2, True)
    said = cli("erase", "--job", job, "--reason", "asked to", "--yes", "--json")
    assert said.code == 0, said
    assert "deployer" in [unit["agent_id"] for unit in said.json()["units"]]
    assert cli("approvals", "approve", request, "--as", "ken").code == 0
    ended = cli("job", "status", job, "--agent", "deployer", "--wait", "10", "--json").json()
    assert ended["outcome"]["outcome"] == "withdrawn"
    assert ended["outcome"]["reason"].startswith("payload_erased")
    found = cli("verify", "--json")
    assert found.code == 0, found
    assert found.json()["erased"]["Decision"] == 1


def test_a_dead_letter_is_listed_shown_and_put_back(cli: Cli, up: Tenant) -> None:
    """What cannot be read is kept whole; a replay writes the same bytes again, and they die again."""
    publisher = Publisher(up.settings(), "agent.researcher")
    publisher.publish("job.intents", b"researcher", b"rubbish\x1b[2J", (("x", b"y"),))
    publisher.close()
    cli("audit", "coverage", "--wait", "20")
    letters = cli("dead-letters", "list", "--json").json()
    assert [(each["application"], each["reason"]) for each in letters] == [("gate", "malformed")]
    shown = cli("dead-letters", "show", letters[0]["letter"], "--json").json()
    assert bytes.fromhex(shown["hex"]) == b"rubbish\x1b[2J"
    assert shown["headers"] == {"x": "y"}
    replayed = cli("dead-letters", "replay", letters[0]["letter"], "--json")
    assert replayed.json()["topic"] == "job.intents"
    cli("audit", "coverage", "--wait", "20")
    assert cli("dead-letters", "show", "0/4711").code == 2


def test_the_reading_room_answers(cli: Cli) -> None:
    """A job's timeline begins with its intent; a query that writes is unusable input."""
    job, _ = cli.held()
    found = cli("audit", "timeline", job, "--wait", "20", "--json").json()["rows"]
    assert found[0]["type"] == "Intent"
    assert "Decision" in {row["type"] for row in found}
    assert cli("audit", "timeline", "job-nobody").code == 1
    assert cli("audit", "query", "DROP TABLE events").code == 2


def test_a_bundle_with_faults_is_not_published(cli: Cli, up: Tenant, tmp_path: Path) -> None:
    """Publishing refuses what does not compile, exit 2, and the active policy stays."""
    before = cli("control", "show", "--json").json()
    shutil.copytree(up.policies, tmp_path / "broken")
    (tmp_path / "broken" / "more.yaml").write_text("rules:\n  - id: x\n    decision: perhaps\n")
    said = cli("policy", "publish", str(tmp_path / "broken"))
    assert said.code == 2
    assert "more.yaml:3" in said.err
    assert cli("control", "show", "--json").json() == before


def test_an_enrolled_agent_counts_once_published(cli: Cli, up: Tenant) -> None:
    """Enrol, be refused a key, publish, be judged: login, key and document are all there, comments too."""
    said = cli("agents", "enroll", "crawler", "--owner", "ken", "--json").json()
    assert said["login"] == "agent.crawler"
    assert Path(said["key_file"]).stat().st_mode & 0o077 == 0
    early = cli("job", "submit", "job.report.read", "--agent", "crawler", "--wait", "1", "--json")
    assert early.code == 3
    assert "`agent/crawler` is not enrolled here; enrol it, and publish the policy" in early.err
    published = cli("policy", "publish", "--json")
    assert published.code == 0, published
    assert published.json()["acknowledged"] == ["0"]
    judged = cli("job", "submit", "job.report.read", "--agent", "crawler", "--wait", "5", "--json").json()
    assert judged["decision"]["decision"] == "ALLOW"
    assert judged["decision"]["policy_snapshot"] == published.json()["snapshot"] != up.ready["policy_snapshot"]
    rows = {row["agent"]: row for row in cli("agents", "list", "--json").json()}
    assert rows["crawler"]["login"] is True


def test_a_pool_without_a_topic_is_warned_of(cli: Cli, up: Tenant, tmp_path: Path) -> None:
    """An action whose pool has no topic of grants is told to whoever publishes."""
    folder = tmp_path / "pools"
    shutil.copytree(up.policies, folder)
    text = (folder / "actions.yaml").read_text().replace("pool: deploy ", "pool: moonbase ")
    (folder / "actions.yaml").write_text(text)
    said = cli("policy", "publish", str(folder), "--json")
    assert said.json()["pools_without_topic"] == ["moonbase"]
    assert "moonbase" in said.err
    assert cli("policy", "publish").code == 0


def test_a_killed_processor_comes_back(cli: Cli, up: Tenant) -> None:
    """After `kill -9` of the gate the next job is judged all the same, once."""
    os.kill(up.ready["processes"]["gate.0"]["pid"], signal.SIGKILL)
    job = cli("job", "submit", "job.deploy.staging", "--agent", "deployer", "--wait", "0.1", "--json").json()["job_id"]
    said = cli("job", "cancel", job, "--agent", "deployer", "--wait", "40", "--json")
    assert said.json()["answer"]["outcome"] == "withdrawn"
    assert cli("verify").code == 0


def test_sigterm_ends_everything(up: Tenant) -> None:
    """`up` ends with exit 0 and leaves no process behind."""
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert len(children) >= 5
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []
