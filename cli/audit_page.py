"""The audit report as one page that an auditor prints and signs: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from sluicegate.cli import audit_plots as plots
from sluicegate.cli import audit_words as words
from sluicegate.cli.audit_advice import advice
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.processors.audit_report import AuditReport

TEMPLATE: Final = "audit_report.html"
ENTRIES_MAX: Final = 500
"""How many entries of one list stand on the page; --json has the others."""
TEXT_CHARS_MAX: Final = 2_000
"""How much of one text stands on the page."""


def page_of(found: AuditReport, *, source: str, tenant: str) -> str:
    """The page, in HTML. ``source`` says where the log was read from.

    Whatever others wrote is escaped, and its invisible signs are spelt out: no text in the log changes the page.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        moment=words.moment,
        short=words.day_moment,
        percent=_together(words.percent),
        at_least=_together(words.at_least),
        at_most=_together(words.at_most),
        counted=words.counted,
        lasted=words.lasted,
        thousands=lambda number: "never" if number is None else f"{number:,}",
        weight=lambda number: "-" if number is None else f"{number:.4f}",
    )
    text = (resources.files("sluicegate.cli") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        report=found,
        evidence=found.evidence,
        source=source,
        tenant=tenant,
        meaning=_together(words.meaning),
        caution=words.caution,
        reviewed=words.REVIEWED,
        advice=advice(found.allocation, found.agent_id),
        tables=(("agent", found.agents), ("topic", found.topics), ("stratum", found.strata)),
        rate_plots=(
            plots.whiskers_of("Error rate per agent", found.agents),
            plots.whiskers_of("Error rate per topic", found.topics),
            plots.whiskers_of("Error rate per stratum", found.strata),
        ),
        counts=plots.bars_of("Finished, drawn and judged per stratum", found.strata),
        moves=plots.moves_of("Rate in force and suggested rate per stratum", found.allocation.shares),
        drawing={"width": plots.WIDTH, "names": plots.NAMES, "scale": plots.SCALE, "head": plots.HEAD},
        entries_max=ENTRIES_MAX,
    )


def _together(words_of: Callable[..., str]) -> Callable[..., str]:
    """The same words, but that no line ends between a number and its sign."""
    return lambda *given: words_of(*given).replace(" %", "\N{NO-BREAK SPACE}%")


def _shown(value: Any) -> Any:
    """What an expression of the template puts out; marked-up text comes from the template's own macros."""
    return visible(value, TEXT_CHARS_MAX) if type(value) is str else value
