"""The command line's entrance. Each verb imports what it needs inside: help and offline verbs load no Kafka."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from sluicegate.cli import (
    agents,
    approvals,
    audit,
    autonomy,
    confidence,
    control,
    dead_letters,
    job,
    output,
    output_review,
    policy,
)
from sluicegate.cli.bench import bench
from sluicegate.cli.erase import erase
from sluicegate.cli.run import run as run_verb
from sluicegate.cli.tail import tail
from sluicegate.cli.up import up
from sluicegate.cli.verify import verify
from sluicegate.schemas.errors import SluicegateError

INTERRUPTED = 130

app = typer.Typer(
    name="sluicegate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A gate for the actions of AI agents that stands outside the model.",
    epilog="Settings come from sluicegate.yaml and SLUICEGATE_*. Exit codes: 0 done, 1 a negative outcome, 2 unusable "
    "input, 3 something does not answer or does not permit it, 4 not decided yet.",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"sluicegate {version('sluicegate')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and end."
    ),
) -> None:
    pass


app.command()(up)
app.command("run")(run_verb)
app.add_typer(job.app, name="job")
app.add_typer(approvals.app, name="approvals")
app.add_typer(policy.app, name="policy")
app.add_typer(output_review.app, name="output")
app.add_typer(agents.app, name="agents")
app.add_typer(control.app, name="control")
app.add_typer(audit.app, name="audit")
app.add_typer(autonomy.app, name="autonomy")
app.add_typer(confidence.app, name="confidence")
app.command()(tail)
app.command()(verify)
app.command()(erase)
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(bench)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code. Errors are one line on stderr."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="sluicegate")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except SluicegateError as error:
        output.print_error(error)
        return output.exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return output.DONE


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
