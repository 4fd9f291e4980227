"""A tenant of its own for each test of an engine on Kafka; what the engine does there, it does with its own login."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from engine_worlds import KafkaSite

from sluicegate.streams.logins import kafka_config
from sluicegate.streams.settings import Settings


@pytest.fixture
def kafka_site(tenant: Callable[..., Settings], tmp_path: Path) -> KafkaSite:
    settings = tenant()
    return KafkaSite(settings.tenant, partial(kafka_config, settings), tmp_path)
