"""`sluicegate up` as a user runs it, on the broker of the test run: a process of its own with all its processors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fixtures_kafka import RunningBroker

from sluicegate.cli.configuration import shipped_policies
from sluicegate.streams.settings import Settings


class Tenant(NamedTuple):
    """A tenant that `sluicegate up` runs: what it said when it was ready, and how one reaches it."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    environment: dict[str, str]
    policies: Path

    def settings(self) -> Settings:
        """The settings of this tenant."""
        found = {name.removeprefix("SLUICEGATE_").lower(): value for name, value in self.environment.items()}
        return Settings(**found)


@contextmanager
def running_up(
    broker: RunningBroker, kafka_dir: Path, folder: Path, name: str, change: Callable[[Path], None] = lambda _: None
) -> Iterator[Tenant]:
    """`sluicegate up --json` in ``folder`` for a tenant of this name, until the block ends.

    ``change`` alters the copy of the shipped policies before they are published.
    """
    policies = folder / "policies"
    shutil.copytree(shipped_policies(), policies)
    change(policies)
    environment = {
        "SLUICEGATE_TENANT": name,
        "SLUICEGATE_RUN_DIR": str(folder / "run"),
        "SLUICEGATE_POLICIES": str(policies),
        "SLUICEGATE_BOOTSTRAP": broker.bootstrap,
        "SLUICEGATE_LOGINS_FILE": str(kafka_dir / "logins.json"),
        "SLUICEGATE_CONTROL_AGE_MS_MAX": "2000",
        "SLUICEGATE_REQUEST_TIMEOUT_SEC": "600",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "sluicegate.cli.main", "up", "--json"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "`up` ended before it was ready; its errors stand above"
        yield Tenant(process, json.loads(line), environment, policies)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        process.stdout.close()
