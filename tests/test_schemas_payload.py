"""Payloads: what is strict JSON, what the envelope holds, and what the job hash binds."""

from __future__ import annotations

import contextlib
import json
import random
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
