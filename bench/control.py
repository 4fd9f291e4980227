"""From an operator's word to nothing more that starts, and to the last answer of what was asked to stop.

A gate and a worker under a steady flow of jobs that policy allows. Times are the broker's append times, so one clock
measures. What stands against them is `control_age_ms_max` alone; what is promised is that plus one transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.latency import write_evenly
from sluicegate.bench.stage import Stage, now_ms, running
from sluicegate.cli.control_log import Operator
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.events import Acknowledged, Command, Event, Started, StopAnswered
from sluicegate.streams.control_scopes import EVERYTHING
from sluicegate.streams.kafka import Tail
from sluicegate.streams.settings import Settings

FLOW_PER_SEC: Final = 100
AGE_MS_MAX: Final = 500
"""The default of `control_age_ms_max`, which other measurements raise."""
INTERVAL_MS: Final = 50
"""As `up` runs."""
CLOCK_MS: Final = 1.0
"""How finely append times are counted: nothing is told to take less."""
WAIT_SEC_MAX: Final = 30.0
AGAINST: Final = "`control_age_ms_max`"
_TOPICS: Final = ("control.commands", "job.decisions", "job.starts")


class _Log:
    """What was appended since it was opened, with append times in ms."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._codec = stage.codec
        self._tail = Tail(settings, "auditor", _TOPICS, group="auditor", start="end")
        self.events: list[tuple[int, Event]] = []

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Read on until ``done``. Raises Unavailable when that does not come about in time."""
        deadline = time.monotonic() + WAIT_SEC_MAX
        while not done():
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} did not come in {WAIT_SEC_MAX:g} s; measure on a quieter machine")
            for record in self._tail.poll(0.05):
                self.events.append((record.timestamp_ms, self._codec.decode(record.value)))

    def to_end(self) -> None:
        """Read all that is there."""
        self.until(self._tail.at_end, "the end of the log")

    def command(self, command_id: str) -> int:
        """When a command was appended."""
        return next(at for at, event in self.events if isinstance(event, Command) and event.command_id == command_id)

    def acknowledged(self, command_id: str) -> list[int]:
        """When the gate acknowledged it."""
        return [at for at, event in self.events if isinstance(event, Acknowledged) and event.command_id == command_id]

    def answered(self, command_id: str) -> list[int]:
        """When workers answered it."""
        return [at for at, event in self.events if isinstance(event, StopAnswered) and event.command_id == command_id]

    def started(self) -> list[int]:
        """When jobs were started."""
        return [at for at, event in self.events if isinstance(event, Started)]

    def close(self) -> None:
        self._tail.close()


def measure(stage: Stage, findings: Findings, *, rounds: int, seconds: float) -> None:
    """So many pauses in the middle of a flow of ``seconds``, and as many stops of a full worker."""
    paused = stage.tenant("pausing", INTERVAL_MS, control_age_ms_max=AGE_MS_MAX)
    with running(paused, "gate"), running(paused, "worker"):
        pauses = [_pause(stage, paused, seconds, f"p{number}") for number in range(rounds)]
    stopped = stage.tenant("stopping", INTERVAL_MS, control_age_ms_max=AGE_MS_MAX)
    with running(stopped, "gate"), running(stopped, "patient"):
        stops = [_stop(stage, stopped, f"s{number}") for number in range(rounds)]
    base = [float(AGE_MS_MAX)] * rounds
    named = {
        f"pause to its acknowledgement, at {FLOW_PER_SEC} jobs/s": [known for known, _ in pauses],
        "acknowledgement to the last start before the resume (1: none, or within 1 ms)": [late for _, late in pauses],
        f"stop to the last answer of {stopped.handlers_max} running jobs": stops,
    }
    for name, values in named.items():
        findings.figures.append(figure(name, "ms", values, AGAINST, base))


def _pause(stage: Stage, settings: Settings, seconds: float, series: str) -> tuple[float, float]:
    """Command to acknowledgement, and acknowledgement to the last start, in ms."""
    messages = list(stage.scribe(settings).messages(series, int(FLOW_PER_SEC * seconds), now_ms()))
    flow = threading.Thread(target=write_evenly, args=(settings, messages, FLOW_PER_SEC))
    log = _Log(stage, settings)
    try:
        with Operator(settings) as operator:
            flow.start()
            time.sleep(seconds / 2)
            log.until(lambda: bool(log.started()), "the first start")
            pause = operator.command("pause", EVERYTHING, "measured")
            log.until(lambda: bool(log.acknowledged(pause)), "the acknowledgement")
            flow.join()
            time.sleep(2 * AGE_MS_MAX / 1000)  # what starts too late should have the time to
            resume = operator.command("resume", EVERYTHING, "measured")
            log.until(lambda: bool(log.acknowledged(resume)), "the acknowledgement")
            log.to_end()
    finally:
        log.close()
    asked, known, ended = log.command(pause), log.acknowledged(pause)[-1], log.command(resume)
    last = max(at for at in log.started() if at < ended)
    return max(known - asked, CLOCK_MS), max(last - known, CLOCK_MS)


def _stop(stage: Stage, settings: Settings, series: str) -> float:
    """Command to the last answer, in ms, of as many jobs as a worker runs."""
    count = settings.handlers_max
    messages = list(stage.scribe(settings).messages(series, count, now_ms()))
    log = _Log(stage, settings)
    try:
        with Operator(settings) as operator:
            write_evenly(settings, messages, FLOW_PER_SEC)
            log.until(lambda: len(log.started()) >= count, "the last start")
            stop = operator.command("stop", EVERYTHING, "measured")
            log.until(lambda: len(log.answered(stop)) >= count and bool(log.acknowledged(stop)), "the last answer")
            resume = operator.command("resume", EVERYTHING, "measured")
            log.until(lambda: bool(log.acknowledged(resume)), "the acknowledgement")
    finally:
        log.close()
    return max(max(log.answered(stop)) - log.command(stop), CLOCK_MS)
