"""The key service over real HTTP and a real store: who gets which key, and that nothing else gets any."""

from __future__ import annotations

import http.client
import json
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluicegate.clients import key_client
from sluicegate.clients.key_client import ServiceKeyring, endpoint_of
from sluicegate.processors import key_service
from sluicegate.processors.key_service import KeyAnswers, KeyService, Nonces
from sluicegate.schemas.errors import BadInput, KeyErased, SealingError, Unavailable
from sluicegate.schemas.key_ids import job_key, quarantine_key
from sluicegate.schemas.payload import SALT_BYTES
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier, HmacKey, Signer, Verifier
from sluicegate.streams.key_request import (
    BODY_BYTES_MAX,
    WINDOW_MS,
    KeyQuestion,
    KeyRefused,
    asked_by,
    decoded_key,
    new_nonce,
    question_message,
)
from sluicegate.streams.key_store import KeyStore, StoreKeyring

TENANT, SALT = "default", bytes(SALT_BYTES)
SUPPORT, OPS = HmacKey("agent/support", b"s" * 32), Ed25519Signer("agent/ops", b"o" * 32)
ROSA, KEN = Ed25519Signer("person/rosa", b"r" * 32), Ed25519Signer("person/ken", b"k" * 32)
POOL, MONITOR = Ed25519Signer("pool/default", b"p" * 32), Ed25519Signer("monitor/mo", b"m" * 32)
VERIFIERS: dict[str, Verifier] = {
    SUPPORT.key_id: SUPPORT,
    **{signer.key_id: Ed25519Verifier(signer.public()) for signer in (OPS, ROSA, KEN, POOL, MONITOR)},
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def key_of(job_id: str, agent: str = "support", at_ms: int = 0, tenant: str = TENANT) -> str:
    return job_key(tenant, agent, at_ms or now_ms(), job_id).text


def held_of(job_id: str, request_id: str) -> str:
    return quarantine_key(job_key(TENANT, "support", now_ms(), job_id), request_id).text


class World:
    """A store, a service over it, and what the desk has said."""

    def __init__(self, run_dir: Path) -> None:
        self.store = KeyStore(run_dir / "keystore.db", make=True)
        self.viewed: set[tuple[str, str]] = set()
        self.carried: dict[str, set[str]] = {}
        self.ahead_ms = 0
        self.answers = KeyAnswers(
            self.store,
            TENANT,
            VERIFIERS.get,
            lambda request_id, person_id: (request_id, person_id) in self.viewed,
            lambda request_id: self.carried.get(request_id, ()),
            lambda: now_ms() + self.ahead_ms,
        )
        self.service = KeyService(self.answers, run_dir)
        self.service.start()

    def keyring(self, signer: Signer, **more: Any) -> ServiceKeyring:
        return ServiceKeyring(lambda: self.service.endpoint, signer, TENANT, **more)

    def post(self, body: bytes, path: str = "/key", method: str = "POST", **headers: str) -> tuple[int, dict[str, Any]]:
        """What the service answers to any bytes at all."""
        connection = http.client.HTTPConnection(self.service.endpoint.removeprefix("http://"), timeout=10)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if content.startswith(b"{") else {}

    def code(self, signer: Signer, key_id: str, **fields: Any) -> str:
        """The word of a refusal, or `given`."""
        _, found = self.post(asked_by(signer, question(key_id, **fields)))
        return "given" if "key" in found else str(found["code"])


def question(key_id: str, **fields: Any) -> KeyQuestion:
    known: dict[str, Any] = {"tenant": TENANT, "issued_at_ms": now_ms() + 1, "nonce": new_nonce()}
    return KeyQuestion(key_id=key_id, **{**known, **fields})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "run")
    yield found
    found.service.stop()
    found.store.close()


@pytest.mark.parametrize(("signer", "agent"), [(SUPPORT, "support"), (OPS, "ops")])
def test_an_agent_seals_and_opens_what_is_its_own(world: World, signer: Signer, agent: str) -> None:
    """With either kind of key; who has the file opens it too, and it is one key."""
    keys = world.keyring(signer, creates=True)
    sealed = keys.seal(b'{"a": 1}', SALT, key_of("j", agent))
    assert keys.open(sealed) == (b'{"a": 1}', SALT)
    assert StoreKeyring(world.store).open(sealed) == (b'{"a": 1}', SALT)


def test_an_agent_gets_no_other_agents_key(world: World) -> None:
    """Nor that of another tenant, nor that of a quarantined output of its own."""
    world.store.leaf(key_of("j", "ops"), create=True)
    world.store.leaf(key_of("j"), create=True)
    assert world.code(OPS, key_of("j", "ops")) == "given"
    assert world.code(SUPPORT, key_of("j", "ops")) == "not_yours"
    assert world.code(SUPPORT, key_of("j", tenant="other")) == "not_yours"
    assert world.code(SUPPORT, key_of("j"), tenant="other") == "not_yours"
    assert world.code(SUPPORT, held_of("j", "r")) == "not_yours"


def test_an_agent_makes_a_unit_for_now_only(world: World) -> None:
    """A unit of another month would be one that nobody looks for; reading makes none."""
    day = 86_400_000
    assert world.code(SUPPORT, key_of("j")) == "unknown_unit"
    assert world.code(SUPPORT, key_of("j", at_ms=now_ms() + 40 * day), create=True) == "not_current"
    assert world.code(SUPPORT, key_of("j", at_ms=now_ms() - 40 * day), create=True) == "not_current"
    assert world.code(SUPPORT, key_of("j"), create=True) == "given"


def test_a_pool_gets_keys_of_jobs_and_makes_none(world: World) -> None:
    """A worker needs what it runs, whoever asked for it; no quarantined output, no new unit."""
    assert world.code(POOL, key_of("j"), create=True) == "not_yours"
    world.store.leaf(key_of("j"), create=True)
    assert world.code(POOL, key_of("j")) == "given"
    assert world.code(POOL, held_of("j", "r")) == "not_yours"


def test_a_person_gets_what_a_named_request_carries(world: World) -> None:
    """A reviewer's key opens no job that nobody asked people about, and makes nothing."""
    world.store.leaf(key_of("j"), create=True)
    world.carried["r"] = {key_of("j")}
    assert world.code(ROSA, key_of("j"), request_id="r") == "given"
    assert world.code(ROSA, key_of("j")) == "not_yours"
    assert world.code(ROSA, key_of("j"), request_id="q") == "not_yours"
    assert world.code(ROSA, key_of("k"), request_id="r") == "not_yours"
    assert world.code(ROSA, key_of("j"), request_id="r", create=True) == "not_yours"


def test_a_quarantined_output_needs_a_committed_view_of_this_person_and_request(world: World) -> None:
    """Asking is an event: without it nobody gets the key, and one person's view is not another's."""
    world.store.leaf(key_of("j"), create=True)
    for request in ("r", "q"):
        world.carried[request] = {held_of("j", "r"), held_of("j", "q"), key_of("j")}
    assert world.code(ROSA, held_of("j", "r"), request_id="r") == "not_viewed"
    world.viewed.add(("r", "rosa"))
    assert world.code(KEN, held_of("j", "r"), request_id="r") == "not_viewed"
    assert world.code(ROSA, held_of("j", "q"), request_id="r") == "not_viewed"
    assert world.code(ROSA, held_of("j", "q"), request_id="q") == "not_viewed"
    sealed = StoreKeyring(world.store).seal(b"{}", SALT, held_of("j", "r"))
    assert world.keyring(ROSA).for_request("r").open(sealed) == (b"{}", SALT)


def test_who_is_not_enrolled_gets_nothing(world: World) -> None:
    """No one's key, a key under another's name, a kind of key that has no business here."""
    world.store.leaf(key_of("j"), create=True)
    assert world.code(HmacKey("agent/ghost", b"g" * 32), key_of("j")) == "unknown_key"
    assert world.code(HmacKey("agent/support", b"g" * 32), key_of("j")) == "bad_signature"
    assert world.code(MONITOR, key_of("j")) == "unknown_key"
    assert world.code(HmacKey("agent/", b"g" * 32), key_of("j")) == "unknown_key"


def test_a_question_is_answered_once(world: World) -> None:
    """The very bytes again get nothing, nor does a nonce in another question of the same asker."""
    world.store.leaf(key_of("j"), create=True)
    body = asked_by(SUPPORT, question(key_of("j")))
    assert "key" in world.post(body)[1]
    assert world.post(body)[1]["code"] == "repeated"
    nonce = new_nonce()
    assert [world.code(SUPPORT, key_of(job), nonce=nonce) for job in ("j", "k")] == ["given", "repeated"]
    assert world.code(POOL, key_of("j"), nonce=nonce) == "given"


def test_a_question_counts_for_a_minute(world: World) -> None:
    """Old ones, and ones from the future, whatever their nonce; nor one from before the service began."""
    world.store.leaf(key_of("j"), create=True)
    began = now_ms()
    for ahead, word in ((WINDOW_MS - 20_000, "given"), (WINDOW_MS + 20_000, "stale")):
        world.ahead_ms = ahead
        assert world.code(SUPPORT, key_of("j"), issued_at_ms=began + 1) == word
    world.ahead_ms = 0
    assert world.code(SUPPORT, key_of("j"), issued_at_ms=began + WINDOW_MS + 30_000) == "stale"
    assert world.code(SUPPORT, key_of("j"), issued_at_ms=began - 30_000) == "stale"


def test_a_nonce_is_remembered_as_long_as_its_question_could_count() -> None:
    """A question from a minute ahead counts for two minutes; after that nonces are forgotten, and one asker's few."""
    nonces = Nonces()
    nonces.use("a", "n", 0)
    with pytest.raises(KeyRefused, match="asked before"):
        nonces.use("a", "n", 2 * WINDOW_MS)
    nonces.use("a", "m", 2 * WINDOW_MS + 1)
    assert nonces._seen["a"][0] == {"m"}


def test_more_questions_than_can_be_remembered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one asker: the others go on."""
    monkeypatch.setattr(key_service, "QUESTIONS_MAX", 2)
    nonces = Nonces()
    nonces.use("a", "1", 0)
    nonces.use("a", "2", 0)
    with pytest.raises(KeyRefused, match="more than 2 questions of `a`"):
        nonces.use("a", "3", 0)
    nonces.use("b", "3", 0)


@pytest.mark.parametrize("field", ["key_id", "create", "request_id", "issued_at_ms", "nonce", "tenant"])
def test_no_part_of_a_question_can_be_changed(world: World, field: str) -> None:
    """The signature is over its exact bytes."""
    world.store.leaf(key_of("j"), create=True)
    body = msgspec.json.decode(asked_by(SUPPORT, question(key_of("j"))))
    asked = msgspec.json.decode(msgspec.json.decode(json.dumps(body["question"]).encode(), type=bytes))
    other = {"create": True, "issued_at_ms": now_ms(), "nonce": "n" * 20}.get(field, f"{asked.get(field)}x")
    body["question"] = msgspec.to_builtins(json.dumps({**asked, field: other}).encode())
    assert world.post(json.dumps(body).encode())[1]["code"] == "bad_signature"


def test_a_records_signature_is_none_of_a_question() -> None:
    """What is signed has a domain of its own, and the signer's name in it."""
    assert b"sluicegate.key_question.v1" in question_message("agent/a", b"q")
    assert question_message("agent/a", b"q") != question_message("agent/b", b"q")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b"null", b'{"question": "!", "by": "agent/support", "signature": ""}']
)
def test_what_is_no_question_is_refused(world: World, body: bytes) -> None:
    """With one word, and the service goes on."""
    assert world.post(body) == (400, {"code": "malformed", "error": world.post(body)[1]["error"]})


def test_bad_requests_get_a_clear_status(world: World) -> None:
    """Wrong path, wrong method, too long, a length that is none, a key id or nonce that is none."""
    assert world.post(b"{}", "/keys")[0] == 404
    assert world.post(b"", method="GET")[0] == 501
    assert world.post(b"x" * (BODY_BYTES_MAX + 1))[0] == 400
    assert world.post(b"", **{"Content-Length": "-1"})[0] == 400
    assert world.code(SUPPORT, "nonsense") == "malformed"
    assert world.code(SUPPORT, key_of("j"), nonce="short") == "malformed"
    assert world.code(SUPPORT, key_of("j"), nonce="n" * 65) == "malformed"


def test_an_erased_key_says_so_to_the_asker(world: World) -> None:
    """The store's own words, as the same exception, whoever asks."""
    keys = world.keyring(SUPPORT, creates=True)
    sealed = keys.seal(b"{}", SALT, key_of("j"))
    world.store.erase_job(TENANT, "support", "j", "asked to", "operator/omar")
    with pytest.raises(KeyErased, match="by `operator/omar`: asked to"):
        world.keyring(SUPPORT).open(sealed)
    with pytest.raises(SealingError, match="has no unit"):
        world.keyring(OPS).leaf(key_of("j", "ops"))
    with pytest.raises(KeyRefused, match="is no key of a job of"):
        world.keyring(OPS).leaf(key_of("j"))


def test_a_keyring_remembers_few_keys_and_not_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was erased opens no longer than that for one who had its key."""
    keys = world.keyring(SUPPORT, creates=True)
    sealed = keys.seal(b"{}", SALT, key_of("j"))
    world.store.erase_job(TENANT, "support", "j", "asked to", "operator/omar")
    assert keys.open(sealed) == (b"{}", SALT)
    monkeypatch.setattr(key_client, "LEAVES_MAX", 2)
    for job in ("k", "l"):
        keys.leaf(key_of(job))
    assert list(keys._leaves) == [key_of("k"), key_of("l")]
    with pytest.raises(KeyErased):
        keys.open(sealed)
    monkeypatch.setattr(key_client, "KEPT_SEC_MAX", 0)
    last = keys.seal(b"{}", SALT, key_of("m"))
    world.store.erase_agent(TENANT, "support", "asked to", "operator/omar")
    with pytest.raises(KeyErased):
        keys.open(last)


def test_the_endpoint_is_for_its_owner_and_on_this_host(world: World, tmp_path: Path) -> None:
    """A file that only its owner reads, gone after the stop; a question never leaves this host."""
    run_dir = tmp_path / "run"
    assert stat.S_IMODE((run_dir / "keys-endpoint").stat().st_mode) == 0o600
    assert endpoint_of(run_dir) == world.service.endpoint
    with pytest.raises(Unavailable, match="no address on this host"):
        ServiceKeyring(lambda: "http://203.0.113.1:80", SUPPORT, TENANT).leaf(key_of("j"))
    with pytest.raises(Unavailable, match="cannot be had"):
        KeyService(world.answers, run_dir, int(world.service.endpoint.rpartition(":")[2]))
    world.service.stop()
    with pytest.raises(Unavailable, match="the key service is not running here"):
        endpoint_of(run_dir)
    with pytest.raises(Unavailable, match="does not answer"):
        world.keyring(SUPPORT).leaf(key_of("j"))


def test_an_answer_that_holds_no_key_is_an_error() -> None:
    """Whatever listens there: no key of another form is ever used."""
    with pytest.raises(SealingError, match="answered no key"):
        decoded_key("no base64")


def test_many_askers_at_once_get_the_right_keys(world: World) -> None:
    """Threads of the service share the store; the month's unit is made once."""
    found: dict[str, bytes] = {}

    def ask(job: str) -> None:
        found[job] = world.keyring(SUPPORT, creates=True).leaf_to_seal(key_of(job))

    threads = [threading.Thread(target=ask, args=(f"j{number}",)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == {f"j{number}": world.store.leaf(key_of(f"j{number}")) for number in range(16)}


SERVICE = """
import sys
from pathlib import Path
from sluicegate.processors.key_service import KeyAnswers, KeyService
from sluicegate.streams.identity import HmacKey
from sluicegate.streams.key_store import KeyStore
run = Path(sys.argv[1])
keys = {"agent/support": HmacKey("agent/support", b"s" * 32)}
store = KeyStore(run / "keystore.db", make=True)
service = KeyService(KeyAnswers(store, "default", keys.get, lambda *_: False, lambda _: ()), run)
service.start()
print(service.endpoint, flush=True)
sys.stdin.read()
service.stop()
"""


def test_an_erasure_beside_a_running_service_holds_for_the_next_question(tmp_path: Path) -> None:
    """The service is a process of its own and remembers keys; the erasing verb writes to the file from another one."""
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", SERVICE, str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        endpoint = service.stdout.readline().strip()
        sealed = ServiceKeyring(lambda: endpoint, SUPPORT, TENANT, creates=True).seal(b"{}", SALT, key_of("j"))
        assert ServiceKeyring(lambda: endpoint, SUPPORT, TENANT).open(sealed) == (b"{}", SALT)
        store = KeyStore(run_dir / "keystore.db")
        store.erase_job(TENANT, "support", "j", "asked to", "operator/omar")
        with pytest.raises(KeyErased):
            ServiceKeyring(lambda: endpoint, SUPPORT, TENANT).open(sealed)
        service.stdin.close()
    assert service.returncode == 0
    with pytest.raises(BadInput, match="no key store"):
        KeyStore(run_dir / "elsewhere" / "keystore.db").check()
