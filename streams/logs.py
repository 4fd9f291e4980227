"""How a process logs: JSON lines to stderr, or lines for people when stderr is a terminal.

Our own modules and every library (Faust, Quix, aiokafka) log through the standard library; structlog only formats, so
one line is one line whoever wrote it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final, TextIO

import structlog

from sluicegate.schemas.errors import BadInput

LEVELS: Final = ("debug", "info", "warning", "error")
CHATTY: Final = ("aiokafka", "faust", "mode", "kafka", "quixstreams", "clickhouse_connect", "urllib3", "asyncio")
"""Libraries that tell the story of their life at INFO; only their warnings are kept, unless all of DEBUG is wanted."""


def set_up_logs(application: str, instance: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up the root logger of this process. Every line carries ``application`` and ``instance``.

    ``stream`` is stderr when not given. Raises BadInput for an unknown level.
    """
    if level.lower() not in LEVELS:
        raise BadInput(f"log level `{level}` is unknown; use one of {', '.join(LEVELS)}")
    out = sys.stderr if stream is None else stream
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _named(application, instance),
        structlog.stdlib.ExtraAdder(),
    ]
    ending: list[Any]
    if out.isatty():
        ending = [structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)]
    else:
        ending = [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(sort_keys=True, default=str),
        ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if level.lower() == "debug" else logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _named(application: str, instance: str) -> Any:
    def add(_logger: Any, _method: str, entry: dict[str, Any]) -> dict[str, Any]:
        entry.setdefault("application", application)
        entry.setdefault("instance", instance)
        return entry

    return add
