"""Schema ids: from the package's files, or from a server that speaks Confluent's protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from world import World

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Unavailable, Undecodable
from sluicegate.schemas.events import Intent
from sluicegate.streams.registry import FileRegistry, ServerRegistry, registry_for


class Server:
    """A registry in memory: registers a schema once, gives it back by id."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.subjects: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.subjects.append(self.path.split("/")[2])
                if body["schema"] not in outer.schemas:
                    outer.schemas.append(body["schema"])
                self.answer(200, {"id": outer.schemas.index(body["schema"]) + 100})

            def do_GET(self) -> None:
                number = int(self.path.rsplit("/", 1)[1]) - 100
                known = 0 <= number < len(outer.schemas)
                self.answer(
                    200 if known else 404, {"schema": outer.schemas[number]} if known else {"error_code": 40403}
                )

            def answer(self, status: int, body: dict[str, Any]) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="module")
def intent() -> Intent:
    return World().intent("j1", "job.crm.read")


def test_a_server_gives_the_ids(server: Server, intent: Intent) -> None:
    """A schema is registered when first written; what was written reads back, also by another process."""
    wire = Codec(ServerRegistry(server.url)).encode(intent)
    assert wire[:5] == b"\0" + (100).to_bytes(4, "big")
    assert Codec(ServerRegistry(server.url + "/")).decode(wire) == intent
    assert server.subjects == ["sluicegate.Intent"]


def test_an_older_writer_is_read_by_todays_schema(server: Server, intent: Intent) -> None:
    """The writer's schema comes by its id: a field it did not have gets its default."""
    registry = ServerRegistry(server.url)
    codec = Codec(registry)
    codec.encode(intent)
    old = json.loads(server.schemas[0])
    old["fields"] = [field for field in old["fields"] if field["name"] != "plan_hash"]
    server.schemas.append(json.dumps(old))
    import io

    import fastavro
    import msgspec

    out = io.BytesIO()
    body = msgspec.to_builtins(intent, builtin_types=(bytes,))
    fastavro.schemaless_writer(out, fastavro.parse_schema(old), body)
    assert codec.decode(b"\0" + (101).to_bytes(4, "big") + out.getvalue()) == intent


def test_an_unknown_id_is_undecodable(server: Server) -> None:
    """Neither registry guesses."""
    for registry in (FileRegistry(), ServerRegistry(server.url)):
        with pytest.raises(Undecodable):
            Codec(registry).decode(b"\0\0\0\0\x01rest")


def test_a_server_that_is_away_is_named(server: Server) -> None:
    """The error says which server and what to do; nothing is read as something else."""
    server.close()
    server.http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    server.thread.start()
    with pytest.raises(Unavailable, match="does not answer"):
        ServerRegistry(server.url).id_of("Intent")


def test_one_setting_chooses() -> None:
    """Empty means the files."""
    assert isinstance(registry_for(""), FileRegistry)
    assert isinstance(registry_for("http://127.0.0.1:1"), ServerRegistry)
