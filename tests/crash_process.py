"""A process of the crash test: a worker, or a gate whose engine is built a little differently.

``python crash_process.py KIND --instance N --with-parent PID``; settings come from the environment, as for
`sluicegate run`. KIND is

- ``worker``: notes each run of a handler in a file, as an effect in the world that no transaction takes back, returns
  what its payload says, and writes every seventh output twice, as a producer does that tries again;
- ``reviewer``: decides what is held as the output's own words say, says of sampled jobs what their ids say, and signs
  promotions off, under the name of its instance;
- ``patient``: the gate on the engine as it is, which rests a moment inside each commit (so that a kill meets it there);
- ``at_least_once``: the gate with outputs written outside of any transaction, before offsets and state;
- ``offsets_apart``: the gate with offsets committed by the consumer, before the transaction of the outputs.

The gates rest where a crash would hurt a wrong engine most, and say so in a file while they rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from crash_load import PEOPLE, said_of

from sluicegate.clients.attempts import Finished, WorkerEvents
from sluicegate.clients.call import BudgetExceeded, Call
from sluicegate.clients.desk_fold import DEFAULT_DESK, VERDICTS, Request
from sluicegate.clients.reviewer import Reviewer
from sluicegate.clients.worker import Worker
from sluicegate.infra.supervisor import die_with_parent
from sluicegate.processors.run import run_processor
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.events import Verdict
from sluicegate.schemas.ids import derived_id
from sluicegate.streams.engine import Headers, Out
from sluicegate.streams.kafka import Publisher, signed_headers
from sluicegate.streams.keys import person_signer
from sluicegate.streams.logs import set_up_logs
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

POOL: Final = "default"
REST_SEC: Final = 0.3
WORK_SEC: Final = 0.1
LOOK_SEC: Final = 0.2
ANSWER_SEC_MAX: Final = 5.0
"""How long a reviewer waits for the desk; then it looks again, and decides again what is still open."""
AT_ONCE_MAX: Final = 40
"""How many samples and promotions a reviewer decides before it looks for held outputs again, which expire."""
BUDGET: Final = "max_affected_rows"
TWICE_EVERY: Final = 7
SSN: Final = "536-90-4399"


def effects_dir(settings: Settings) -> Path:
    """Where handlers note what they did: beside the run folder, which they do not see."""
    return settings.run_dir.with_name(f"{settings.run_dir.name}-effects")


def secret_of(number: int) -> str:
    """A key that only the output of this job holds."""
    return f"ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3{number:010d}"


def mark_of(number: int) -> str:
    """A word that only the output of this job holds, and that nobody minds."""
    return f"mark-{number}-"


def resting_file(settings: Settings, instance: str) -> Path:
    """Stands there while the gate rests at the moment that hurts most."""
    return settings.run_dir / f"resting.{instance}"


class Rest:
    """A moment between two things that belong together."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self) -> None:
        self._file.touch()
        time.sleep(REST_SEC)
        self._file.unlink(missing_ok=True)


def make_patient(rest: Rest) -> None:
    """The engine as it is: offsets and outputs in one transaction, whose commit comes a moment later."""
    from sluicegate.streams import quix_application

    class Patient(quix_application._Producer):
        def commit_transaction(self, timeout: float | None = None) -> None:
            rest()
            super().commit_transaction(timeout)

    quix_application._Producer = Patient  # type: ignore[misc]  # the test's engine takes the place of the sound one


def make_offsets_apart(rest: Rest) -> None:
    """The consumer commits what was read; what was written follows in a transaction of its own."""
    from sluicegate.streams import quix_application

    class Apart(quix_application._Producer):
        def send_offsets_to_transaction(self, positions: Any, *arguments: Any) -> None:
            self._app._consumer.commit(offsets=positions, asynchronous=False)
            rest()

    quix_application._Producer = Apart  # type: ignore[misc]  # as above


def make_at_least_once(rest: Rest) -> None:
    """No transactions: outputs are there as soon as they are produced, state and offsets come later."""
    from quixstreams import Application
    from quixstreams.checkpointing import Checkpoint
    from quixstreams.kafka import Producer

    from sluicegate.streams import quix_application

    class Plain(quix_application._Producer):
        def __init__(self, app: Any, wait_sec: float) -> None:
            self._app, self._wait_sec, self._disturbed, self._dead = app, wait_sec, False, False
            config = app.config
            Producer.__init__(self, config.broker_address, extra_config=config.producer_extra_config)

    begin, commit = Application.__init__, Checkpoint.commit

    def plain(self: Application, *arguments: Any, **keywords: Any) -> None:
        extra = keywords["producer_extra_config"]
        for name in ("transactional.id", "transaction.timeout.ms"):
            extra.pop(name, None)
        begin(self, *arguments, **{**keywords, "processing_guarantee": "at-least-once"})

    def apart(self: Checkpoint, *arguments: Any, **keywords: Any) -> None:
        self._producer.flush()
        rest()
        commit(self, *arguments, **keywords)

    Application.__init__ = plain  # type: ignore[method-assign]  # as above
    Checkpoint.commit = apart  # type: ignore[method-assign]  # as above
    quix_application._Producer = Plain  # type: ignore[misc]  # as above


VARIANTS: Final = {"patient": make_patient, "at_least_once": make_at_least_once, "offsets_apart": make_offsets_apart}


def run_worker(settings: Settings, instance: str) -> int:
    """Work until SIGTERM; 1 when something made it end."""
    set_up_logs("worker", instance)
    folder = effects_dir(settings)
    folder.mkdir(exist_ok=True)
    file = folder / f"{instance}.{os.getpid()}"

    def handle(call: Call) -> Any:
        effects = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.write(effects, f"{call.job_id} {call.attempt}\n".encode())
        time.sleep(WORK_SEC)
        return returned(call)

    worker = Worker(settings, POOL, instance=instance)
    worker.handles("*", spends=(BUDGET,))(handle)
    WorkerEvents.output = written_again(WorkerEvents.output)  # type: ignore[method-assign]  # the test's takes its place
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    try:
        worker.run()
    except SluicegateError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def returned(call: Call) -> dict[str, Any]:
    """What the handler returns, as the payload says."""
    number, kind = call.payload["number"], call.payload["returns"]
    output = {"number": number, "attempt": call.attempt, "mark": mark_of(number), "fate": call.payload["fate"]}
    if kind == "redact":
        return {**output, "ssn": SSN, "internal_notes": mark_of(number)}
    if kind == "hold":
        return {**output, "token": secret_of(number), "ssn": SSN}
    if kind == "breach":
        with suppress(BudgetExceeded):
            call.budget(BUDGET).spend(call.constraints[BUDGET] + 1)
    return output


def written_again(output: Any) -> Any:
    """The worker's outputs, some of which are written a second time, byte for byte."""

    def outputs(self: WorkerEvents, done: Finished, headers: Headers, broken: Iterable[str] = ()) -> list[Out]:
        out, *more = output(self, done, headers, broken)
        again = int(done.grant.job_id.rpartition("-")[2]) % TWICE_EVERY == 0
        return [out, out, *more] if again else [out, *more]

    return outputs


def run_reviewer(settings: Settings, person: str) -> int:
    """Decide what is held until SIGTERM; 1 when something made it end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        verdicts = Verdicts(settings, person)
        with Reviewer(settings, person) as reviewer:
            while not ended.wait(LOOK_SEC):
                requests = reviewer.requests()
                held = [request for request in requests if request.kind == "output"]
                # From both ends: two people share the work, and meet.
                for request in held[:: 1 if person == PEOPLE[0] else -1]:
                    decide(reviewer, request.request_id, json.loads(request.payload)["fate"])
                due = [each for each in requests if each.kind != "output" and verdicts.is_due(each)]
                for request in due[:AT_ONCE_MAX]:
                    verdicts.write(request)
    except SluicegateError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


class Verdicts:
    """Writes one person's signed verdicts on samples and promotions, too many to wait for the desk each time."""

    def __init__(self, settings: Settings, person: str) -> None:
        self._person, self._topic = person, physical(settings.tenant, VERDICTS)
        self._signer, self._codec = person_signer(settings, person), Codec(registry_for(settings.registry_url))
        self._publisher = Publisher(settings, "reviewer")
        self._written: dict[str, float] = {}

    def is_due(self, request: Request) -> bool:
        """Whether to decide it now: each person has half of them, and what waits for long is everybody's.

        A verdict that has had no effect for as long is written again.
        """
        share = PEOPLE[int(hashlib.sha256(request.request_id.encode()).hexdigest(), 16) % len(PEOPLE)]
        old = time.time_ns() // 1_000_000 - request.created_at_ms > ANSWER_SEC_MAX * 1_000
        said = self._written.get(request.request_id)
        return (share == self._person or old) and (said is None or time.monotonic() - said > ANSWER_SEC_MAX)

    def write(self, request: Request) -> None:
        """Say what the request is fated to."""
        now_ms = time.time_ns() // 1_000_000
        verdict = Verdict(
            verdict_id=derived_id("verdict", request.request_id, self._person, now_ms),
            request_id=request.request_id,
            desk=DEFAULT_DESK,
            approver_id=self._person,
            policy_snapshot=request.policy_snapshot,
            job_hash=request.job_hash,
            decision_ts_ms=now_ms,
            **said_of(request.kind, request.request_id, request.job_id),
        )
        key, value = DEFAULT_DESK.encode(), self._codec.encode(verdict)
        headers = signed_headers(self._signer, self._topic, verdict, verdict.verdict_id, now_ms, key, value)
        self._publisher.publish(VERDICTS, key, value, headers)
        self._written[request.request_id] = time.monotonic()


def decide(reviewer: Reviewer, request_id: str, fate: str) -> None:
    """Say what the output is fated to; what is to expire is left alone."""
    if fate == "destroy":
        reviewer.destroy(request_id, "it must not leave", ANSWER_SEC_MAX)
    elif fate != "expire":
        reviewer.release(request_id, redacted=fate == "release_redacted", timeout_sec=ANSWER_SEC_MAX)


def main() -> int:
    """Run the process that was asked for; its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("worker", "reviewer", *VARIANTS))
    parser.add_argument("--instance", required=True)
    parser.add_argument("--with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.with_parent)
    settings = Settings()
    if options.kind == "worker":
        return run_worker(settings, options.instance)
    if options.kind == "reviewer":
        return run_reviewer(settings, options.instance)
    VARIANTS[options.kind](Rest(resting_file(settings, options.instance)))
    return run_processor("gate", settings, options.instance)


if __name__ == "__main__":
    sys.exit(main())
