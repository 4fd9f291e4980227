r"""A reviewer service without Sluicegate's Python: plain confluent-kafka, fastavro and cryptography.

It shows what any program, in any language, needs in order to decide a request: the `.avsc` files, a login that may read
`approval.requests` and `approval.events` and write `approval.verdicts`, and the private key of the person who decides.

    KAFKA_PASSWORD=... python docs/reviewer_service.py --bootstrap HOST:PORT --person rosa \
        --key-file .sluicegate/keys/person.rosa.key --schemas schemas/avro deny request-12ab --reason "not on a Friday"

Prints the desk's answer as JSON. Exit code 0: the verdict counts; 2: the desk refused it; 3: no request or no answer.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema
from confluent_kafka import Consumer, Producer, TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

WAIT_SEC = 55.0


class Schemas:
    """The contract: an event's wire form is a zero byte, four bytes of schema id, then Avro.

    Without a registry server a schema's id is the first 31 bits of the SHA-256 of its parsing canonical form.
    """

    def __init__(self, folder: Path) -> None:
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, tuple[str, Any]] = {}
        for path in folder.glob("*.avsc"):
            schema = json.loads(path.read_text("utf-8"))
            canonical = fastavro.schema.to_parsing_canonical_form(schema)
            schema_id = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") >> 1
            self._ids[path.stem] = schema_id
            self._schemas[schema_id] = (path.stem, fastavro.parse_schema(schema))

    def encode(self, name: str, event: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        schema_id = self._ids[name]
        out.write(struct.pack(">bI", 0, schema_id))
        fastavro.schemaless_writer(out, self._schemas[schema_id][1], event)
        return out.getvalue()

    def decode(self, value: bytes) -> tuple[str, dict[str, Any]]:
        _, schema_id = struct.unpack_from(">bI", value)
        if schema_id not in self._schemas:
            return "", {}
        name, schema = self._schemas[schema_id]
        event = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
        assert isinstance(event, dict)
        return name, event


def framed(*parts: bytes) -> bytes:
    """Each part behind its length in four bytes: what is signed has one reading only."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def signature_headers(
    key: Ed25519PrivateKey, key_id: str, topic: str, record_id: str, now_ms: int, record_key: bytes, value: bytes
) -> list[tuple[str, bytes]]:
    """The CloudEvents headers and the signature over topic, key id, record id, time, key and value."""
    message = framed(
        b"sluicegate.record.v1",
        topic.encode(),
        key_id.encode(),
        record_id.encode(),
        str(now_ms).encode(),
        record_key,
        value,
    )
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", record_id.encode()),
        ("ce_source", key_id.encode()),
        ("ce_type", b"sluicegate.Verdict.v1"),
        ("content-type", b"application/avro"),
        ("sg_key_id", key_id.encode()),
        ("sg_issued_at_ms", str(now_ms).encode()),
        ("sg_signature", key.sign(message)),
    ]


class Service:
    """One login's view of the desk."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._schemas = Schemas(args.schemas)
        self._prefix = args.prefix
        self._connection = {
            "bootstrap.servers": args.bootstrap,
            "security.protocol": args.security_protocol,
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": args.prefix + args.login,
            "sasl.password": os.environ.get("KAFKA_PASSWORD", ""),
        }
        self._consumer = Consumer({**self._connection, "group.id": "reviewer-service", "enable.auto.commit": False})
        topics = [f"{self._prefix}approval.requests", f"{self._prefix}approval.events"]
        found = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign([TopicPartition(name, part, 0) for name in topics for part in found[name].partitions])

    def events(self, until: float) -> Any:
        """Every event of the two topics from the beginning on, as (name, fields)."""
        while time.monotonic() < until:
            message = self._consumer.poll(0.1)
            value = None if message is None or message.error() is not None else message.value()
            if isinstance(value, bytes):
                yield self._schemas.decode(value)

    def find(self, request_id: str) -> dict[str, Any] | None:
        """The request, once the desk has opened it."""
        request: dict[str, Any] | None = None
        opened = False
        for name, event in self.events(time.monotonic() + WAIT_SEC):
            if event.get("request_id") == request_id:
                request = event if name == "ApprovalRequest" else request
                opened = opened or name == "RequestOpened"
            if request is not None and opened:
                return request
        return None

    def decide(self, request: dict[str, Any], args: argparse.Namespace) -> tuple[int, int]:
        """Write the verdict with the evidence that the desk asks for; returns its partition and offset."""
        now_ms = time.time_ns() // 1_000_000
        verdict_id = f"verdict-{hashlib.sha256(f'{args.request}{args.person}{now_ms}'.encode()).hexdigest()[:32]}"
        verdict = {
            "verdict_id": verdict_id,
            "request_id": request["request_id"],
            "desk": request["desk"],
            "verdict": args.verdict,
            "approver_id": args.person,
            "policy_snapshot": request["policy_snapshot"],
            "job_hash": request["job_hash"],
            "decision_ts_ms": now_ms,
            "reason": args.reason,
            "constraints": args.constraints,
        }
        topic, key = f"{self._prefix}approval.verdicts", request["desk"].encode()
        value = self._schemas.encode("Verdict", verdict)
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(args.key_file.read_text().strip()))
        headers = signature_headers(private, f"person/{args.person}", topic, verdict_id, now_ms, key, value)
        place: list[tuple[int, int]] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                sys.exit(f"the broker did not take the verdict: {error.str()}")
            place.append((message.partition(), message.offset()))

        # Java's partitioner: the desk refuses a record that stands where its key does not belong.
        producer = Producer({**self._connection, "partitioner": "murmur2_random", "enable.idempotence": True})
        producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
        producer.flush(30)
        if not place:
            sys.exit("the broker did not answer in 30 s")
        return place[0]

    def answer(self, place: tuple[int, int]) -> tuple[int, dict[str, Any]]:
        """The desk's answer to the verdict at this place, with the exit code."""
        for name, event in self.events(time.monotonic() + WAIT_SEC):
            cause = event.get("cause") or {}
            if cause.get("topic") != "approval.verdicts" or (cause["partition"], cause["offset"]) != place:
                continue
            if name == "VerdictAccepted":
                return 0, {"status": "accepted", "verdict": event["verdict"], "by": event["approver_id"]}
            if name == "Refused":
                told = ("code", "message", "winner", "winner_at_ms")
                return 2, {"status": "refused"} | {word: event[word] for word in told}
        return 3, {"status": "unanswered"}


def main() -> int:
    """Find the request, decide it, tell what the desk says."""
    parser = argparse.ArgumentParser(description="Decide one approval request.")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--security-protocol", default="SASL_PLAINTEXT")
    parser.add_argument("--login", default="reviewer")
    parser.add_argument("--prefix", default="", help="`<tenant>.` where the tenant is not the default one")
    parser.add_argument("--person", required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--schemas", type=Path, required=True)
    parser.add_argument("--reason")
    parser.add_argument("--constraints", default="{}", help="tighter constraints, as JSON")
    parser.add_argument("verdict", choices=["approve", "deny"])
    parser.add_argument("request")
    args = parser.parse_args()
    service = Service(args)
    request = service.find(args.request)
    if request is None:
        sys.stdout.write(json.dumps({"status": "unknown request"}) + "\n")
        return 3
    code, told = service.answer(service.decide(request, args))
    sys.stdout.write(json.dumps(told) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
