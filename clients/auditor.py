"""Asks the projector's audit service; needs neither Kafka nor ClickHouse, only the run folder's token."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.schemas.errors import BadInput, SluicegateError, Unavailable

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

ANSWER_SEC_MAX: Final = 45.0
"""How long an answer may take: a query may wait for the one before it, and each has 10 s."""
_START: Final = "start `sluicegate up`, or `sluicegate run projector`"


class Table(msgspec.Struct, frozen=True):
    """An answer in rows. ``truncated`` says that there were more rows than the service gives."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    truncated: bool = False

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Auditor:
    """Every `audit` verb. Raises BadInput for a refused query, Unavailable when the service does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._run_dir = Path(settings.run_dir)

    def timeline(self, job_id: str) -> Table:
        """Every event about one job, oldest first."""
        return self._table("/timeline?" + urllib.parse.urlencode({"job": job_id}))

    def query(self, sql: str) -> Table:
        """One read-only SELECT, at most 10 s and 10,000 rows."""
        return self._table("/query", sql.encode())

    def coverage(self, wait_sec: float = 0) -> Table:
        """Per partition: how far it is projected, where its log ends.

        With ``wait_sec`` only answers once all that is in the log now is covered; raises Unavailable after that time.
        """
        return self._table("/coverage?" + urllib.parse.urlencode({"wait_sec": wait_sec}), wait_sec=wait_sec)

    def health(self) -> dict[str, Any]:
        """The projector's status."""
        found = self._ask("/health", None, 0)
        if not isinstance(found, dict):
            raise Unavailable(f"the audit service answered no status; {_START}")
        return found

    def _table(self, path: str, body: bytes | None = None, wait_sec: float = 0) -> Table:
        return msgspec.convert(self._ask(path, body, wait_sec), Table)

    def _found(self, name: str) -> str:
        try:
            return (self._run_dir / name).read_text("utf-8").strip()
        except OSError:
            raise Unavailable(
                f"no `{name}` in `{self._run_dir}`: the projector is not running here; {_START}"
            ) from None

    def _ask(self, path: str, body: bytes | None, wait_sec: float) -> Any:
        endpoint, token = self._found("audit-endpoint"), self._found("audit-token")
        if not endpoint.startswith("http://127.0.0.1:"):
            raise Unavailable(f"`audit-endpoint` in `{self._run_dir}` is no address on this host; {_START}")
        request = urllib.request.Request(  # noqa: S310  # the scheme and the host were checked above
            endpoint + path, data=body, headers={"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
        try:
            with opener.open(request, timeout=ANSWER_SEC_MAX + wait_sec) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise _error(error) from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"the audit service does not answer at `{endpoint}` ({error}); {_START}") from None


def _error(error: urllib.error.HTTPError) -> SluicegateError:
    try:
        text = str(json.loads(error.read())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        text = f"the audit service answered {error.code}; {_START}"
    return BadInput(text) if error.code == 400 else Unavailable(text)
