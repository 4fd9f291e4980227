"""The crash tests' checks on audits and levels can fail: each is held against a tenant that breaks its promise."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Container
from typing import Any, Final

import msgspec
import pytest
from crash_audits import TOLD_AFTER_MS, audit_findings
from crash_levels import level_findings
from crash_load import TOPICS, agent_names, documents, payload_of, returns_of, said_of
from crash_process import BUDGET, secret_of
from crash_review import Entry, Place
from world import PEOPLE, World

from sluicegate.policies.autonomy import Job as Scored
from sluicegate.policies.sampling import AuditTerms, drawn
from sluicegate.processors import audits, gate_judge, gate_state, trust
from sluicegate.schemas.events import (
    ApprovalRequest,
    AuditDrawn,
    Finding,
    Grant,
    LevelChanged,
    Noted,
    RequestOpened,
    Resolution,
    Verdict,
)
from sluicegate.schemas.records import Cause
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS, commitment_of, epoch_key
from sluicegate.streams.engine import Record

JOBS: Final = 90
EPOCHS: Final = {0: "1", 30: "0.75", 60: "1.25"}
"""Before which job of the load an epoch begins, and its scale."""
UNDER_WAY: Final = 6
"""Jobs that are not finished yet when the next is submitted: some of them end in a later epoch."""
Patch = pytest.MonkeyPatch
Broken = dict[str, list[str]]


class Tenant:
    """The tenant of the crash tests in memory: a short form of its load, of which nothing is killed."""

    def __init__(self) -> None:
        found = documents()
        for person in found["reviewers.yaml"]["people"]:
            person["public_key"] = base64.b64encode(PEOPLE[person["id"]].public()).decode()
        self.world = World({name: json.dumps(document) for name, document in found.items()})
        self.numbers: dict[str, int] = {}
        self.played: set[Place] = set()
        """What stands in the log once the load has come to its end."""
        self._answered: set[str] = set()

    def begin(self, number: int, scale: str = "1", master: bytes | None = None) -> None:
        """An epoch begins."""
        key = epoch_key(self.world.audit_master if master is None else master, number)
        self.world.command("epoch", epoch=number, commitment=commitment_of(key), scale=scale)

    def tell(self, number: int, key_of: int | None = None) -> None:
        """The key of an epoch is told; of another one with ``key_of``."""
        key = epoch_key(self.world.audit_master, number if key_of is None else key_of)
        self.world.command("reveal", epoch=number, revealed=key.hex())

    def play(self) -> Tenant:
        """Run the load to its end."""
        under_way: deque[str] = deque()
        agents = agent_names()[:2]
        for number in range(JOBS):
            if number in EPOCHS:
                self.begin(list(EPOCHS).index(number) + 1, EPOCHS[number])
            agent, kind = agents[number % 2], TOPICS[number % len(TOPICS)]
            job_id = f"{agent}-{number}"
            self.numbers[job_id] = number
            self.world.submit(job_id, f"job.crash.{kind}", json.dumps(payload_of(number, JOBS)).encode(), agent)
            under_way.append(job_id)
            if len(under_way) > UNDER_WAY:
                self._finish(under_way.popleft())
            self.answer()
        while under_way:
            self._finish(under_way.popleft())
        self.answer()
        self.played = {_place(record) for record in self.world.records()}
        return self

    def _finish(self, job_id: str) -> None:
        for grant in self.world.grants(job_id):
            returns = returns_of(self.numbers[job_id])
            output = {"token": secret_of(self.numbers[job_id])} if returns == "hold" else {"ok": True}
            self.world.start(grant)
            self._return(grant, output, [BUDGET] if returns == "breach" else [])

    def _return(self, grant: Grant, output: Any, breached: list[str]) -> None:
        self.world.finish(grant, json.dumps(output).encode(), breached=breached)

    def answer(self) -> None:
        """People decide whatever is open."""
        opened = {each.request_id for each in self.world.events("approval.events", RequestOpened)}
        for request in self.world.events("approval.requests", ApprovalRequest):
            if request.request_id in opened - self._answered:
                self._answered.add(request.request_id)
                said: dict[str, Any] = {"verdict": "deny", "choice": "destroy", "reason": "it must not leave"}
                if request.kind != "output":
                    said = said_of(request.kind, request.request_id, request.job_id)
                verdict = Verdict(
                    verdict_id=self.world.number("verdict"),
                    request_id=request.request_id,
                    desk=request.desk,
                    approver_id="ken",
                    policy_snapshot=request.policy_snapshot,
                    job_hash=request.job_hash,
                    decision_ts_ms=self.world.log.clock_ms,
                    **said,
                )
                self.world.signed(PEOPLE["ken"], "approval.verdicts", verdict.desk, verdict)
                self.world.run()

    def state(self) -> list[Entry]:
        """What the gate remembers."""
        state = self.world.engines[0]._group.state
        return [(key.decode(), name, value) for (_, key), found in state.items() for name, value in found.items()]

    def broken(self, but: Container[Place] = ()) -> Broken:
        """The promises that its log breaks, without what stands ``but`` there."""
        records = [record for record in self.world.records() if _place(record) not in but]
        _, audited = audit_findings(records, self.numbers, self.world.audit_master)
        _, moved = level_findings(records, self.state())
        return audited | moved


def _place(record: Record) -> Place:
    return record.topic, record.partition, record.offset


@pytest.fixture(scope="module")
def sound() -> Tenant:
    return Tenant().play()


def test_a_sound_tenant_breaks_no_promise(sound: Tenant) -> None:
    """What the checks compute on their own is what the steps did; and the log has all that the checks are about."""
    assert sound.broken() == {}
    counts, _ = audit_findings(sound.world.records(), sound.numbers, sound.world.audit_master)
    moves, _ = level_findings(sound.world.records(), sound.state())
    wanted = {"drawn across epochs", "drawn because they must be", "findings correct", "findings wrong"}
    assert {name for name, count in counts.items() if count} >= wanted
    assert moves.keys() >= {"levels requested", "levels promoted", "levels demoted"}


# --- steps that break a promise


def _some_not_drawn(patch: Patch) -> None:
    finished = audits.finished
    patch.setattr(
        audits, "finished", lambda turn, intent, *more: intent.job_id[-1] != "7" and finished(turn, intent, *more)
    )


def _drawn_twice(patch: Patch) -> None:
    finished = audits.finished

    def twice(*arguments: Any) -> None:
        finished(*arguments)
        finished(*arguments)

    patch.setattr(audits, "finished", twice)


def _denied_are_drawn(patch: Patch) -> None:
    def shut_and_drawn(turn: Any, intent: Any, job: Any, outcome: Any) -> None:
        audits.finished(turn, intent, job, "failed")
        gate_state.shut(turn, intent, job, outcome)

    patch.setattr(gate_judge, "shut", shut_and_drawn)


def _with(module: Any, cls: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Patch], None]:
    """Whatever the module makes of a class has other fields."""
    return lambda patch: patch.setattr(module, cls.__name__, lambda **fields: cls(**{**fields, **change(fields)}))


def _without_result(patch: Patch) -> None:
    ask = audits._ask
    patch.setattr(audits, "_ask", lambda turn, intent, job, drawn_as, _: ask(turn, intent, job, drawn_as, None))


def _always_first_epoch(patch: Patch) -> None:
    draw = audits._draw
    patch.setattr(audits, "_draw", lambda *arguments: (1, *draw(*arguments)[1:]))


def _without_scale(patch: Patch) -> None:
    inclusion = AuditTerms.inclusion
    patch.setattr(AuditTerms, "inclusion", lambda *arguments: inclusion(*arguments[:4]))


def _other_message(patch: Patch) -> None:
    patch.setattr(audits, "drawn", lambda key, agent, job_id, probability: drawn(key, job_id, agent, probability))


def _nobody_asked(patch: Patch) -> None:
    patch.setattr(audits, "_ask", lambda *_: None)


def _finding_lost(patch: Patch) -> None:
    patch.setattr(audits, "on_finding", lambda turn, _: turn.journal(Noted, kind="finding", detail="lost"))


def _counted(patch: Patch, word: str, times: int) -> None:
    """What is said with a word counts so many times, as if each time were another job."""
    weigh = trust._weigh

    def other(turn: Any, known: Any, domain: Any, said: Any, job: Any, *more: Any) -> None:
        for number in range(times if said == word else 1):
            weigh(turn, known, domain, said, Scored() if number else job, *more)

    patch.setattr(trust, "_weigh", other)


def _level_three(patch: Patch) -> None:
    decide = gate_state.decide
    patch.setattr(gate_judge, "decide", lambda *arguments, **fields: decide(*arguments, **{**fields, "level": 3}))


STEPS: Final[list[tuple[str, Callable[[Patch], None]]]] = [
    ("a finished job has no draw", _some_not_drawn),
    ("a job was drawn twice", _drawn_twice),
    ("an unfinished job has a draw", _denied_are_drawn),
    ("a draw is not of what ended the job", _with(audits, AuditDrawn, lambda _: {"outcome": "failed"})),
    ("a number of audits has a gap", _with(audits, Finding, lambda fields: {"number": fields["number"] + 1})),
    ("a job was drawn in another epoch", _always_first_epoch),
    ("a job was drawn with another probability", _without_scale),
    ("the sample is not what the keys say", _other_message),
    ("a request of nothing drawn", _with(audits, AuditDrawn, lambda _: {"drawn": False})),
    ("a drawn job has not one request", _nobody_asked),
    ("a resolved sample has not one finding", _finding_lost),
    ("a finding is not what was said", _with(audits, Finding, lambda _: {"finding": "wrong"})),
    ("a request shows another result", _without_result),
    ("an agent's level moved otherwise", lambda patch: _counted(patch, "succeeded", 2)),
    ("an agent's score is another", lambda patch: _counted(patch, "succeeded", 2)),
    ("an agent's score is another", lambda patch: _counted(patch, "found_correct", 0)),
    ("an agent's score is another", lambda patch: _counted(patch, "found_harmful", 0)),
    ("an agent's level moved otherwise", lambda patch: _counted(patch, "policy_violation", 0)),
    ("a number of levels has a gap", _with(trust, LevelChanged, lambda fields: {"number": fields["number"] * 2})),
    ("a decision was taken at another level", _level_three),
]


@pytest.mark.parametrize(("promise", "breaks"), STEPS, ids=[f"{at}-{name}" for at, (name, _) in enumerate(STEPS)])
def test_a_step_that_breaks_a_promise_is_caught(
    promise: str, breaks: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """A draw, a request, a finding or a count too many, too few or another one shows in the log."""
    breaks(monkeypatch)
    assert promise in Tenant().play().broken()


# --- logs that break a promise


def _forged_finding(tenant: Tenant) -> None:
    agent = agent_names()[0]
    (last, *_) = [each for each in reversed(tenant.world.events("agent.audits", Finding)) if each.agent_id == agent]
    cause = Cause(topic="approval.resolutions", partition=0, offset=10_000)
    forged = msgspec.structs.replace(last, number=last.number + 1, request_id="nobody's", cause=cause)
    tenant.world.plain("agent.audits", agent, forged)


def _forged_level(tenant: Tenant) -> None:
    last = tenant.world.last("agent.autonomy", LevelChanged)
    tenant.world.plain("agent.autonomy", "nobody", msgspec.structs.replace(last, agent_id="nobody", number=1))


def _resolved_twice(tenant: Tenant) -> None:
    resolutions = tenant.world.events("approval.resolutions", Resolution)
    found = next(each for each in resolutions if each.kind == "audit")
    tenant.world.plain("approval.resolutions", found.agent_id, found)


def _told(tenant: Tenant, *epochs: int, key_of: int | None = None, after_ms: int = REVEAL_AFTER_MS) -> None:
    tenant.world.advance(after_ms / 1_000 + 1)
    for number in epochs:
        tenant.tell(number, key_of)


LOGS: Final[list[tuple[str, Callable[[Tenant], None]]]] = [
    ("epochs were not begun one after another", lambda tenant: tenant.begin(3)),
    ("epochs were not begun one after another", lambda tenant: tenant.begin(5)),
    ("an epoch is committed to another key", lambda tenant: tenant.begin(4, master=b"x" * 32)),
    ("an epoch told another key", lambda tenant: _told(tenant, 1, key_of=2)),
    ("a key was told twice", lambda tenant: _told(tenant, 1, 1)),
    ("a key was told while its epoch went on", lambda tenant: _told(tenant, 3)),
    ("a key was not told", lambda tenant: _told(tenant, 1, after_ms=TOLD_AFTER_MS)),
    ("a finding of nothing resolved", _forged_finding),
    ("a finding did not count once", _forged_finding),
    ("a sample has not one resolution", _resolved_twice),
    ("a level moved of nobody's agent", _forged_level),
]


@pytest.mark.parametrize(("promise", "breaks"), LOGS, ids=[f"{at}-{name}" for at, (name, _) in enumerate(LOGS)])
def test_a_log_that_breaks_a_promise_is_caught(sound: Tenant, promise: str, breaks: Callable[[Tenant], None]) -> None:
    """So does an epoch, a key, a finding or a level that no step wrote."""
    others = {_place(record) for record in sound.world.records()} - sound.played  # what another case of this test wrote
    breaks(sound)
    assert promise in sound.broken(others)


def test_a_gate_that_forgot_its_trust_is_caught(sound: Tenant) -> None:
    """A score is in the gate's state or it is lost."""
    kept = [entry for entry in sound.state() if entry[1] != trust.ENTRY]
    _, broken = level_findings(sound.world.records(), kept)
    assert "agents have no trust, or nobody has" in broken
