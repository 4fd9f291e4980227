"""`sluicegate audit`: the reading room, over the projector's loopback service; draws and the report on samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.audit_draw import draw
from sluicegate.cli.audit_report import report
from sluicegate.cli.configuration import settings
from sluicegate.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sluicegate.clients.auditor import Auditor, Table

app = typer.Typer(
    no_args_is_help=True,
    help="Read what happened: one job's timeline, SQL over the whole log, how often jobs were wrong.",
)

app.command()(draw)
app.command()(report)

TIMELINE: Final = ("timestamp", "topic", "partition", "offset", "type", "request_id", "outcome", "by", "reason")
"""What people read of a timeline; bodies and hashes are in --json."""
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait until all that is in the log now is projected.")
]


@app.command()
def timeline(
    job: Annotated[str, typer.Argument(help="A job's id.", show_default=False)],
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show every event about a job, oldest first, as ClickHouse returns it. Exit 1 when there is none."""
    from sluicegate.clients.auditor import Auditor

    out = Output(as_json)
    auditor = Auditor(settings())
    caught_up(out, auditor, wait)
    found = auditor.timeline(job)
    _show(out, found, f"no event about job `{job}` is projected (yet); ask again with --wait 10", TIMELINE)
    if not found.rows:
        raise typer.Exit(output.NEGATIVE)
    out.next("sluicegate verify")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT; the tables are in `SHOW TABLES`.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Run one read-only SELECT, at most 10 s and 10,000 rows."""
    from sluicegate.clients.auditor import Auditor

    _show(Output(as_json), Auditor(settings()).query(sql), "no rows")


@app.command()
def coverage(
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show how far each partition is projected, and where its log ends."""
    from sluicegate.clients.auditor import Auditor

    _show(Output(as_json), Auditor(settings()).coverage(wait), "nothing is projected yet")


def caught_up(out: Output, auditor: Auditor, wait_sec: float) -> None:
    """Wait, where one asked to, until all that is in the log now is projected. Raises Unavailable after that time."""
    if wait_sec:
        with out.working("waiting for the projector"):
            auditor.coverage(wait_sec)


def _show(out: Output, found: Table, empty: str, wanted: tuple[str, ...] = ()) -> None:
    """Print all columns, or those of the wanted ones that are there; --json always has them all."""
    out.result({"columns": found.columns, "rows": found.dicts(), "truncated": found.truncated})
    columns = [name for name in wanted if name in found.columns] or found.columns
    out.table(columns, [[row[name] for name in columns] for row in found.dicts()], empty)
    if found.truncated:
        out.note(f"warning: only the first {len(found.rows)} rows are shown; narrow the query")
