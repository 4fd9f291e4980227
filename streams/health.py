"""A process's health on loopback: `/health` as JSON, `/metrics` in Prometheus' text format. Nothing else is served.

The process gives one callback; every number in what it returns is also a gauge, so the two never disagree.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from sluicegate.schemas.errors import Unavailable

LOOPBACK: Final = "127.0.0.1"
REQUEST_SEC_MAX: Final = 5
ITEMS_MAX: Final = 1_000
"""How many entries of one nested mapping become gauges."""


class Health(msgspec.Struct, frozen=True):
    """What a process says of itself: whether it works, and its figures (numbers, texts, mappings of numbers)."""

    ready: bool
    details: Mapping[str, Any] = {}


Report = Callable[[], Health]


class _Gauges:
    """Turns a report into gauges at the moment they are asked for."""

    def __init__(self, labels: Mapping[str, str], report: Report) -> None:
        self._names = list(labels)
        self._values = list(labels.values())
        self._report = report

    def collect(self) -> Iterator[GaugeMetricFamily]:
        health = self._report()
        for name, value in {"ready": health.ready, **health.details}.items():
            text = f"`{name}` of the process's own report"
            if isinstance(value, (bool, int, float)):
                gauge = GaugeMetricFamily(f"sluicegate_{name}", text, labels=self._names)
                gauge.add_metric(self._values, float(value))
                yield gauge
            elif isinstance(value, Mapping):
                gauge = GaugeMetricFamily(f"sluicegate_{name}", text, labels=[*self._names, "item"])
                for item, number in _numbers(value):
                    gauge.add_metric([*self._values, item], number)
                yield gauge


def _numbers(values: Mapping[Any, Any]) -> Iterable[tuple[str, float]]:
    found = [(str(item), float(number)) for item, number in values.items() if isinstance(number, (bool, int, float))]
    return found[:ITEMS_MAX]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked went away before the answer: their affair, no line in our log."""


class HealthServer:
    """Serves one process's health on loopback, in a thread of its own, until closed.

    ``labels`` name the process (application, instance) on every gauge; ``port`` 0 takes a free one, which stands in
    ``port`` afterwards. ``report`` is called from the server's threads and must not block. Raises Unavailable when
    the port is taken.
    """

    def __init__(self, report: Report, labels: Mapping[str, str], port: int = 0, host: str = LOOPBACK) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Gauges(labels, report))
        try:
            self._server = _Server((host, port), _handler(report, labels, registry))
        except OSError as error:
            raise Unavailable(f"port `{port}` for health is not free ({error.strerror}); set another, or 0") from None
        self.host = host
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler(report: Report, labels: Mapping[str, str], registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SEC_MAX
        server_version = "sluicegate"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                if path == "/health":
                    health = report()
                    body = {"ready": health.ready, **labels, **health.details}
                    status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, "application/json", json.dumps(body, default=str).encode() + b"\n")
                elif path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such page; ask for /health or /metrics\n")
            except Exception as error:  # noqa: BLE001  # a report that fails is a process that is not well
                text = json.dumps({"ready": False, **labels, "error": f"{type(error).__name__}: {error}"})
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", text.encode() + b"\n")

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
            """Be silent: a probe every second is no news."""

    return Handler
