"""Payloads: what is strict JSON, what the envelope holds, and what the job hash binds."""

from __future__ import annotations

import contextlib
import json
import random
import time
from typing import Any

import msgspec
import pytest

from sluicegate.schemas.errors import BadPayload, SealingError
from sluicegate.schemas.payload import DEPTH_MAX, SALT_BYTES, framed, job_hash, parse_strict, seal, unseal

SALT = bytes(range(SALT_BYTES))
JOB: dict[str, Any] = {
    "payload": b'{"amount": 45}',
    "topic": "job.deploy.prod",
    "agent_id": "deployer",
    "risk_tags": ["prod", "write"],
    "salt": SALT,
}


@pytest.mark.parametrize(
    "content",
    [b"null", b"0", b'"text"', b"[]", b"{}", b'{"a": {"a": 1}, "b": [1.5e3, true, "\\u0000"]}', b' {"a":1}\n'],
)
def test_strict_json_is_parsed(content: bytes) -> None:
    """One JSON value, of whatever kind, is what it says."""
    assert parse_strict(content) == json.loads(content)


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 2}', b'[{"x": {"a": 1, "b": 2, "a": 3}}]'],
    ids=["plain", "escaped", "nested"],
)
def test_a_key_that_stands_twice_is_refused_by_name(content: bytes) -> None:
    """Two readers could read two values of it: one approves the first, another runs the second."""
    with pytest.raises(BadPayload, match="`a` stands twice"):
        parse_strict(content)


@pytest.mark.parametrize("content", [b"NaN", b'{"amount": NaN}', b"[Infinity]", b"-Infinity"])
def test_what_is_no_number_is_refused(content: bytes) -> None:
    """No comparison with NaN holds, so a rule on the amount would never match."""
    with pytest.raises(BadPayload):
        parse_strict(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"   ", b"{", b"{'a': 1}", b'{"a": 1,}', b"1 2", b'{"a": 1} x', b"\xff\xfe", b"\xef\xbb\xbf{}", b'"\xc3"'],
)
def test_what_is_no_json_in_utf8_is_refused(content: bytes) -> None:
    """Empty, cut, loosely written, two values, another encoding."""
    with pytest.raises(BadPayload):
        parse_strict(content)


@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_depth_is_bounded(pair: str) -> None:
    """As deep as the limit is read; one level more, or a hundred thousand, is refused by the same error."""
    start, end = ("[", "]") if pair == "[]" else ('{"a":', "}")

    def nested(levels: int) -> bytes:
        return (start * levels + "1" + end * levels).encode()

    parse_strict(nested(DEPTH_MAX - 1))
    for levels in (DEPTH_MAX, DEPTH_MAX + 1, 100_000):
        with pytest.raises(BadPayload, match="nested deeper"):
            parse_strict(nested(levels))


def _said(content: bytes) -> str:
    try:
        parse_strict(content)
    except BadPayload as refused:
        return str(refused)
    return "read"


def _below(frames: int, content: bytes) -> str:
    return _said(content) if frames == 0 else _below(frames - 1, content)


@pytest.mark.parametrize(
    "content", [b"[" * 900, b'{"a":' * 980, b"[" * 100_000, b"[" * 63 + b"]" * 63, b"[1", b"1" * 5_000]
)
def test_the_answer_does_not_depend_on_who_asks(content: bytes) -> None:
    """However much of the stack is used already, the bytes decide."""
    assert len({_below(frames, content) for frames in (0, 100, 300, 600)}) == 1


@pytest.mark.parametrize("text", [b"[" * 100, b'\\"[' * 100, b"\\\\", b"]" * 3, b'{\\"' * 70])
def test_brackets_in_text_do_not_nest(text: bytes) -> None:
    """Only brackets between strings count."""
    assert _said(b'["' + text + b'"]') == "read"
    assert _said(b"[" + b"[[]], {}," * 100 + b'"' + text + b'"]') == "read"
    assert "nested deeper" in _said(b"[" * DEPTH_MAX + b'"' + text + b'"' + b"]" * DEPTH_MAX)


def test_the_depth_is_found_in_one_pass() -> None:
    """Strings without an end, quotes upon quotes: each byte is looked at once."""
    for piece in (b'"', b'\\"', b'"\\', b'["', b'[\\"', b'{"a":"', b"[]"):
        begin = time.process_time()
        assert _said(b"[" * 70 + b"]" * 70 + piece * 250_000) != "read"
        assert _said(b'["' + piece * 250_000) != "read"
        assert _said(b'["' + b"[" * 70 + piece * 250_000) != "read"
        assert time.process_time() - begin < 10.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"\\ud800":1,"\\ud800":2}', "half a surrogate pair is no Unicode; send whole characters"),
        (b'["\\uDFFF"]', "half a surrogate pair is no Unicode; send whole characters"),
        (b'["\\udc00\\ud800"]', "half a surrogate pair is no Unicode; send whole characters"),
        (b'["\\ud800\\ud800\\udc00"]', "half a surrogate pair is no Unicode; send whole characters"),
        (b'["\\ud83d\\ude00", "\\\\ud800", "\\u00e9"]', "read"),
        (b"\xff", "not UTF-8; send one JSON value in UTF-8"),
        (b"[secret]", "not JSON; send one JSON value in UTF-8"),
        (b'["secret\n"]', "not JSON; send one JSON value in UTF-8"),
        (b"[" + b"7" * 640 + b"]", "read"),
        (b"[" + b"7" * 641 + b"]", "a whole number has more than 640 characters; send it as a string"),
        (b"[1e999]", "a number is too large; send it as a string"),
        (b"{" + (b'"' + b"k" * 99 + b'":1,') * 2 + b'"a":1}', f"key `{'k' * 40}` stands twice in one object; keep one"),
    ],
)
def test_the_words_of_a_refusal_are_ours_and_can_be_written_down(content: bytes, said: str) -> None:
    """The words of an interpreter change; those of a payload may be secret, long, or no text (RFC 8259, 8.2)."""
    assert _said(content) == said
    assert said.encode().isascii()


def test_a_doubled_key_is_found_in_one_pass() -> None:
    """The last one of very many keys."""
    keys = ",".join(f'"{number}":1' for number in range(200_000))
    begin = time.process_time()
    assert "`199999`" in _said(("{" + keys + ',"199999":2}').encode())
    assert time.process_time() - begin < 10.0


def test_hostile_bytes_raise_bad_payload_and_nothing_else() -> None:
    """Whatever bytes an agent sends, the gate meets one error or a value."""
    rng = random.Random(1)
    seed = b'{"a": [1, 2.5, null, "x"], "b": {"c": true}}'
    for _ in range(3_000):
        content = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with contextlib.suppress(BadPayload):
            parse_strict(bytes(content))


def test_the_envelope_gives_back_exactly_what_was_sealed() -> None:
    """Content and salt, byte for byte, also when the content is empty or no text."""
    for content in (b"", b"{}", bytes(range(256))):
        assert unseal(seal(content, SALT)) == (content, SALT)


@pytest.mark.parametrize("salt", [b"", b"short", bytes(SALT_BYTES + 1)])
def test_a_salt_of_another_length_is_refused(salt: bytes) -> None:
    """Where the salt ends must never depend on who sealed."""
    with pytest.raises(SealingError):
        seal(b"{}", salt)


def test_an_envelope_that_cannot_be_opened_here_says_so() -> None:
    """An unknown algorithm is named; a content shorter than its salt is refused."""
    with pytest.raises(SealingError, match="`aes-256-gcm`"):
        unseal(msgspec.structs.replace(seal(b"{}", SALT), algorithm="aes-256-gcm"))
    with pytest.raises(SealingError):
        unseal(msgspec.structs.replace(seal(b"{}", SALT), content=SALT[:-1]))


@pytest.mark.parametrize(
    "change",
    [
        {"payload": b'{"amount": 46}'},
        {"payload": b'{"amount":45}'},
        {"topic": "job.deploy.staging"},
        {"agent_id": "cleaner"},
        {"risk_tags": ["prod"]},
        {"risk_tags": ["write", "prod"]},
        {"risk_tags": ["prodwrite"]},
        {"risk_tags": ["prod", "write", ""]},
        {"salt": bytes(SALT_BYTES)},
    ],
    ids=str,
)
def test_the_job_hash_changes_with_each_part(change: dict[str, Any]) -> None:
    """An approval binds all of it: one byte of payload, white space too, topic, agent, tags, salt."""
    assert job_hash(**JOB) == job_hash(**JOB)
    assert job_hash(**{**JOB, **change}) != job_hash(**JOB)


def test_a_byte_cannot_move_from_one_part_into_the_next() -> None:
    """Each part stands behind its length, so no two jobs share their bytes."""
    moved = {**JOB, "payload": JOB["payload"] + b"j", "topic": "ob.deploy.prod"}
    assert job_hash(**moved) != job_hash(**JOB)
    assert framed(b"ab", b"c") != framed(b"a", b"bc")
    assert framed(b"", b"a") != framed(b"a", b"")


def test_the_job_hash_is_pinned() -> None:
    """Hashes stand in the log for ever: another build must compute the same."""
    assert job_hash(**JOB) == "13595d3b92b53ec067e03c7be09c12e893e881bd713e250201a0206f6c014ba9"
