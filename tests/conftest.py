"""What every test shares: the option --campaign. Fixtures stand in modules of their own."""

from __future__ import annotations

import pytest

# A fixture module beside this file is named here.
pytest_plugins: list[str] = ["fixtures_clickhouse", "fixtures_kafka", "fixtures_engine", "handler_world"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the long tests marked `campaign` too (make campaign)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out unless they were asked for."""
    if config.getoption("--campaign"):
        return
    long = [item for item in items if item.get_closest_marker("campaign")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
