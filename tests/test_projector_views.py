from __future__ import annotations

from typing import Final

from fixtures_clickhouse import project, record, rows, sample

from sluicegate.streams.clickhouse import ReadingRoom

GRANT: Final[dict[str, object]] = {"agent_id": "a", "job_id": "j", "attempt": 1, "grant_id": "g"}


def test_a_timeline_holds_all_of_one_job_in_order(room: ReadingRoom) -> None:
    """Every event about a job is in its timeline by append time, verdicts too, which name only the request."""
    project(
        room,
        [
            record("job.intents", 0, sample("Intent", job_id="j")),
            record("job.intents", 9, sample("Intent", job_id="other")),
            record("job.decisions", 1, sample("Decision", job_id="j", request_id="r", decision="REQUIRE_APPROVAL")),
            record("approval.requests", 2, sample("ApprovalRequest", job_id="j", request_id="r")),
            record("approval.verdicts", 3, sample("Verdict", request_id="r", verdict="deny", approver_id="ines")),
            record("approval.verdicts", 4, sample("Verdict", request_id="another")),
            record("approval.events", 5, sample("Resolved", job_id="j", request_id="r", outcome="denied", by="ines")),
            record("job.decisions", 6, sample("Closed", job_id="j", outcome="denied", reason="not on a Friday")),
        ],
    )
    found = rows(room, "SELECT type, outcome, by, reason FROM job_timeline WHERE job_id = 'j'")
    assert [row[0] for row in found] == ["Intent", "Decision", "ApprovalRequest", "Verdict", "Resolved", "Closed"]
    assert found[1][1] == "REQUIRE_APPROVAL"
    assert found[3][1:3] == ["deny", "ines"]
    assert found[5][1:] == ["denied", "some by", "not on a Friday"]


def test_a_timeline_tells_what_was_drawn_and_found(room: ReadingRoom) -> None:
    """A draw, the finding on it with its note and who said so, and the level that it cost."""
    drawn, found = sample("AuditDrawn", job_id="j", drawn=True), sample("AuditDrawn", job_id="k", drawn=False)
    said = {"finding": "wrong", "by": "person/ines", "note": "another customer"}
    project(
        room,
        [
            record("agent.audits", 0, drawn),
            record("agent.audits", 1, found),
            record("agent.audits", 2, sample("Finding", job_id="j", **said)),
            record("agent.autonomy", 3, sample("LevelChanged", job_id="j", change="demoted", by=None, reason="errors")),
        ],
    )
    lines = rows(room, "SELECT type, outcome, by, reason FROM job_timeline WHERE job_id = 'j'")
    assert [line[:2] for line in lines] == [["AuditDrawn", "drawn"], ["Finding", "wrong"], ["LevelChanged", "demoted"]]
    assert lines[1][2:] == ["person/ines", "another customer"]
    assert lines[2][3] == "errors"
    assert rows(room, "SELECT outcome FROM job_timeline WHERE job_id = 'k'") == [["not drawn"]]


def test_runs_under_break_glass_stand_with_who_broke_it_and_their_review(room: ReadingRoom) -> None:
    """One row a run: the command's signer and reason, and what the review said, open while nobody has said anything."""
    glass = {"break_glass": "c-1", "decision": "REQUIRE_APPROVAL"}
    project(
        room,
        [
            record("control.commands", 0, sample("Command", command_id="c-1", by="person/rosa", reason="fire")),
            record("job.decisions", 1, sample("Decision", job_id="j", agent_id="a", **glass)),
            record("job.decisions", 2, sample("Decision", job_id="k", agent_id="a", **glass)),
            record("job.decisions", 3, sample("Decision", job_id="l", agent_id="a", break_glass=None)),
            *[
                record(
                    "approval.requests",
                    at,
                    sample("ApprovalRequest", job_id=job, agent_id="a", request_id=f"r-{job}", kind="break_glass"),
                )
                for at, job in enumerate(("j", "k"), 4)
            ],
            record("approval.resolutions", 6, sample("Resolution", request_id="r-j", outcome="approved")),
        ],
    )
    found = rows(room, "SELECT job_id, broken_by, reason, review FROM break_glass_runs ORDER BY job_id")
    assert found == [["j", "person/rosa", "fire", "approved"], ["k", "person/rosa", "fire", "open"]]


def test_decisions_are_counted_by_rule(room: ReadingRoom) -> None:
    """A decision counts under each determining rule, and under `default` when there is none."""
    rule = {"layer": "safety-policy", "content_hash": "c", "decision": "DENY", "reason": None}
    project(
        room,
        [
            record(
                "job.decisions",
                0,
                sample("Decision", decision="DENY", rules=[{**rule, "id": "x"}, {**rule, "id": "y"}]),
            ),
            record("job.decisions", 1, sample("Decision", decision="DENY", rules=[{**rule, "id": "x"}])),
            record("job.decisions", 2, sample("Decision", decision="REQUIRE_APPROVAL", rules=[])),
        ],
    )
    found = rows(room, "SELECT layer, rule, decision, decisions FROM decisions_by_rule")
    assert found == [
        ["safety-policy", "x", "DENY", 2],
        ["", "default", "REQUIRE_APPROVAL", 1],
        ["safety-policy", "y", "DENY", 1],
    ]


def verdict(**given: object) -> dict[str, object]:
    found = {"verdict_id": "v", "approver_id": "ines", "verdict": "approve", "decision_ts_ms": 1_767_225_600_000}
    return {**found, "policy_snapshot": "v1:abcdef", "job_hash": "h", "reason": None, "constraints": "{}", **given}


def test_an_approval_stands_with_its_evidence(room: ReadingRoom) -> None:
    """A resolution's row names who, when, under which snapshot, of which hash; nothing is missing."""
    project(
        room,
        [
            record("approval.requests", 0, sample("ApprovalRequest", request_id="r", job_id="j", job_hash="h")),
            record("approval.resolutions", 1, sample("Resolution", request_id="r", job_id="j", verdicts=[verdict()])),
        ],
    )
    found = rows(
        room,
        "SELECT approver_id, decision_ts, policy_snapshot, job_hash, job_hash_matches, evidence_missing "
        "FROM approvals_with_evidence WHERE job_id = 'j'",
    )
    assert found == [["ines", "2026-01-01T00:00:00.000Z", "v1:abcdef", "h", 1, []]]


def test_missing_evidence_is_named(room: ReadingRoom) -> None:
    """What the contract asks for and a verdict lacks is named; another job's hash does not match."""
    bare = verdict(approver_id="", decision_ts_ms=0, policy_snapshot="", job_hash="other")
    project(
        room,
        [
            record("approval.requests", 0, sample("ApprovalRequest", request_id="r", job_hash="h")),
            record("approval.resolutions", 1, sample("Resolution", request_id="r", verdicts=[bare])),
        ],
    )
    found = rows(room, "SELECT job_hash_matches, evidence_missing FROM approvals_with_evidence")
    assert found == [[0, ["policy_snapshot", "approver_id", "decision_ts"]]]


def test_an_expired_request_is_listed_without_a_person(room: ReadingRoom) -> None:
    """A resolution that nobody decided has a row, and no approver."""
    project(room, [record("approval.resolutions", 0, sample("Resolution", outcome="expired", verdicts=[]))])
    found = rows(room, "SELECT outcome, approver_id, evidence_missing FROM approvals_with_evidence")
    assert found == [["expired", "", []]]


def test_a_granted_start_is_no_finding(room: ReadingRoom) -> None:
    """A start under the very grant that the gate journalled is not listed, wherever the two stand in the log."""
    project(
        room,
        [record("job.starts", 0, sample("Started", **GRANT)), record("job.decisions", 9, sample("Granted", **GRANT))],
    )
    assert rows(room, "SELECT count() FROM executions_without_grant") == [[0]]


def test_a_start_without_its_grant_is_found(room: ReadingRoom) -> None:
    """Another agent's, job's, attempt's or grant's start is listed, each of the four, even when the rest agrees."""
    project(room, [record("job.decisions", 0, sample("Granted", **GRANT))])
    others: list[dict[str, object]] = [{"agent_id": "b"}, {"job_id": "k"}, {"attempt": 2}, {"grant_id": "h"}]
    project(room, [record("job.starts", at, sample("Started", **GRANT | other)) for at, other in enumerate(others)])
    assert rows(room, "SELECT log_offset FROM executions_without_grant ORDER BY log_offset") == [[0], [1], [2], [3]]


def test_coverage_tells_how_far_each_partition_is(room: ReadingRoom) -> None:
    """Coverage counts a partition's events, and what of its log is not projected yet; the latest measure counts."""
    project(room, [record("job.intents", at, sample("Intent")) for at in range(3)])
    names = ["topic", "partition", "projected_to", "log_end", "measured_at"]
    for projected_to, log_end in ((2, 3), (4, 9)):
        room.insert("log_ends", names, [["job.intents"], [0], [projected_to], [log_end], [1_767_225_600_000]])
    found = rows(room, "SELECT topic, partition, events, projected_to, log_end, behind FROM coverage")
    assert found == [["job.intents", 0, 3, 4, 9, 5]]
