"""Hostile documents and intents: nothing crashes, nothing is lost, nothing is widened."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import pytest
import rfc8785
import yaml
from random_texts import mutated, random_json, random_value, random_yaml, real_documents
from world import CODEC, TENANT, World, agent_key, policy_files

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.faults import Fault, PolicyFaults
from sluicegate.policies.load import Bundle, parse_bundle, parse_documents
from sluicegate.policies.subject import subject_of
from sluicegate.schemas.events import DeadLetter, Decision, Grant, Intent
from sluicegate.schemas.payload import job_hash, parse_strict, seal, unseal
from sluicegate.streams.engine import Headers, Record
from sluicegate.streams.identity import sign

SHORT: Final = 1_000
LONG: Final = 100_000
INTENTS_EACH_WORLD: Final = 200
DOCUMENTS: Final = real_documents()
POLICY: Final = """
rules:
  - { id: never, match: { topics: ["job.delete.*"] }, decision: deny }
  - { id: large, match: { topics: ["job.pay.*"], amount_usd_above: 100 }, decision: require_approval }
  - { id: small, match: { topics: ["job.pay.*"], amount_usd_below: 50 }, decision: allow }
"""
BREAKS: Final = (re.compile("\r\n|[\n\r\x85\u2028\u2029]"), re.compile("\n"))
"""Where a line ends: as YAML 1.1 has it, and in JSON."""
GRANTING: Final = {"ALLOW", "ALLOW_WITH_CONSTRAINTS"}


# --- documents


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None  # `read_folder` refuses the file with its position before anything is parsed


def _assert_helpful(fault: Fault, texts: Mapping[str, str]) -> None:
    """A fault says what to do, and points into the text it is about."""
    assert fault.message
    assert fault.fix
    assert fault.severity in {"error", "warning"}
    assert fault.file in texts
    lines = BREAKS[fault.file.endswith(".json")].split(texts[fault.file])
    assert 1 <= fault.line <= len(lines) + 1, fault
    assert 1 <= fault.column <= len(lines[fault.line - 1] if fault.line <= len(lines) else "") + 1, fault


def _elsewhere(name: str, text: str) -> Any:
    """What another reader makes of a text that we accept; libyaml takes tabs where the one in Python takes none.

    A `.json` file is JSON and no YAML: there a colon may stand in another line than its key, and U+2028 is a letter.
    """
    if name.endswith(".json"):
        return msgspec.json.decode(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return yaml.load(text, Loader=yaml.CSafeLoader)  # the safe loader, in C


def _digest_elsewhere(texts: Mapping[str, str]) -> str:
    """The digest as anybody computes it, by the rule of the snapshot's name."""
    return hashlib.sha256(rfc8785.dumps({name: _elsewhere(name, text) for name, text in texts.items()})).hexdigest()


def _read(texts: Mapping[str, str]) -> Bundle | None:
    """Read texts and hold what must always hold; None where they are refused."""
    bundle: Bundle | None = None
    try:
        bundle = parse_bundle(texts)
        faults = bundle.warnings
    except PolicyFaults as refused:
        faults = refused.faults
    for fault in faults:
        _assert_helpful(fault, texts)
    if bundle is None:
        assert "error" in {fault.severity for fault in faults}
        return None
    assert bundle.snapshot_digest == _digest_elsewhere(texts)
    assert parse_documents(bundle.documents).snapshot_digest == bundle.snapshot_digest
    compile_bundle(bundle)
    return bundle


def _broken_copy(chance: random.Random) -> str:
    label = chance.choice(sorted(DOCUMENTS))
    name = label.rpartition("/")[2]
    text = _decoded(mutated(chance, DOCUMENTS[label]))
    if text is None:
        return "not UTF-8"
    texts = {name: text}
    if chance.random() < 0.1 and not name.startswith("bundle"):
        folder = label.rpartition("/")[0]
        texts |= {
            other.rpartition("/")[2]: content.decode()
            for other, content in DOCUMENTS.items()
            if other.rpartition("/")[0] == folder and other.endswith(("bundle.yaml", "actions.yaml")) and other != label
        }
    bundle = _read(texts)
    if bundle is None:
        return "refused"
    whole = {each: DOCUMENTS[f"{label.rpartition('/')[0]}/{each}"].decode() for each in texts}
    return "same meaning" if _digest_elsewhere(whole) == bundle.snapshot_digest else "other meaning, other digest"


def _random_document(make: Callable[[random.Random], bytes], name: str) -> Callable[[random.Random], str]:
    def run(chance: random.Random) -> str:
        text = _decoded(make(chance))
        if text is None:
            return "not UTF-8"
        return "refused" if _read({name: text}) is None else "accepted"

    return run


def _random_snapshot(chance: random.Random) -> str:
    """What stands in a snapshot was parsed by someone else, so it may be anything."""
    try:
        parse_documents({chance.choice(["a.yaml", "bundle.yaml", "actions.json", "x"]): random_value(chance)})
    except PolicyFaults as refused:
        for fault in refused.faults:
            assert fault.message
            assert fault.fix
        return "refused"
    return "accepted"


MAKERS: Final[tuple[tuple[str, int, Callable[[random.Random], str]], ...]] = (
    ("broken copy", 5, _broken_copy),
    ("yaml", 2, _random_document(random_yaml, "a.yaml")),
    ("json", 2, _random_document(random_json, "a.json")),
    ("snapshot", 1, _random_snapshot),
)


def fuzz_documents(seed: int, count: int) -> Counter[str]:
    """Read so many documents; how they ended. A failure names the seed that makes this one document again."""
    ended: Counter[str] = Counter()
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        name, _, make = chance.choices(MAKERS, [weight for _, weight, _ in MAKERS])[0]
        try:
            ended[f"{name}: {make(chance)}"] += 1
        except Exception as problem:
            raise AssertionError(f"{name} of seed `{seed}/{number}`: {type(problem).__name__}: {problem}") from problem
    return ended


# --- intents

AGENTS: Final = ("deployer", "reader", "other", "nobody")
JOBS: Final = ("job.crm.read", "job.pay.refund", "job.deploy.web", "job.delete.table", "job.unheard.of", "")
PAYLOADS: Final = (b'{"amount_usd":20}', b'{"amount_usd":500}', b"{}", b'{"amount_usd":null,"n":[1,2]}')


def _intent(chance: random.Random, world: World, agent: str) -> Intent:
    """An intent as an agent's own code makes it, or with fields that no code of ours would send."""
    payload = chance.choice(PAYLOADS)
    if chance.random() < 0.2:
        payload = mutated(chance, payload)
    topic, tags = (
        chance.choice(JOBS),
        chance.sample(["read", "prod", "\u2028"], chance.choice([0, 0, 1, 2])),
    )
    intent = world.intent(world.number("job"), topic, payload, agent, risk_tags=tags)
    if chance.random() < 0.3:
        numbers = (None, 0.5, 1.0, -1.0, float("nan"), float("inf"), 1e308)
        changes: dict[str, Any] = {
            "risk_tags": chance.choice([["x" * 300], [""], ["read"] * 100, ["read", "read"]]),
            "confidence": chance.choice(numbers),
            "topic": chance.choice([*JOBS, "job.crm.read" * 30, "job.\n.read"]),
            "agent_id": chance.choice(AGENTS),
            "job_hash": chance.choice(["", "0" * 64, intent.job_hash]),
            "tenant": chance.choice(["other", TENANT]),
            "payload": chance.choice([seal(b"{", bytes(16)), msgspec.structs.replace(intent.payload, algorithm="x")]),
            "job_id": chance.choice(["", "job-1", "job-2", "j" * 2_000]),
        }
        chosen = chance.sample(sorted(changes), chance.choice([1, 1, 2]))
        intent = msgspec.structs.replace(intent, **{name: changes[name] for name in chosen})
        if chance.random() < 0.5:
            salt = agent_key(agent).salt(intent.job_id)
            content = chance.choice(PAYLOADS)
            hashed = job_hash(content, intent.topic, intent.agent_id, intent.risk_tags, salt)
            intent = msgspec.structs.replace(intent, payload=seal(content, salt), job_hash=hashed)
    return intent


def _broken_headers(chance: random.Random, headers: Headers) -> Headers:
    """One header left out, flipped, doubled or replaced."""
    name, value = headers[chance.randrange(len(headers))]
    others = tuple(each for each in headers if each[0] != name)
    return chance.choice([others, (*others, (name, mutated(chance, value))), (*headers, (name, b"")), ()])


def _send(chance: random.Random, world: World) -> tuple[Record, bool]:
    """Append one intent, whole or broken; the record, and whether what stands in it is what its agent signed."""
    agent = chance.choice(AGENTS)
    key = agent.encode()
    value = CODEC.encode(_intent(chance, world, agent))
    broken = chance.choice(["nothing"] * 4 + ["before signing", "after signing", "after signing", "headers", "key"])
    if broken == "before signing":
        value = chance.choice([mutated(chance, value), value[: chance.randrange(len(value))]])
    headers = sign(agent_key(agent), "job.intents", world.number("record"), world.log.clock_ms, key, value)
    sent = (key, value, dict(headers))
    if broken == "after signing":
        value = chance.choice([mutated(chance, value), value[: chance.randrange(len(value))]])
    elif broken == "headers":
        headers = _broken_headers(chance, headers)
    elif broken == "key":
        key = chance.choice([b"", b"reader", b"deployer", mutated(chance, key), b"misrouted/0/x", b"k" * 5_000])
    partition = chance.randrange(3) if chance.random() < 0.02 else None
    return world.log.produce("job.intents", key, value, headers, partition=partition), sent == (
        key,
        value,
        dict(headers),
    )


def _may_run(world: World, intent: Intent) -> bool:
    """Whether the active policy lets this very intent run unasked, judged here beside the gate."""
    content, salt = unseal(intent.payload)
    policy = compile_bundle(parse_bundle(FILES))
    payload = parse_strict(content)
    subject = subject_of(
        policy,
        topic=intent.topic,
        agent_id=intent.agent_id,
        risk_tags=intent.risk_tags,
        payload=payload,
        confidence=intent.confidence,
    )
    hashed = job_hash(content, intent.topic, intent.agent_id, intent.risk_tags, salt)
    return hashed == intent.job_hash and policy.judge(subject).decision in GRANTING


FILES: Final = {
    **policy_files(**{"pay.yaml": POLICY}),
    "actions.yaml": yaml.safe_dump(
        {
            "actions": [
                {"topics": ["job.deploy.*"], "risk_tags": ["prod", "write"]},
                {"topics": ["job.pay.*"], "facts": {"amount_usd": "amount_usd"}},
            ]
        }
    ),
}


def fuzz_intents(seed: int, count: int) -> Counter[str]:
    """Send so many intents through whole tenants; how they ended. A failure names the tenant's seed."""
    ended: Counter[str] = Counter()
    for number in range(0, count, INTENTS_EACH_WORLD):
        chance = random.Random(f"{seed}/{number}")
        try:
            ended += _one_tenant(chance, min(INTENTS_EACH_WORLD, count - number))
        except Exception as problem:
            raise AssertionError(f"tenant of seed `{seed}/{number}`: {type(problem).__name__}: {problem}") from problem
    return ended


def _one_tenant(chance: random.Random, count: int) -> Counter[str]:
    world = World(FILES)
    sent: dict[tuple[int, int], tuple[Record, bool]] = {}
    for _ in range(count):
        world.log.advance(1_000)
        record, whole = _send(chance, world)
        sent[record.partition, record.offset] = record, whole
    world.run()
    answers = [
        CODEC.decode(record.value) for topic in ("job.decisions", "dead.letters") for record in world.log.records(topic)
    ]
    ended: Counter[str] = Counter()
    answered: set[tuple[int, int]] = set()
    granted: set[str] = set()
    for answer in answers:
        cause = getattr(answer, "cause", None)
        if cause is None or cause.topic != "job.intents":
            continue
        answered.add((cause.partition, cause.offset))
        ended[getattr(answer, "code", type(answer).__name__)] += 1
        if isinstance(answer, DeadLetter):
            assert unseal(answer.value)[0] == sent[cause.partition, cause.offset][0].value
        if isinstance(answer, Decision) and answer.decision in GRANTING:
            record, whole = sent[cause.partition, cause.offset]
            assert whole, record
            intent = CODEC.decode(record.value)
            assert isinstance(intent, Intent)
            assert _may_run(world, intent), intent
            granted.add(answer.job_id)
            ended["granted"] += 1
    assert set(sent) <= answered, [sent[place] for place in set(sent) - answered][:3]
    assert {grant.job_id for grant in world.events("job.grants.default", Grant)} <= granted
    return ended


# --- short and long


def _assert_seen(ended: Counter[str], *names: str) -> None:
    assert [name for name in names if not ended[name]] == [], ended


def test_broken_and_random_documents_are_refused_helpfully_or_mean_what_other_readers_read() -> None:
    """1,000 documents: faults with places and a way out, or the digest that a plain YAML reader computes, too."""
    ended = fuzz_documents(82, SHORT)
    _assert_seen(ended, "broken copy: refused", "broken copy: same meaning", "broken copy: other meaning, other digest")
    _assert_seen(ended, "yaml: refused", "json: refused", "snapshot: refused", "broken copy: not UTF-8")


def test_broken_intents_crash_nothing_are_all_answered_and_are_never_granted() -> None:
    """1,000 intents: each leaves an event or a dead letter; only what its agent signed and policy allows runs."""
    ended = fuzz_intents(83, SHORT)
    _assert_seen(ended, "granted", "Decision", "DeadLetter", "malformed", "bad_signature", "misrouted")


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(8_200, 8_210))
def test_a_hundred_thousand_documents(seed: int) -> None:
    """The long form, from ten seeds."""
    assert fuzz_documents(seed, LONG // 10).total() == LONG // 10


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(8_300, 8_310))
def test_a_hundred_thousand_intents(seed: int) -> None:
    """The long form, from ten seeds."""
    assert fuzz_intents(seed, LONG // 10).total() >= LONG // 10
