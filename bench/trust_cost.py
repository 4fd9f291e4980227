"""What trust costs: the gate's work for a job, intent to result, with levels and audits and without; and its state.

In memory, on the real step: an allowed intent and its reviewed result, the same jobs under two policies in turn. The
state is that of an agent with a full review period behind it, as many agents as that, in the engine's own store.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.material import PARTITIONS
from sluicegate.bench.offline import Offline
from sluicegate.policies.autonomy import SLICES_MAX
from sluicegate.processors.gate_state import entry_name
from sluicegate.processors.trust import ENTRY, Trust
from sluicegate.schemas.events import Cause, Granted, Result
from sluicegate.schemas.payload import seal
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.partitioner import partition_for

AGAINST: Final = "the same jobs under the same policy without `autonomy_levels` and `audit`"
WARM_UP: Final = 500
AGENTS: Final = 100_000
DAYS: Final = 8
JOBS_A_DAY: Final = 100
DAY_MS: Final = 86_400_000


def measure(findings: Findings, *, rounds: int, count: int, agents: int = AGENTS) -> None:
    """So many jobs a round under either policy in turn, then the bytes of an agent's state."""
    sides = {True: Offline(trust=True), False: Offline()}
    taken: dict[bool, list[float]] = {trust: [] for trust in sides}
    for side in sides.values():
        _job_us(side, "warm", min(WARM_UP, count))
    _fill_period(sides[True])
    for number in range(rounds):
        for trust, side in sides.items():
            taken[trust].append(_job_us(side, f"r{number}", count))
    name = "the gate's step for a job, intent to result, with levels and audits"
    findings.figures.append(figure(name, "us", taken[True], AGAINST, taken[False]))
    _tell_state(findings, agents)


def _fill_period(offline: Offline) -> None:
    """Give every agent a full review period behind it: what is counted is read and written whole."""
    grain = DAY_MS * 1_000 // 24
    for entries in offline.store.entries.values():
        if ENTRY in entries:
            trust = msgspec.msgpack.decode(entries[ENTRY], type=Trust)
            last = offline.now_ms * 1_000 // grain * grain
            trust.slices = [(last - back * grain, 4, 0) for back in reversed(range(SLICES_MAX))]
            trust.successes, trust.errors = 4 * SLICES_MAX, 0
            entries[ENTRY] = msgspec.msgpack.encode(trust)


def _job_us(offline: Offline, series: str, count: int) -> float:
    """Microseconds of this thread's CPU per job."""
    intents = offline.records(series, count)
    began = time.thread_time()
    outs = [offline.meet(record) for record in intents]
    spent = time.thread_time() - began
    results = [_result(offline, intent, number) for number, intent in enumerate(outs)]
    began = time.thread_time()
    for record in results:
        offline.meet(record)
    return (spent + time.thread_time() - began) / count * 1_000_000


def _result(offline: Offline, outs: list[Out], offset: int) -> Record:
    """What comes back of a granted intent: it succeeded, and left as it was."""
    events = [offline.codec.decode(out.value) for out in outs]
    granted = next(event for event in events if isinstance(event, Granted))
    event = Result(
        cause=Cause(topic="job.outputs", partition=0, offset=offset),
        at_ms=offline.now_ms,
        seq=offset + 1,
        control_offset=1,
        judge=granted.judge,
        job_id=granted.job_id,
        agent_id=granted.agent_id,
        grant_id=granted.grant_id,
        attempt=granted.attempt,
        topic=granted.topic,
        succeeded=True,
        output_safety_decision="ALLOW",
        rule="default",
        original_fields_redacted=0,
        policy_snapshot=granted.policy_snapshot,
        output=seal(b'{"rows":12}', bytes(16)),
        output_hash="0" * 64,
        result_hash="0" * 64,
        worker_id="w1",
    )
    key = granted.agent_id.encode()
    value = offline.codec.encode(event)
    return Record("job.results", partition_for(key, PARTITIONS), offset, key, value, (), offline.now_ms)


def _tell_state(findings: Findings, agents: int) -> None:
    """The bytes that an agent holds when none of its jobs is open, encoded and on disk."""
    found = {trust: _entries_of_an_agent(trust) for trust in (True, False)}
    sizes = {trust: float(sum(map(len, entries.values()))) for trust, entries in found.items()}
    against = f"the same without `autonomy_levels` and `audit`; {DAYS} days of {JOBS_A_DAY} jobs, none of them open"
    findings.figures.append(figure("an agent's state, encoded", "bytes", [sizes[True]], against, [sizes[False]]))
    disk = {trust: _on_disk(entries, agents) for trust, entries in found.items()}
    name = f"an agent's state on disk, of {agents:,} agents"
    findings.figures.append(figure(name, "bytes", [disk[True]], against, [disk[False]]))


def _entries_of_an_agent(trust: bool) -> dict[str, bytes]:
    """What remains of an agent after a review period of work, but for what is remembered of single jobs for 48 h."""
    offline = Offline(trust=trust, agents_count=1)
    for number in range(DAYS * JOBS_A_DAY):
        offline.now_ms += DAY_MS // JOBS_A_DAY
        (intent,) = offline.records(f"day-{number}", 1)
        offline.meet(_result(offline, offline.meet(intent), number))
    entries = next(iter(offline.store.entries.values()))
    jobs = (entry_name(""), "retired/", "audit/")
    return {name: value for name, value in entries.items() if not name.startswith(jobs)}


def _of_another(name: str, value: bytes, chance: random.Random) -> bytes:
    """The entry as another agent would have it: other hours with other counts, so that it compresses as theirs do."""
    if name != ENTRY:
        return value
    trust = msgspec.msgpack.decode(value, type=Trust)
    moved = chance.randrange(DAY_MS) * 1_000
    trust.slices = [(begin + moved, chance.randrange(12), chance.randrange(2)) for begin, _, _ in trust.slices]
    return msgspec.msgpack.encode(trust)


def _on_disk(entries: dict[str, bytes], agents: int) -> float:
    from rocksdict import Rdict

    with tempfile.TemporaryDirectory(prefix="sluicegate-state-") as folder:
        path = Path(folder) / "state"
        store, chance = Rdict(str(path)), random.Random(1)  # noqa: S311  # the same figure each time
        for number in range(agents):
            for name, value in entries.items():
                store[f"agent-{number:07d}|{name}".encode()] = _of_another(name, value, chance)
        store.flush()
        store.compact_range(None, None)
        store.close()
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
    return size / agents
