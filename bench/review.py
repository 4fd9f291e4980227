"""What review adds to an output: bytes and outputs a second on one core, and latency. What it finds: `detection`.

Each document is reviewed for a customer under the shipped policy and, beside it, only parsed as review parses it. Rates
are of this thread's processor time, latencies of the wall clock. Where an interpreter is named that has them, others
look through the first of the same documents in the same rounds (`peers`).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from sluicegate.bench.clean_documents import documents_of
from sluicegate.bench.dirty_documents import plant
from sluicegate.bench.figures import Findings, Text, figure
from sluicegate.bench.latency import percentile_of
from sluicegate.bench.peer_process import PEERS_VARIABLE, Peers
from sluicegate.policies.load import shipped_output_policy
from sluicegate.policies.output_policy import OutputPolicy
from sluicegate.policies.review import review
from sluicegate.schemas.payload import parse_strict

SIZES_BYTES: Final = {"1 KB": 1_000, "64 KB": 64_000}
SHARES: Final = {"1 KB": 1, "64 KB": 10}
"""One document of the size for so many of the smallest."""
BYTES_PER_VALUE: Final = 4_000
"""A document with findings holds one value for so many bytes, and at least one."""
LOOKED_FOR: Final = ("card", "iban", "ssn", "email", "phone", "ip")
"""What is redacted; a credential would hold the output."""
PEER_SHARES: Final = {"1 KB": 10, "64 KB": 50}
"""The part of the documents that others meet, who take longer: one of so many, and at least one."""
TOPIC: Final = "job.support.reply"
AIM_MB_PER_SEC: Final = 10.0
AIMS: Final = {"presidio": 20.0}
NO_PEERS: Final = (
    "left out: presidio and detect-secrets are no dependencies",
    f"`make peers` makes an interpreter that has them; then {PEERS_VARIABLE}=.peers/bin/python sluicegate bench review",
)
WARMING: Final = 20
"""Documents of each kind that are reviewed before anything is measured: what comes once in a process comes then."""
SEED: Final = 9


class Times:
    """Of one round over a list of documents: seconds of processor and of wall time of each."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.taken: list[float] = []

    def add(self, work: Callable[[bytes], object], document: bytes) -> None:
        """Do it, and note how long it took."""
        began, used = time.perf_counter(), time.thread_time()
        work(document)
        self.used.append(time.thread_time() - used)
        self.taken.append(time.perf_counter() - began)

    @property
    def p99_ms(self) -> float:
        """The nearest-rank percentile of wall time."""
        return percentile_of(self.taken, 99) * 1_000


class Series:
    """One list of documents, and what was measured of it, round by round."""

    def __init__(self, name: str, documents: list[bytes], peer_count: int) -> None:
        self.name = name
        self.documents = documents
        self.peer_count = peer_count
        self.reviewed: list[Times] = []
        self.parsed: list[Times] = []
        self.peers: dict[str, list[float]] = {}
        """Seconds of each round over the first ``peer_count`` documents, by peer."""

    def run(self, work: Callable[[bytes], object]) -> None:
        """One round of review and of parsing, document by document in turn."""
        reviewed, parsed = Times(), Times()
        for document in self.documents:
            reviewed.add(work, document)
            parsed.add(parse_strict, document)
        self.reviewed.append(reviewed)
        self.parsed.append(parsed)

    def meet(self, peers: Peers) -> None:
        """The same round of the others."""
        for peer in peers.versions:
            self.peers.setdefault(peer, []).append(sum(peers.seconds(peer, self.name)))

    def rates(self, rounds: list[Times]) -> list[float]:
        """Documents a second of processor time."""
        return [len(self.documents) / sum(each.used) for each in rounds]

    def tell(self, findings: Findings) -> None:
        """Give the figures of the series."""
        name, size = f"review, {self.name}", megabytes(self.documents) / len(self.documents)
        reviewed, parsed = self.rates(self.reviewed), self.rates(self.parsed)
        speeds, aim = [rate * size for rate in reviewed], [AIM_MB_PER_SEC] * len(reviewed)
        findings.figures.append(figure(name, "MB/s", speeds, "the aim, in MB/s of one core", aim, 1.0))
        findings.figures.append(figure(name, "outputs/s", reviewed, "`parse_strict` alone", parsed))
        added, base = [each.p99_ms for each in self.reviewed], [each.p99_ms for each in self.parsed]
        findings.figures.append(figure(f"{name}, p99", "ms", added, "p99 of `parse_strict` alone", base))
        for peer, seconds in self.peers.items():
            part = megabytes(self.documents[: self.peer_count])
            ours = [part / sum(each.used[: self.peer_count]) for each in self.reviewed]
            theirs = [part / each for each in seconds]
            about = f"{name}, the first {self.peer_count}"
            findings.figures.append(figure(about, "MB/s", ours, peer, theirs, AIMS.get(peer)))


def measure(findings: Findings, *, rounds: int, count: int) -> None:
    """``count`` documents of 1 KB, fewer of 64 KB, clean ones and ones with findings, in each of the rounds."""
    policy = OutputPolicy(shipped_output_policy())
    table = Text("review beside others", list(NO_PEERS))
    every = made(count)

    def reviewed(document: bytes) -> object:
        return review(document, topic=TOPIC, audience="customer", tenant="acme", policy=policy)

    with ExitStack() as stack:
        interpreter = os.environ.get(PEERS_VARIABLE)
        peers = None
        if interpreter:
            parts = {each.name: each.documents[: each.peer_count] for each in every}
            peers = stack.enter_context(Peers(interpreter, parts))
            table = Text("review beside others, in the same rounds on the same documents", _versions(peers))
        for series in every:
            for document in series.documents[:WARMING]:
                reviewed(document)
        for _ in range(rounds):
            for series in every:
                series.run(reviewed)
                if peers is not None:
                    series.meet(peers)
    for series in every:
        series.tell(findings)
    findings.texts.append(table)


def made(count: int) -> list[Series]:
    """The documents; the same for the same count."""
    found = []
    for size, size_bytes in SIZES_BYTES.items():
        number = max(count // SHARES[size], 1)
        documents = documents_of(size_bytes, number, SEED)
        clean = list(map(encoded, documents))
        dirty = [encoded(_planted(document, size_bytes, at)) for at, document in enumerate(documents)]
        peer_count = max(number // PEER_SHARES[size], 1)
        found += [
            Series(f"{size}, clean", clean, peer_count),
            Series(f"{size}, with findings", dirty, peer_count),
        ]
    return found


def encoded(document: Any) -> bytes:
    """A document as a worker writes it."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def megabytes(documents: list[bytes]) -> float:
    """What they weigh together."""
    return sum(map(len, documents)) / 1e6


def _planted(document: Any, size_bytes: int, at: int) -> Any:
    """The document, changed: values of all classes in turn, about half of them under a decoding."""
    rng = random.Random(SEED + at)  # noqa: S311  # the same values every time
    for number in range(max(size_bytes // BYTES_PER_VALUE, 1)):
        plant(document, LOOKED_FOR[(at + number) % len(LOOKED_FOR)], rng, deepest=1)
    return document


def _versions(peers: Peers) -> list[str]:
    return [f"{name} {version}" for name, version in peers.versions.items()]
