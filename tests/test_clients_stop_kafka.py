"""A worker on a real broker is told to stop what runs, and refuses what was revoked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients_events import intent
from clients_world import Calls, Hand, now_ms, of_grant
from fixtures_kafka import TenantFactory

from sluicegate.clients.call import Call
from sluicegate.clients.worker import Worker
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Command, Ended, Event, GrantRefused, Output, StopAnswered
from sluicegate.schemas.payload import unseal
from sluicegate.streams import keys
from sluicegate.streams.kafka import Publisher, signed_headers
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical


class Patient(Calls):
    """A handler that waits on `job.long` until it is told to stop."""

    def __call__(self, call: Call) -> Any:
        found = super().__call__(call)
        call.stopping.check()
        return found


@pytest.fixture
def settings(tenant: TenantFactory) -> Settings:
    found = tenant(agents=("a",))
    keys.new_operator(found, "o")
    return found


@pytest.fixture
def handler(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


@pytest.fixture
def worker(settings: Settings, handler: Patient) -> Iterator[Worker]:
    """It reads control itself, and has one slot: a job that runs leaves none free."""
    found = Worker(settings, "default", {"job.*": handler}, jobs_max=1)
    found.start()
    yield found
    found.stop()


def command(settings: Settings, kind: Any, scope: str) -> str:
    """An operator's signed command, as the command line writes it; its id."""
    event = Command(command_id=f"{kind} {scope}", kind=kind, scope=scope, by="operator/o", reason="drill")
    key, value = scope.encode(), Codec(registry_for("")).encode(event)
    topic = physical(settings.tenant, "control.commands")
    headers = signed_headers(keys.operator_signer(settings, "o"), topic, event, event.command_id, now_ms(), key, value)
    Publisher(settings, "operator").publish("control.commands", key, value, headers)
    return event.command_id


def long_grant(gate: Hand, grant_id: str) -> None:
    made = intent({"n": 1}, topic="job.long")
    gate.grant(grant_id, topic="job.long", payload=made.payload, job_hash=made.job_hash, control_offset=-1)


def test_a_stop_reaches_a_full_worker_and_a_revoked_grant_never_starts(
    worker: Worker, settings: Settings, handler: Patient
) -> None:
    """The running handler is told and answers `stopped`; what waited is refused once revoked, and nothing of it ran."""
    gate, outputs = Hand(settings, "gate"), Hand(settings, "outputs")
    long_grant(gate, "runs")
    outputs.read_until(("job.starts",), lambda events: "Started" in of_grant(events, "runs"))
    gate.grant("waits", control_offset=-1)
    stopped = command(settings, "stop", "agent:a")

    def ended(events: list[Event]) -> bool:
        return {"StopAnswered", "Ended", "Output"} <= set(of_grant(events, "runs"))

    events = outputs.read_until(("job.starts", "job.outputs"), ended)
    answer = next(event for event in events if isinstance(event, StopAnswered))
    assert (answer.command_id, answer.answer, answer.grant_id) == (stopped, "stopped", "runs")
    assert next(event.outcome for event in events if isinstance(event, Ended)) == "stopped"
    output = next(event for event in events if isinstance(event, Output))
    assert (output.succeeded, json.loads(unseal(output.output)[0])["error"]["type"]) == (False, "Stopped")

    command(settings, "revoke", "topic:job.read")
    events = outputs.read_until(("job.starts",), lambda found: "GrantRefused" in of_grant(found, "waits"))
    refused = next(event for event in events if isinstance(event, GrantRefused))
    assert (refused.code, of_grant(events, "waits")) == ("revoked", ["GrantRefused"])

    command(settings, "resume", "agent:a")
    gate.grant("later", control_offset=9, job_id="j2", **_other("j2"))
    events = outputs.read_until(("job.starts",), lambda found: "Ended" in of_grant(found, "later"))
    assert handler.jobs == ["j1", "j2"]
    assert [event.grant_id for event in events if isinstance(event, StopAnswered)] == ["runs"]


def _other(job_id: str) -> dict[str, Any]:
    made = intent({"n": 1}, job_id=job_id)
    return {"payload": made.payload, "job_hash": made.job_hash}
