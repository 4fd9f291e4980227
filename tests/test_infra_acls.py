from __future__ import annotations

import pytest

from sluicegate.infra.acls import Right, logins, rights
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.changelog import changelog_name, changelogs
from sluicegate.streams.logins import SERVICES
from sluicegate.streams.topics import APPLICATIONS, TIMER_OWNERS, TOPICS, names, physical

AGENTS, POOLS = ("deployer", "cleaner"), ("default", "deploy")


def _topics(login: str, operation: str, tenant: str = "default") -> set[str]:
    return {
        right.name
        for right in rights(tenant, AGENTS, POOLS)
        if (right.login, right.resource, right.operation) == (login, "TOPIC", operation)
    }


def test_the_operations_are_four() -> None:
    """Nobody may create, alter or delete anything, whatever the table says."""
    assert {right.operation for right in rights("default", AGENTS, POOLS)} == {
        "READ",
        "WRITE",
        "DESCRIBE",
        "DESCRIBE_CONFIGS",
    }


@pytest.mark.parametrize("login", logins(AGENTS, POOLS))
def test_each_login_may_what_its_row_says_and_no_more(login: str) -> None:
    """Written and read topics of a login are exactly the table's, its own changelogs besides."""
    role = login.split(".", maxsplit=1)[0]
    written, read = set(), set()
    for name in names(POOLS):
        spec = next(spec for spec in TOPICS if name == spec.name or (spec.per and name.startswith(f"{spec.name}.")))
        member = name.removeprefix(f"{spec.name}.")
        if role in spec.writers and spec.types:
            written.add(name)
        foreign = (role == "worker" and spec.per == "pool" and login != f"worker.{member}") or (
            role in TIMER_OWNERS and spec.per == "owner" and role != member
        )
        if role in spec.readers and not foreign:
            read.add(name)
    own = {"gate", "outputs", "desk"} & {login}
    changelog = {f"changelog__{login}--"} if own else {"watch-timers-changelog"} if login == "watch" else set()
    assert _topics(login, "WRITE") == written | changelog
    assert _topics(login, "READ") == read | changelog


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_writes_intents_and_reads_answers(agent: str) -> None:
    """An agent writes what it wants and nothing else: no grant, and no topic before an event may stand on it."""
    assert _topics(f"agent.{agent}", "WRITE") == {"job.intents"}
    assert not {"job.grants.default", "job.outputs", "approval.verdicts"} & _topics(f"agent.{agent}", "READ")


def test_a_worker_reads_the_grants_of_its_pool_only() -> None:
    """The grants of another pool are none of a worker's business, and no worker writes any."""
    grants = {name for name in _topics("worker.deploy", "READ") if name.startswith("job.grants.")}
    assert grants == {"job.grants.deploy"}
    assert _topics("worker.deploy", "WRITE") == {"job.starts", "job.outputs"}


def test_only_the_gate_writes_decisions_and_grants() -> None:
    """The sentence that the product is about."""
    for topic in ("job.decisions", "job.grants.default", "job.grants.deploy"):
        writers = {
            right.login
            for right in rights("default", AGENTS, POOLS)
            if right.operation == "WRITE" and right.resource == "TOPIC" and right.name == topic
        }
        assert writers == {"gate"}


def test_groups_and_transactions_are_a_logins_own() -> None:
    """A login has its own group, groups and transactional ids below its own name with the delimiter, and no other."""
    for right in rights("acme", AGENTS, POOLS):
        if right.operation == "DESCRIBE" or right.resource == "TOPIC":
            continue
        assert right.name == (right.login if right.pattern == "LITERAL" else f"{right.login}.")
    transactional = {right.login for right in rights("default", AGENTS, POOLS) if right.resource == "TRANSACTIONAL_ID"}
    assert transactional == {"gate", "outputs", "desk", "worker.default", "worker.deploy"}


def test_every_prefix_ends_in_a_delimiter() -> None:
    """A prefix without its delimiter would cover names that merely begin alike."""
    prefixes = {right.name for right in rights("acme", AGENTS, POOLS) if right.pattern == "PREFIXED"}
    assert prefixes
    assert all(name.endswith((".", "--")) for name in prefixes)


def test_no_right_of_one_tenant_reaches_into_another() -> None:
    """Every name in a right of a tenant carries its prefix, in the changelogs behind their own."""
    for right in rights("acme", AGENTS, POOLS):
        assert right.login.startswith("acme.")
        assert right.name.removeprefix("changelog__").startswith("acme.")


@pytest.mark.parametrize("name", [name for name, app in APPLICATIONS.items() if app.exactly_once])
def test_an_application_may_ask_for_the_settings_of_what_it_reads(name: str) -> None:
    """Quix checks inputs and changelog before it starts."""
    prefix = f"changelog__{name}--"
    assert _topics(name, "DESCRIBE_CONFIGS") == {*APPLICATIONS[name].inputs, prefix}
    assert changelog_name("default", APPLICATIONS[name]).startswith(prefix)


def test_names_that_cover_each_other_are_refused() -> None:
    """Agent `a` has the groups `agent.a.*`, so there can be no agent `a.b` beside it; `ab` can."""
    with pytest.raises(BadInput, match=r"`agent\.a\.b` and `agent\.a`"):
        logins(("a", "a.b"), ())
    assert "agent.a.b" in logins(("a.b", "ab", "a.c"), ())


def test_every_service_has_rights_and_nobody_else() -> None:
    """The logins of the rights are the services, the pools and the agents; no super user needs one."""
    found = {right.login for right in rights("default", AGENTS, POOLS)}
    assert found == {*SERVICES, *(f"agent.{agent}" for agent in AGENTS), *(f"worker.{pool}" for pool in POOLS)}


def test_topic_names_fit_into_kafka_for_the_longest_tenant() -> None:
    """A changelog's name holds the tenant once per input; 249 characters are Kafka's limit."""
    assert max(map(len, changelogs("t" * 20))) <= 249
    assert physical("t" * 20, "job.intents") == "t" * 20 + ".job.intents"


def test_rights_are_listed_once_and_sorted() -> None:
    """The list is a value: the same for the same names, in one order, without doubles."""
    found = rights("default", AGENTS, POOLS)
    assert found == sorted(set(found)) == rights("default", AGENTS[::-1], POOLS[::-1])
    assert isinstance(found[0], Right)
