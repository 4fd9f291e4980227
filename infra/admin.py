"""What the admin does on a broker, embedded or a user's own: logins, topics, access control lists, and the drift check.

Every verb may be done again: what is there and right stays. Rights that a login of ours has and should not have are
taken away; topics are never altered, a difference is reported instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from sluicegate.infra import acls
from sluicegate.infra.quotas import ensure_agent_quotas
from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable
from sluicegate.streams.changelog import changelog_config, changelogs
from sluicegate.streams.connection import LOGGER, await_broker
from sluicegate.streams.logins import (
    ADMIN,
    SUPER_USERS,
    kafka_config,
    load_logins,
    login_of,
    new_password,
    save_logins,
)
from sluicegate.streams.topics import names, physical, spec_of

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

ANSWER_SEC_MAX: Final = 30.0
HOLD_SEC_MAX: Final = 15.0
"""How long rights may take from the broker's answer to their holding; about 26 ms were measured."""
_LOOK_SEC: Final = 0.02
_SCRAM_ITERATIONS: Final = 4_096
_MECHANISMS: Final = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_EXISTS: Final = KafkaError.TOPIC_ALREADY_EXISTS


class Drift(SluicegateError):
    """The topics on the broker are not those of the topic table; nothing may run on them."""


class Difference(NamedTuple):
    """One way in which a topic (Kafka name) is not as the table says."""

    topic: str
    setting: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"`{self.topic}` {self.setting}: expected {self.expected}, found {self.found}"


def admin_client(settings: Settings) -> AdminClient:
    """A connection as the admin. Raises BadInput without a password, LoginRefused, Unavailable."""
    connection = kafka_config(settings, ADMIN)
    await_broker(connection)
    return AdminClient(connection, logger=LOGGER)


def ensure_users(settings: Settings, users: Iterable[str], client: AdminClient | None = None) -> None:
    """Make each login (named without the tenant) that the broker does not know, with a password in the logins file.

    A login keeps its password. One that the broker knows and our file does not gets a new password: its old one is
    lost to us. Raises BadInput when ``sasl_mechanism`` is none that the broker keeps logins for.
    """
    client = client or admin_client(settings)
    mechanism = _MECHANISMS.get(settings.sasl_mechanism)
    if mechanism is None:
        raise BadInput(
            f"logins of `{settings.sasl_mechanism}` cannot be made here; make them with your broker's tools"
            f" and put their passwords into `{settings.logins_path}`"
        )
    known = load_logins(settings.logins_path)
    wanted = [login_of(settings, user) for user in users]
    fresh = {login: new_password() for login in wanted if login not in known}
    if fresh:
        # Before the broker hears of them: a crash in between leaves a password too many, never one too few.
        save_logins(settings.logins_path, {**known, **fresh})
    there = _known_to_broker(client)
    missing = [login for login in wanted if login in fresh or login not in there]
    if not missing:
        return
    info = ScramCredentialInfo(mechanism, _SCRAM_ITERATIONS)
    passwords = {**known, **fresh}
    _await_all(
        client.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(login, info, passwords[login].encode()) for login in missing]
        ),
        "make logins",
    )


def _known_to_broker(client: AdminClient) -> set[str]:
    described: Any = client.describe_user_scram_credentials(request_timeout=ANSWER_SEC_MAX)
    try:
        return set(described.result(ANSWER_SEC_MAX))
    except KafkaException as error:
        raise _failed(error, "list logins") from None


def ensure_topics(settings: Settings, client: AdminClient | None = None) -> None:
    """Make every topic of the table that is missing, families for the settings' pools, and the engines' changelogs."""
    wanted = {
        physical(settings.tenant, name): (1 if spec_of(name).single else settings.partitions, spec_of(name).config())
        for name in names(settings.pools)
    }
    wanted |= {name: (settings.partitions, changelog_config()) for name in changelogs(settings.tenant)}
    _create(settings, wanted, client or admin_client(settings))


def ensure_changelog(settings: Settings, name: str, partitions: int | None = None) -> None:
    """Make one more changelog (Kafka name), as an engine of an experiment needs it."""
    wanted = {name: (partitions or settings.partitions, changelog_config())}
    _create(settings, wanted, admin_client(settings))


def _create(settings: Settings, wanted: dict[str, tuple[int, dict[str, str]]], client: AdminClient) -> None:
    there = client.list_topics(timeout=ANSWER_SEC_MAX).topics
    missing = [
        NewTopic(name, partitions, settings.replication, config=config)
        for name, (partitions, config) in wanted.items()
        if name not in there
    ]
    if missing:
        _await_all(client.create_topics(missing, operation_timeout=ANSWER_SEC_MAX), "make topics", passing={_EXISTS})
        _until(lambda: wanted.keys() <= client.list_topics(timeout=ANSWER_SEC_MAX).topics.keys(), "topics")


def ensure_acls(settings: Settings, agents: Iterable[str] = (), client: AdminClient | None = None) -> None:
    """Make the rights of all services, pools and these agents exactly those of the table; returns once they hold.

    Rights of other logins, and other agents' logins, stay as they are.
    """
    wanted = set(acls.rights(settings.tenant, agents, settings.pools))
    _ensure_rights(wanted, client or admin_client(settings))


def add_agent_login(settings: Settings, agent_id: str, client: AdminClient | None = None) -> None:
    """Quota, login and rights of one agent, while the broker runs.

    Raises BadInput for an id that covers another agent's.
    """
    client = client or admin_client(settings)
    acls.logins({agent_id, *known_agents(settings)}, settings.pools)
    login = acls.AGENT + agent_id
    ensure_agent_quotas(settings, [agent_id])
    ensure_users(settings, [login], client)
    _ensure_rights(set(acls.rights_of(settings.tenant, login, settings.pools)), client)


def known_agents(settings: Settings) -> list[str]:
    """The agents of this tenant that have a password in the logins file."""
    prefix = physical(settings.tenant, acls.AGENT)
    return sorted(login.removeprefix(prefix) for login in load_logins(settings.logins_path) if login.startswith(prefix))


def _ensure_rights(wanted: set[acls.Right], client: AdminClient) -> None:
    """Make them, take away what their logins have besides, and wait until both hold."""
    ours = {right.login for right in wanted} - set(SUPER_USERS)
    found = {_right(binding): binding for binding in _bindings(client)}
    missing = [_binding(right) for right in wanted if right not in found]
    surplus = [binding for right, binding in found.items() if right.login in ours and right not in wanted]
    if missing:
        _await_all(client.create_acls(missing, request_timeout=ANSWER_SEC_MAX), "make access control lists")
    if surplus:
        filters = [_filter(binding) for binding in surplus]
        _await_all(client.delete_acls(filters, request_timeout=ANSWER_SEC_MAX), "take rights away")
    if missing or surplus:
        _until(lambda: {right for right in map(_right, _bindings(client)) if right.login in ours} == wanted, "rights")


def _bindings(client: AdminClient) -> list[AclBinding]:
    any_of = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    try:
        found: list[AclBinding] = client.describe_acls(any_of, request_timeout=ANSWER_SEC_MAX).result(ANSWER_SEC_MAX)
    except KafkaException as error:
        raise _failed(error, "list access control lists") from None
    return found


def _right(binding: AclBinding) -> acls.Right:
    """A binding as a right; one that denies, or is bound to a host, gets a name that no right of ours has."""
    plain = binding.permission_type is AclPermissionType.ALLOW and binding.host == "*"
    operation: Any = binding.operation.name if plain else f"{binding.permission_type.name}@{binding.host}"
    resource: Any = binding.restype.name
    pattern: Any = binding.resource_pattern_type.name
    return acls.Right(binding.principal.removeprefix("User:"), resource, pattern, binding.name, operation)


def _binding(right: acls.Right) -> AclBinding:
    return AclBinding(
        ResourceType[right.resource],
        right.name,
        ResourcePatternType[right.pattern],
        f"User:{right.login}",
        "*",
        AclOperation[right.operation],
        AclPermissionType.ALLOW,
    )


def _filter(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


def drift(settings: Settings, client: AdminClient | None = None) -> list[Difference]:
    """Every way in which the topics on the broker differ from the table; a missing topic is one."""
    client = client or admin_client(settings)
    tenant = settings.tenant
    wanted = {
        physical(tenant, name): (1 if spec_of(name).single else settings.partitions, spec_of(name).config())
        for name in names(settings.pools)
    }
    wanted |= {name: (settings.partitions, changelog_config()) for name in changelogs(tenant)}
    there = client.list_topics(timeout=ANSWER_SEC_MAX).topics
    found = [Difference(name, "topic", "to exist", "none") for name in wanted if name not in there]
    present = [name for name in wanted if name in there]
    answers = client.describe_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, name) for name in present], request_timeout=ANSWER_SEC_MAX
    )
    configs = {resource.name: _result(future, "read topic settings") for resource, future in answers.items()}
    for name in present:
        partitions, config = wanted[name]
        if (count := len(there[name].partitions)) != partitions:
            found.append(Difference(name, "partitions", str(partitions), str(count)))
        for setting, expected in config.items():
            entry = configs[name].get(setting)
            if entry is None or entry.value != expected:
                found.append(Difference(name, setting, expected, "none" if entry is None else str(entry.value)))
    return sorted(found)


def check_drift(settings: Settings, client: AdminClient | None = None) -> None:
    """Raises Drift when any topic differs from the table: what is kept, and by whose clock, is evidence."""
    if found := drift(settings, client):
        lines = "; ".join(map(str, found[:6])) + (f"; and {len(found) - 6} more" if len(found) > 6 else "")
        raise Drift(
            f"{len(found)} differences between the broker's topics and the topic table: {lines};"
            " set them right with your broker's tools (partitions only by a new tenant), or change the settings"
        )


def _until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + HOLD_SEC_MAX
    while not holds():
        if time.monotonic() > deadline:
            raise Unavailable(f"the broker took the {what}, but they do not hold after {HOLD_SEC_MAX:g} s; try again")
        time.sleep(_LOOK_SEC)


def _await_all(futures: dict[Any, Future[Any]], what: str, passing: Iterable[int] = ()) -> None:
    for future in futures.values():
        _result(future, what, passing)


def _result(future: Future[Any], what: str, passing: Iterable[int] = ()) -> Any:
    try:
        return future.result(ANSWER_SEC_MAX)
    except KafkaException as error:
        if error.args[0].code() in passing:
            return None
        raise _failed(error, what) from None


def _failed(error: KafkaException, what: str) -> SluicegateError:
    reason: KafkaError = error.args[0]
    return Unavailable(
        f"the broker does not {what}: {reason.str()}; does the login `{ADMIN}` have the rights of an admin?"
    )
