"""Who may do what, as access control lists: a pure function of the topic table, with no right that nobody needs.

Every login has read of the group of its own name and of groups ``<login>.``, write of transactional ids ``<login>.``
where it commits offsets with its outputs, read and write of topics as the table says, and no more. Nobody may create,
alter or delete anything: that is the admin's. Prefixes end in a delimiter, so `gate.` never covers `gatekeeper`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from sluicegate.schemas.errors import BadInput
from sluicegate.streams.changelog import WATCH_CHANGELOG, changelog_prefix
from sluicegate.streams.logins import SERVICES
from sluicegate.streams.topics import APPLICATIONS, TIMER_OWNERS, TOPICS, TopicSpec, physical

Resource = Literal["TOPIC", "GROUP", "TRANSACTIONAL_ID"]
Pattern = Literal["LITERAL", "PREFIXED"]
Operation = Literal["READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"]
AGENT: Final = "agent."
WORKER: Final = "worker."
GROUP_WATCHERS: Final = ("operator", "monitor", "auditor")
"""Who may see members and offsets of the applications' groups: lag, and who has acknowledged a command."""


_CHANGELOG_OPERATIONS: Final[tuple[Operation, ...]] = ("READ", "WRITE", "DESCRIBE_CONFIGS")


class Right(NamedTuple):
    """One allowed operation of one login; ``login`` and ``name`` are the broker's names, tenant and all."""

    login: str
    resource: Resource
    pattern: Pattern
    name: str
    operation: Operation


def logins(agents: Iterable[str], pools: Iterable[str]) -> list[str]:
    """Every login of a tenant, without its prefix. Raises BadInput when one's groups would cover another's.

    (The groups of agent `a` begin with `agent.a.`, and so would those of an agent `a.b`.)
    """
    found = [*SERVICES, *(AGENT + agent for agent in agents), *(WORKER + pool for pool in pools)]
    named = set(found)
    for login in found:
        parts = login.split(".")
        for count in range(2, len(parts)):
            if (covers := ".".join(parts[:count])) in named:
                raise BadInput(
                    f"`{login}` and `{covers}` cannot both exist: rights of the one cover the other; rename one"
                )
    return found


def rights(tenant: str, agents: Iterable[str], pools: Iterable[str]) -> list[Right]:
    """Every right in a tenant, sorted. Raises BadInput for names that cover each other."""
    pools = tuple(pools)
    found = {right for login in logins(agents, pools) for right in rights_of(tenant, login, pools)}
    return sorted(found)


def rights_of(tenant: str, login: str, pools: Iterable[str]) -> Iterator[Right]:
    """The rights of one login (named without the tenant)."""
    pools = tuple(pools)
    own = physical(tenant, login)
    role = login.split(".", 1)[0]
    for spec in TOPICS:
        for name in _members(spec, pools):
            topic = physical(tenant, name)
            if role in spec.writers and spec.types:  # where no event may stand yet, nobody writes
                yield Right(own, "TOPIC", "LITERAL", topic, "WRITE")
            if role in spec.readers and _is_own_member(spec, name, login):
                yield Right(own, "TOPIC", "LITERAL", topic, "READ")
    yield Right(own, "GROUP", "LITERAL", own, "READ")
    yield Right(own, "GROUP", "PREFIXED", f"{own}.", "READ")
    application = APPLICATIONS.get(role)
    if role == "worker" or (application is not None and application.exactly_once):
        yield Right(own, "TRANSACTIONAL_ID", "PREFIXED", f"{own}.", "WRITE")
    if application is not None and application.exactly_once:
        # Quix asks for the settings of what it reads, to check them against each other.
        for name in application.inputs:
            yield Right(own, "TOPIC", "LITERAL", physical(tenant, name), "DESCRIBE_CONFIGS")
        for operation in _CHANGELOG_OPERATIONS:  # without READ, recovery alone would fail
            yield Right(own, "TOPIC", "PREFIXED", changelog_prefix(tenant, role), operation)
    elif application is not None:
        for operation in _CHANGELOG_OPERATIONS[:2]:
            yield Right(own, "TOPIC", "LITERAL", physical(tenant, WATCH_CHANGELOG), operation)
    if role in GROUP_WATCHERS:
        for name in APPLICATIONS:
            yield Right(own, "GROUP", "LITERAL", physical(tenant, name), "DESCRIBE")


def _members(spec: TopicSpec, pools: tuple[str, ...]) -> list[str]:
    if not spec.per:
        return [spec.name]
    return [f"{spec.name}.{member}" for member in (pools if spec.per == "pool" else TIMER_OWNERS)]


def _is_own_member(spec: TopicSpec, name: str, login: str) -> bool:
    """Of a family, a worker reads its pool's member and a step its own timers; who reads everything reads all."""
    member = name.removeprefix(f"{spec.name}.")
    if spec.per == "pool" and login.startswith(WORKER):
        return login == WORKER + member
    if spec.per == "owner" and login in TIMER_OWNERS:
        return login == member
    return True
