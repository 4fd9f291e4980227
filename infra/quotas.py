"""How many bytes a second each agent may write: a quota of the broker on the agent's own login.

The gate reads a partition in order, so whoever writes faster than it judges delays everybody on that partition, refused
or not. Only the broker can hold a writer back: it takes what comes, and then answers nothing on that connection until
the average of the last seconds (`quota.window.num`) is right again. librdkafka's admin has no such request; aiokafka's
client carries ours (KIP-546, version 0 of both requests).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sluicegate.infra.acls import AGENT
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.logins import ADMIN, kafka_config, login_of

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

BYTE_RATE: Final = "producer_byte_rate"
"""Kafka's name of the quota: bytes a second that a login writes, as they are sent, so compressed if they are."""
USER: Final = "user"
ANSWER_SEC_MAX: Final = 30.0
HOLD_SEC_MAX: Final = 15.0
_LOOK_SEC: Final = 0.02
_ANY_SPECIFIED: Final = 2
T = TypeVar("T")


def ensure_agent_quotas(settings: Settings, agents: Iterable[str]) -> None:
    """Limit each agent's login to the setting `agent_bytes_per_sec_max`; returns once it holds.

    Raises Unavailable when the broker does not answer or does not take it, BadInput where the engine is not installed.
    """
    wanted = {login_of(settings, AGENT + agent): float(settings.agent_bytes_per_sec_max) for agent in agents}
    if wanted:
        _run(settings, lambda client: _ensure(client, wanted))


def agent_quotas(settings: Settings) -> dict[str, float]:
    """Bytes a second by agent, of those of this tenant that have a quota. Raises Unavailable."""
    prefix = login_of(settings, AGENT)
    found = _run(settings, _describe)
    return {login.removeprefix(prefix): rate for login, rate in found.items() if login.startswith(prefix)}


def _run(settings: Settings, action: Callable[[Any], Awaitable[T]]) -> T:
    try:
        from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # published without types
        from aiokafka.errors import KafkaError  # type: ignore[import-untyped]  # as above
    except ImportError:
        raise BadInput("quotas of agents are set with aiokafka; install `sluicegate[engine]`") from None
    connection = kafka_config(settings, ADMIN)

    async def run() -> T:
        secure = settings.security_protocol == "SASL_SSL"
        client = AIOKafkaClient(
            bootstrap_servers=connection["bootstrap.servers"].split(","),
            client_id="sluicegate-quotas",
            security_protocol=settings.security_protocol,
            ssl_context=ssl.create_default_context(cafile=settings.ssl_ca_location or None) if secure else None,
            sasl_mechanism=settings.sasl_mechanism,
            sasl_plain_username=connection["sasl.username"],
            sasl_plain_password=connection["sasl.password"],
            request_timeout_ms=int(ANSWER_SEC_MAX * 1000),
        )
        try:
            await client.bootstrap()
            return await action(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(f"the broker does not take quotas of agents: {error}; is it running?") from None


async def _ensure(client: Any, wanted: dict[str, float]) -> None:
    there = await _describe(client)
    missing = {login: rate for login, rate in wanted.items() if there.get(login) != rate}
    if not missing:
        return
    from sluicegate.infra.quota_requests import AlterClientQuotas

    entries = [([(USER, login)], [(BYTE_RATE, rate, False)]) for login, rate in missing.items()]
    answer = await client.send(client.get_random_node(), AlterClientQuotas(entries))
    for code, message, _ in answer.entries:
        _check(code, message)
    deadline = time.monotonic() + HOLD_SEC_MAX
    while not wanted.items() <= (await _describe(client)).items():
        if time.monotonic() > deadline:
            raise Unavailable(f"the broker took the quotas, but they do not hold after {HOLD_SEC_MAX:g} s; try again")
        await asyncio.sleep(_LOOK_SEC)


async def _describe(client: Any) -> dict[str, float]:
    """The byte rate of each login that has one of its own."""
    from sluicegate.infra.quota_requests import DescribeClientQuotas

    answer = await client.send(client.get_random_node(), DescribeClientQuotas([(USER, _ANY_SPECIFIED, None)], True))
    _check(answer.error_code, answer.error_message)
    found: dict[str, float] = {}
    for entity, values in answer.entries or []:
        for name, value in values:
            login = entity[0][1] if len(entity) == 1 else None
            if name == BYTE_RATE and login is not None:
                found[login] = value
    return found


def _check(code: int, message: str | None) -> None:
    if code:
        raise Unavailable(
            f"the broker does not take quotas of agents: {message or f'error {code}'};"
            f" has the login `{ADMIN}` ALTER_CONFIGS and DESCRIBE_CONFIGS on the cluster?"
        )
