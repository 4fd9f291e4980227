"""A tenant under load whose processes are killed: every one of ours by ``kill -9``, and the broker too.

One thread does it all, turn by turn: it writes intents, follows the journals, restarts what has ended, and kills what
the plan says once there is something to lose. Gates are killed productively: each only after it has committed
judgements since its last start; review, desk and people only while an output is held; oversight when an epoch of
sampled audit begins or its key is told.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from crash_epochs import Epochs
from crash_load import PEOPLE, Load
from crash_process import effects_dir, resting_file

from sluicegate.cli.prepare import Prepared
from sluicegate.infra.supervisor import last_lines, ready_file, settings_environment
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import (
    AuditDrawn,
    Closed,
    Command,
    Decision,
    Finding,
    LevelChanged,
    Noted,
    Quarantined,
    Result,
)
from sluicegate.schemas.payload import NONE
from sluicegate.streams.kafka import Tail
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings

AHEAD: Final = 150
"""Intents that are written beyond the next kill's place in the plan."""
AHEAD_PER_SEC: Final = 40
PRODUCTIVE_EVENTS: Final = 20
RUNNING_MIN: Final = 20
"""Jobs that are under way when a worker is killed, so that it takes some of them along."""
LOOK_SEC: Final = 0.5
BACKOFF_SEC: Final = 0.3
WHILE_HELD: Final = ("outputs", "desk", "reviewer")
"""What is killed only while an output is held."""
QUIET_SEC: Final = 1.0
"""How long nothing must have come before all counts as done: what one transaction writes to two topics comes apart."""
FOLLOWED: Final = ("job.decisions", "job.results", "agent.audits", "agent.autonomy", "control.commands")
HERE: Final = Path(__file__).parent


class Process:
    """One process of ours, started again under its instance name whenever it ended."""

    def __init__(self, settings: Settings, name: str, instance: str, kind: str = "") -> None:
        self.name, self.instance, self.label = name, instance, f"{name}.{instance}"
        entry = [str(HERE / "crash_process.py"), kind] if kind else ["-m", "sluicegate.cli.main", "run", name]
        self._command = [sys.executable, *entry, "--instance", instance, "--with-parent", str(os.getpid())]
        self._environment = {**os.environ, **settings_environment(settings)}
        self._ready_file = ready_file(settings.run_dir, name, instance)
        self.log = settings.run_dir / "logs" / f"{self.label}.log"
        self.resting = resting_file(settings, instance)
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0
        self.wanted = True
        self.killed = False
        self.frozen = False
        self.health: dict[str, Any] = {}
        self.journal_before: Counter[int] | None = None
        """What stood in the journal, by partition, when this process became ready."""

    def start(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        self.resting.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.health, self.journal_before, self.killed = {}, None, False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def look(self) -> None:
        """Ask for its health, if it has said where."""
        self.health = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._ready_file.read_bytes())
            if self.process is not None and found["pid"] == self.process.pid and found["ready"]:
                url = f"http://127.0.0.1:{found['health_port']}/health"
                with urllib.request.urlopen(url, timeout=1) as answer:
                    self.health = json.load(answer)

    def partitions(self) -> set[int]:
        """Which partitions of the intents it holds."""
        lags = self.health.get("lag_records", {})
        return {int(place.rpartition("/")[2]) for place in lags if place.startswith("job.intents/")}

    def kill(self, down_sec: float) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.killed, self.start_at = True, time.monotonic() + down_sec

    def freeze(self, for_sec: float) -> None:
        """SIGSTOP: it does not know that it was away."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.frozen, self.start_at = True, time.monotonic() + for_sec

    def wake(self) -> None:
        if self.frozen and self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def end(self) -> int | None:
        """SIGTERM; the exit code. None when it did not run."""
        self.wanted = False
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Fault(msgspec.Struct):
    """To be killed once so many intents are decided, and to be away for so long."""

    decided: int
    name: str
    down_sec: float = BACKOFF_SEC
    freeze: bool = False


def plan(intents: int, away_sec: float, **counts: int) -> list[Fault]:
    """Kills by kind of process, evenly over the first nine tenths. Every second gate is away for ``away_sec``.

    That is longer than the session lasts, so that the other gate takes its partitions over. `frozen` are processes of
    output review that are stopped for as long in place of killed.
    """
    found = [
        Fault(int(0.9 * intents * (number + offset) / count), name)
        for offset, (name, count) in zip((0.5, 0.3, 0.4, 0.6, 0.7, 0.2, 0.8, 0.45, 0.35), counts.items(), strict=False)
        for number in range(count)
    ]
    gates = [fault for fault in found if fault.name == "gate"]
    for fault in gates[1::2]:
        fault.down_sec = away_sec
    for fault in found:
        if fault.name == "frozen":
            fault.name, fault.down_sec, fault.freeze = "outputs", away_sec, True
    return sorted(found, key=lambda fault: fault.decided)


class World:
    """The running tenant; use in ``with``.

    ``variant`` takes another gate, of `crash_process`, and nothing else; ``reviews`` processes review outputs. With
    ``epochs_by_hand`` an epoch of sampled audit begins at each kill of oversight, by a command that it did not write:
    for runs that are shorter than an epoch may be.
    """

    def __init__(
        self,
        found: Prepared,
        intents: int,
        faults: Sequence[Fault],
        variant: str = "",
        reviews: int = 1,
        *,
        epochs_by_hand: bool = False,
    ) -> None:
        self.settings, self.broker = found.settings, found.broker
        self.load = Load(self.settings, intents)
        self.kills: Counter[str] = Counter()
        self.judged_before: list[int] = []
        """What each killed gate had judged since its own start, at the last look before."""
        self.moves = 0
        self.ended: list[str] = []
        """What ended by itself, with its exit code."""
        self.decided, self.permitted, self.closed, self.held, self.sampled, self.asked = 0, 0, 0, 0, 0, 0
        self.epochs = Epochs(self.settings, by_hand=epochs_by_hand)
        self.alone = bool(variant)
        self._variant = variant
        self._faults = deque(faults)
        self._due_since = 0.0
        self._holders: dict[int, str] = {}
        self._journal: Counter[int] = Counter()
        self._codec = Codec(registry_for(self.settings.registry_url))
        self._random = random.Random(7)
        self._looked_at = 0.0
        gates = [Process(self.settings, "gate", instance, variant) for instance in ("0", "1")]
        sealing = () if self.settings.sealing == NONE else ("keys",)
        others = [Process(self.settings, name, "0") for name in ("desk", "watch", "oversight", *sealing)]
        others += [Process(self.settings, "outputs", str(number)) for number in range(reviews)]
        others += [Process(self.settings, "worker", instance, "worker") for instance in ("1", "2")]
        others += [Process(self.settings, "reviewer", person, "reviewer") for person in PEOPLE]
        self.processes = gates[:1] if variant else [*gates, *others]
        self._came_at = 0.0
        self._tail = Tail(self.settings, "auditor", FOLLOWED, group="auditor", start="beginning")

    def __enter__(self) -> Self:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.epochs.close()
        self._tail.close()
        if self.broker is not None:
            self.broker.stop()

    def end(self) -> None:
        """End every process as `sluicegate up` does."""
        for process in self.processes:
            process.wanted = False
            process.wake()
            if process.process is not None and process.process.poll() is None:
                process.process.terminate()
        for process in self.processes:
            process.end()

    def run(self, timeout_sec: float) -> float:
        """Until every intent is decided and every permitted job closed; how long it took, in seconds.

        Raises AssertionError, with the last lines of the logs, when that does not come about in time.
        """
        began = time.monotonic()
        while not self._done():
            self._turn()
            if time.monotonic() - began > timeout_sec:
                raise AssertionError(self._stuck())
        took_sec = time.monotonic() - began
        self.load.finish()
        assert not self.load.undelivered, self.load.undelivered[:3]
        return took_sec

    def run_alone(self, timeout_sec: float = 60.0, quiet_sec: float = 2.5) -> None:
        """Until all is written and killed, and then nothing more comes: for a gate that may never answer all of it."""
        deadline, last, since = time.monotonic() + timeout_sec, -1, 0.0
        while self._faults or len(self.load.submitted) < self.load.intents or time.monotonic() - since < quiet_sec:
            self._turn()
            assert time.monotonic() < deadline, self._stuck()
            ready = all(each.journal_before is not None for each in self.processes)
            if self._journal.total() != last or not ready:
                last, since = self._journal.total(), time.monotonic()
        self.load.finish()

    def _done(self) -> bool:
        if self._faults or len(self.load.submitted) < self.load.intents:
            return False
        permitted = sum(self.load.submitted.values())
        if self.alone or self.decided < self.load.intents:
            return self.alone and self.decided >= self.load.intents
        over = self.closed >= permitted and not self.sampled and not self.asked
        return over and time.monotonic() - self._came_at > QUIET_SEC

    def _turn(self) -> None:
        now = time.monotonic()
        self.load.write(self._may_write(now))
        self._follow()
        self._tend(now)
        if now - self._looked_at > LOOK_SEC:
            self._looked_at = now
            self._look()
        if self._faults and self.decided >= self._faults[0].decided and now >= self._due_since:
            self._kill()

    def _may_write(self, now: float) -> int:
        if not self._faults:
            return self.load.intents
        waiting_sec = max(0.0, now - self._due_since) if self._due_since else 0.0
        return min(self.load.intents, self._faults[0].decided + AHEAD + int(waiting_sec * AHEAD_PER_SEC))

    def _follow(self) -> None:
        for record in self._tail.poll(0.02):
            self._journal[record.partition] += record.topic == "job.decisions"
            event = self._codec.decode(record.value)
            self._came_at = time.monotonic()
            if isinstance(event, Decision):
                self.decided += 1
                self.permitted += event.decision != "DENY"
                self.load.open[event.agent_id] -= 1
            elif isinstance(event, Closed):
                self.closed += 1
            elif isinstance(event, Quarantined):
                self.held += 1
            elif isinstance(event, Result):
                self.held -= event.request_id is not None
            elif isinstance(event, (AuditDrawn, Finding)):
                self.sampled += event.drawn if isinstance(event, AuditDrawn) else -1
                self.epochs.see(record, event)
            elif isinstance(event, LevelChanged):
                self.asked += event.change == "requested"
            elif isinstance(event, Noted) and event.kind == "level":
                self.asked -= 1
            elif isinstance(event, Command):
                self.epochs.see(record, event)

    def _tend(self, now: float) -> None:
        for process in self.processes:
            running = process.process
            if process.frozen and now >= process.start_at:
                process.wake()
            if running is None or running.poll() is None or not process.wanted:
                continue
            if not process.killed:
                self.ended.append(f"{process.label}: exit {running.returncode}")
                process.killed, process.start_at = True, now + BACKOFF_SEC
            if now >= process.start_at:
                process.start()

    def _look(self) -> None:
        for process in self.processes:
            if process.name != "gate":
                continue
            process.look()
            if process.health.get("ready") and process.journal_before is None:
                process.journal_before = Counter(self._journal)
            for partition in process.partitions():
                self.moves += self._holders.get(partition, process.instance) != process.instance
                self._holders[partition] = process.instance

    def _productive(self, process: Process) -> bool:
        """Whether it has committed judgements since its last start, as itself and the log say."""
        before, health = process.journal_before, process.health
        if before is None or health.get("processed_count", 0) < PRODUCTIVE_EVENTS:
            return False
        if not self.alone and not health.get("commit_count"):
            return False
        grown = sum(self._journal[at] - before[at] for at in process.partitions())
        return grown >= PRODUCTIVE_EVENTS and (not self.alone or process.resting.exists())

    def _kill(self) -> None:
        fault = self._faults[0]
        if not self._due_since:
            self._due_since = time.monotonic() + self._random.random() * 0.3  # anywhere within some commits
            return
        if fault.name == "broker":
            assert self.broker is not None
            self.broker.kill()
            self.broker.start()
        else:
            process = self._victim(fault.name)
            if process is None:
                return
            if fault.name == "gate":
                self.judged_before.append(process.health["processed_count"])
            if fault.freeze:
                process.freeze(fault.down_sec)
            else:
                process.kill(fault.down_sec)
            if fault.name == "oversight":
                self.epochs.killed()
            if self.alone:
                self.load.open.clear()  # what it lost will not be decided any more
        self.kills["frozen" if fault.freeze else fault.name] += 1
        self._faults.popleft()
        self._due_since = 0.0

    def _victim(self, name: str) -> Process | None:
        found = [each for each in self.processes if each.name == name and not (each.killed or each.frozen)]
        found = [each for each in found if name != "gate" or self._productive(each)]
        if name == "worker" and self.permitted - self.closed < RUNNING_MIN:
            return None
        if name in WHILE_HELD and self.held < 1:
            return None
        if name == "oversight" and not self.epochs.is_moment():
            return None
        turn = self.kills[name] % 2
        return found[turn % len(found)] if found else None

    def _stuck(self) -> str:
        permitted = sum(self.load.submitted.values())
        said = [f"decided {self.decided} of {len(self.load.submitted)}"]
        said += [f"closed {self.closed} of {permitted}, held {self.held}"]
        said += [f"samples without a finding {self.sampled}, promotions without a word {self.asked}"]
        said += [f"kills {dict(self.kills)}, still to come {len(self._faults)}, ended {self.ended[-5:]}"]
        for process in self.processes:
            said += [f"{process.label}:", *last_lines(process.log, 4)]
        return "\n".join(said)

    def effects_dir(self) -> Path:
        """Where the workers' effects stand."""
        return effects_dir(self.settings)
