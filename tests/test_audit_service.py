from __future__ import annotations

import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from fixtures_clickhouse import project, record, sample

from sluicegate.clients.auditor import Auditor
from sluicegate.processors.audit_service import BODY_BYTES_MAX, Audit, AuditService
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.clickhouse import ReadingRoom
from sluicegate.streams.settings import Settings

BAD_REQUESTS: Final[tuple[tuple[str, bytes | None, int], ...]] = (
    ("/nowhere", None, 404),
    ("/query", None, 404),
    ("/timeline", b"", 404),
    ("/timeline", None, 400),
    ("/timeline?job=" + "x" * 2_000, None, 400),
    ("/coverage?wait_sec=soon", None, 400),
    ("/coverage?wait_sec=-1", None, 400),
    ("/coverage?wait_sec=nan", None, 400),
    ("/coverage?wait_sec=1", None, 503),
    ("/query", b"x" * (BODY_BYTES_MAX + 1), 400),
    ("/query", b"SELECT '\xff'", 400),
)
"""What is asked, with which body, and the status of the answer."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=tmp_path / "run")


@pytest.fixture
def service(room: ReadingRoom, settings: Settings) -> Iterator[AuditService]:
    project(
        room,
        [
            record("job.intents", 0, sample("Intent", job_id="j & co?")),
            record("job.decisions", 1, sample("Decision", job_id="j & co?", decision="DENY", reason="no \u2603")),
        ],
    )
    found = AuditService(Audit(room), settings.run_dir)
    found.start()
    yield found
    found.stop()


def status_of(url: str, token: str | None = None, body: bytes | None = None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_timeline_reaches_the_auditor(service: AuditService, settings: Settings) -> None:
    """What ClickHouse holds of a job comes back as rows with names, any job id, any script."""
    assert service.endpoint.startswith("http://127.0.0.1:")
    found = Auditor(settings).timeline("j & co?")
    assert [(row["type"], row["outcome"], row["reason"]) for row in found.dicts()] == [
        ("Intent", "", ""),
        ("Decision", "DENY", "no \u2603"),
    ]
    assert Auditor(settings).timeline("nobody's").rows == []


def test_a_query_and_its_refusal_reach_the_auditor(service: AuditService, settings: Settings) -> None:
    """Rows come back typed; a refused query is bad input with the service's own words."""
    auditor = Auditor(settings)
    assert service.endpoint
    assert auditor.query("SELECT count() AS n FROM events").dicts() == [{"n": 2}]
    with pytest.raises(BadInput, match="begins with SELECT"):
        auditor.query("DROP TABLE events")
    with pytest.raises(BadInput, match="the query failed"):
        auditor.query("SELECT nonsense FROM events")
    assert auditor.coverage().columns[:2] == ["topic", "partition"]


def test_nothing_is_answered_without_the_token(service: AuditService) -> None:
    """Every path asks for the run folder's token first, and tells nothing before."""
    for path in ("/timeline?job=x", "/query", "/coverage", "/health", "/"):
        for token in (None, "", "guess", "\xfc"):
            body = b"SELECT 1" if path == "/query" else None
            assert status_of(service.endpoint + path, token, body) == 401, (path, token)


def test_the_token_is_for_its_owner_only(service: AuditService, settings: Settings) -> None:
    """Token and endpoint are files that only their owner may read, and a new start has a new token."""
    token = settings.run_dir / "audit-token"
    assert service.endpoint
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.run_dir.stat().st_mode) == 0o700
    first = token.read_text()
    assert len(first.strip()) >= 40
    other = AuditService(service.audit, settings.run_dir)
    other.stop()
    assert token.read_text() != first


def test_bad_requests_get_a_clear_status(service: AuditService, settings: Settings) -> None:
    """What cannot be answered is refused by its kind, and the service goes on."""
    token = (settings.run_dir / "audit-token").read_text().strip()
    for path, body, status in BAD_REQUESTS:
        assert status_of(service.endpoint + path, token, body) == status, (path, status)
    assert status_of(service.endpoint + "/coverage", token) == 200


def test_without_a_service_the_auditor_says_what_to_start(settings: Settings) -> None:
    """No endpoint in the run folder means: start the projector."""
    with pytest.raises(Unavailable, match="start `sluicegate up`"):
        Auditor(settings).query("SELECT 1")


def test_a_stopped_service_leaves_no_endpoint(service: AuditService, settings: Settings) -> None:
    """After a stop the endpoint is gone, so that nobody asks a port that is somebody else's by then."""
    service.stop()
    assert not (settings.run_dir / "audit-endpoint").exists()


def test_an_endpoint_elsewhere_is_not_asked(service: AuditService, settings: Settings) -> None:
    """The token is sent to this host only, whatever the endpoint file says."""
    (settings.run_dir / "audit-endpoint").write_text("http://203.0.113.1:80\n")
    assert service.endpoint
    with pytest.raises(Unavailable, match="no address on this host"):
        Auditor(settings).query("SELECT 1")
