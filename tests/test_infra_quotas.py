"""An agent's login may write so many bytes a second, and the broker holds it to that."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from fixtures_kafka import TenantFactory

from sluicegate.infra.admin import add_agent_login
from sluicegate.infra.embedded import ensure_tenant
from sluicegate.infra.quotas import agent_quotas, ensure_agent_quotas
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.kafka import Publisher
from sluicegate.streams.logins import load_logins, save_logins
from sluicegate.streams.settings import Settings

RATE: Final = 50_000


def test_every_agent_of_a_tenant_has_the_quota_of_the_settings(tenant: TenantFactory) -> None:
    """Read back from the broker: those of the tenant, those enrolled later, and no service."""
    settings = tenant(["deployer", "cleaner"], agent_bytes_per_sec_max=RATE)
    add_agent_login(settings, "latecomer")
    assert agent_quotas(settings) == {"deployer": RATE, "cleaner": RATE, "latecomer": RATE}


def test_one_tenants_quotas_are_not_anothers(tenant: TenantFactory) -> None:
    """Agents of one name in two tenants are two logins."""
    one, other = tenant(["deployer"], agent_bytes_per_sec_max=RATE), tenant(["deployer"])
    assert agent_quotas(one) == {"deployer": RATE}
    assert agent_quotas(other) == {"deployer": other.agent_bytes_per_sec_max}


def test_a_changed_setting_holds_after_the_next_start(tenant: TenantFactory) -> None:
    """What `up` makes again is made as the settings say now; agents that are not named keep theirs."""
    settings = tenant(["deployer", "cleaner"], agent_bytes_per_sec_max=RATE)
    ensure_tenant(settings.model_copy(update={"agent_bytes_per_sec_max": 2 * RATE}), ["deployer"])
    assert agent_quotas(settings) == {"deployer": 2 * RATE, "cleaner": RATE}


def _sec_to_write(settings: Settings, user: str, count: int) -> float:
    """How long it takes to write so many records of 10,000 bytes, one after the other."""
    publisher = Publisher(settings, user)
    try:
        began = time.monotonic()
        for _ in range(count):
            publisher.publish("job.intents", b"k", bytes(10_000), ())
        return time.monotonic() - began
    finally:
        publisher.close()


def test_the_broker_holds_a_writer_to_its_quota(tenant: TenantFactory) -> None:
    """Eight times what a second may hold takes seconds; an agent with more room is not waited for."""
    settings = tenant(["flooder", "other"], agent_bytes_per_sec_max=RATE)
    ensure_agent_quotas(settings.model_copy(update={"agent_bytes_per_sec_max": 100 * RATE}), ["other"])
    count = 8 * RATE // 10_000
    slow, quick = _sec_to_write(settings, "agent.flooder", count), _sec_to_write(settings, "agent.other", count)
    assert slow > 3
    assert quick < slow


def test_a_broker_that_is_not_there_or_refuses_is_said(tenant: TenantFactory, tmp_path: Any) -> None:
    """No silence: an agent without its quota is an agent without a limit."""
    settings = tenant(["deployer"])
    logins = tmp_path / "logins.json"
    save_logins(logins, {**load_logins(settings.logins_path), "admin": "wrong"})
    with pytest.raises(Unavailable, match="quotas of agents"):
        ensure_agent_quotas(settings.model_copy(update={"logins_file": logins}), ["deployer"])
    with pytest.raises(Unavailable, match="quotas of agents"):
        ensure_agent_quotas(settings.model_copy(update={"bootstrap": "127.0.0.1:1"}), ["deployer"])


def test_a_quota_below_one_kilobyte_a_second_is_refused() -> None:
    """Zero would be an agent that never writes again."""
    with pytest.raises(BadInput, match="agent_bytes_per_sec_max"):
        Settings(agent_bytes_per_sec_max=0)
