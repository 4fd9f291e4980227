"""The attacks of `test_identity_kafka.py`, topic by topic, on the honest jobs that ran before them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from identity_world import VERIFY, Sign, World, acknowledged, buried, copied, noted, now_ms, refused

from sluicegate.clients.agent import build_intent
from sluicegate.schemas.events import (
    AttemptEnded,
    Cause,
    Command,
    DeadLetter,
    Ended,
    Event,
    Grant,
    Granted,
    Incident,
    Output,
    RequestOpened,
    SnapshotPublished,
    Started,
    TimerFired,
    TimerRequest,
    Verdict,
    Withdrawal,
)
from sluicegate.schemas.payload import SALT_BYTES, job_hash, seal
from sluicegate.streams.identity import Ed25519Signer, HmacKey, Signer
from sluicegate.streams.keys import agent_signer, monitor_signer, operator_signer, person_signer
from sluicegate.streams.settings import Settings

HOUR_MS = 3_600_000
GARBAGE = b"\x00\xff\x1b[2J no event"
DESK = "desk"


def intent(settings: Settings, agent: str, job_id: str, topic: str, payload: Any = None) -> Event:
    """An intent as its agent would sign it."""
    signer = agent_signer(settings, agent)
    limit = settings.payload_bytes_max
    return build_intent(
        signer, settings.tenant, agent, "1", topic, payload or {"n": 1}, payload_bytes_max=limit, job_id=job_id
    )


def impostor(signer: Signer) -> Signer:
    """Somebody who writes under another's key id, without their key."""
    if isinstance(signer, HmacKey):
        return HmacKey(signer.key_id, secrets.token_bytes(32))
    return Ed25519Signer(signer.key_id, secrets.token_bytes(32))


def stranger(signer: Signer) -> Signer:
    """Somebody of the right kind whom nobody has enrolled."""
    return Ed25519Signer(f"{signer.key_id.partition('/')[0]}/mallory", secrets.token_bytes(32))


class Signed:
    """The attacks that every topic of signed records gets from a login that may write it."""

    def __init__(
        self, world: World, login: str, topic: str, signer: Signer, refusal: Callable[[str], Sign], *, single: bool
    ) -> None:
        self.world, self.login, self.topic, self.signer = world, login, topic, signer
        self.refusal, self.single = refusal, single

    def attack(self, kind: str, what: str, record: Any, code: str, **more: Any) -> None:
        """One attack that is refused with a code."""
        self.world.attack(self.login, self.topic, kind, what, record, self.refusal(code), **more)

    def publish(self, make: Callable[[int], tuple[str, Event]]) -> None:
        """All of them; ``make`` gives a fresh key and event for each number."""
        world, topic, signer = self.world, self.topic, self.signer
        key, event = make(0)
        self.attack("unsigned", "no signature", world.plain(key, event), "unsigned")
        key, event = make(1)
        self.attack("forged", "another's key id", world.signed(impostor(signer), topic, key, event), "bad_signature")
        key, event = make(2)
        self.attack("forged", "nobody's key id", world.signed(stranger(signer), topic, key, event), "unknown_key")
        key, event = make(3)
        _, _, headers = world.signed(signer, topic, key, event)
        _, other = make(4)
        changed = (key, world.codec.encode(other), headers)
        self.attack("forged", "changed after signing", changed, "bad_signature")
        key, event = make(5)
        self.attack("stale", "25 h old", world.signed(signer, topic, key, event, age_ms=25 * HOUR_MS), "stale")
        self.attack("stale", "of tomorrow", world.signed(signer, topic, key, event, age_ms=-HOUR_MS), "ahead")
        key, event = make(6)
        self.attack("misrouted", "another's key", world.signed(signer, topic, f"not-{key}", event), "misrouted")
        elsewhere = world.signed(signer, topic, key, event, kafka=world.kafka("workflow.triggers"))
        self.attack("misrouted", "signed for another topic", elsewhere, "bad_signature")
        tenant = world.signed(signer, topic, key, event, kafka=f"other.{topic}")
        self.attack("misrouted", "signed for another tenant", tenant, "bad_signature")
        if not self.single:
            record, partition = world.signed(signer, topic, key, event), world.wrong_partition(key)
            self.attack("misrouted", "wrong partition", record, "misrouted", partition=partition)


def on_intents(world: World) -> None:
    """`job.intents`, by an agent's own login."""
    settings, login, topic = world.settings, "agent.deployer", "job.intents"
    deployer, researcher = agent_signer(settings, "deployer"), agent_signer(settings, "researcher")
    matrix = Signed(world, login, topic, deployer, lambda code: refused("gate", code), single=False)
    matrix.publish(lambda n: ("deployer", intent(settings, "deployer", f"attack-{n}", "job.crm.read")))
    asks = intent(settings, "deployer", "attack-as-another", "job.crm.read")
    matrix.attack("forged", "in another's name", world.signed(researcher, topic, "deployer", asks), "agent_mismatch")
    stop = Withdrawal(job_id="held", agent_id="deployer")
    matrix.attack("forged", "another's withdrawal", world.signed(researcher, topic, "deployer", stop), "agent_mismatch")
    again = copied(next(record for record, _ in world.records("Intent", job_id="read-deployer")))
    repeated = Sign("gate", "job.decisions", "Repeated", (("job_id", "read-deployer"),))
    world.attack(login, topic, "replayed", "the same bytes", again, repeated)
    other = intent(settings, "deployer", "read-deployer", "job.crm.read", {"n": 2})
    matrix.attack("replayed", "other content", world.signed(deployer, topic, "deployer", other), "id_reused")
    world.attack(login, topic, "garbage", "no event", ("deployer", GARBAGE, ()), *buried("gate"))


def on_verdicts(world: World) -> None:
    """`approval.verdicts`, by the login of the reviewer services; the request that is open stays open until the end."""
    settings, login, topic = world.settings, "reviewer", "approval.verdicts"
    (request,) = world.events("ApprovalRequest", job_id="held")
    ken, mei, rosa = (person_signer(settings, name) for name in ("ken", "mei", "rosa"))

    def verdict(number: int, **more: Any) -> Verdict:
        values: dict[str, Any] = {
            "verdict": "approve",
            "approver_id": "ken",
            "policy_snapshot": request.policy_snapshot,
            "job_hash": request.job_hash,
            "decision_ts_ms": now_ms(),
            **more,
        }
        return Verdict(verdict_id=f"verdict-{number}", request_id=request.request_id, desk=DESK, **values)

    matrix = Signed(world, login, topic, ken, lambda code: refused("desk", code), single=False)
    matrix.publish(lambda n: (DESK, verdict(n)))
    matrix.attack("forged", "in another's name", world.signed(mei, topic, DESK, verdict(10)), "wrong_signer")
    agent = agent_signer(settings, "deployer")
    matrix.attack("forged", "by the agent itself", world.signed(agent, topic, DESK, verdict(11)), "unknown_key")
    operator = operator_signer(settings, "operator")
    matrix.attack("forged", "by an operator", world.signed(operator, topic, DESK, verdict(12)), "wrong_signer")
    own = verdict(13, approver_id="rosa")
    matrix.attack("forged", "by the agent's owner", world.signed(rosa, topic, DESK, own), "own_agent")
    bare = verdict(14, job_hash=None)
    matrix.attack("forged", "without its evidence", world.signed(ken, topic, DESK, bare), "incomplete")
    other = verdict(15, job_hash="0" * 64)
    matrix.attack("forged", "for another job", world.signed(ken, topic, DESK, other), "hash_mismatch")
    world.attack(login, topic, "garbage", "no event", (DESK, GARBAGE, ()), *buried("desk"))
    honest = world.signed(ken, topic, DESK, verdict(16, verdict="deny", reason="not today"))
    world.write(login, topic, *honest)
    late = refused("desk", "already_resolved", winner="ken")
    world.attack(login, topic, "replayed", "the same bytes", honest, late)
    second = world.signed(mei, topic, DESK, verdict(17, approver_id="mei"))
    world.attack(login, topic, "replayed", "a second verdict", second, late)


def on_control(world: World) -> None:
    """`control.commands` and `policy.snapshots`, by the operators' login: every gate says that it does not obey."""
    settings, login = world.settings, "operator"
    operator, monitor = operator_signer(settings, "operator"), monitor_signer(settings, "monitor")

    def command(number: int, by: str = operator.key_id) -> Command:
        return Command(command_id=f"command-{number}", kind="pause", scope="everything", by=by)

    def snapshot(number: int, by: str = operator.key_id) -> SnapshotPublished:
        return SnapshotPublished(name=f"v1:{number:06x}", digest=f"{number:064x}", publisher=by, git_dirty=False)

    made: tuple[tuple[str, Callable[..., tuple[str, Event]], str], ...] = (
        ("control.commands", lambda n, *by: ("everything", command(n, *by)), "Command"),
        ("policy.snapshots", lambda n, *by: (f"{n:064x}", snapshot(n, *by)), "SnapshotPublished"),
    )
    for topic, make, name in made:
        matrix = Signed(world, login, topic, operator, lambda code, topic=topic: acknowledged(topic, code), single=True)  # type: ignore[misc]
        matrix.publish(make)
        key, event = make(10, "operator/other")
        matrix.attack("forged", "in another's name", world.signed(operator, topic, key, event), "wrong_signer")
        key, event = make(11, monitor.key_id)
        matrix.attack("forged", "by a monitor", world.signed(monitor, topic, key, event), "unknown_key")
        matrix.attack("garbage", "no event", ("everything", GARBAGE, ()), "malformed")
        matrix.attack("replayed", "the same bytes", copied(world.records(name)[0][0]), "repeated")


def on_incidents(world: World) -> None:
    """`agent.incidents`, by the login of the monitors."""
    settings, login, topic = world.settings, "monitor", "agent.incidents"
    monitor = monitor_signer(settings, "monitor")

    def incident(number: int) -> Incident:
        return Incident(incident_id=f"incident-{number}", agent_id="deployer", kind="leak", note="seen in public")

    matrix = Signed(world, login, topic, monitor, lambda code: refused("gate", code), single=False)
    matrix.publish(lambda n: ("deployer", incident(n)))
    for number, signer in enumerate((agent_signer(settings, "cleaner"), person_signer(settings, "ken")), 10):
        record = world.signed(signer, topic, "deployer", incident(number))
        matrix.attack("forged", f"by {signer.key_id}", record, "wrong_signer")
    honest = world.signed(monitor, topic, "deployer", incident(20))
    world.write(login, topic, *honest)
    matrix.attack("replayed", "the same bytes", honest, "repeated")
    world.attack(login, topic, "garbage", "no event", ("deployer", GARBAGE, ()), *buried("gate"))


def _by_hand(world: World) -> tuple[Started, Output]:
    """What an honest worker of pool `deploy` would write about the job that a person approved."""
    (grant,) = world.events("Grant", job_id="deploy")
    ids = {"job_id": "deploy", "agent_id": "deployer", "grant_id": grant.grant_id, "attempt": 1, "worker_id": "hand"}
    content = b'{"deployed":true}'
    output = Output(
        **ids,
        succeeded=True,
        output=seal(content, bytes(SALT_BYTES)),
        output_hash=hashlib.sha256(content).hexdigest(),
        output_size_bytes=len(content),
    )
    return Started(**ids, pool="deploy", job_hash=grant.job_hash, granted_seq=grant.granted_seq), output


def on_starts_and_outputs(world: World) -> None:
    """`job.starts` and `job.outputs`, by a worker's login: who may write them is trusted as far as the grants go."""
    login, starts, outputs = "worker.deploy", "job.starts", "job.outputs"
    start, output = _by_hand(world)
    changed = msgspec.structs.replace

    def attack(topic: str, kind: str, what: str, event: Event, code: str, key: str = "deployer", **more: Any) -> None:
        world.attack(login, topic, kind, what, world.plain(key, event), refused("outputs", code), **more)

    for topic, sound in ((starts, start), (outputs, output)):
        attack(topic, "misrouted", "another agent's key", sound, "misrouted", key="researcher")
        wrong = world.wrong_partition("deployer")
        attack(topic, "misrouted", "wrong partition", sound, "misrouted", partition=wrong)
        attack(topic, "stale", "an attempt that is over", changed(sound, attempt=0), "late")
        attack(topic, "forged", "another grant", changed(sound, grant_id="grant-made-up"), "no_grant")
        world.attack(login, topic, "garbage", "no event", ("deployer", GARBAGE, ()), *buried("outputs"))
    attack(starts, "forged", "no grant", changed(start, job_id="nobody-asked"), "no_grant")
    attack(starts, "forged", "another job's hash", changed(start, job_hash="0" * 64), "grant_altered")
    attack(starts, "misrouted", "an output among the starts", output, "wrong_topic")
    attack(outputs, "misrouted", "a start among the outputs", start, "wrong_topic")
    # An output names no place in the gate's journal: that there is no grant is known after a while, from a timer.
    never = refused("outputs", "no_grant", job_id="nobody-asked-either", subject="output")._replace(caused=False)
    record = world.plain("deployer", changed(output, job_id="nobody-asked-either"))
    world.attack(login, outputs, "forged", "no grant", record, never)
    honest = world.plain("deployer", start)
    world.write(login, starts, *honest)
    world.attack(login, starts, "replayed", "the same bytes", honest, refused("outputs", "already_started"))


def on_outputs_of_the_start(world: World) -> None:
    """What is tried once the start stands, since the two topics have no common order."""
    login, topic = "worker.deploy", "job.outputs"
    _, output = _by_hand(world)
    lying = world.plain("deployer", msgspec.structs.replace(output, output_hash="0" * 64))
    world.attack(login, topic, "forged", "another output's hash", lying, refused("outputs", "hash_mismatch"))
    other = world.plain("deployer", msgspec.structs.replace(output, worker_id="other"))
    world.attack(login, topic, "forged", "another worker's", other, refused("outputs", "late"))
    honest = world.plain("deployer", output)
    world.write(login, topic, *honest)
    world.attack(login, topic, "replayed", "the same bytes", honest, refused("outputs", "late"))


def on_grants(world: World) -> None:
    """`job.grants.<pool>`, by the admin, whom no list stops: the worker refuses what was not granted so."""
    topic = "job.grants.default"
    (grant,) = world.events("Grant", job_id="read-deployer")
    changed = msgspec.structs.replace

    def journaled(job_id: str, code: str, subject: str) -> Sign:
        return refused("outputs", code, job_id=job_id, subject=subject)._replace(caused=False)

    def attack(kind: str, what: str, event: Grant, code: str, key: str = "") -> None:
        told = (("code", code), ("job_id", event.job_id))
        by_worker = Sign("worker", "job.starts", "GrantRefused", told, caused=False)
        signs = (by_worker, journaled(event.job_id, code, "grant"), VERIFY)
        world.attack("admin", topic, kind, what, world.plain(key or event.job_id, event), *signs)

    altered = changed(grant, payload=seal(b'{"everyone":true}', bytes(SALT_BYTES)))
    attack("forged", "altered", altered, "grant_unsigned")
    attack("forged", "the same terms, unsigned", grant, "grant_unsigned")
    told = (("code", "grant_repeated"), ("job_id", grant.job_id))
    again = Sign("worker", "job.starts", "GrantRefused", told, caused=False)
    signs = (again, journaled(grant.job_id, "grant_repeated", "grant"), VERIFY)
    ((record, _),) = world.records("Grant", job_id="read-deployer", grant_id=grant.grant_id)[:1]
    world.attack("admin", topic, "replayed", "the same bytes", copied(record), *signs)
    salt = bytes(SALT_BYTES)

    def made_up(job_id: str, **more: Any) -> Grant:
        content = b'{"n":3}'
        values: dict[str, Any] = {
            "job_id": job_id,
            "grant_id": f"grant-{job_id}",
            "agent_id": "researcher",
            "payload": seal(content, salt),
            "job_hash": job_hash(content, grant.topic, "researcher", grant.risk_tags, salt),
            "granted_seq": 1,
            **more,
        }
        made: Grant = changed(grant, **values)
        return made

    attack("misrouted", "another job's key", made_up("odd-key"), "grant_unsigned", key="another-job")
    attack("misrouted", "another pool's", made_up("odd-pool", pool="deploy"), "grant_unsigned")
    # Sound in itself, but for the signature that only a gate can make.
    for kind, event in (("stale", made_up("too-late", start_by_ms=1)), ("forged", made_up("made-up"))):
        attack(kind, "made up whole", event, "grant_unsigned")
    unreadable = (("code", "grant_unreadable"), ("job_id", "no-job"))
    passed_over = Sign("worker", "job.starts", "GrantRefused", unreadable, caused=False)
    both = (passed_over, journaled("no-job", "grant_unreadable", "grant"))
    world.attack("admin", topic, "garbage", "no event", ("no-job", GARBAGE, ()), *both, VERIFY)
    elsewhere = made_up("nobody-serves", pool="deploy")
    for kind in ("forged", "replayed"):
        world.attack("admin", "job.grants.deploy", kind, "made up", world.plain("nobody-serves", elsewhere), VERIFY)


def _journal(number: int) -> dict[str, Any]:
    cause = Cause(topic="job.intents", partition=0, offset=1_000_000 + number)
    return {"cause": cause, "at_ms": now_ms(), "seq": 1, "control_offset": 0, "judge": 1}


def on_journals(world: World) -> None:
    """The services' topics, by the admin: who reads them is not moved where it can know better; verify names all."""
    terms: dict[str, Any] = {"agent_id": "nobody", "grant_id": "grant-nobody", "attempt": 1}
    granted = Granted(
        **_journal(1),
        **terms,
        job_id="nobody-1",
        pool="default",
        topic="job.crm.read",
        job_hash="0" * 64,
        start_by_ms=now_ms(),
        retry_safe=False,
        policy_snapshot="v1:000000",
    )
    opened = Sign("outputs", "job.results", "AttemptOpened", (("job_id", "nobody-1"),))
    ended = AttemptEnded(**_journal(2), **terms, job_id="nobody-2", outcome="lost")
    not_live = noted("gate", "not the live attempt")
    for topic, party, event, sign in (
        ("job.decisions", "outputs", granted, opened),
        ("job.results", "gate", ended, not_live),
    ):
        # The gate's word is law to outputs; only verify knows that the gate did not say it.
        world.attack("admin", topic, "forged", "made up", world.plain(f"nobody-of-{party}", event), sign, VERIFY)
        wrong, record = world.wrong_partition("nobody-b"), world.plain("nobody-b", event)
        signs = (refused(party, "misrouted"), VERIFY)
        world.attack("admin", topic, "misrouted", "wrong partition", record, *signs, partition=wrong)
        world.attack("admin", topic, "garbage", "no event", ("nobody-c", GARBAGE, ()), *buried(party), VERIFY)
    request = RequestOpened(
        **_journal(3),
        request_id="request-nobody",
        kind="intent",
        queue="default",
        job_id="nobody-3",
        agent_id="nobody",
        topic="job.crm.read",
        reason="made up",
        expires_at_ms=now_ms(),
    )
    world.attack("admin", "approval.events", "forged", "made up", world.plain("nobody", request), VERIFY)
    world.attack("admin", "approval.events", "garbage", "no event", ("nobody-c", GARBAGE, ()), VERIFY)
    ended_by_worker = world.plain("nobody-d", Ended(**terms, job_id="nobody-4", worker_id="x", outcome="finished"))
    for topic in ("job.decisions", "job.results", "approval.events"):
        world.attack("admin", topic, "forged", "of no class of this topic", ended_by_worker, VERIFY)


def on_requests_and_resolutions(world: World) -> None:
    """`approval.requests` and `approval.resolutions`, by the admin."""
    topic = "approval.requests"
    record, request = world.records("ApprovalRequest", job_id="held")[0]
    changed = msgspec.structs.replace
    made_up = changed(request, request_id="request-made-up", job_id="nobody-asked", agent_id="nobody")
    opened = Sign("desk", "approval.events", "RequestOpened", (("request_id", "request-made-up"),))
    world.attack("admin", topic, "forged", "made up", world.plain(DESK, made_up), opened, VERIFY)
    astray = (refused("desk", "misrouted"), VERIFY)
    odd = changed(request, request_id="request-odd")
    world.attack("admin", topic, "misrouted", "another desk's key", world.plain("not-desk", odd), *astray)
    wrong = world.wrong_partition(DESK)
    world.attack("admin", topic, "misrouted", "wrong partition", world.plain(DESK, odd), *astray, partition=wrong)
    known = noted("desk", f"{request.request_id} is known")
    world.attack("admin", topic, "replayed", "the same bytes", copied(record), known, VERIFY)
    world.attack("admin", topic, "garbage", "no event", (DESK, GARBAGE, ()), *buried("desk"), VERIFY)

    topic = "approval.resolutions"
    record, resolution = world.records("Resolution", job_id="deploy")[0]
    not_open = noted("gate", "not the open request")
    made_up = changed(resolution, request_id="request-made-up", job_id="held")
    world.attack("admin", topic, "forged", "an approval", world.plain("deployer", made_up), not_open, VERIFY)
    other = world.plain("researcher", changed(resolution, desk_seq=99))
    world.attack("admin", topic, "misrouted", "another agent's key", other, not_open, VERIFY)
    wrong, record_b = world.wrong_partition("deployer"), world.plain("deployer", changed(resolution, desk_seq=98))
    signs = (refused("gate", "misrouted"), VERIFY)
    world.attack("admin", topic, "misrouted", "wrong partition", record_b, *signs, partition=wrong)
    world.attack("admin", topic, "replayed", "the same bytes", copied(record), not_open, VERIFY)
    both = (*buried("gate"), *buried("outputs"))
    world.attack("admin", topic, "garbage", "no event", ("deployer", GARBAGE, ()), *both, VERIFY)


def on_timers_and_the_rest(world: World) -> None:
    """Timers, dead letters and the topics on which no event may stand yet, by the admin."""
    for owner in ("gate", "outputs", "desk"):
        topic, key = f"timer.fired.{owner}", DESK if owner == "desk" else "deployer"
        fired = TimerFired(owner=owner, key=key, timer_id="lease/nobody/1", fire_at_ms=1)
        record, unarmed = world.plain(key, fired), noted(owner, "not armed")
        world.attack("admin", topic, "forged", "nobody asked", record, unarmed, VERIFY)
        world.attack("admin", topic, "replayed", "the same bytes", record, unarmed, VERIFY)
        wrong, signs = world.wrong_partition(key), (refused(owner, "misrouted"), VERIFY)
        world.attack("admin", topic, "misrouted", "wrong partition", record, *signs, partition=wrong)
        world.attack("admin", topic, "garbage", "no event", (key, GARBAGE, ()), *buried(owner), VERIFY)
    nobody = TimerFired(owner="workflows", key="run", timer_id="x", fire_at_ms=1)
    world.attack("admin", "timer.fired.workflows", "forged", "nobody asked", world.plain("run", nobody), VERIFY)
    wish = TimerRequest(owner="workflows", key="run", timer_id="y", fire_at_ms=now_ms() + 24 * HOUR_MS)
    world.attack("admin", "timer.requests", "forged", "made up", world.plain("run", wish), VERIFY)
    real = next(record for record, _ in world.records("TimerRequest"))
    world.attack("admin", "timer.requests", "replayed", "the same bytes", copied(real), VERIFY)
    world.attack("admin", "timer.requests", "garbage", "no event", ("run", GARBAGE, ()), VERIFY)
    letter = DeadLetter(
        application="gate",
        cause=Cause(topic="job.intents", partition=0, offset=1_000_000),
        reason="malformed",
        message="made up",
        key=b"nobody",
        value=seal(b"x", bytes(SALT_BYTES)),
        headers={},
        appended_at_ms=1,
    )
    world.attack("admin", "dead.letters", "forged", "made up", world.plain("nobody", letter), VERIFY)
    for topic in ("agent.autonomy", "agent.audits", "workflow.triggers", "workflow.replies", "workflow.runs"):
        world.attack("admin", topic, "forged", "no event may stand here", world.plain("nobody", letter), VERIFY)


def copies_of_the_last_word(world: World) -> None:
    """Journal records of keys that have gone quiet, once more: only then is it certain that nothing follows them."""
    record = [record for record, event in world.log if record.topic == "job.decisions" and record.key == b"cleaner"][-1]
    world.attack("admin", "job.decisions", "replayed", "the same bytes", copied(record), VERIFY)
    record = world.records("Result", agent_id="researcher")[-1][0]
    signs = (noted("gate", "not the live attempt"), VERIFY)
    world.attack("admin", "job.results", "replayed", "the same bytes", copied(record), *signs)
    record = [record for record, event in world.log if record.topic == "approval.events" and record.key == b"desk"][-1]
    world.attack("admin", "approval.events", "replayed", "the same bytes", copied(record), VERIFY)
    record = world.records("DeadLetter", application="desk")[0][0]
    world.attack("admin", "dead.letters", "replayed", "the same bytes", copied(record), VERIFY)
