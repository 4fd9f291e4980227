"""A process of its own that runs the counting step on Quix, for tests that kill, stop or starve it.

Reads the `EngineConfig` as one line of JSON, since it holds a password. Prints a line when it is ready, and what ended
it.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import msgspec
from engine_worlds import NoControl, counting_step

from sluicegate.streams.quix import EngineConfig, QuixEngine

READY = "ready"
_LOOK_SEC = 0.02


def main() -> int:
    """Runs until a signal (0) or an error (1)."""
    logging.basicConfig(level=logging.WARNING)
    config = msgspec.json.decode(sys.stdin.readline(), type=EngineConfig, dec_hook=lambda _, found: Path(found))
    engine = QuixEngine(config, counting_step, NoControl())
    looking = threading.Event()

    def look() -> None:
        while not looking.wait(_LOOK_SEC):
            if engine.status.ready:
                print(READY, flush=True)  # noqa: T201  # what the test waits for
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        engine.run()
    except Exception as exc:  # noqa: BLE001  # it is told
        print(f"{type(exc).__name__}: {exc}", flush=True)  # noqa: T201  # what the test asks for
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
