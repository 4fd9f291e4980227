"""`sluicegate erase`: take the keys of a job or of an agent away, so that nobody can read what they sealed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import OPERATOR, OperatorOption, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, SluicegateError

if TYPE_CHECKING:
    from sluicegate.streams.key_store import ErasedUnit, KeyStore

GONE: Final = "payload, context, raw output and result, wherever they stand: the bytes stay and nobody can open them"
STAYS: Final = (
    "every hash, decision, fact, verdict and resolution: `sluicegate verify` recomputes from facts what was decided",
    "what a handler did outside, and what an agent or a person read and wrote down",
    "copies of `keystore.db` in backups; delete or rewrite those, for an old copy opens all of it again",
    "keys in the memory of running clients, for at most 60 s",
)


def erase(
    agent: Annotated[str, typer.Option("--agent", help="The agent; alone: all its jobs.", show_default=False)] = "",
    job: Annotated[str, typer.Option("--job", help="One job; without --agent any agent's.", show_default=False)] = "",
    month: Annotated[
        list[str] | None, typer.Option("--month", help="Only this month, as `yyyy-mm`; may be repeated.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.", show_default=False)] = "",
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Erase the keys of a job or of an agent for ever; hashes and evidence stay. Runs where the key store stands.

    The keys go first, then the log is told. Whatever fails in between: run the same again, which erases nothing twice.
    """
    from sluicegate.cli.control_log import Operator
    from sluicegate.streams.key_store import KeyStore, key_store_path

    if not agent and not job:
        raise BadInput("neither --agent nor --job is given; say whose keys go")
    if not reason.strip():
        raise BadInput("--reason is empty; say why the keys go")
    out = Output(as_json)
    found = settings()
    store = KeyStore(key_store_path(found))
    scope = f"job:{job}" if job else f"agent:{agent}"
    months = sorted(set(month or ()))
    meant = _meant(agent, job, months)
    store.check()
    if not yes:
        _ask(out, meant)
    with Operator(found, operator) as speaking:  # before anything is erased: whoever erases must be able to say so
        by = f"operator/{operator}"
        units = _erased(store, found.tenant, agent, job, months, reason, by)
        try:
            command_id = speaking.command(
                "erase", scope, f"{reason} ({meant})" if months or (agent and job) else reason
            )
        except SluicegateError:
            out.note(f"error: the keys of {meant} are gone, but the log does not say so yet; run the same again")
            raise
    _tell(out, meant, {"scope": scope, "by": by, "reason": reason, "command_id": command_id}, units)


def _meant(agent: str, job: str, months: list[str]) -> str:
    whose = f"job {visible(job)}" + (f" of {visible(agent)}" if agent else "") if job else f"all of {visible(agent)}"
    return f"{whose} in {', '.join([visible(each) for each in months])}" if months else whose


def _ask(out: Output, meant: str) -> None:
    """Let the person type `erase`; raises BadInput where nobody could, and ends with 1 upon anything else."""
    if out.as_json or not out.on_terminal or not sys.stdin.isatty():
        raise BadInput("an erasure cannot be taken back, so it is asked for on a terminal; here give --yes")
    if typer.prompt(f"type erase to erase the keys of {meant}", default="no", show_default=False) != "erase":
        out.note("nothing was erased")
        raise typer.Exit(output.NEGATIVE)


def _erased(
    store: KeyStore, tenant: str, agent: str, job: str, months: list[str], reason: str, by: str
) -> tuple[ErasedUnit, ...]:
    try:
        if job:
            return store.erase_job(tenant, agent or None, job, reason, by, months)
        return store.erase_agent(tenant, agent, reason, by, months)
    finally:
        store.close()


def _tell(out: Output, meant: str, said: dict[str, Any], units: tuple[ErasedUnit, ...]) -> None:
    out.result({"kind": "erase", **said, "units": units, "gone": GONE, "stays": STAYS})
    rows = [(unit.agent_id, unit.month, "before" if unit.before else "now") for unit in units]
    out.table(("agent", "month", "keys gone"), rows)
    out.say(f"gone of {meant}: {GONE}")
    for line in STAYS:
        out.say(f"stays: {line}")
    out.next("sluicegate verify")
