"""A tenant and its broker in one call; on a Kafka of the user's, the tenant alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sluicegate.infra import acls
from sluicegate.infra.admin import admin_client, check_drift, ensure_acls, ensure_topics, ensure_users
from sluicegate.infra.broker import EmbeddedBroker
from sluicegate.infra.quotas import ensure_agent_quotas
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.logins import ADMIN, BROKER, load_logins, new_password, save_logins

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings


def ensure_embedded(settings: Settings, agents: Iterable[str] = (), pools: Iterable[str] = ()) -> EmbeddedBroker:
    """Start the embedded broker of the run folder and make the tenant in it; the caller stops it.

    ``pools`` come on top of the settings'. Passwords of an earlier start stay. The broker's address stands in the run
    folder afterwards, so `kafka_config` works. Raises BadInput, Unavailable, Drift; then nothing is left running.
    """
    if not settings.embedded:
        raise BadInput(
            f"`bootstrap` names `{settings.bootstrap}`, so none is started; leave it empty for the embedded one"
        )
    known = load_logins(settings.logins_path)
    fresh = {user: new_password() for user in (ADMIN, BROKER) if user not in known}
    if fresh:
        save_logins(settings.logins_path, {**known, **fresh})
    broker = EmbeddedBroker(settings.run_dir, {**known, **fresh}, partitions=settings.partitions)
    broker.start()
    try:
        ensure_tenant(settings, agents, pools)
    except BaseException:
        broker.stop()
        raise
    return broker


def ensure_tenant(settings: Settings, agents: Iterable[str] = (), pools: Iterable[str] = ()) -> None:
    """Topics, logins, rights and quotas of the tenant on a broker that runs, and the drift check."""
    agents = tuple(agents)
    ready = settings.model_copy(update={"pools": tuple(dict.fromkeys((*settings.pools, *pools)))})
    client = admin_client(ready)
    ensure_topics(ready, client)
    check_drift(ready, client)
    logins = acls.logins(agents, ready.pools)
    ensure_agent_quotas(ready, agents)  # before the logins, so that none is ever without
    ensure_users(ready, logins, client)
    ensure_acls(ready, agents, client)
