"""What a handler's process says to its worker: frames, garbage, budgets."""

from __future__ import annotations

import json
import struct

import pytest
from handler_world import World

from sluicegate.clients.frames import FRAME_BYTES_MAX, BadFrame, Frames, Note, Returned, Spend, frame_of, said
from sluicegate.clients.judging import Terms

LIMIT = Terms(budget={"max_affected_rows": 200})


def frame(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


@pytest.mark.parametrize(
    "garbage",
    [
        frame(b"not JSON"),
        frame(b"{}"),
        frame(b""),
        frame(b'{"type":"ended","why":"itself"}'),
        frame(b'{"type":"note","text":1}'),
        frame(b'{"type":"note","text":"x","more":1}'),
        frame(b'{"type":"note","text":"\xff"}'),
        frame(b'{"type":"spend","budget":"b","amount":5}'),
        frame(b'{"type":"spend","budget":"b","amount":"' + b"9" * 2_000 + b'"}'),
        frame(b'{"type":"returned","content":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        struct.pack(">I", FRAME_BYTES_MAX + 1) + b"x",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_word_fails_the_attempt(inside: World, garbage: bytes) -> None:
    """At once, and the process is killed."""
    ran = inside.run("says", garbage.hex(), terms=Terms(runtime_sec_max=20))
    assert (ran.word, ran.error in ("BadFrame", "BadOutput")) == ("failed", True)
    assert ran.took_sec < 5


def test_a_frame_that_is_never_whole_ends_with_the_time(inside: World) -> None:
    """Half a frame holds nobody up but its own attempt, to its bound."""
    assert inside.run("says", frame(b"12345")[:6].hex(), terms=Terms(runtime_sec_max=0.2)).word == "overran"


def test_the_first_answer_counts(inside: World) -> None:
    """And the process is killed on it, whatever it does afterwards."""
    ran = inside.run("answers_twice")
    assert (ran.word, ran.value) == ("finished", 1)


def test_a_child_cannot_answer_after_its_handler(inside: World) -> None:
    """What comes after the answer is not read."""
    assert inside.run("child_answers_after").word == "finished"


@pytest.mark.parametrize("content", ['{"a":1,"a":2}', "NaN", "1e999", '"\\ud800"', "[" * 500 + "]" * 500])
def test_an_answer_is_strict_json(inside: World, content: str) -> None:
    """What another reader would read in another way is no output."""
    ran = inside.run("answers_in_its_own_words", content)
    assert (ran.word, ran.error in ("BadOutput", "BadFrame")) == ("failed", True)


def test_a_chatterer_is_heard_to_its_bound(inside: World) -> None:
    """Notes without end delay neither being asked nor being killed."""
    ran = inside.run("chatters", terms=Terms(runtime_sec_max=0.2))
    assert (ran.word, ran.took_sec < 4) == ("overran", True)


def test_who_asks_and_does_not_listen_is_ended(inside: World) -> None:
    """The worker keeps a bounded number of answers."""
    ran = inside.run("asks_and_does_not_listen", terms=LIMIT)
    assert (ran.word, ran.error) == ("failed", "BadFrame")


def test_frames_come_in_any_pieces() -> None:
    """Byte for byte or all at once, the words are the same."""
    sent = [Note("a"), Spend("b", "1.5")]
    data = b"".join(map(frame_of, sent))
    for size in (1, 2, 3, len(data)):
        frames = Frames()
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert [said(each) for part in parts for each in frames.take(part)] == sent


def test_a_content_is_kept_byte_for_byte() -> None:
    """It is what is hashed and reviewed."""
    word = said(b'{"type":"returned","content":{"b": 1.0,"a":1}}')
    assert isinstance(word, Returned)
    assert bytes(word.content) == b'{"b": 1.0,"a":1}'


def test_an_oversize_frame_is_refused_before_it_comes() -> None:
    """By its length alone, so nobody has to hold it."""
    with pytest.raises(BadFrame, match="at most"):
        Frames().take(struct.pack(">I", FRAME_BYTES_MAX + 1))


def test_a_budget_is_spent_and_then_refused(either: World) -> None:
    """What is left counts down; what is above it takes nothing, and is told once."""
    ran = either.run("spends", [150, 51, 49.5, 0.5, 0, 0.1], terms=LIMIT)
    assert ran.value == [50, "BudgetExceeded", 0.5, 0, 0, "BudgetExceeded"]
    assert [(each.constraint, each.prevented) for each in ran.breaches] == [("max_affected_rows", True)]


@pytest.mark.parametrize("amount", [-1, -0.1, True, None, [], {}, 10**900, "nan", "inf", "-inf"])
def test_what_is_no_amount_is_not_spent(inside: World, amount: object) -> None:
    """A negative one would give back."""
    assert inside.run("spends", [amount, 0], terms=LIMIT).value == ["BadInput", 200]


def test_a_budget_without_a_limit_is_endless(inside: World) -> None:
    """A grant that sets none holds the handler to none."""
    ran = inside.run("spends_and_looks", terms=Terms(budget={"max_affected_rows": None}))
    assert ran.value == "inf"


def test_a_budget_that_nobody_registered_is_an_error(inside: World) -> None:
    """It would hold nothing: the handler's author is told."""
    ran = inside.run("spends_unlisted", terms=LIMIT)
    assert (ran.word, ran.error) == ("failed", "BadInput")


def test_a_handler_that_exceeds_its_budget_fails(inside: World) -> None:
    """Unless it catches that, and does less."""
    assert inside.run("spends_all", terms=LIMIT).error == "BudgetExceeded"


@pytest.mark.parametrize("name", ["raced_by_forks", "raced_by_threads"])
def test_a_raced_budget_is_spent_once(either: World, name: str) -> None:
    """Four at once get what one would have got."""
    assert either.run(name, terms=LIMIT).value == 200


def test_a_copy_of_the_handler_has_the_same_ledger(inside: World) -> None:
    """A fork cannot start anew, nor can one give back by its own words."""
    assert inside.run("resets_the_ledger", terms=LIMIT).value == [0, True, 50]


def test_a_number_is_what_it_was(inside: World) -> None:
    """Numbers of the payload come to the handler as the worker has read them."""
    payload = json.loads("[0.1, 1e22, -0.0, 9007199254740993, 1e-300, 123456789012345678901234567890]")
    assert inside.run("noop", payload).value == {"got": payload}
