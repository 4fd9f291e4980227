"""`sluicegate bench`: the figures, measured here and now."""

from __future__ import annotations

from typing import Annotated

import typer

from sluicegate.cli.output import JsonOption


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which measurements; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few hundred records, once: no figures.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure on an embedded broker of its own: the gate against a plain relay, latencies, projection."""
    from sluicegate.bench.main import QUICK, WHOLE, run

    run(names or [], as_json, QUICK if quick else WHOLE)
