"""`sluicegate agents`: enrol an agent (document, login, key), list who is enrolled, report an incident of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli.configuration import policies_folder, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Enrol agents, list them, report incidents of theirs.")

FILE = "agents.yaml"
PoliciesOption = Annotated[
    str, typer.Option("--policies", help="Folder of policies; by default the setting `policies`.")
]


@app.command()
def enroll(
    agent: Annotated[str, typer.Argument(help="The agent's id.", show_default=False)],
    owner: Annotated[str, typer.Option("--owner", help="Who answers for it; may not approve its jobs.")] = "",
    version: Annotated[str, typer.Option("--version", help="Its version.")] = "1",
    agent_class: Annotated[str, typer.Option("--class", help="Its class, which rules may ask for.")] = "default",
    public_key: Annotated[
        str, typer.Option("--public-key", help="Its own Ed25519 key, base64; without it a shared key is derived.")
    ] = "",
    policies: PoliciesOption = "",
    as_json: JsonOption = False,
) -> None:
    """Enrol an agent: a line in agents.yaml (comments stay), a login with the rights of an agent, a key file.

    An agent that stands in agents.yaml keeps its entry and gets what is missing. It counts once you have published.
    """
    from sluicegate.cli.agents_file import with_agent

    out = Output(as_json)
    found = settings()
    folder = _own_folder(found, policies)
    key = {"kind": "ed25519", "public_key": public_key} if public_key else {"kind": "hmac"}
    entry: dict[str, Any] = {"id": agent, "owner": owner, "version": version, "key": key, "class": agent_class}
    added, shared = with_agent(folder, FILE, entry)
    key_file = _key(found, agent) if shared else None
    login = _login(found, agent)
    out.result(
        {
            "agent": agent,
            "file": str(folder / FILE),
            "added": added,
            "key_file": None if key_file is None else str(key_file),
            "login": None if login is None else f"agent.{agent}",
        }
    )
    out.say(f"{visible(agent)} {'added to' if added else 'stands in'} {folder / FILE}")
    if key_file is not None:
        out.say(f"key file {key_file}; give it to the agent, and nobody else")
    out.say(f"login agent.{agent}" if login is not None else "its login is made when `sluicegate up` starts")
    out.next(f"sluicegate policy publish {folder}")


def _own_folder(found: Settings, given: str) -> Path:
    from sluicegate.cli.configuration import shipped_policies

    folder = policies_folder(found, given)
    if not folder.is_dir():
        raise BadInput(f"`{folder}` is no folder of policies; give one with --policies")
    if folder == shipped_policies():
        raise BadInput(
            "the shipped policies are part of the package and are not edited; copy them to a folder of yours and name "
            "it with --policies or the setting `policies`"
        )
    return folder


def _key(found: Settings, agent: str) -> Path:
    from sluicegate.streams import keys

    keys.make_master(found)
    keys.new_agent(found, agent)
    return keys.keys_dir(found) / f"agent.{agent}.key"


def _login(found: Settings, agent: str) -> str | None:
    """Make the broker's login; None when no broker runs to make it on."""
    from sluicegate.infra.admin import add_agent_login

    try:
        add_agent_login(found, agent)
    except Unavailable:
        return None
    return agent


@app.command()
def incident(
    agent: Annotated[str, typer.Argument(help="The agent's id.", show_default=False)],
    kind: Annotated[str, typer.Option("--kind", help="What kind it is, such as `safety`.", show_default=False)],
    note: Annotated[str, typer.Option("--note", help="What happened.", show_default=False)],
    job: Annotated[str, typer.Option("--job", help="The job it happened in.")] = "",
    monitor: Annotated[
        str, typer.Option("--monitor", envvar="SLUICEGATE_AS_MONITOR", help="The monitor whose key signs.")
    ] = "monitor",
    as_json: JsonOption = False,
) -> None:
    """Report an incident of an agent: unless its policy says otherwise, it is at level 0 before its next intent."""
    from sluicegate.clients.monitor import Monitor

    out = Output(as_json)
    with Monitor(settings(), monitor) as speaking:
        incident_id = speaking.report(agent, kind, note, job or None)
    out.result({"incident_id": incident_id, "agent": agent, "kind": kind, "job": job or None, "monitor": monitor})
    out.say(f"{incident_id} of {visible(agent)} is on record")
    out.next(f"sluicegate autonomy history {agent} --wait 10")


@app.command("list")
def list_(policies: PoliciesOption = "", as_json: JsonOption = False) -> None:
    """List the agents of a folder of policies: who owns them, how they sign, whether key and login are here."""
    from sluicegate.policies.load import parse_bundle, read_folder
    from sluicegate.streams.keys import keys_dir
    from sluicegate.streams.logins import load_logins, login_of

    out = Output(as_json)
    found = settings()
    logins = load_logins(found.logins_path)
    bundle = parse_bundle(read_folder(policies_folder(found, policies)))
    rows = [
        {
            "agent": agent.id,
            "owner": agent.owner,
            "version": agent.version,
            "class": agent.agent_class,
            "key": agent.key.kind,
            "key_file": (keys_dir(found) / f"agent.{agent.id}.key").exists(),
            "login": login_of(found, f"agent.{agent.id}") in logins,
        }
        for agent in bundle.agents.agents
    ]
    out.result(rows)
    out.table(
        ("agent", "owner", "version", "class", "key", "key file", "login"),
        [[("yes" if value else "no") if isinstance(value, bool) else value for value in row.values()] for row in rows],
        empty="no agent is enrolled",
    )
    out.next("sluicegate agents enroll ID --owner PERSON")
