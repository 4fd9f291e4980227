"""Parts of sentences about what happened. Pure; what others wrote is made visible in them."""

from __future__ import annotations

import datetime
import json
from typing import Any

from sluicegate.cli.visible import visible
from sluicegate.schemas import events as ev


def v(text: str | None) -> str:
    """A text of others, made visible; nothing for None."""
    return visible(text or "")


def because(reason: str | None) -> str:
    """`: why`, or nothing."""
    return f": {v(reason)}" if reason else ""


def clock(at_ms: int) -> str:
    """The time of day of a moment of the log."""
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%H:%M:%S UTC")


def rules(found: list[ev.RuleRef]) -> str:
    """` (layer/rule, ...)`, or nothing."""
    named = ", ".join([f"{v(rule.layer)}/{v(rule.id)}" for rule in found])
    return f" ({named})" if named else ""


def under(constraints: str) -> str:
    """` within max_runtime_sec 300`, or nothing."""
    try:
        found = json.loads(constraints)
    except ValueError:
        return f" within `{v(constraints)}`"
    if not isinstance(found, dict) or not found:
        return ""
    return " within " + ", ".join([f"{v(name)} {v(_brief(value))}" for name, value in sorted(found.items())])


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join([str(each) for each in value]) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def tags(found: list[str]) -> str:
    """` [tag, ...]`, or nothing."""
    return f" [{', '.join([v(tag) for tag in found])}]" if found else ""
