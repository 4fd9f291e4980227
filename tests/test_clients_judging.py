from __future__ import annotations

from typing import Any

import pytest
from clients_events import grant

from sluicegate.clients.judging import Judgement, Lapse, Refuse, Start, Wait, judge_grant
from sluicegate.schemas.errors import KeyErased
from sluicegate.schemas.events import Sealed
from sluicegate.schemas.payload import seal
from sluicegate.schemas.sealing import NoKeyring


def judged(
    now_ms: int = 5_000, seen: Any = (), paused: str | None = None, revoked: str | None = None, **more: Any
) -> Judgement:
    return judge_grant(grant(**more), now_ms, seen, paused, tenant="default", pool="default", revoked=revoked)


def test_sound_grant_starts_with_payload_and_constraints() -> None:
    """A grant that is whole, in time, new and not paused starts, with the exact arguments that were judged."""
    assert judged(constraints='{"rows_max":5}') == Start({"n": 1}, {"rows_max": 5})


@pytest.mark.parametrize(
    "altered",
    [
        {"payload": seal(b'{"n":2}', b"s" * 16)},
        {"topic": "job.delete"},
        {"agent_id": "b"},
        {"risk_tags": ["safe"]},
        {"job_hash": "0" * 64},
    ],
)
def test_altered_grant_runs_nothing(altered: dict[str, Any]) -> None:
    """Arguments, topic, agent or tags that changed after the judgement are refused as `grant_altered`."""
    found = judged(**altered)
    assert isinstance(found, Refuse)
    assert found.code == "grant_altered"


def test_payload_of_an_unknown_envelope_runs_nothing() -> None:
    """What cannot be opened cannot be checked, and is refused."""
    found = judged(payload=Sealed(algorithm="rot13", key_id="", nonce=b"", content=b"x" * 40))
    assert isinstance(found, Refuse)
    assert found.code == "grant_unreadable"


def test_erased_payload_takes_its_grant_back() -> None:
    """Nobody can run what was erased: the job ends as one that was revoked, not as one whose grant was bad."""

    class Erased(NoKeyring):
        def open(self, sealed: Sealed) -> tuple[bytes, bytes]:
            raise KeyErased("erased by olga")

    found = judge_grant(grant(), 5_000, (), None, tenant="default", pool="default", keys=Erased())
    assert found == Refuse("revoked", "payload erased: erased by olga")


def test_grant_seen_before_is_refused() -> None:
    """One grant starts one attempt: the same grant again is refused, even after its time."""
    found = judged(now_ms=99_999, seen={"g1"})
    assert isinstance(found, Refuse)
    assert found.code == "grant_repeated"


@pytest.mark.parametrize("where", [{"pool": "other"}, {"tenant": "other"}])
def test_misrouted_grant_is_refused(where: dict[str, Any]) -> None:
    """A worker runs only what is granted to its pool and tenant."""
    found = judged(**where)
    assert isinstance(found, Refuse)
    assert found.code == "grant_misrouted"


def test_start_by_itself_is_still_in_time() -> None:
    """A grant may start at its start-by time and not a millisecond later."""
    assert isinstance(judged(now_ms=10_000), Start)
    assert judged(now_ms=10_001) == Lapse()


def test_paused_scope_waits() -> None:
    """A grant of a paused scope is left where it is."""
    assert judged(paused="agent:a") == Wait("agent:a")


def test_paused_grant_lapses_in_its_time() -> None:
    """A pause does not prolong a grant: after its start-by time it lapses."""
    assert judged(now_ms=10_001, paused="everything") == Lapse()


@pytest.mark.parametrize("more", [{}, {"now_ms": 99_999}, {"paused": "everything"}])
def test_revoked_grant_is_refused(more: dict[str, Any]) -> None:
    """What an operator has taken back runs nothing, and its end does not wait for a resume or be called a lapse."""
    assert judged(revoked="`operator/olga` revoked `agent:a`", **more) == Refuse(
        "revoked", "`operator/olga` revoked `agent:a`"
    )


@pytest.mark.parametrize("broken", ['{"n":1,"n":2}', "[NaN]", "{"])
def test_payload_that_is_no_strict_json_is_refused(broken: str) -> None:
    """A payload that two parsers could read in two ways runs nothing."""
    from sluicegate.schemas.payload import job_hash

    salt = b"s" * 16
    content = broken.encode()
    found = judged(payload=seal(content, salt), job_hash=job_hash(content, "job.read", "a", [], salt))
    assert isinstance(found, Refuse)
    assert found.code == "grant_unreadable"
