from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients_events import grant, intent
from clients_world import WAIT_SEC, Calls, Control, Hand, now_ms, of_grant
from fixtures_kafka import TenantFactory

from sluicegate.clients.worker import Worker
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import Command, Ended, Event, GrantRefused, Output, Progressed, Started
from sluicegate.schemas.payload import unseal
from sluicegate.streams import keys
from sluicegate.streams.kafka import Publisher, signed_headers
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

STARTS = ("job.starts",)
BOTH = ("job.starts", "job.outputs")


@pytest.fixture
def settings(tenant: TenantFactory) -> Settings:
    return tenant(agents=("a", "b"))


@pytest.fixture
def gate(settings: Settings) -> Hand:
    return Hand(settings, "gate")


@pytest.fixture
def outputs(settings: Settings) -> Hand:
    return Hand(settings, "outputs")


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Calls]:
    found = Calls(tmp_path)
    yield found
    found.release.set()


def worker_of(settings: Settings, calls: Calls, control: Control, **more: Any) -> Worker:
    return Worker(settings, "default", {"job.*": calls}, control=control, **more)


@pytest.fixture
def worker(settings: Settings, calls: Calls, control: Control) -> Iterator[Worker]:
    found = worker_of(settings, calls, control, jobs_max=2)
    found.start()
    yield found
    calls.release.set()
    found.stop()


def has(grant_id: str, *names: str) -> Any:
    return lambda events: set(names) <= set(of_grant(events, grant_id))


def test_granted_job_runs_and_its_output_stands_in_the_log(worker: Worker, gate: Hand, outputs: Hand) -> None:
    """A grant becomes a start, an output sealed and hashed, and an end."""
    gate.grant("g1")
    events = outputs.read_until(BOTH, has("g1", "Started", "Output", "Ended"))
    output = next(event for event in events if isinstance(event, Output))
    assert json.loads(unseal(output.output)[0]) == {"got": {"n": 1}}
    assert output.succeeded
    assert Counter(of_grant(events, "g1")) == {"Started": 1, "Output": 1, "Ended": 1}


def test_handler_that_raises_gives_a_failed_output(worker: Worker, gate: Hand, outputs: Hand) -> None:
    """What a handler raises is the job's failure, with its kind and message; the worker goes on."""
    made = intent({"n": 1}, topic="job.fail")
    gate.grant("g1", topic="job.fail", payload=made.payload, job_hash=made.job_hash)
    events = outputs.read_until(BOTH, has("g1", "Output", "Ended"))
    output = next(event for event in events if isinstance(event, Output))
    assert not output.succeeded
    assert json.loads(unseal(output.output)[0]) == {"error": {"type": "ValueError", "message": "no such table"}}


def test_oversize_output_is_a_failure_before_it_is_produced(worker: Worker, gate: Hand, outputs: Hand) -> None:
    """An output that fits no record fails the job with both sizes, and the worker goes on."""
    made = intent({"n": 1}, topic="job.large")
    gate.grant("g1", topic="job.large", payload=made.payload, job_hash=made.job_hash)
    events = outputs.read_until(BOTH, has("g1", "Output", "Ended"))
    output = next(event for event in events if isinstance(event, Output))
    assert json.loads(unseal(output.output)[0])["error"]["type"] == "OutputTooLarge"


def test_grant_met_too_late_lapses(worker: Worker, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A grant met after its start-by time commits `Lapsed`, and nothing runs."""
    gate.grant("g1", start_by_ms=now_ms() - 1)
    events = outputs.read_until(STARTS, has("g1", "Lapsed"))
    assert of_grant(events, "g1") == ["Lapsed"]
    assert calls.jobs == []


def test_slow_clock_starts_nothing_late(settings: Settings, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """The broker's append time has the last word: a start that it took too late ends as lapsed, and nothing runs."""
    slow = worker_of(settings, calls, Control(), clock_ms=lambda: now_ms() - 60_000)
    slow.start()
    gate.grant("g1", start_by_ms=now_ms() - 1_000)
    events = outputs.read_until(STARTS, has("g1", "Started", "Ended"))
    slow.stop()
    ended = next(event for event in events if isinstance(event, Ended))
    assert ended.outcome == "lapsed"
    assert calls.jobs == []


def test_altered_grant_is_refused_by_the_worker(worker: Worker, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A grant whose payload is not the one that was judged runs nothing, and the log says who refused it."""
    gate.grant("g1", payload=intent({"n": 2}).payload)
    events = outputs.read_until(STARTS, has("g1", "GrantRefused"))
    refused = next(event for event in events if isinstance(event, GrantRefused))
    assert (refused.code, refused.worker_id, calls.jobs) == ("grant_altered", "default.1", [])


def test_grant_written_twice_starts_once(worker: Worker, gate: Hand, outputs: Hand) -> None:
    """The same grant in the log twice gives one start and one refusal."""
    gate.grant("g1")
    gate.grant("g1")
    events = outputs.read_until(STARTS, has("g1", "Started", "GrantRefused"))
    assert Counter(of_grant(events, "g1"))["Started"] == 1


def test_long_job_blocks_no_other(worker: Worker, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """While one job runs for long, the next ones start, end and are reported."""
    made = intent({"n": 1}, topic="job.long")
    gate.grant("long", topic="job.long", payload=made.payload, job_hash=made.job_hash)
    outputs.read_until(STARTS, has("long", "Started"))
    for number in range(5):
        gate.grant(f"g{number}")
    events = outputs.read_until(BOTH, lambda found: all(has(f"g{number}", "Output")(found) for number in range(5)))
    assert "Ended" not in of_grant(events, "long")
    calls.release.set()
    outputs.read_until(BOTH, has("long", "Output", "Ended"))


def test_no_more_jobs_run_at_once_than_allowed(worker: Worker, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A full worker takes no grant: it stays for later."""
    made = intent({"n": 1}, topic="job.long")
    for number in range(3):
        gate.grant(f"g{number}", topic="job.long", payload=made.payload, job_hash=made.job_hash)
    outputs.read_until(STARTS, lambda found: sum(isinstance(event, Started) for event in found) == 2)
    assert len(calls.jobs) == 2
    calls.release.set()
    outputs.read_until(STARTS, lambda found: sum(isinstance(event, Ended) for event in found) == 3)


def test_paused_agent_waits_and_holds_up_nobody(
    worker: Worker, gate: Hand, outputs: Hand, control: Control, settings: Settings, calls: Calls
) -> None:
    """A grant of a paused agent is not taken, those behind it are; after a restart and a resume it runs once."""
    control.pause("agent:b")
    other = intent_of("b")
    gate.grant("paused", agent_id="b", payload=other.payload, job_hash=other.job_hash)
    gate.grant("behind")
    events = outputs.read_until(BOTH, has("behind", "Output", "Ended"))
    assert of_grant(events, "paused") == []
    worker.stop()
    second = worker_of(settings, calls, Control())
    second.start()
    events = outputs.read_until(BOTH, has("paused", "Output", "Ended"))
    second.stop()
    assert Counter(of_grant(events, "behind"))["Started"] == 1
    assert Counter(of_grant(events, "paused"))["Started"] == 1


def intent_of(agent_id: str) -> Any:
    """A sound intent of another agent, for its payload and hash."""
    from sluicegate.clients.agent import build_intent
    from sluicegate.streams.identity import HmacKey

    signer = HmacKey(f"agent/{agent_id}", b"k" * 32)
    return build_intent(signer, "default", agent_id, "1", "job.read", {"n": 1}, payload_bytes_max=10_000, job_id="j1")


def test_running_job_gives_signs_of_life(settings: Settings, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A running attempt says within a third of its lease that it lives."""
    control = Control()
    control.state = control.state.__class__(settings=Settings(attempt_lease_sec=3).step_settings())
    worker = worker_of(settings, calls, control)
    worker.start()
    made = intent({"n": 1}, topic="job.long")
    gate.grant("g1", topic="job.long", payload=made.payload, job_hash=made.job_hash)
    outputs.read_until(STARTS, lambda found: sum(isinstance(event, Progressed) for event in found) >= 2)
    calls.release.set()
    worker.stop()


def test_topic_without_a_handler_is_refused(settings: Settings, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A grant that no handler takes is refused in the log instead of being left to lapse."""
    worker = Worker(settings, "default", {"job.deploy.*": calls}, control=Control())
    worker.start()
    gate.grant("g1")
    events = outputs.read_until(STARTS, has("g1", "GrantRefused"))
    worker.stop()
    assert next(event.code for event in events if isinstance(event, GrantRefused)) == "no_handler"


def test_worker_that_nobody_could_pause_does_not_start(tmp_path: Path, calls: Calls) -> None:
    """Without a trusted operator a worker would ignore every pause: it refuses to run."""
    settings = Settings(run_dir=tmp_path / "run", sealing="none")
    keys.new_gate(settings)
    with pytest.raises(BadInput, match="trusts no operator"):
        Worker(settings, "default", {"job.*": calls}).run()


def test_worker_that_trusts_no_gate_does_not_start(tmp_path: Path, calls: Calls) -> None:
    """Without a gate's key it could believe no grant: it says so instead of refusing them all."""
    with pytest.raises(BadInput, match="trusts no gate"):
        Worker(Settings(run_dir=tmp_path / "run", sealing="none"), "default", {"job.*": calls}).run()


def test_a_grant_without_the_gates_signature_runs_nothing(
    settings: Settings, gate: Hand, outputs: Hand, calls: Calls
) -> None:
    """Whoever may write to the topic is not believed: only the key of a gate is."""
    worker = Worker(settings, "default", {"job.*": calls}, control=Control())
    worker.start()
    gate.write("job.grants.default", "j-forged", grant(grant_id="forged", job_id="j-forged", tenant=settings.tenant))
    events = outputs.read_until(STARTS, has("forged", "GrantRefused"))
    assert [event.code for event in events if isinstance(event, GrantRefused)] == ["grant_unsigned"]
    worker.stop()
    assert calls.jobs == []


def command(settings: Settings, kind: Any, scope: str) -> None:
    """An operator's signed command, as the command line writes it."""
    event = Command(command_id=f"{kind} {scope}", kind=kind, scope=scope, by="operator/o")
    key, value = scope.encode(), Codec(registry_for("")).encode(event)
    topic = physical(settings.tenant, "control.commands")
    headers = signed_headers(keys.operator_signer(settings, "o"), topic, event, "c", now_ms(), key, value)
    Publisher(settings, "operator").publish("control.commands", key, value, headers)


def test_worker_obeys_the_operators_pause(settings: Settings, gate: Hand, outputs: Hand, calls: Calls) -> None:
    """A worker reads the commands itself: what is paused does not start, and starts once it is resumed."""
    keys.new_operator(settings, "o")
    command(settings, "pause", "topic:job.read*")
    worker = Worker(settings, "default", {"job.*": calls})
    worker.start()
    gate.grant("paused")
    made = intent({"n": 1}, topic="job.other")
    gate.grant("other", topic="job.other", payload=made.payload, job_hash=made.job_hash)
    events = outputs.read_until(STARTS, has("other", "Ended"))
    assert of_grant(events, "paused") == []
    command(settings, "resume", "topic:job.read*")
    outputs.read_until(STARTS, has("paused", "Ended"))
    worker.stop()


KILLED = textwrap.dedent(
    """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from clients_world import Control
    from sluicegate.clients.worker import Worker
    from sluicegate.streams.settings import Settings

    _, _, run_dir, tenant, bootstrap, ran = sys.argv

    def handler(call):
        handle = os.open(ran, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, f"{call.payload['n']}\\n".encode())
        return {}

    settings = Settings(run_dir=Path(run_dir), tenant=tenant, bootstrap=bootstrap, sealing="none")
    Worker(settings, "default", {"job.*": handler}, control=Control(), jobs_max=4).run()
    """
)


def test_killed_worker_never_starts_a_job_twice(settings: Settings, gate: Hand, outputs: Hand, tmp_path: Path) -> None:
    """`kill -9` three times, each after progress, one static id: each grant starts once, no handler runs twice."""
    ran, count = tmp_path / "ran", 200
    ran.touch()
    for number in range(count):
        made = intent({"n": number}, job_id=f"j{number}")
        gate.grant(f"g{number}", job_id=f"j{number}", payload=made.payload, job_hash=made.job_hash)
    given = [str(Path(__file__).parent), str(settings.run_dir), settings.tenant, settings.servers, str(ran)]
    started = 0

    def progressed(events: list[Event]) -> bool:
        return sum(isinstance(event, Started) for event in events) >= min(started + 8, count)

    for kill in (True, True, True, False):
        worker = subprocess.Popen([sys.executable, "-c", KILLED, *given])
        try:
            goal = progressed if kill else (lambda events: sum(isinstance(e, Started) for e in events) >= count)
            events = outputs.read_until(STARTS, goal)
            started = sum(isinstance(event, Started) for event in events)
            assert started < count or not kill, "the worker was killed after all was done"
        finally:
            os.kill(worker.pid, signal.SIGKILL if kill else signal.SIGTERM)
            worker.wait(WAIT_SEC)
    starts = Counter(event.grant_id for event in events if isinstance(event, Started))
    assert starts == {f"g{number}": 1 for number in range(count)}
    assert max(Counter(ran.read_text().split()).values()) == 1
