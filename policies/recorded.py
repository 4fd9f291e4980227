"""Recorded intents in a file, for a look at what policies would say of them: JSON lines, or a list in YAML or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from pydantic import Field

from sluicegate.policies.checks import validated
from sluicegate.policies.faults import Fault, PolicyFaults
from sluicegate.policies.intents import IntentDocument
from sluicegate.policies.reading import read_source
from sluicegate.policies.source import INTEGER_MAX, Source

RECORDED_MAX: Final = 200_000
"""How many intents one file may hold."""
LIST_SUFFIXES: Final = (".yaml", ".yml")


class RecordedIntent(IntentDocument):
    """An intent and when the gate met it, in milliseconds since the epoch; None where nobody knows."""

    at_ms: Annotated[int, Field(ge=0, le=INTEGER_MAX)] | None = None


def read_recorded(file: str, text: str) -> list[RecordedIntent]:
    """The intents of a file's text, in its order. Raises PolicyFaults with the line of every fault.

    A file whose name ends in `.yaml` or `.yml` holds a list, as does one that begins with `[`; else each line that is
    not empty is the JSON of one intent. A job id stands once for an agent: the gate answers a repeated one from memory.
    """
    listed = file.endswith(LIST_SUFFIXES) or text.lstrip()[:1] == "["
    found: list[RecordedIntent] = []
    faults: list[Fault] = []
    lines: dict[tuple[str, str], int] = {}
    for line, source in _listed(file, text) if listed else _lines(file, text):
        intent = validated(source, RecordedIntent)
        if intent is not None:
            first = lines.setdefault((intent.agent_id, intent.job_id), line)
            if first != line:
                message = f"job `{intent.job_id}` of agent `{intent.agent_id}` stands twice, first in line {first}"
                source.fault(("job_id",), message, "keep one of them")
            found.append(intent)
        # A source of one JSON line counts from 1; one of a list knows its place in the file.
        faults += source.faults if listed else [_moved(fault, file, line) for fault in source.faults]
        if len(lines) > RECORDED_MAX:
            faults.append(Fault(file, line, 1, "", f"more than {RECORDED_MAX} intents", "split the file"))
            break
    if not found and not faults:
        faults.append(Fault(file, 1, 1, "", "the file holds no intent", "write at least one"))
    if faults:
        raise PolicyFaults(faults)
    return found


def _moved(fault: Fault, file: str, line: int) -> Fault:
    return msgspec.structs.replace(fault, file=file, line=line)


def _lines(file: str, text: str) -> Iterator[tuple[int, Source]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, read_source(f"{file}.json", line)


def _listed(file: str, text: str) -> Iterator[tuple[int, Source]]:
    """Each entry of a list as a source of its own; what is wrong with the whole comes as one source without a root."""
    whole = read_source(file if file.endswith(LIST_SUFFIXES) else f"{file}.json", text, "list")
    if whole.root is None or whole.faults:
        wrong = Source(file)
        wrong.faults = [msgspec.structs.replace(fault, file=file) for fault in whole.faults]
        yield 1, wrong
        return
    for node in whole.root.value:
        source = Source(file)
        if node.kind == "map":
            source.root = node
        else:
            source.fault_at(node.line, node.column, node.text, "an intent is a mapping of keys", "write `job_id: ...`")
        yield node.line, source
