"""Makes a tenant ready to run: keys, broker, topics, logins, the published policy. Used by `up`, the demo and tests.

Everything may be done again: what is there already stays, what is missing is made.
"""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.cli.configuration import OPERATOR
from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.load import Bundle, parse_bundle, parse_documents, read_folder
from sluicegate.streams import keys
from sluicegate.streams.key_store import KeyStore, key_store_path

if TYPE_CHECKING:
    from sluicegate.infra.broker import EmbeddedBroker
    from sluicegate.streams.settings import Settings

GIT_SEC_MAX: Final = 5.0
MONITOR: Final = "monitor"
GRANTS: Final = "job.grants."


class Prepared(msgspec.Struct, frozen=True):
    """A tenant that is ready. ``settings`` name every pool of the policy; ``broker`` is None when it is not ours."""

    settings: Settings
    broker: EmbeddedBroker | None
    bundle: Bundle
    policy: CompiledPolicy
    command_id: str | None
    """The activating command, None when this very snapshot was active, or proposed, under these settings already."""
    snapshot: str
    """The name of the active snapshot: an earlier one while people must still agree to this bundle."""

    @property
    def awaiting(self) -> bool:
        """Whether people must agree before the bundle is what is judged by."""
        return self.snapshot != self.bundle.snapshot_name


def prepare(settings: Settings, folder: Path, operator: str = OPERATOR) -> Prepared:
    """Keys, broker, topics, logins, access control lists; then publish the folder, if it is not what is active.

    Raises PolicyFaults before anything is started, BadInput, Unavailable, or an error of the drift check.
    """
    keys.make_master(settings)
    keys.make_audit_master(settings)
    keys.new_oversight(settings)
    keys.new_gate(settings)
    keys.new_operator(settings, operator)
    keys.new_monitor(settings, MONITOR)
    bundle = read_bundle(settings, folder, make_keys=True)
    policy = compile_bundle(bundle)
    pools = tuple(sorted({*settings.pools, *policy.pools}))
    ready = settings.model_copy(update={"pools": pools})
    for pool in pools:
        keys.new_pool(settings, pool)
    with closing(KeyStore(key_store_path(settings), make=True)) as store:
        store.check()
    broker = start_broker(ready, tuple(policy.agents))
    try:
        command_id, snapshot = activate_if_new(ready, bundle, folder, operator)
    except BaseException:
        if broker is not None:
            broker.stop()
        raise
    return Prepared(
        settings=ready, broker=broker, bundle=bundle, policy=policy, command_id=command_id, snapshot=snapshot
    )


def read_bundle(settings: Settings, folder: Path, *, make_keys: bool = False) -> Bundle:
    """The folder's bundle, with the public keys of people whose key files lie in the run folder.

    With ``make_keys`` the missing key files of people and of agents with a shared key are made.
    Raises PolicyUnreadable and PolicyFaults.
    """
    bundle = parse_bundle(read_folder(folder))
    documents: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(bundle.documents)))
    filled = False
    for person in _entries(documents, "reviewers", "people"):
        there = (keys.keys_dir(settings) / f"person.{person['id']}.key").exists()
        if person.get("public_key") is None and (there or make_keys):
            person["public_key"] = keys.new_person(settings, person["id"])
            filled = True
    for agent in _entries(documents, "agents", "agents") if make_keys else ():
        if agent["key"]["kind"] == "hmac":
            keys.new_agent(settings, agent["id"])
    if filled:
        bundle = parse_documents(documents)
    compile_bundle(bundle)
    return bundle


def _entries(documents: dict[str, Any], stem: str, name: str) -> list[dict[str, Any]]:
    """The entries of a named document, whatever its suffix; empty when there is none."""
    for file, document in documents.items():
        if Path(file).stem == stem:
            found: list[dict[str, Any]] = document[name]
            return found
    return []


def start_broker(settings: Settings, agents: tuple[str, ...]) -> EmbeddedBroker | None:
    """The embedded broker with topics, logins and access control lists; on a Kafka of the user's only the latter.

    Where a Kafka of the user's has no login `admin` in our logins file, its own people make all that, and nothing is
    made here.
    """
    from sluicegate.infra.embedded import ensure_embedded, ensure_tenant
    from sluicegate.streams.logins import ADMIN, load_logins

    if settings.embedded:
        return ensure_embedded(settings, agents)
    if ADMIN in load_logins(settings.logins_path):
        ensure_tenant(settings, agents)
    return None


def activate_if_new(settings: Settings, bundle: Bundle, folder: Path, operator: str) -> tuple[str | None, str]:
    """Publish and activate a bundle, unless it is active, or proposed, under these settings already.

    Gives the command's id or None, and the name of the snapshot that is active then.
    """
    from sluicegate.cli.control_log import Operator, compared, control_state, snapshot_of
    from sluicegate.cli.proposal import check_signers
    from sluicegate.processors.control import snapshot_terms
    from sluicegate.streams.control_terms import required_sign_off

    state = control_state(settings)
    wanted = (bundle.snapshot_digest, settings.step_settings())
    active, proposed = state.active, state.proposed
    new = snapshot_of(bundle)
    if active is not None and (active.digest, state.settings) == wanted:
        return None, active.name
    if active is not None and proposed is not None and (proposed.snapshot.digest, proposed.settings) == wanted:
        return None, active.name  # another command would take its place, with the words that people gave it
    check_signers(settings, state, new, operator)
    commit, dirty = git_state(folder)
    with Operator(settings, operator) as speaking:
        if state.snapshot(new.digest, new.name) is None:
            speaking.publish_snapshot(bundle, commit, dirty)
        command_id = speaking.activate(bundle, **compared(state, bundle))
    terms = snapshot_terms(new)
    asked = active is not None and terms is not None and required_sign_off(snapshot_terms(active), terms)
    return command_id, active.name if active is not None and asked else bundle.snapshot_name


def topicless_pools(settings: Settings, bundle: Bundle) -> list[str]:
    """Pools that an action names and that have no topic of grants on the broker."""
    from sluicegate.cli.log_reading import log_topics

    there = log_topics(settings)
    return [pool for pool in compile_bundle(bundle).pools if f"{GRANTS}{pool}" not in there]


def git_state(folder: Path) -> tuple[str | None, bool]:
    """The commit a folder's files are from, and whether they differ from it; (None, False) outside a repository."""
    place = folder if folder.is_dir() else folder.parent
    commit = _git(place, "rev-parse", "HEAD")
    if commit is None or not _git(place, "ls-files", "--", "."):
        return None, False  # an untracked folder inside some repository says nothing about the policies
    return commit, bool(_git(place, "status", "--porcelain", "--", "."))


def _git(folder: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words],  # noqa: S607  # whatever git the operator uses
            capture_output=True,
            text=True,
            timeout=GIT_SEC_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
