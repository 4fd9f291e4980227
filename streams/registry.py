"""Where schema ids come from: the package's own files (default), or a Confluent-compatible server by URL."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from functools import cache
from typing import Any, cast

import fastavro.schema

from sluicegate.schemas.codec import Registry, parsed_schema, schema_json
from sluicegate.schemas.errors import InvariantBroken, Unavailable, Undecodable
from sluicegate.schemas.events import EVENT_TYPES

TIMEOUT_SEC = 10
_NOT_FOUND = 404


def file_id(schema: dict[str, Any]) -> int:
    """A deterministic id: 31 bits of the SHA-256 of the schema's parsing canonical form (Avro specification)."""
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") >> 1


class FileRegistry:
    """The schemas in the package, under ids that follow from their content."""

    def __init__(self) -> None:
        self._ids = {name: file_id(schema_json(name)) for name in EVENT_TYPES}
        self._schemas = {schema_id: schema_json(name) for name, schema_id in self._ids.items()}
        if len(self._schemas) != len(self._ids):
            raise InvariantBroken("two schemas share an id; change a name or use a registry server")

    def id_of(self, name: str) -> int:
        """The id of an event's schema; raises KeyError for an unknown name."""
        return self._ids[name]

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """The schema of an id; raises Undecodable when no file has it."""
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise Undecodable(f"schema id `{schema_id}` is not of this build") from None


class ServerRegistry:
    """A Confluent-compatible schema registry; subjects are ``<namespace>.<name>`` (RecordNameStrategy).

    Schemas are registered when first written. Raises Unavailable when the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # the URL is the operator's own setting
            f"{self._url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SEC) as answer:  # noqa: S310  # as above
                return cast(dict[str, Any], json.load(answer))
        except urllib.error.HTTPError as error:
            said = f"the registry at `{self._url}` answered {error.code} to `{path}`"
            if error.code != _NOT_FOUND:  # its own trouble: no record may be judged malformed for it
                raise Unavailable(f"{said}; mend it or unset `registry_url`") from None
            raise Undecodable(said) from None
        except OSError as error:
            raise Unavailable(
                f"the registry at `{self._url}` does not answer ({error}); start it or unset `registry_url`"
            ) from None

    def id_of(self, name: str) -> int:
        """The server's id for an event's schema, registered when new."""
        if name not in self._ids:
            schema = schema_json(name)
            subject = f"{schema['namespace']}.{name}"
            answer = self._call(f"/subjects/{subject}/versions", {"schema": json.dumps(schema)})
            self._ids[name] = int(answer["id"])
        return self._ids[name]

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """The schema the server holds under an id."""
        if schema_id not in self._schemas:
            self._schemas[schema_id] = cast(
                dict[str, Any], json.loads(self._call(f"/schemas/ids/{schema_id}")["schema"])
            )
        return self._schemas[schema_id]


@cache
def registry_for(url: str) -> Registry:
    """The registry of a setting: the package's files for the empty string, else the server."""
    parsed_schema("Intent")
    return ServerRegistry(url) if url else FileRegistry()
