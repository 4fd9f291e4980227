from __future__ import annotations

from clients_events import approval_request, place, refused, request_opened, resolved, verdict_accepted

from sluicegate.clients.desk_fold import DeskFold, visible


def test_request_is_listed_once_the_desk_has_it() -> None:
    """A verdict on a request that the desk has not taken would be refused: it is listed when it is open."""
    fold = DeskFold()
    fold.see(approval_request())
    assert fold.open() == []
    fold.see(request_opened())
    assert [found.request_id for found in fold.open()] == ["r1"]


def test_order_of_the_two_topics_does_not_matter() -> None:
    """The desk's word may be read before the request it is about."""
    fold = DeskFold()
    fold.see(request_opened())
    fold.see(approval_request())
    assert len(fold.open()) == 1


def test_resolved_request_leaves_the_list_and_can_be_shown() -> None:
    """What has ended is no work any more, but says how it ended and by whom."""
    fold = DeskFold()
    for event in (approval_request(), request_opened(), resolved()):
        fold.see(event)
    found = fold.find("r1")
    assert fold.open() == []
    assert found is not None
    assert (found.outcome, found.by) == ("approved", "rosa")


def test_queue_limits_the_list() -> None:
    """A reviewer sees the queue that was asked for."""
    fold = DeskFold()
    for event in (approval_request("r1", "ops"), approval_request("r2", "legal")):
        fold.see(event)
        fold.see(request_opened(event.request_id))
    assert [found.request_id for found in fold.open("legal")] == ["r2"]


def test_losing_verdict_learns_who_won_and_when() -> None:
    """The second verdict is refused, with the winner and the time."""
    fold = DeskFold()
    fold.expect(0, 5)
    cause = place("approval.verdicts", 5)
    fold.see(refused(cause=cause, subject="verdict", code="decided", winner="rosa", winner_at_ms=77, ref="v2"))
    answer = fold.answer(0, 5)
    assert answer is not None
    assert (answer.status, answer.winner, answer.winner_at_ms) == ("refused", "rosa", 77)


def test_answer_to_another_verdict_is_not_mine() -> None:
    """An answer is told by the place of the verdict it answers, not by ids that anyone may copy."""
    fold = DeskFold()
    fold.expect(0, 5)
    fold.see(verdict_accepted(place("approval.verdicts", 6)))
    assert fold.answer(0, 5) is None


def test_hidden_characters_are_shown() -> None:
    """Terminal escapes, bidirectional and zero-width characters in a payload change nothing of what is read."""
    fold = DeskFold()
    fold.see(approval_request(payload='{"to":"\u202eevil\u200b","x":"\\u001b[2J"}'.encode()))
    found = fold.find("r1")
    assert found is not None
    assert not set(found.payload) & {"\u202e", "\u200b", "\u001b"}
    assert visible("a\u202eb") == "a\\u202eb"
