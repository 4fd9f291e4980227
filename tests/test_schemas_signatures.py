"""Signatures: who wrote a record, over its exact bytes, and for how long that holds."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sluicegate.schemas.errors import BadInput
from sluicegate.streams.engine import Headers
from sluicegate.streams.identity import (
    AHEAD_MAX_MS,
    ISSUED_AT,
    KEY_ID,
    RECORD_ID,
    SIGNATURE,
    STALE_AFTER_MS,
    Checked,
    Ed25519Signer,
    Ed25519Verifier,
    HmacKey,
    Signer,
    Verifier,
    agent_secret,
    check,
    public_key,
    sign,
)

NOW_MS = 1_800_000_000_000
MASTER = bytes(range(32))
AGENT = HmacKey("agent/deployer", agent_secret(MASTER, "deployer"))
PERSON = Ed25519Signer("person/rosa", bytes(range(32, 64)))
VERIFIERS: dict[str, Verifier] = {"agent/deployer": AGENT, "person/rosa": Ed25519Verifier(PERSON.public())}
RECORD: dict[str, Any] = {"topic": "job.intents", "key": b"deployer", "value": b"the exact bytes"}
SIGNERS: list[Signer] = [AGENT, PERSON]
BOTH = pytest.mark.parametrize("signer", SIGNERS, ids=["HMAC", "Ed25519"])


def signed(signer: Signer, issued_at_ms: int = NOW_MS) -> Headers:
    return sign(signer, RECORD["topic"], "record-1", issued_at_ms, RECORD["key"], RECORD["value"])


def checked(headers: Headers, appended_at_ms: int = NOW_MS, **change: Any) -> Checked:
    return check(headers, **{**RECORD, **change}, appended_at_ms=appended_at_ms, keys=VERIFIERS.get)


def altered(headers: Headers, name: str, value: bytes) -> Headers:
    return tuple((known, value if known == name else held) for known, held in headers)


@BOTH
def test_a_signed_record_names_its_principal(signer: Signer) -> None:
    """All is well: no code, and who it was."""
    found = checked(signed(signer))
    assert found.code is None
    assert found.principal is not None
    assert found.principal.key_id == signer.key_id


@BOTH
@pytest.mark.parametrize(
    "change",
    [{"topic": "acme.job.intents"}, {"key": b"cleaner"}, {"value": b"the exact byteS"}],
    ids=lambda c: next(iter(c)),
)
def test_an_altered_record_is_refused(signer: Signer, change: dict[str, Any]) -> None:
    """Another topic (another tenant's too), key or value: the signature is not over this record."""
    found = checked(signed(signer), **change)
    assert found.code == "bad_signature"
    assert found.principal is None


@BOTH
@pytest.mark.parametrize("name", [RECORD_ID, ISSUED_AT, SIGNATURE])
def test_an_altered_header_is_refused(signer: Signer, name: str) -> None:
    """Id, issue time and the signature itself: none can be exchanged."""
    headers = signed(signer)
    value = dict(headers)[name]
    other = str(NOW_MS + 1).encode() if name == ISSUED_AT else value[:-1] + bytes([value[-1] ^ 1])
    assert checked(altered(headers, name, other)).code == "bad_signature"


def test_another_principals_key_id_is_refused() -> None:
    """Who claims somebody else's name does not hold their key."""
    claimed = altered(signed(AGENT), KEY_ID, b"person/rosa")
    assert checked(claimed).code == "bad_signature"


@BOTH
@pytest.mark.parametrize("name", [RECORD_ID, KEY_ID, ISSUED_AT, SIGNATURE])
def test_a_missing_header_means_unsigned(signer: Signer, name: str) -> None:
    """Three of four headers are no signature."""
    assert checked(tuple(pair for pair in signed(signer) if pair[0] != name)).code == "unsigned"


@pytest.mark.parametrize(
    ("name", "value"),
    [(ISSUED_AT, b"yesterday"), (ISSUED_AT, b""), (KEY_ID, b"\xff"), (RECORD_ID, b"\xff")],
)
def test_headers_that_cannot_be_read_mean_unsigned(name: str, value: bytes) -> None:
    """Garbage is refused with a code, never with an exception."""
    assert checked(altered(signed(AGENT), name, value)).code == "unsigned"


@pytest.mark.parametrize("key_id", ["agent/nobody", "agent/", "agent", "", "/rosa", "root/rosa", "person/deployer"])
def test_an_unknown_key_is_refused(key_id: str) -> None:
    """Nobody enrolled, no kind of ours, or no name."""
    found = checked(altered(signed(AGENT), KEY_ID, key_id.encode()))
    assert found.code == "unknown_key"
    assert found.principal is None


@BOTH
def test_a_stale_record_is_refused_but_known(signer: Signer) -> None:
    """24 hours are still fresh, a millisecond more is not; its writer is named, for the journal."""
    assert checked(signed(signer), NOW_MS + STALE_AFTER_MS).code is None
    found = checked(signed(signer), NOW_MS + STALE_AFTER_MS + 1)
    assert found.code == "stale"
    assert found.principal is not None


@BOTH
def test_a_record_from_the_future_is_refused(signer: Signer) -> None:
    """A signature made for later use ends as one made too early: five minutes of clock are forgiven, no more."""
    assert checked(signed(signer), NOW_MS - AHEAD_MAX_MS).code is None
    assert checked(signed(signer), NOW_MS - AHEAD_MAX_MS - 1).code == "ahead"


def test_agents_have_keys_of_their_own() -> None:
    """Derived from one master, and none signs for another."""
    other = HmacKey("agent/deployer", agent_secret(MASTER, "cleaner"))
    assert checked(signed(other)).code == "bad_signature"
    assert agent_secret(MASTER, "deployer") == agent_secret(MASTER, "deployer")


@BOTH
def test_a_salt_follows_from_key_and_job(signer: HmacKey | Ed25519Signer) -> None:
    """The same at every submission of a job, another for each job and each signer."""
    assert signer.salt("job-1") == signer.salt("job-1")
    assert len({AGENT.salt("job-1"), PERSON.salt("job-1"), AGENT.salt("job-2"), PERSON.salt("job-2")}) == 4


@pytest.mark.parametrize("text", ["", "not base64!", base64.b64encode(bytes(31)).decode(), "AAAA"])
def test_a_bad_public_key_is_refused_with_what_to_do(text: str) -> None:
    """Before it is trusted, not when it is first used."""
    with pytest.raises(BadInput, match="base64"):
        public_key(text)
