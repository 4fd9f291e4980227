"""Sign-off, break-glass, stop and revoke with real bundles, through gate, outputs, desk and verify."""

from __future__ import annotations

import base64
from typing import Any

import rfc8785
import yaml
from world import OPERATOR, PEOPLE, World, policy_files

from sluicegate.policies.load import parse_bundle
from sluicegate.processors.control import snapshot_terms
from sluicegate.schemas.events import Closed, Command, Decision, Grant, Held
from sluicegate.streams.control_state import COMMANDS, Snapshot


def files(**bundle: Any) -> dict[str, str]:
    """The usual documents, with these keys in `bundle.yaml`; rosa is an incident commander, ken a boss."""
    roles = {"rosa": ["incident-commander"], "ken": ["boss"], "mia": []}
    people = [
        {
            "id": name,
            "name": name.title(),
            "public_key": base64.b64encode(key.public()).decode(),
            "roles": roles[name],
        }
        for name, key in PEOPLE.items()
    ]
    more = {"bundle.yaml": yaml.safe_dump(bundle)} if bundle else {}
    return policy_files(**{"reviewers.yaml": yaml.safe_dump({"people": people}), **more})


GLASS = {"break_glass": {"role": "incident-commander", "max_sec": 3600}}


def say(world: World, person: str, kind: Any, scope: str = "everything", **more: Any) -> None:
    """A person's signed command."""
    by = PEOPLE[person]
    command = Command(command_id=world.number("command"), kind=kind, scope=scope, by=by.key_id, **more)
    world.signed(by, COMMANDS, scope, command)


def grants(world: World) -> list[Grant]:
    return world.events("job.grants.default", Grant)


def test_the_terms_of_a_snapshot_are_those_of_its_documents() -> None:
    """People, roles, seconds, and everybody who has a key, as the bundle says."""
    bundle = parse_bundle(files(sign_off={"people": 2, "roles": ["boss", "incident-commander"]}, **GLASS))
    documents = rfc8785.dumps(dict(bundle.documents)).decode()
    terms = snapshot_terms(Snapshot(bundle.snapshot_name, bundle.snapshot_digest, documents, 0))
    assert terms is not None
    assert (terms.sign_off_people, terms.sign_off_roles) == (2, ("boss", "incident-commander"))
    assert (terms.break_glass_role, terms.break_glass_sec_max) == ("incident-commander", 3600)
    assert {key_id: set(person.roles) for key_id, person in terms.persons.items()} == {
        "person/ken": {"boss"},
        "person/rosa": {"incident-commander"},
        "person/mia": set(),
    }


def test_what_is_not_what_its_digest_says_has_no_terms() -> None:
    """It cannot be activated either."""
    assert snapshot_terms(Snapshot("v1:000000", "0" * 64, "{}", 0)) is None
    assert snapshot_terms(Snapshot("v1:000000", "0" * 64, "no json", 0)) is None


def test_a_proposed_bundle_judges_nothing_before_people_agree() -> None:
    """The gate goes on under the active one, and changes at the offset of the last word."""
    world = World(files(sign_off={"people": 1, "roles": ["boss"]}))
    before = world.state().active
    world.activate(files(default="deny"))
    proposed = world.state().proposed
    assert proposed is not None
    assert world.state().active == before
    world.submit("j1", "job.unheard.of")
    assert world.last("job.decisions", Decision).decision == "REQUIRE_APPROVAL"
    say(world, "ken", "sign_off", ref=proposed.command_id, policy_digest=proposed.snapshot.digest)
    world.submit("j2", "job.unheard.of")
    assert world.last("job.decisions", Decision).decision == "DENY"
    assert world.verified().clean


def test_a_broken_glass_lets_run_what_waits_for_people_and_no_denial() -> None:
    """Within its scope; a pause of the scope stands before it."""
    world = World(files(**GLASS))
    say(world, "rosa", "break_glass", "agent:deployer", reason="fire", until_ms=world.log.clock_ms + 60_000)
    world.submit("j1", "job.deploy.prod")
    assert len(grants(world)) == 1
    world.command("pause", "agent:deployer")
    world.submit("j2", "job.deploy.prod")
    assert world.last("job.decisions", Held).job_id == "j2"
    assert len(grants(world)) == 1
    assert world.verified().clean


def test_a_stopped_scope_starts_nothing_new() -> None:
    """Its jobs are held until it is resumed."""
    world = World(files())
    world.command("stop", "agent:deployer")
    world.submit("j1", "job.crm.list")
    assert world.last("job.decisions", Held).scope == "agent:deployer"
    world.command("resume", "agent:deployer")
    world.advance(60)
    assert len(grants(world)) == 1


def test_what_is_submitted_after_a_revocation_is_judged_as_ever() -> None:
    """It takes back what was given, and forbids nothing."""
    world = World(files())
    world.command("revoke", "agent:deployer")
    world.submit("j1", "job.crm.list")
    assert len(grants(world)) == 1
    assert grants(world)[0].control_offset == world.state().offset
    assert world.state().revoked(grants(world)[0].control_offset, "deployer", "job.crm.list", [], "j1") is None


def test_a_job_that_waits_for_people_is_over_once_it_is_revoked() -> None:
    """An approval that comes afterwards permits nothing."""
    world = World(files())
    world.submit("j1", "job.deploy.prod")
    world.command("revoke", "job:j1", reason="leaked")
    world.decide("j1", "approve")
    assert grants(world) == []
    closed = world.last("job.decisions", Closed)
    assert (closed.job_id, closed.by) == ("j1", OPERATOR.key_id)
    assert world.verified().clean
