"""Names of the topics in which the engines keep their state, so that they can be made, and guarded, beforehand.

Quix Streams names a changelog after the group, the sorted inputs and the store, so an input more begins with empty
state; a test holds these names against Quix's own.
"""

from __future__ import annotations

from typing import Final

from sluicegate.streams.topics import APPLICATIONS, MESSAGE_BYTES_MAX, Application, physical

STORE: Final = "default"
"""Quix's name for the store of a frame."""
WATCH_CHANGELOG: Final = "watch-timers-changelog"
"""The Faust table of the watch; logical name."""


def changelog_name(tenant: str, application: Application) -> str:
    """The Kafka name of the changelog of an exactly-once application."""
    inputs = "--".join(sorted(physical(tenant, name) for name in application.inputs))
    return f"{changelog_prefix(tenant, application.name)}{inputs}--{STORE}"


def changelog_prefix(tenant: str, name: str) -> str:
    """What the names of all changelogs of one application begin with; ends in its delimiter."""
    return f"changelog__{physical(tenant, name)}--"


def changelog_config() -> dict[str, str]:
    """The only compacted topics: they hold state that the log can rebuild, never evidence."""
    return {
        "cleanup.policy": "compact",
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        "message.timestamp.type": "CreateTime",
    }


def changelogs(tenant: str) -> tuple[str, ...]:
    """The Kafka names of every changelog of a tenant."""
    quix = tuple(changelog_name(tenant, app) for app in APPLICATIONS.values() if app.exactly_once)
    return (*quix, physical(tenant, WATCH_CHANGELOG))
