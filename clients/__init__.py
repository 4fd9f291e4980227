"""What users call: `Agent`, `Worker`, `Reviewer`, their asyncio forms, `Monitor`, `Stopped`; no Quix, no Faust."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sluicegate.clients.agent import Agent, AsyncAgent
    from sluicegate.clients.monitor import Monitor
    from sluicegate.clients.reviewer import AsyncReviewer, Reviewer
    from sluicegate.clients.stopping import Stopped
    from sluicegate.clients.worker import Worker

__all__ = ["Agent", "AsyncAgent", "AsyncReviewer", "Monitor", "Reviewer", "Stopped", "Worker"]
_HOMES: Final = {
    "Agent": "agent",
    "AsyncAgent": "agent",
    "AsyncReviewer": "reviewer",
    "Monitor": "monitor",
    "Reviewer": "reviewer",
    "Stopped": "stopping",
}


def __getattr__(name: str) -> Any:
    """Load a client when it is first asked for: a worker's process need not load what reviewers use."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"sluicegate.clients.{_HOMES.get(name, 'worker')}"), name)
