"""Whoever may publish signs what they like; everybody who folds control goes on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from sluicegate.policies.load import snapshot_digest
from sluicegate.processors.control import snapshot_terms
from sluicegate.streams.control_state import Snapshot

RULES: dict[str, Any] = {"rules": [{"match": {"topics": ["*"]}, "decision": "allow"}]}


def _with_schema(schema: Any) -> dict[str, Any]:
    return {"a.json": RULES, "actions.json": {"actions": [{"topics": ["*"], "payload_schema": schema}]}}


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize("documents", ["", "[" * 100_000, '{"a":' * 2_000, "null", "1" * 5_000, '{"\\ud800":1}', "[1]"])
def test_a_snapshot_that_cannot_be_read_has_no_terms(documents: str) -> None:
    """However it fails, an activation of it is refused and nothing ends."""
    digest = hashlib.sha256(documents.encode()).hexdigest()
    assert snapshot_terms(Snapshot("v1:x", digest, documents, 0)) is None


@pytest.mark.parametrize(
    "documents",
    [
        {},
        {"a.json": None},
        {"x": RULES},
        _with_schema({"pattern": "a{99999999999999999999}"}),
        _with_schema({"$ref": "http://["}),
        _with_schema({"$id": "http://["}),
        _with_schema(_deep(200)),
        {"a.json": RULES, "reviewers.json": {"people": [{"id": "x", "name": "x", "public_key": "AAAA"}]}},
    ],
)
def test_a_snapshot_whose_digest_is_right_and_whose_content_is_not_has_no_terms(documents: dict[str, Any]) -> None:
    """What no publisher of ours would have sent."""
    digest = snapshot_digest(documents)
    assert snapshot_terms(Snapshot("v1:x", digest, json.dumps(documents), 0)) is None


def test_a_snapshot_with_a_payload_schema_has_terms() -> None:
    """The same documents with a schema that can be used."""
    documents = _with_schema({"type": "object", "properties": {"$ref": {"pattern": "^a{3}$"}}})
    assert snapshot_terms(Snapshot("v1:x", snapshot_digest(documents), json.dumps(documents), 0)) is not None
