"""`sluicegate run`: one processor in this process, as compose, Kubernetes and `up` start it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sluicegate.cli.configuration import settings


class Processor(StrEnum):
    """What can be run."""

    gate = "gate"
    outputs = "outputs"
    desk = "desk"
    watch = "watch"
    oversight = "oversight"
    keys = "keys"
    projector = "projector"


def run(
    name: Annotated[Processor, typer.Argument(help="Which processor.", show_default=False)],
    instance: Annotated[
        str, typer.Option("--instance", help="Name of this process among those of its kind; the same after a restart.")
    ] = "0",
    with_parent: Annotated[int, typer.Option("--with-parent", hidden=True)] = 0,
) -> None:
    """Run one processor until SIGTERM or Ctrl-C: logs to stderr, health and metrics on a loopback port.

    The port stands in `run/NAME.INSTANCE.json` of the run folder.
    """
    if with_parent:
        from sluicegate.infra.supervisor import die_with_parent

        die_with_parent(with_parent)
    found = settings()
    from sluicegate.processors.run import run_processor

    tables: tuple[str, ...] = ()
    if name is Processor.projector:
        from sluicegate.infra.clickhouse import ddl
        from sluicegate.streams.clickhouse import database_name

        tables = ddl(database_name(found.tenant))
    raise typer.Exit(run_processor(name.value, found, instance, tables))
