from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from clients_events import closed, decision, place, refused, repeated, result
from clients_world import WAIT_SEC, Hand
from fixtures_kafka import TenantFactory

from sluicegate.clients.agent import Agent, AsyncAgent
from sluicegate.clients.outcomes import Handle, Judged, NotCancelled, Outcome
from sluicegate.clients.pending import Pending
from sluicegate.schemas.errors import BadInput, LoginRefused
from sluicegate.schemas.events import Cause, Intent, Withdrawal
from sluicegate.streams import keys
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import HmacKey, agent_secret, check
from sluicegate.streams.kafka import NotPermitted, Publisher, Tail
from sluicegate.streams.logins import load_logins, login_of, save_logins
from sluicegate.streams.settings import Settings


@pytest.fixture
def settings(tenant: TenantFactory) -> Settings:
    found = tenant(agents=("a", "b"))
    keys.make_master(found)
    keys.new_agent(found, "a")
    return found


@pytest.fixture
def gate(settings: Settings) -> Hand:
    return Hand(settings, "gate")


@pytest.fixture
def outputs(settings: Settings) -> Hand:
    return Hand(settings, "outputs")


@pytest.fixture
def agent(settings: Settings) -> Iterator[Agent]:
    with Agent(settings, "a") as found:
        yield found


def cause_of(pending: Pending) -> Cause:
    return place(offset=pending.handle.offset, partition=pending.handle.partition)


def allow(gate: Hand, pending: Pending) -> None:
    gate.write("job.decisions", "a", decision(cause=cause_of(pending), job_hash=pending.handle.job_hash))


def test_gate_can_verify_what_an_agent_writes(settings: Settings, agent: Agent) -> None:
    """An intent is signed by its agent over its exact bytes, stands under the agent's key, and carries its trace."""
    agent.submit("job.read", {"n": 1}, job_id="j1", traceparent="00-1-2-01")
    tail = Tail(settings, "gate", ("job.intents",), group="gate", start="beginning")
    records: list[Record] = []
    while not records:
        records = tail.poll(0.05)
    tail.close()
    record = records[0]
    secret = agent_secret(keys.load_master(settings), "a")
    topic = f"{settings.tenant}.job.intents"
    found = check(record.headers, topic, record.key, record.value, record.timestamp_ms, lambda _: HmacKey("", secret))
    assert found.code is None
    assert (record.key, dict(record.headers)["traceparent"]) == (b"a", b"00-1-2-01")
    assert dict(record.headers)["ce_type"] == b"sluicegate.Intent.v1"


def test_decision_and_result_come_back(agent: Agent, gate: Hand, outputs: Hand) -> None:
    """The agent reads what policy said, then what the worker returned."""
    pending = agent.submit("job.read", {"n": 1}, job_id="j1")
    allow(gate, pending)
    judged = pending.decision(WAIT_SEC)
    assert isinstance(judged, Judged)
    outputs.write("job.results", "a", result())
    outcome = pending.result(WAIT_SEC)
    assert isinstance(outcome, Outcome)
    assert outcome.value == {"rows": 3}


def test_unanswered_job_gives_a_handle_that_another_process_resumes(
    settings: Settings, agent: Agent, gate: Hand, outputs: Hand
) -> None:
    """After the time-out the caller holds a handle; what came meanwhile is found from it, by another client too."""
    pending = agent.submit("job.read", {"n": 1}, job_id="j1")
    handle = pending.result(0)
    assert isinstance(handle, Handle)
    assert not handle.done
    allow(gate, pending)
    outputs.write("job.results", "a", result())
    with Agent(settings, "a") as other:
        outcome = other.resume(handle.text).result(WAIT_SEC)
    assert isinstance(outcome, Outcome)
    assert outcome.succeeded


def test_refusal_of_a_forgery_under_my_id_is_ignored(agent: Agent, gate: Hand) -> None:
    """Another's refused record under my job id does not end my job; the refusal of my own does."""
    pending = agent.submit("job.read", {"n": 1}, job_id="j1")
    forged = place(offset=pending.handle.offset + 1, partition=pending.handle.partition)
    gate.write("job.decisions", "a", refused(cause=forged, authenticated=False))
    gate.write("job.decisions", "a", refused(cause=cause_of(pending), code="stale"))
    outcome = pending.result(WAIT_SEC)
    assert isinstance(outcome, Outcome)
    assert (outcome.outcome, outcome.code) == ("denied", "stale")


def test_job_sent_again_after_its_end_gets_the_first_result(agent: Agent, gate: Hand, outputs: Hand) -> None:
    """A caller that crashed sends the same job again and gets the result that stands further back in the log."""
    first = agent.submit("job.read", {"n": 1}, job_id="j1")
    allow(gate, first)
    at = outputs.write("job.results", "a", result())
    gate.write("job.decisions", "a", closed("succeeded", cause=place("job.results", at.offset, at.partition)))
    assert first.result(WAIT_SEC).done
    again = agent.submit("job.read", {"n": 1}, job_id="j1")
    assert again.handle.job_hash == first.handle.job_hash
    gate.write("job.decisions", "a", repeated("succeeded", cause=cause_of(again)))
    outcome = again.result(WAIT_SEC)
    assert isinstance(outcome, Outcome)
    assert outcome.value == {"rows": 3}


def test_cancelled_job_is_withdrawn(agent: Agent, gate: Hand) -> None:
    """A withdrawal is a signed record, and the job then ends as withdrawn, not as denied."""
    pending = agent.submit("job.read", {"n": 1}, job_id="j1")
    allow(gate, pending)
    pending.withdraw("not needed")
    events = gate.read_until(("job.intents",), lambda found: any(isinstance(event, Withdrawal) for event in found))
    assert [type(event) for event in events] == [Intent, Withdrawal]
    gate.write("job.decisions", "a", closed("withdrawn", reason="not needed", by="agent/a"))
    outcome = pending.cancel("again", WAIT_SEC)
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "withdrawn"


def test_job_of_another_process_is_found_by_its_id(settings: Settings, agent: Agent, gate: Hand, outputs: Hand) -> None:
    """By its id alone an agent finds a job it submitted earlier."""
    allow(gate, agent.submit("job.read", {"n": 1}, job_id="j1"))
    outputs.write("job.results", "a", result())
    with Agent(settings, "a") as other:
        assert other.find("j1").result(WAIT_SEC).done


def test_asyncio_waits_for_many_jobs_without_a_thread_each(settings: Settings, gate: Hand, outputs: Hand) -> None:
    """A hundred jobs wait in one event loop, and their answers reach them."""

    async def story() -> list[Outcome | Handle]:
        async with AsyncAgent(settings, "a") as agent:
            jobs = [await agent.submit("job.read", {"n": 1}, job_id=f"j{number}") for number in range(100)]
            waiting = [asyncio.ensure_future(job.result(WAIT_SEC)) for job in jobs]
            await asyncio.sleep(0)
            for job in jobs:
                found = decision(job_id=job.job_id, job_hash=job.handle.job_hash, word="DENY")
                await asyncio.to_thread(gate.write, "job.decisions", "a", found)
            return await asyncio.gather(*waiting)

    outcomes = asyncio.run(story())
    assert [outcome.outcome for outcome in outcomes if isinstance(outcome, Outcome)] == ["denied"] * 100


def test_handle_of_another_agent_is_refused(agent: Agent) -> None:
    """A handle is resumed by the agent whose job it is."""
    with pytest.raises(BadInput, match="of agent `b`"):
        agent.resume(Handle.of_job("b", "j1"))


def test_agent_may_not_write_a_grant(settings: Settings) -> None:
    """The broker refuses an agent's login on any topic but its own, and the error names login and topic."""
    with pytest.raises(NotPermitted, match=r"agent\.a` to write `.*job\.grants\.default`"):
        Publisher(settings, "agent.a").publish("job.grants.default", b"j1", b"x", ())


def test_wrong_password_ends_at_once(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A wrong password is an error within seconds, not a wait for ever."""
    other = tmp_path_factory.mktemp("logins") / "logins.json"
    save_logins(other, {**load_logins(settings.logins_path), login_of(settings, "agent.a"): "wrong"})
    with pytest.raises(LoginRefused, match=r"agent\.a"):
        Agent(settings.model_copy(update={"logins_file": other}), "a")


def test_refused_cancellation_says_why(agent: Agent, gate: Hand) -> None:
    """A cancellation that came too late is answered as such, and the job goes on."""
    pending = agent.submit("job.read", {"n": 1}, job_id="j1")
    allow(gate, pending)
    assert pending.decision(WAIT_SEC).done
    pending.withdraw("too late")
    seen = place(offset=pending.handle.offset + 1, partition=pending.handle.partition)
    gate.write("job.decisions", "a", refused(cause=seen, subject="withdrawal", code="started", message="it runs"))
    answer = pending._wait(pending._cancelled, WAIT_SEC)
    assert isinstance(answer, NotCancelled)
    assert answer.code == "started"
