from __future__ import annotations

from typing import Any

import pytest
from clients_events import closed, decision, journal, place, refused, repeated, result

from sluicegate.clients.outcomes import Handle, JobFold
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import Noted

MINE = Handle(agent_id="a", job_id="j1", job_hash="h1", partition=0, offset=7, decisions_from=3, results_from=4)


def fold(*events: object, handle: Handle = MINE) -> JobFold:
    found = JobFold(handle)
    for event in events:
        found.see(event)  # type: ignore[arg-type]  # any event at all
    return found


def test_allowed_job_ends_with_its_result() -> None:
    """A job that ran ends with the handler's JSON, as review let it out."""
    outcome = fold(decision(), result()).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.value, outcome.succeeded) == ("succeeded", {"rows": 3}, True)


def test_result_met_before_its_decision_waits_for_it() -> None:
    """Two topics have no common order: a result counts once the gate is known to have taken this submission."""
    found = fold(result())
    assert found.outcome is None
    found.see(decision())
    assert found.outcome is not None


def test_denied_by_policy_gives_the_reason() -> None:
    """A denial is an outcome with its reason, not an exception."""
    outcome = fold(decision("DENY")).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.reason, outcome.by) == ("denied", "rule says so", "policy")


def test_observed_denial_does_not_end_the_job() -> None:
    """In mode `observe` a denial is recorded and not acted on: the job goes on."""
    assert fold(decision("DENY", mode="observe")).outcome is None


@pytest.mark.parametrize("word", ["denied", "expired", "withdrawn", "lapsed", "unknown"])
def test_each_end_without_a_result_stays_what_it_is(word: str) -> None:
    """Denied, expired, withdrawn, lapsed and unknown are different answers: a time-out is never shown as a denial."""
    outcome = fold(decision("REQUIRE_APPROVAL", request_id="r1"), closed(word, reason="why", by="rosa")).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.reason, outcome.by) == (word, "why", "rosa")


def test_failed_handler_tells_its_error() -> None:
    """A handler that raised gives `failed`, with the kind of error and its message."""
    outcome = fold(decision(), result(b'{"error":{"type":"ValueError","message":"no"}}', succeeded=False)).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == ("failed", "ValueError: no")


def test_refusal_of_my_record_is_a_denial() -> None:
    """A submission that the gate refuses ends as denied, with the code."""
    outcome = fold(refused()).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.code) == ("denied", "id_reused")


@pytest.mark.parametrize("authenticated", [True, False])
def test_refusal_of_another_record_changes_nothing(authenticated: bool) -> None:
    """What somebody else writes under my job id, and the gate refuses, is not my job's end."""
    assert fold(refused(cause=place(offset=8), authenticated=authenticated), decision()).outcome is None


def test_decision_of_other_content_is_not_mine() -> None:
    """A decision counts only for the content that was submitted here: its hash must be the same."""
    found = fold(decision(job_hash="h2"), result())
    assert found.judged is None
    assert found.outcome is None


def test_repeat_gets_the_first_answer_and_looks_for_its_end() -> None:
    """A job sent again gets the first decision; its end stands further back in the log and is wanted."""
    found = fold(repeated("succeeded"))
    assert found.judged is not None
    assert found.judged.again
    assert found.wants_closed
    found.adopt_closed(closed("succeeded", cause=place("job.results", 12)))
    assert found.wanted_result == place("job.results", 12)
    found.adopt_result(result())
    assert found.outcome is not None
    assert found.outcome.value == {"rows": 3}


def test_end_whose_result_is_gone_is_still_an_end() -> None:
    """When nothing of this job stands where its result should be, the closing word alone is the answer."""
    found = fold(decision(), closed("failed", cause=place("job.results", 12), reason="attempts used up"))
    assert found.outcome is None
    found.result_absent()
    assert found.outcome is not None
    assert (found.outcome.outcome, found.outcome.reason) == ("failed", "attempts used up")


def test_quarantined_result_is_waited_for() -> None:
    """A result that review holds back is not the job's end while nobody has decided on it."""
    assert fold(decision(), result(None, safety="QUARANTINE")).outcome is None


def test_refused_withdrawal_is_told_by_its_place() -> None:
    """A cancellation that the gate refuses is told apart from the job's own end."""
    found = JobFold(MINE)
    found.withdrawal_sent(0, 9)
    found.see(decision())
    found.see(refused(cause=place(offset=9), subject="withdrawal", code="started", message="it runs"))
    assert found.outcome is None
    assert found.not_cancelled is not None
    assert found.not_cancelled.code == "started"


def test_events_met_twice_change_nothing() -> None:
    """Reading again from an older place gives the same answer."""
    once, twice = fold(decision(), result()), fold(decision(), result(), decision(), result())
    assert once.outcome == twice.outcome


def test_later_judgement_replaces_the_first() -> None:
    """After an approval the gate judges again: the later decision is the job's."""
    found = fold(decision("REQUIRE_APPROVAL", seq=1), decision("ALLOW_WITH_CONSTRAINTS", seq=5), decision(seq=1))
    assert found.judged is not None
    assert found.judged.decision == "ALLOW_WITH_CONSTRAINTS"


def test_handle_survives_as_text() -> None:
    """A handle is one word that another process can resume from."""
    assert Handle.parse(MINE.text) == MINE


def test_broken_handle_is_named() -> None:
    """Text that is no handle is an error that says so."""
    with pytest.raises(BadInput, match="no handle"):
        Handle.parse("abc")


def test_withdrawal_that_went_to_the_desk_is_not_refused() -> None:
    """While the desk closes the request a cancellation has no answer yet; one that came too late has."""
    note: dict[str, Any] = {"job_id": "j1", "agent_id": "a"}
    found = JobFold(MINE)
    found.withdrawal_sent(0, 9)
    found.see(Noted(**journal(place(offset=9)), **note, kind="withdrawal", detail="asked the desk"))
    assert found.not_cancelled is None
    found.withdrawal_sent(0, 10)
    found.see(Noted(**journal(place(offset=10)), **note, kind="not_withdrawn", detail="too late: granted"))
    assert found.not_cancelled is not None
    assert found.not_cancelled.reason == "too late: granted"
