"""`sluicegate bench`: the figures, measured here and now."""

from __future__ import annotations

from typing import Annotated

import typer

from sluicegate.cli.output import JsonOption


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which measurements; all by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure on an embedded broker of its own: the gate against a plain relay, latencies, projection."""
    from sluicegate.bench.main import run

    run(names or [], as_json)
