"""Health and logs of a process: what it says of itself, to probes and to whoever reads its stderr."""

from __future__ import annotations

import io
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.health import LOOPBACK, Health, HealthServer
from sluicegate.streams.logs import set_up_logs

LABELS = {"application": "watch", "instance": "1"}
DETAILS = {"open_timers": 3, "lag_records": {"timer.requests/0": 7}, "state": "running"}


def ask(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # a loopback page of the test's own
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_a_ready_process_says_so_as_json() -> None:
    """200 with its name and its figures."""
    with HealthServer(lambda: Health(True, DETAILS), LABELS) as server:
        status, kind, body = ask(f"{server.url}/health")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"ready": True, **LABELS, **DETAILS}


def test_a_process_that_is_not_ready_answers_503() -> None:
    """A probe needs to read the status only."""
    with HealthServer(lambda: Health(False), LABELS) as server:
        status, _, body = ask(f"{server.url}/health")
    assert status == 503
    assert json.loads(body)["ready"] is False


def test_a_report_that_fails_is_a_process_that_is_not_well() -> None:
    """Fail closed: an exception behind the page is 503, and the next request is answered as well."""

    def broken() -> Health:
        raise RuntimeError("no status")

    with HealthServer(broken, LABELS) as server:
        for page in ("health", "metrics", "health"):
            status, _, body = ask(f"{server.url}/{page}")
            assert status == 503
            assert "no status" in json.loads(body)["error"]


def test_every_number_is_a_gauge() -> None:
    """Numbers with the process's labels, mappings with one line for each entry; texts are no metrics."""
    with HealthServer(lambda: Health(True, DETAILS), LABELS) as server:
        status, kind, body = ask(f"{server.url}/metrics")
    lines = body.decode().splitlines()
    assert status == 200
    assert kind.startswith("text/plain")
    assert 'sluicegate_ready{application="watch",instance="1"} 1.0' in lines
    assert 'sluicegate_open_timers{application="watch",instance="1"} 3.0' in lines
    assert 'sluicegate_lag_records{application="watch",instance="1",item="timer.requests/0"} 7.0' in lines
    assert not [line for line in lines if "state" in line]


def test_the_figures_are_those_of_the_moment() -> None:
    """Nothing is cached: the second answer shows the second state."""
    states = iter([Health(True, {"open_timers": 1}), Health(True, {"open_timers": 2})])
    with HealthServer(lambda: next(states), LABELS) as server:
        assert json.loads(ask(f"{server.url}/health")[2])["open_timers"] == 1
        assert json.loads(ask(f"{server.url}/health")[2])["open_timers"] == 2


def test_nothing_else_is_served() -> None:
    """No listing, no file, no other method."""
    with HealthServer(lambda: Health(True), LABELS) as server:
        assert ask(f"{server.url}/")[0] == 404
        assert ask(f"{server.url}/../etc/passwd")[0] == 404
        request = urllib.request.Request(f"{server.url}/health", data=b"x")  # noqa: S310  # as above
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(request, timeout=5)  # noqa: S310  # as above


def test_it_listens_on_loopback_and_a_taken_port_is_an_error() -> None:
    """Whoever is not on this machine cannot ask; two processes on one port is said, not survived in silence."""
    with HealthServer(lambda: Health(True), LABELS) as server:
        assert server.host == LOOPBACK
        with pytest.raises(Unavailable, match=f"`{server.port}`"):
            HealthServer(lambda: Health(True), LABELS, port=server.port)


@pytest.fixture
def untouched_logs() -> Iterator[None]:
    """Give the test run its own loggers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("untouched_logs")
def test_logs_are_json_lines_away_from_a_terminal() -> None:
    """One object a line, whoever wrote it: structlog, the standard library, an exception over many lines."""
    stream = io.StringIO()
    set_up_logs("watch", "1", stream=stream)
    structlog.get_logger("ours").info("timers recovered", open=3)
    logging.getLogger("theirs").warning("slow %s", "broker", extra={"node": 1})
    try:
        int("line\nbreak")
    except ValueError:
        logging.getLogger("theirs").exception("it failed")
    first, second, third = lines_of(stream)
    assert (first["message"], first["open"], first["level"], first["logger"]) == ("timers recovered", 3, "info", "ours")
    assert (second["message"], second["node"], second["level"]) == ("slow broker", 1, "warning")
    assert "ValueError" in third["exception"]
    assert {line["application"] for line in (first, second, third)} == {"watch"}
    assert {line["instance"] for line in (first, second, third)} == {"1"}


@pytest.mark.usefixtures("untouched_logs")
def test_chatty_libraries_are_heard_only_when_it_matters() -> None:
    """Their warnings stay, their life stories do not."""
    stream = io.StringIO()
    set_up_logs("watch", "1", stream=stream)
    logging.getLogger("faust.app").info("starting")
    logging.getLogger("aiokafka.conn").error("gone")
    assert [line["message"] for line in lines_of(stream)] == ["gone"]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """As a terminal does."""
        return True


@pytest.mark.usefixtures("untouched_logs")
def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """No JSON there, and no colour where none is wanted."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    set_up_logs("watch", "1", stream=stream)
    logging.getLogger("ours").info("ready")
    assert "ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.usefixtures("untouched_logs")
def test_an_unknown_level_is_named() -> None:
    """With the levels there are."""
    with pytest.raises(BadInput, match="`loud` is unknown; use one of debug, info"):
        set_up_logs("watch", "1", level="loud")
