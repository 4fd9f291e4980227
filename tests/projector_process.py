"""A projector process of its own for crash tests: projects and answers until it is ended.

``python projector_process.py SETTINGS.json DIE_AT_WRITE``: kills itself (as `kill -9` does) right before that many-th
write of `events`, when the typed rows of the batch are already there; 0 lets it live. Says `ready` once it answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluicegate.infra.clickhouse import ddl
from sluicegate.processors.audit_service import serve
from sluicegate.streams.clickhouse import ReadingRoom, database_name
from sluicegate.streams.settings import Settings


def main(settings: Settings, die_at_write: int) -> None:
    writes = 0
    insert = ReadingRoom.insert

    def insert_or_die(self: ReadingRoom, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        nonlocal writes
        writes += table == "events"
        if die_at_write and writes == die_at_write and table == "events":
            os.kill(os.getpid(), signal.SIGKILL)
        insert(self, table, names, columns)

    ReadingRoom.insert = insert_or_die  # type: ignore[method-assign]  # the point of this program
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve(settings, ddl(database_name(settings.tenant)), stop, lambda _projector: print("ready", flush=True))  # noqa: T201


if __name__ == "__main__":
    main(Settings(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2]))
