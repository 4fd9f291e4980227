"""How every verb speaks: lines and tables for people, exactly one JSON document for machines, errors in one line.

Exit codes: 0 done, 1 a negative outcome (denied, faults found, not clean), 2 input that cannot be used, 3 something
that must answer does not or does not permit it, 4 not decided yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import msgspec
import typer

from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, BadPayload, SluicegateError

DONE: Final = 0
NEGATIVE: Final = 1
UNUSABLE: Final = 2
UNAVAILABLE: Final = 3
UNDECIDED: Final = 4

JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document to stdout.")]


def exit_code_of(error: SluicegateError) -> int:
    """Input that cannot be used is 2; everything else that stops a verb is 3."""
    # Policies stand in a package of their own, which an offline verb that needs none does not load for this.
    unusable = isinstance(error, BadInput | BadPayload) or type(error).__name__ in ("PolicyUnreadable", "PolicyFaults")
    return UNUSABLE if unusable else UNAVAILABLE


def print_error(error: BaseException) -> None:
    """One line to stderr (each fault of a policy its own)."""
    for line in str(error).splitlines() or [type(error).__name__]:
        typer.echo(f"error: {visible(line, 2000)}", err=True)


class Output:
    """One verb's voice. ``as_json`` silences everything but `result` and `record`."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.on_terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """A line for people. The caller made others' text `visible`."""
        if not self.as_json:
            typer.echo(text)

    def note(self, text: str) -> None:
        """Progress and warnings, to stderr, so that stdout stays what was asked for."""
        typer.echo(text, err=True)

    def result(self, value: Any) -> None:
        """The verb's whole answer for machines; nothing for people. Call once."""
        if self.as_json:
            typer.echo(json_text(value))

    def record(self, value: Any) -> None:
        """One of a stream of answers: JSON lines."""
        if self.as_json:
            typer.echo(json_text(value))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "nothing") -> None:
        """A table on a terminal, tab-separated lines elsewhere."""
        if self.as_json:
            return
        if not rows:
            typer.echo(empty)
        elif self.on_terminal:
            _print_table(columns, rows)
        else:
            for row in (columns, *rows):
                typer.echo("\t".join([_cell(value) for value in row]))

    def more(self, count: int, shown: int) -> None:
        """How many entries of a list were left out, where some were."""
        if count > shown:
            self.say(f"  and {count - shown} more; see --json")

    def next(self, text: str) -> None:
        """The closing line that says what one would do now; only on a terminal."""
        if self.on_terminal and not self.as_json:
            typer.secho(f"next: {text}", fg="cyan")

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Shows on a terminal that long work goes on."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield


def json_text(value: Any) -> str:
    """JSON in one line, in ASCII, so that no text in it can steer a terminal."""
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return visible(
        value if isinstance(value, str) else json_text(value) if isinstance(value, list | dict) else str(value)
    )


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row])  # Text: markup in others' words has no effect
    Console().print(table)
