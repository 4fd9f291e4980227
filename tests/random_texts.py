"""Hostile texts from a seed: broken copies of real documents, random YAML event streams, random JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

import yaml

TESTS: Final = Path(__file__).parent
PIECES: Final = (
    *(
        b"&a ",
        b"*a",
        b"!!x ",
        b"[",
        b"}",
        b": ",
        b"no",
        b"\t",
        b'"',
        b"'",
        b"9" * 30,
        b"-",
        b"\n",
        b"\r",
        b"#",
        b"<<: ",
    ),
    *(
        b"\xff",
        b"\x00",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"1e999",
        b"0x1F",
        b"010",
        b"? ",
    ),
    *(b"null", b"true", b"allow", b"deny", b"rules:", b"---\n", b"...\n", b"%YAML 1.2\n", b"|\n", b">-\n", b"\\u0000"),
    *(b"- {match: {topics: ['*']}, decision: allow}\n", b"confidence_below: 0.7", b"-1", b".nan", b"~", b"=", b"1:30"),
)
WORDS: Final = (
    *("rules", "match", "topics", "decision", "allow", "deny", "id", "reason", "constraints", "max_runtime_sec", "*"),
    *(
        "autonomy_levels",
        "level_0",
        "name",
        "version",
        "v1",
        "default",
        "mode",
        "observe",
        "risk_tags",
        "route",
        "tier",
    ),
    *("confidence_below", "amount_usd_24h_above", "first_time_action", "classes", "actions", "facts", "a.b[0].#", ""),
    *("trigger", "steps", "audit", "sampling", "no", "yes", "1e3", "010", "\u2028", "\x07", "\ud7ff", "<<", "=", "~"),
)


def real_documents() -> dict[str, bytes]:
    """The article's files and those of the shipped bundles, by a label that ends in the file's name."""
    shipped = TESTS.parent / "policies" / "bundles"
    found = [*(TESTS / "corpus" / "article").iterdir(), *shipped.glob("*/*.yaml")]
    return {str(path.relative_to(TESTS.parent)): path.read_bytes() for path in sorted(found)}


def mutated(chance: random.Random, content: bytes) -> bytes:
    """One to four wounds: bytes cut out, flipped, doubled, moved, or something put in."""
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(content) + 1)
        to = min(len(content), at + chance.choice([0, 1, 1, 2, 8, 40]))
        wound = chance.randrange(6)
        if wound == 0:
            content = content[:at] + content[to:]
        elif wound == 1:
            content = content[:at] + chance.choice(PIECES) + content[at:]
        elif wound == 2 and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        elif wound == 3:
            content = content[:to] + content[at:to] * chance.choice([1, 3]) + content[to:]
        elif wound == 4:
            content = content[:at] + chance.choice(PIECES) + content[to:]
        else:
            cut, content = content[at:to], content[:at] + content[to:]
            there = chance.randrange(len(content) + 1)
            content = content[:there] + cut + content[there:]
    return content


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value, made of the words that documents are made of."""
    kind = chance.randrange(10) if depth < 5 else chance.randrange(6)
    if kind < 3:
        return chance.choice(WORDS)
    if kind < 6:
        return chance.choice([None, True, False, 0, -1, 1.5, 2**53, 10**40, 1e308, "x" * 300, chance.random()])
    if kind < 8:
        return [random_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {chance.choice(WORDS): random_value(chance, depth + 1) for _ in range(chance.randint(0, 5))}


def random_json(chance: random.Random) -> bytes:
    """A JSON text; now and then with what only Python takes for JSON, or a key that stands twice."""
    shape = chance.randrange(3)
    value = random_value(chance)
    if shape == 0:
        value = {"rules": [{"match": random_value(chance), "decision": chance.choice(WORDS)}, value]}
    elif shape == 1:
        value = {chance.choice(WORDS): value, chance.choice(WORDS): random_value(chance)}
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.2:
        text = text.replace("{", '{"rules": NaN, "rules": [], ', 1)
    return text.encode("utf-8", "surrogatepass")


def random_yaml(chance: random.Random) -> bytes:
    """A YAML text out of random events: anchors, aliases to anything, tags, styles, several documents."""
    events: list[Any] = [yaml.StreamStartEvent()]
    for _ in range(chance.choice([1, 1, 1, 2])):
        events.append(yaml.DocumentStartEvent(explicit=chance.random() < 0.5))
        _random_node(chance, events, 0)
        events.append(yaml.DocumentEndEvent(explicit=chance.random() < 0.2))
    events.append(yaml.StreamEndEvent())
    try:
        return str(yaml.emit(events, allow_unicode=chance.random() < 0.5)).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return b"rules: *a\n"


def _random_node(chance: random.Random, events: list[Any], depth: int) -> None:
    anchor = chance.choice([None, None, None, None, "a", "b"])
    tag = chance.choice(
        [None] * 12 + ["!!str", "tag:yaml.org,2002:python/object:os.system", "!x", "tag:yaml.org,2002:int"]
    )
    kind = chance.randrange(10) if depth else 9
    if kind < 1:
        events.append(yaml.AliasEvent(chance.choice("ab")))
    elif kind < 6 or depth > 6:
        value = str(chance.choice([*WORDS, "0.5", "7", "-0", "0.10", "true", "null", "2020-01-01", "1_000"]))
        style = chance.choice([None, None, "'", '"', "|", ">"])
        events.append(yaml.ScalarEvent(anchor, tag, (tag is None, tag is None), value, style=style))
    elif kind < 8:
        events.append(yaml.SequenceStartEvent(anchor, tag, implicit=tag is None, flow_style=chance.random() < 0.5))
        for _ in range(chance.randint(0, 3)):
            _random_node(chance, events, depth + 1)
        events.append(yaml.SequenceEndEvent())
    else:
        events.append(yaml.MappingStartEvent(anchor, tag, implicit=tag is None, flow_style=chance.random() < 0.5))
        for _ in range(chance.randint(0, 4)):
            if chance.random() < 0.9:
                events.append(yaml.ScalarEvent(None, None, (True, True), chance.choice(WORDS)))
            else:
                _random_node(chance, events, depth + 1)
            _random_node(chance, events, depth + 1)
        events.append(yaml.MappingEndEvent())
