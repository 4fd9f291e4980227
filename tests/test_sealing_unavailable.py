"""Keys that cannot be had for a moment say nothing of what they open: everybody waits, and nothing is decided."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients_events import grant
from clients_world import Control
from test_clients_worker_turns import Grants, Written, turn
from world import World, agent_key, policy_files

from sluicegate.clients.attempts import Attempt, Finished
from sluicegate.clients.judging import Judgement, Lapse, Refuse, Wait, judge_grant
from sluicegate.clients.key_client import ServiceKeyring, endpoint_of, keyring_of
from sluicegate.clients.worker import Worker
from sluicegate.schemas.errors import KeyErased, SluicegateError, Unavailable
from sluicegate.schemas.events import Ended, Output, Progressed, Sealed
from sluicegate.schemas.key_ids import job_key
from sluicegate.schemas.sealing import AES_256_GCM, NoKeyring
from sluicegate.streams import key_file
from sluicegate.streams.identity import HmacKey
from sluicegate.streams.key_store import KeyStore, StoreKeyring
from sluicegate.streams.settings import Settings

SIGNER = HmacKey("agent/a", b"k" * 32)
KEY_ID = job_key("default", "a", 1_000, "j1").text
SEALED = Sealed(algorithm=AES_256_GCM, key_id=KEY_ID, nonce=b"n" * 12, content=b"c" * 40)


class Keys(NoKeyring):
    """Keys that are withheld for a reason, until they are given."""

    def __init__(self, reason: SluicegateError) -> None:
        self.reason: SluicegateError | None = reason

    def seal(self, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
        if self.reason is not None:
            raise self.reason
        return super().seal(content, salt, key_id, event_id)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """The key store held by somebody else, who is writing."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_gate_that_cannot_read_the_store_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, and judges the very same intent once it can."""
    monkeypatch.setattr(key_file, "BUSY_SEC_MAX", 0)
    path = tmp_path / "keystore.db"

    class Sealing(World):
        keys = StoreKeyring(KeyStore(path, make=True), creates=True)

    world = Sealing(policy_files(), sealing=AES_256_GCM)
    world.submit("j0", "job.crm.list")
    intent, before = world.intent("j1", "job.crm.list"), world.records()
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    with locked(path), pytest.raises(Unavailable, match="try again"):
        world.run()
    assert len(world.records()) == len(before) + 1
    world.run()
    assert world.grants("j1")
    assert world.verified().clean


def judged(now_ms: int, seen: Any = (), revoked: str | None = None) -> Judgement:
    """What a worker does with a grant whose key the service does not give: there is none."""
    keys = keyring_of(Settings(run_dir=Path("nowhere")), SIGNER)
    found = grant(payload=SEALED)
    return judge_grant(found, now_ms, seen, None, tenant="default", pool="default", keys=keys, revoked=revoked)


def test_a_grant_whose_key_cannot_be_had_waits_for_its_end() -> None:
    """Until its start-by time it may still start; it is never refused as unreadable. What is void without a look is."""
    start_by_ms = grant().start_by_ms
    found = judged(start_by_ms)
    assert isinstance(found, Wait)
    assert "key service is not running" in found.scope
    assert judged(start_by_ms + 1) == Lapse()
    assert judged(start_by_ms, revoked="olga revoked it") == Refuse("revoked", "olga revoked it")
    assert isinstance(judged(start_by_ms, seen={grant().grant_id}), Refuse)


def ended_under(reason: SluicegateError) -> tuple[Worker, Keys, Written]:
    """A worker whose job has ended while its keys are withheld, after a turn."""
    control, keys = Control(), Keys(reason)
    worker = Worker(Settings(sealing="none"), "default", {"job.*": lambda _: {}}, control=control)
    worker._events._keys = keys
    attempt = Attempt(grant(), (), 0.0, 0)
    worker._running[attempt.grant.grant_id] = attempt
    worker._finished.put(Finished(grant=attempt.grant, succeeded=True, content=b"{}"))
    return worker, keys, turn(worker, Grants(), control)


def test_an_output_waits_for_its_key() -> None:
    """The attempt goes on giving signs of life, and its output is written once it can be sealed."""
    worker, keys, written = ended_under(Unavailable("no keys now"))
    assert [type(event) for event in written.events] == [Progressed]
    keys.reason = None
    turn(worker, Grants(), Control(), written)
    assert [type(event) for event in written.events[1:]] == [Output, Ended]
    assert not worker._running


def test_an_output_whose_key_was_erased_is_never_written() -> None:
    """Nobody could ever open it, and in the clear it must not stand: the log says why there is none."""
    _, _, written = ended_under(KeyErased("erased by olga"))
    assert [type(event) for event in written.events] == [Ended]
    assert "erased by olga" in (written.events[0].detail or "")  # type: ignore[union-attr]


def test_an_agent_waits_for_a_key_service_that_comes_back(tmp_path: Path) -> None:
    """For as long as its patience lasts, and then it is told what to start; nothing was sent."""
    asked = threading.Event()

    def endpoint() -> str:
        if not asked.is_set():
            asked.set()
            return endpoint_of(tmp_path)
        raise KeyErased("a service that answers")

    with pytest.raises(KeyErased, match="that answers"):
        ServiceKeyring(endpoint, SIGNER, "default", patience_sec=5).leaf(KEY_ID)
    with pytest.raises(Unavailable, match="start `sluicegate up`, or `sluicegate run keys`"):
        ServiceKeyring(lambda: endpoint_of(tmp_path), SIGNER, "default", patience_sec=0.1).leaf(KEY_ID)


def test_who_asks_for_many_keys_is_not_kept_by_a_service_that_is_silent(tmp_path: Path) -> None:
    """One that did not answer just now is not asked again at once."""
    asked: list[int] = []

    def endpoint() -> str:
        asked.append(1)
        return endpoint_of(tmp_path)

    keys = ServiceKeyring(endpoint, SIGNER, "default")
    for _ in range(5):
        with pytest.raises(Unavailable, match="not running here"):
            keys.leaf(KEY_ID)
    assert len(asked) == 1
