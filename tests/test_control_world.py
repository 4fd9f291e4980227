"""Sign-off, break-glass, stop and revoke with real bundles, through gate, outputs, desk and verify."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import rfc8785
import yaml
from world import OPERATOR, PEOPLE, World, policy_files

from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import parse_bundle
from sluicegate.processors.control import snapshot_terms
from sluicegate.schemas.events import Closed, Command, Decision, Grant, Held, SnapshotPublished
from sluicegate.streams.control_state import COMMANDS, SNAPSHOTS, Snapshot


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


SPARE = {"Q": "R", "g": "h", "w": "x", "A": "B", "E": "F", "I": "J", "M": "N", "U": "V", "Y": "Z", "c": "d"}
SPARE |= {"k": "l", "o": "p", "s": "t", "0": "1", "4": "5", "8": "9"}
"""The last sign of a key's base64, and the one that stands for the same bytes."""


@pytest.mark.parametrize("second", ["as it is", "respelled"])
def test_two_people_with_one_key_are_a_fault_however_it_is_spelled(second: str) -> None:
    """Base64 has several spellings of the same bytes, and one key must not count as two people."""
    key = base64.b64encode(PEOPLE["ken"].public()).decode()
    again = key if second == "as it is" else f"{key[:-2]}{SPARE[key[-2]]}="
    assert base64.b64decode(again, validate=True) == PEOPLE["ken"].public()
    people = [{"id": "rosa", "name": "R", "public_key": key}, {"id": "kim", "name": "K", "public_key": again}]
    with pytest.raises(PolicyFaults, match="`rosa` has the same public key"):
        parse_bundle(policy_files(**{"reviewers.yaml": yaml.safe_dump({"people": people})}))


def test_a_key_has_one_spelling() -> None:
    """Whoever compares two bundles, or greps for a key, finds it."""
    key = base64.b64encode(PEOPLE["ken"].public()).decode()
    people = [{"id": name, "name": name} for name in ("ken", "rosa")]
    people[0]["public_key"] = f"{key[:-2]}{SPARE[key[-2]]}="
    with pytest.raises(PolicyFaults, match=f"write `{re.escape(key)}`"):
        parse_bundle(policy_files(**{"reviewers.yaml": yaml.safe_dump({"people": people})}))


@pytest.mark.parametrize("sec", [24 * 3600, 24 * 3600 + 1])
def test_a_glass_stays_broken_for_a_day_at_most(sec: int) -> None:
    """Its reviews are due within a day: a longer one would outlast them."""
    given = files(break_glass={"role": "incident-commander", "max_sec": sec})
    if sec == 24 * 3600:
        assert parse_bundle(given).settings.break_glass is not None
        return
    with pytest.raises(PolicyFaults, match="at most 86400"):
        parse_bundle(given)


def test_a_lie_about_what_changes_is_a_fault() -> None:
    """People agree to the words of an activation: `verify` finds them anew, and the name of what was replaced binds."""
    world = World(files())
    world.activate(files(default="deny"))
    assert world.verified().clean
    bundle, active = parse_bundle(files(default="allow")), world.state().active
    assert active is not None
    published = SnapshotPublished(
        name=bundle.snapshot_name,
        digest=bundle.snapshot_digest,
        documents=rfc8785.dumps(dict(bundle.documents)).decode(),
        publisher=OPERATOR.key_id,
        git_dirty=False,
    )
    world.signed(OPERATOR, SNAPSHOTS, published.digest, published)
    given: dict[str, Any] = {
        "policy_snapshot": published.name,
        "policy_digest": published.digest,
        "previous": active.name,
    }
    world.command("activate", difference=["nothing changes"], **given)
    assert world.state().active != active
    assert [fault.kind for fault in world.verified().faults] == ["difference"]


def test_a_refused_activation_may_say_anything() -> None:
    """Nobody judged by it, and its refusal stands in the log."""
    world = World(files())
    world.command("activate", policy_snapshot="v9:000000", policy_digest="0" * 64, difference=["all is well"])
    assert world.verified().clean
