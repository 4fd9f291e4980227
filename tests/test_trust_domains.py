"""Levels by domain of topics: earned in one, lost in all."""

from __future__ import annotations

import pytest
import yaml
from test_trust import AUTONOMY, decided, files, level_request, report_incident, run, set_level, sign_off
from world import CODEC, World

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.load import parse_bundle
from sluicegate.processors.impact_replay import impact_of_level
from sluicegate.schemas.events import LevelChanged

DOMAINS = AUTONOMY + 'domains: { crm: ["job.crm.*"], pay: ["job.pay.*"] }\n'


@pytest.fixture
def domains() -> World:
    return World(files(**{"levels.yaml": DOMAINS}))


def in_domains(world: World) -> list[tuple[str, str | None, int]]:
    return [(each.change, each.domain, each.level) for each in world.events("agent.autonomy", LevelChanged)]


def test_a_level_is_earned_in_a_domain_of_topics(domains: World) -> None:
    """What was done well in one domain lets nothing through in another, nor in none."""
    for number in range(3):
        run(domains, f"crm-{number}", "job.crm.read")
    assert level_request(domains).domain == "crm"
    sign_off(domains, "approve")
    assert in_domains(domains) == [("requested", "crm", 1), ("promoted", "crm", 1)]
    for topic, said in (
        ("job.crm.read", ("ALLOW", 1)),
        ("job.pay.read", ("REQUIRE_APPROVAL", 0)),
        ("job.x.read", ("REQUIRE_APPROVAL", 0)),
    ):
        domains.submit(topic, topic)
        assert decided(domains) == said
    assert domains.verified().clean


def test_an_incident_costs_the_level_everywhere(domains: World) -> None:
    """In each domain, in one transaction, numbered without gaps."""
    set_level(domains, 2)
    run(domains, "a", "job.crm.read")
    run(domains, "b", "job.pay.read")
    report_incident(domains)
    found = domains.events("agent.autonomy", LevelChanged)
    assert [(each.change, each.domain) for each in found[-3:]] == [
        ("demoted", None),
        ("demoted", "crm"),
        ("demoted", "pay"),
    ]
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    domains.submit("next", "job.pay.read")
    assert decided(domains) == ("REQUIRE_APPROVAL", 0)
    assert domains.verified().clean


def test_a_person_sets_a_level_in_one_domain_or_in_all(domains: World) -> None:
    """The later word counts, whether it was said of the domain or of the agent."""
    set_level(domains, 2, domain="crm")
    domains.submit("a", "job.crm.write")
    assert decided(domains) == ("ALLOW", 2)
    domains.submit("b", "job.x.write")
    assert decided(domains) == ("REQUIRE_APPROVAL", 0)
    set_level(domains, 1)
    domains.submit("c", "job.crm.write")
    assert decided(domains) == ("REQUIRE_APPROVAL", 1)
    assert domains.verified().clean


def test_a_document_gives_a_level_by_domain() -> None:
    """`initial_level` holds everywhere but in the domains that it names."""
    level = {"level": 1, "domains": {"crm": 2}, "reason": "known from before", "signer": "ken"}
    agents = [{"id": "deployer", "owner": "rosa", "version": "1", "key": {"kind": "hmac"}, "initial_level": level}]
    world = World(files(**{"levels.yaml": DOMAINS, "agents.yaml": yaml.safe_dump({"agents": agents})}))
    world.submit("a", "job.crm.write")
    assert decided(world) == ("ALLOW", 2)
    world.submit("b", "job.pay.read")
    assert decided(world) == ("ALLOW", 1)


def test_the_next_level_is_tried_in_its_domain_only(domains: World) -> None:
    """What lies in other domains stays as it was."""
    domains.submit("a", "job.crm.write")
    domains.submit("b", "job.pay.write")
    policy = compile_bundle(parse_bundle(files(**{"levels.yaml": DOMAINS})))
    found = impact_of_level(domains.records(), CODEC, policy, "deployer", 2, domain="pay")
    assert [each.job_id for each in found.widened] == ["b"]
