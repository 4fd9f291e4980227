"""Writes a record with a header name that is not UTF-8, which librdkafka's Python face cannot, but any attacker can."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping


def produce_poison(connection: Mapping[str, str], topic: str, key: str, value: str) -> None:
    """From a process of its own: aiokafka must be imported without its extensions, which take only real text."""
    told = json.dumps({"connection": dict(connection), "topic": topic, "key": key, "value": value})
    environment = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
    subprocess.run([sys.executable, __file__], input=told, text=True, check=True, env=environment)


class _NoText(str):
    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return b"\xff\xfe no text"


async def _main() -> None:
    from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]  # published without types

    told = json.loads(sys.stdin.read())
    login = told["connection"]
    producer = AIOKafkaProducer(
        bootstrap_servers=login["bootstrap.servers"],
        security_protocol=login["security.protocol"],
        sasl_mechanism=login["sasl.mechanism"],
        sasl_plain_username=login["sasl.username"],
        sasl_plain_password=login["sasl.password"],
    )
    await producer.start()
    headers = [("good", b"1"), (_NoText(), b"2")]
    await producer.send_and_wait(told["topic"], told["value"].encode(), told["key"].encode(), headers=headers)
    await producer.stop()


if __name__ == "__main__":
    asyncio.run(_main())
