"""The words of `control` and of going back, without a broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from control_log_world import PEOPLE, ControlLog, digest_of, persons, snapshot_name

from sluicegate.cli import policy_activation, proposal
from sluicegate.cli.control import duration_sec, shown_state
from sluicegate.cli.main import run
from sluicegate.cli.output import json_text
from sluicegate.cli.stop_answers import AnswerFold, Running
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import Ended, GrantRefused, Progressed, Started, StopAnswered
from sluicegate.streams.control_terms import SnapshotTerms

TERMS = SnapshotTerms(
    sign_off_people=1,
    break_glass_role="boss",
    break_glass_sec_max=60,
    persons=persons(ken=("boss",), rosa=("boss",)),
)


def ids(grant_id: str, agent_id: str = "a", job_id: str = "j") -> dict[str, Any]:
    return {"job_id": job_id, "agent_id": agent_id, "grant_id": grant_id, "attempt": 1, "worker_id": "w"}


def started(grant_id: str, **more: Any) -> Started:
    return Started(**ids(grant_id, **more), pool="default", job_hash="h", granted_seq=1)


def answered(grant_id: str, word: Any, command_id: str = "c") -> StopAnswered:
    return StopAnswered(**ids(grant_id), command_id=command_id, answer=word)


@pytest.mark.parametrize(("text", "sec"), [("90s", 90), ("30m", 1800), ("1h", 3600)])
def test_a_duration_is_a_number_with_its_unit(text: str, sec: int) -> None:
    """Seconds, minutes, hours."""
    assert duration_sec(text) == sec


@pytest.mark.parametrize("text", ["", "0m", "30", "1d", "-5m", "1.5h", "30m "])
def test_any_other_duration_is_refused(text: str) -> None:
    """It says what would do."""
    with pytest.raises(BadInput, match="is no duration"):
        duration_sec(text)


def test_every_running_attempt_of_the_scope_is_waited_for() -> None:
    """Until it answers or ends; a sign of life names one that started long ago."""
    fold = AnswerFold()
    fold.see(Progressed(**ids("g1", job_id="j1")))
    fold.see(started("g2", agent_id="b", job_id="j2"))
    assert [each.job_id for each in fold.answers("c", "everything").silent] == ["j1", "j2"]
    assert fold.answers("c", "agent:b").silent == [Running("j2", "b", "w")]
    assert fold.answers("c", "job:j1").silent == [Running("j1", "a", "w")]
    assert fold.answers("c", "agent:nobody").silent == []
    fold.see(answered("g1", "unknown"))
    fold.see(Ended(**ids("g2"), outcome="finished"))
    found = fold.answers("c", "everything")
    assert ([each.answer for each in found.answers], found.silent, found.all_ended) == (["unknown"], [], False)


def test_answers_to_another_command_do_not_count() -> None:
    """Whoever sent this one waits for its own."""
    fold = AnswerFold()
    fold.see(started("g1"))
    fold.see(answered("g1", "stopped", "other"))
    found = fold.answers("c", "everything")
    assert (found.answers, len(found.silent), found.all_ended) == ([], 1, False)


def test_what_may_lie_outside_a_scope_is_called_so() -> None:
    """Topic and tags of a running attempt do not stand in its worker's records."""
    fold = AnswerFold()
    fold.see(started("g1"))
    found = fold.answers("c", "tag:prod")
    assert (found.silent, len(found.unclear), found.all_ended) == ([], 1, False)


def test_only_the_worker_that_runs_an_attempt_answers_for_it() -> None:
    """Another worker's answer, end, or refusal of the same grant leaves it running and silent."""
    fold = AnswerFold()
    fold.see(started("g1"))
    other = {**ids("g1"), "worker_id": "w2"}
    fold.see(StopAnswered(**other, command_id="c", answer="stopped"))
    fold.see(Ended(**other, outcome="finished"))
    fold.see(Started(**other, pool="default", job_hash="h", granted_seq=1))
    fold.see(GrantRefused(**other, granted_seq=1, code="grant_repeated", message="m"))
    fold.see(GrantRefused(**ids("g1"), granted_seq=1, code="grant_repeated", message="m"))
    found = fold.answers("c", "everything")
    assert (found.answers, found.silent, found.all_ended) == ([], [Running("j", "a", "w")], False)
    fold.see(answered("g1", "stopped"))
    assert fold.answers("c", "everything").all_ended


def test_an_answer_for_what_nobody_started_counts_for_nothing() -> None:
    """Nothing is known to have run by that worker's hand."""
    fold = AnswerFold()
    fold.see(answered("g1", "stopped"))
    assert fold.answers("c", "everything").answers == []


def test_broken_glass_stands_first_in_what_is_shown() -> None:
    """Then pauses, stops, revocations, and what people must agree to; one JSON document."""
    log = ControlLog(a=TERMS, b=TERMS)
    log.activate("a")
    log.say("break_glass", "agent:x", PEOPLE["ken"], until_ms=log.now_ms + 1000, reason="fire")
    log.say("stop", "tag:prod")
    log.say("revoke", "job:j")
    log.activate("b")
    told = {"previous": snapshot_name("a"), "difference": ["wider: all"]}
    shown = json.loads(json_text(shown_state(log.state, log.now_ms, told)))
    assert list(shown)[:5] == ["break_glass", "paused", "stops", "revocations", "proposed"]
    assert [each["scope"] for each in shown["break_glass"]] == ["agent:x"]
    assert (shown["paused"], shown["stops"][0]["scope"], shown["revocations"][0]["scope"]) == (
        ["tag:prod"],
        "tag:prod",
        "job:j",
    )
    assert (shown["proposed"]["snapshot"], shown["policy_snapshot"]) == (snapshot_name("b"), snapshot_name("a"))
    assert shown["proposed"]["needs"] == [{"people": 1, "roles": []}]
    assert shown["proposed"]["difference"] == ["wider: all"]
    assert shown_state(log.state, log.now_ms + 1000, told)["break_glass"] == []


def test_one_can_agree_only_to_what_is_proposed() -> None:
    """By its name or digest."""
    log = ControlLog(a=TERMS, b=TERMS)
    log.activate("a")
    with pytest.raises(BadInput, match="nobody proposes"):
        proposal.open_proposal(log.state, "b")
    command_id = log.activate("b")
    assert proposal.open_proposal(log.state, snapshot_name("b")).command_id == command_id
    assert proposal.open_proposal(log.state, digest_of("b")).command_id == command_id
    with pytest.raises(BadInput, match="that is `b:"):
        proposal.open_proposal(log.state, "a")


def test_one_goes_back_to_what_was_active_before() -> None:
    """To the one before, or a named earlier one; never to the active one or to what never was."""
    free = SnapshotTerms()
    log = ControlLog(a=free, b=free, c=free, d=free)
    with pytest.raises(BadInput, match="no policy is active"):
        policy_activation.earlier(log.state, "")
    log.activate("a")
    with pytest.raises(BadInput, match="no other snapshot was active before"):
        policy_activation.earlier(log.state, "")
    log.activate("b")
    log.activate("c")
    assert policy_activation.earlier(log.state, "").name == snapshot_name("b")
    assert policy_activation.earlier(log.state, digest_of("a")).name == snapshot_name("a")
    for never in ("c", "d"):
        with pytest.raises(BadInput, match=r"was not active before; earlier ones are `b:[0-9a-f]{6}`, `a:"):
            policy_activation.earlier(log.state, snapshot_name(never))


@pytest.mark.parametrize(
    "words",
    [
        ("control", "stop", "nonsense"),
        ("control", "revoke", "topic:job.?"),
        ("control", "break-glass", "everything"),
        ("control", "break-glass", "everything", "--reason", " "),
        ("control", "break-glass", "everything", "--reason", "x", "--for", "soon", "--as", "rosa"),
    ],
)
def test_what_cannot_be_commanded_is_unusable_input(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is signed or any broker is asked."""
    assert run(words) == 2
    assert capsys.readouterr().out == ""
