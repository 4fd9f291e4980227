"""Adds one agent to `agents.yaml` as a person would: at the end of the list, everything else as it stands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from sluicegate.policies.load import parse_bundle, read_folder
from sluicegate.schemas.errors import BadInput

HEADER = "# The agents that may ask for anything at all.\nagents:\n"


def with_agent(folder: Path, file: str, entry: dict[str, Any]) -> tuple[bool, bool]:
    """Make sure that the agent stands in the folder's file; (whether it was added, whether it has a shared key).

    The whole bundle is checked before anything is written. Raises PolicyFaults, BadInput when the owner is missing or
    the file cannot be edited.
    """
    texts = read_folder(folder)
    for known in parse_bundle(texts).agents.agents:
        if known.id == entry["id"]:
            if entry["key"].get("public_key") not in (None, known.key.public_key):
                raise BadInput(f"agent `{known.id}` stands in `{folder / file}` with another key; edit the file itself")
            return False, known.key.kind == "hmac"
    if not entry["owner"]:
        raise BadInput(f"agent `{entry['id']}` is new and needs an owner; name a person with --owner")
    before = texts.get(file)
    after = HEADER + _block(entry, 2) if before is None else _appended(before, entry, folder / file)
    parse_bundle({**texts, file: after})
    draft = folder / f".{file}.{os.getpid()}"
    draft.write_text(after, encoding="utf-8")
    draft.replace(folder / file)
    return True, entry["key"]["kind"] == "hmac"


def _block(entry: dict[str, Any], indent: int) -> str:
    """The entry as a block of a list whose dashes stand at a column."""
    lines = [f"{name}: {_value(value)}" for name, value in entry.items()]
    pad = " " * indent
    return "".join([f"{pad}{'- ' if number == 0 else '  '}{line}\n" for number, line in enumerate(lines)])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join([f"{name}: {_value(inner)}" for name, inner in value.items()]) + " }"
    return json.dumps(value)  # a JSON string is a YAML string, whatever it looks like


def _appended(text: str, entry: dict[str, Any], path: Path) -> str:
    """The text with the entry after the last one. Comments below the list stay below it."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = None
    if isinstance(root, yaml.MappingNode):
        found = next((value for key, value in root.value if key.value == "agents"), None)
    if not isinstance(found, yaml.SequenceNode) or (found.flow_style and found.value):
        raise BadInput(f"the list `agents` of `{path}` is not written as lines with dashes; add the agent by hand")
    if not found.value:  # `agents: []`
        before, after = text[: found.start_mark.index], text[found.end_mark.index :]
        return f"{before.rstrip()}\n{_block(entry, 2)}{after.lstrip(chr(10))}"
    lines = text.splitlines(keepends=True)
    last = _last_line(found.value[-1])
    if not lines[last].endswith("\n"):
        lines[last] += "\n"
    spaced = len(found.value) > 1 and not lines[found.value[-1].start_mark.line - 1].strip()
    lines.insert(last + 1, ("\n" if spaced else "") + _block(entry, found.start_mark.column))
    return "".join(lines)


def _last_line(node: yaml.Node) -> int:
    """The line on which the last word of a node stands; a block's own end mark lies behind the comments after it."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1])
    end = node.end_mark
    return int(end.line if end.column or not isinstance(node, yaml.ScalarNode) else end.line - 1)
