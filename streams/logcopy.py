"""A copy of the log in one file: JSON lines that anyone can read, for auditors and for checkers that are not ours.

The first line is ``{"tenant", "partitions", "starts"}``; each other line is one record with ``topic`` (logical),
``partition``, ``offset``, ``timestamp_ms``, and ``key``, ``value`` and header values in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sluicegate.schemas.errors import BadInput
from sluicegate.streams.engine import Record


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def write_copy(
    path: Path, tenant: str, partitions: int, starts: Mapping[tuple[str, int], int], records: Iterable[Record]
) -> int:
    """Write a copy and return how many records it holds."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        named = {f"{topic}/{partition}": start for (topic, partition), start in starts.items()}
        file.write(json.dumps({"tenant": tenant, "partitions": partitions, "starts": named}) + "\n")
        for record in records:
            line = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp_ms": record.timestamp_ms,
                "key": _b64(record.key),
                "value": _b64(record.value),
                "headers": [[name, _b64(value)] for name, value in record.headers],
            }
            file.write(json.dumps(line) + "\n")
            count += 1
    return count


def read_head(path: Path) -> tuple[str, int, dict[tuple[str, int], int]]:
    """The (tenant, partitions, starts) of a copy. Raises BadInput for a file that is none."""
    head = next(_lines(path), None)
    if not isinstance(head, dict) or not {"tenant", "partitions", "starts"} <= head.keys():
        raise BadInput(f"`{path}` is no copy of a log; make one with `sluicegate verify --copy FILE`")
    starts = {}
    for name, start in head["starts"].items():
        topic, _, partition = name.rpartition("/")
        starts[(topic, int(partition))] = int(start)
    return str(head["tenant"]), int(head["partitions"]), starts


def read_records(path: Path) -> Iterator[Record]:
    """The records of a copy. Raises BadInput, with the line, for what is no record."""
    lines = _lines(path)
    next(lines, None)
    for number, line in enumerate(lines, 2):
        try:
            yield Record(
                topic=line["topic"],
                partition=line["partition"],
                offset=line["offset"],
                key=base64.b64decode(line["key"]),
                value=base64.b64decode(line["value"]),
                headers=tuple((name, base64.b64decode(value)) for name, value in line["headers"]),
                timestamp_ms=line["timestamp_ms"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"line {number} of `{path}` is no record ({error}); make the copy again") from None


def _lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise BadInput(f"line {number} of `{path}` is not JSON; make the copy again") from None
    except OSError as error:
        raise BadInput(
            f"`{path}` cannot be read ({error.strerror}); give a file made by `sluicegate verify --copy`"
        ) from None
