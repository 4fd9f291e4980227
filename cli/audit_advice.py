"""What one has to know before writing suggested sampling weights into a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicegate.processors.audit_allocation import Allocation


def advice(found: Allocation, agent_id: str | None) -> list[str]:
    """Lines for the terminal and the page; ``agent_id`` where the report is of one agent only."""
    if found.sampling_rate is None:
        return [] if found.stratified else ["the active bundle does not draw by strata, so there is no weight to write"]
    lines = [f"write audit.sampling.rate: {found.sampling_rate:g} with these weights; other tags keep their rates"]
    if found.normalised:
        lines.append("the bundle scales its rates to the mix of jobs: only the ratios of the weights count")
    lines.append("a job with several weighted tags belongs to the heaviest, so new weights may move it")
    if agent_id is not None:
        lines.append("weights hold for all agents: leave out --agent before writing any")
    return lines
