from __future__ import annotations

from typing import Any

import pytest
from clients_events import intent

from sluicegate.clients.strict_json import json_bytes
from sluicegate.schemas.errors import BadInput, BadPayload, RecordTooLarge
from sluicegate.schemas.payload import job_hash, unseal


def test_job_sent_again_has_the_same_hash() -> None:
    """The same job under the same id gives the same bytes, whatever the order its dictionary was built in."""
    assert intent({"a": 1, "b": 2}) == intent({"b": 2, "a": 1})


def test_hash_covers_the_submitted_bytes() -> None:
    """The hash is over the exact bytes in the envelope, topic, agent, tags and salt."""
    made = intent(b'{"a" : 1}', risk_tags=["x"])
    content, salt = unseal(made.payload)
    assert content == b'{"a" : 1}'
    assert made.job_hash == job_hash(content, "job.read", "a", ["x"], salt)


@pytest.mark.parametrize(
    "other", [{"payload": {"n": 2}}, {"topic": "job.other"}, {"risk_tags": ["x"]}, {"job_id": "j2"}]
)
def test_other_content_has_another_hash(other: dict[str, Any]) -> None:
    """Payload, topic and tags each change the hash, and so does the id (through its salt)."""
    assert intent(**other).job_hash != intent().job_hash


@pytest.mark.parametrize("broken", [{"n": float("nan")}, {"n": object()}, b'{"a":1,"a":2}', b"{", b"\xff", "\ud800"])
def test_payload_that_is_no_strict_json_is_not_sent(broken: Any) -> None:
    """NaN, duplicate keys, foreign objects and bad UTF-8 are refused before anything is sent."""
    with pytest.raises(BadPayload):
        json_bytes(broken)


def test_oversize_payload_is_not_sent() -> None:
    """A payload over the limit is an error that names both sizes, before anything is sent."""
    with pytest.raises(RecordTooLarge, match=r"`29` bytes, `payload_bytes_max` is 28"):
        intent({"n": "x" * 5}, payload_bytes_max=28)


@pytest.mark.parametrize(
    "more", [{"risk_tags": "prod"}, {"confidence": 1.5}, {"confidence": float("nan")}, {"topic": ""}]
)
def test_argument_that_cannot_be_meant_is_named(more: dict[str, Any]) -> None:
    """A single string for a list of tags, a confidence outside 0 to 1 and an empty topic are errors."""
    with pytest.raises(BadInput):
        intent(**more)


def test_asking_for_a_person_needs_only_a_reason() -> None:
    """`ask="..."` is an approval the submitter itself wants."""
    made = intent(ask="first time in prod")
    assert made.ask is not None
    assert made.ask.reason == "first time in prod"
