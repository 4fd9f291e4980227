"""A second checker: reads a copy of the log and imports nothing of ours but the Avro schemas.

It holds the log against what the README promises. Usage: ``python tests/second_checker.py COPY [SCHEMAS]``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema

JOURNALS = ("job.decisions", "job.results", "approval.events")
TERMS = ("job_hash", "constraints", "attempt", "start_by_ms")
PERMITS = ("ALLOW", "ALLOW_WITH_CONSTRAINTS")


def load_schemas(folder: str | Path) -> dict[int, tuple[str, Any]]:
    found = {}
    for schema in [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.avsc"))]:
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        number = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") >> 1
        found[number] = (schema["name"], fastavro.parse_schema(schema))
    return found


def decode(schemas: dict[int, tuple[str, Any]], value: bytes) -> tuple[str | None, Any]:
    name, schema = schemas.get(int.from_bytes(value[1:5], "big"), ("", None)) if value[:1] == b"\0" else ("", None)
    if schema is None:
        return None, None
    try:
        return name, fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)
    except Exception:  # noqa: BLE001  # hostile bytes: the log may hold them, the dead letters must name them
        return None, None


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def hash_of(event: Any) -> str:
    if event["payload"]["algorithm"] != "none":
        return str(event["job_hash"])  # only who has the key can compute it; the decision must still say the same
    salt, payload = event["payload"]["bytes"][:16], event["payload"]["bytes"][16:]
    tags = framed(*[tag.encode() for tag in event["risk_tags"]])
    parts = [b"sluicegate.job.v1", payload, event["topic"].encode(), event["agent_id"].encode(), tags, salt]
    return hashlib.sha256(framed(*parts)).hexdigest()


class Checker:
    """One pass over one copy; `faults` and `counts` are what it finds."""

    def __init__(self, copy: str | Path, schemas: dict[int, tuple[str, Any]]) -> None:
        self.faults: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.by_name: dict[str | None, list[Any]] = defaultdict(list)
        self.at: dict[tuple[str, int, int], Any] = {}
        with Path(copy).open(encoding="utf-8") as file:
            head = json.loads(next(file))
            self.starts = head["starts"]
            for line in file:
                raw = json.loads(line)
                raw["name"], raw["event"] = decode(schemas, base64.b64decode(raw["value"]))
                self.at[(raw["topic"], raw["partition"], raw["offset"])] = raw
                self.by_name[raw["name"]].append(raw)

    def fault(self, record: Any, message: str) -> None:
        self.faults.append({"place": [record["topic"], record["partition"], record["offset"]], "message": message})

    def events(self, name: str, topic: str = "") -> Iterator[tuple[Any, Any]]:
        for record in self.by_name[name]:
            if record["topic"].startswith(topic):
                self.counts[name] += 1
                yield record, record["event"]

    def cause(self, event: Any) -> Any:
        return self.at.get((event["cause"]["topic"], event["cause"]["partition"], event["cause"]["offset"]))

    def run(self) -> Checker:
        for part in (self.journals, self.snapshots, self.decisions, self.resolutions, self.grants, self.results):
            part()
        return self

    def journals(self) -> None:
        last: Counter[tuple[str, str]] = Counter()
        for place in sorted(self.at):
            record = self.at[place]
            if place[0] in JOURNALS and record["event"] and "seq" in record["event"]:
                stream = (place[0], record["key"])
                if record["event"]["seq"] != last[stream] + 1:
                    self.fault(record, f"seq {record['event']['seq']} after {last[stream]}")
                last[stream] = record["event"]["seq"]
                if self.cause(record["event"]) is None:
                    self.fault(record, "its cause is not in the log")

    def snapshots(self) -> None:
        self.digests: dict[str, str] = {}
        for record, event in self.events("SnapshotPublished"):
            if hashlib.sha256(event["documents"].encode()).hexdigest() != event["digest"]:
                self.fault(record, "the digest is not that of the documents")
            self.digests[event["digest"]] = event["name"]
        spoken = [e for _, e in self.events("Acknowledged") if e["topic"] == "control.commands"]
        refused = {e["control_offset"] for e in spoken if not e["accepted"]}
        commands = [(r["offset"], e) for r, e in self.events("Command") if e["kind"] == "activate"]
        self.active = sorted((offset, e["policy_digest"]) for offset, e in commands if offset not in refused)

    def decisions(self) -> None:
        self.decided: dict[tuple[str, str], list[Any]] = defaultdict(list)
        firsts: Counter[tuple[str, str]] = Counter()
        for record, event in self.events("Decision", "job.decisions"):
            job, cause = (event["agent_id"], event["job_id"]), self.cause(event)
            self.decided[job].append(event)
            if event["again_after"] is None:
                firsts[job] += 1
                if firsts[job] > 1:
                    self.fault(record, "a second decision for one intent")
            if cause and cause["name"] == "Intent" and hash_of(cause["event"]) != event["job_hash"]:
                self.fault(record, "the job hash is not that of the intent")
            active = [digest for offset, digest in self.active if offset <= event["control_offset"]] or [""]
            if (event["policy_digest"], event["policy_snapshot"]) != (active[-1], self.digests.get(active[-1])):
                self.fault(record, "judged by another snapshot than the active one")

    def resolutions(self) -> None:
        requests = {e["request_id"]: e for _, e in self.events("ApprovalRequest")}
        said = {e["verdict_id"]: (r, e) for r, e in reversed(list(self.events("Verdict")))}
        self.approved: dict[str, Any] = {}
        seen: Counter[str] = Counter()
        for record, event in self.events("Resolution"):
            request = requests.get(event["request_id"])
            seen[event["request_id"]] += 1
            if request is None or seen[event["request_id"]] > 1 or event["job_hash"] != request["job_hash"]:
                self.fault(record, "no request of this id and hash, or a second resolution of it")
                continue
            if (event["outcome"] in ("approved", "denied")) != bool(event["verdicts"]):
                self.fault(record, "a person's outcome without a person's verdict, or the reverse")
            for ref in event["verdicts"]:
                spoken, verdict = said.get(ref["verdict_id"], (None, None))
                whole = all(ref[name] for name in ("policy_snapshot", "job_hash", "approver_id", "decision_ts_ms"))
                if verdict is None or not whole or verdict["approver_id"] != ref["approver_id"]:
                    self.fault(record, "a verdict without its evidence")
                elif spoken["timestamp_ms"] >= request["expires_at_ms"]:
                    self.fault(record, "a verdict appended at or after the deadline counts")
                elif ref["approver_id"] in (request["agent_owner"], request["on_behalf_of"]):
                    self.fault(record, "somebody approved their own agent's job")
            if event["outcome"] == "approved":
                self.approved[event["request_id"]] = event

    def grants(self) -> None:
        self.granted: dict[str, Any] = {}
        handed: Counter[str] = Counter()
        for record, event in self.events("Granted", "job.decisions"):
            said = [d for d in self.decided[(event["agent_id"], event["job_id"])] if d["seq"] < event["seq"]]
            approval = self.approved.get(event["request_id"])
            allowed = said and said[-1]["decision"] in PERMITS
            if not said or not (allowed or (approval and approval["job_hash"] == event["job_hash"])):
                self.fault(record, "granted without permission")
            if event["grant_id"] in self.granted:
                self.fault(record, "granted twice")
            self.granted[event["grant_id"]] = event
        for record, event in self.events("Grant", "job.grants."):
            terms = self.granted.get(event["grant_id"])
            handed[event["grant_id"]] += 1
            same = terms and all(terms[name] == event[name] for name in TERMS)
            if not same or hash_of(event) != event["job_hash"] or handed[event["grant_id"]] > 1:
                self.fault(record, "a grant that the gate did not write so")
        for grant_id in self.granted.keys() - handed.keys():
            if not any(start for name, start in self.starts.items() if name.startswith("job.grants.")):
                self.faults.append({"place": ["job.grants", -1, -1], "message": f"`{grant_id}` was never handed out"})

    def results(self) -> None:
        notes = [e for _, e in self.events("Noted", "job.results") if e["kind"] == "started"]
        started = {self.cause(e)["event"]["grant_id"] for e in notes}
        outputs = {(e["grant_id"], e["output_hash"]) for _, e in self.events("Output")}
        done: Counter[str] = Counter()
        for record, event in self.events("Result", "job.results"):
            done[event["grant_id"]] += 1
            if event["grant_id"] not in started or event["grant_id"] not in self.granted or done[event["grant_id"]] > 1:
                self.fault(record, "a result without a granted start, or a second one")
            if (event["grant_id"], event["output_hash"]) not in outputs:
                self.fault(record, "a result that no worker's output stands behind")


def check(copy: str | Path, folder: str | Path) -> Checker:
    return Checker(copy, load_schemas(folder)).run()


if __name__ == "__main__":
    found = check(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent.parent / "schemas" / "avro")
    sys.stdout.write(json.dumps({"counts": dict(found.counts), "faults": found.faults}, indent=1))
    sys.exit(1 if found.faults else 0)
