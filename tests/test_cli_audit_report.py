"""`audit report` and `confidence report` through the command line: words, the page, JSON, periods, exit codes."""

from __future__ import annotations

import base64
import json
import math
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audit_world import HOSTILE, audit_world, lived, of_log, place_of, replaced, with_time_out
from test_audits import find
from test_audits import run as finish
from world import CODEC, OPERATOR, TENANT

from sluicegate.cli.audit_words import at_least, at_most
from sluicegate.cli.log_since import period_of
from sluicegate.cli.main import run
from sluicegate.processors.audit_log import NEEDED
from sluicegate.processors.audit_report import AuditReport
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import AuditDrawn, Finding
from sluicegate.streams.engine import Record
from sluicegate.streams.logcopy import write_copy

DAY_MS = 86_400_000
START_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC, when worlds begin
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page: tags that do not balance, elements and attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


class Desk:
    """A run folder that trusts the world's operator, and copies of logs beside it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def copy(self, records: list[Record]) -> str:
        file = self.folder / "log.jsonl"
        starts = {(each.topic, each.partition): 0 for each in records}
        write_copy(file, TENANT, 3, starts, records)
        return str(file)

    def report(self, records: list[Record], *words: str, code: int = 0) -> tuple[str, str]:
        assert run(["audit", "report", "--log", self.copy(records), *words]) == code
        return self.capsys.readouterr()

    def json(self, records: list[Record], *words: str, code: int = 0) -> dict[str, Any]:
        out, _ = self.report(records, *words, "--json", code=code)
        assert out.count("\n") == 1
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    def page(self, records: list[Record], *words: str) -> str:
        self.report(records, "--period", "30d", "--html", "page.html", *words)
        return (self.folder / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICEGATE_RUN_DIR", str(tmp_path / "run"))
    keys = tmp_path / "run" / "keys"
    keys.mkdir(parents=True, mode=0o700)
    file = keys / "operators.json"
    file.write_text(json.dumps({OPERATOR.key_id: base64.b64encode(OPERATOR.public()).decode()}))
    file.chmod(0o600)
    return Desk(tmp_path, capsys)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return with_time_out(lived().records(), ("policy:after-an-hour",))


def hostile(records: list[Record]) -> list[Record]:
    """The records with names and notes that would steer a page or a terminal."""
    changed = replaced(records, place_of(records, AuditDrawn), agent_id=HOSTILE, topic=HOSTILE, job_id=HOSTILE)
    changed = replaced(changed, place_of(changed, AuditDrawn), stratum=HOSTILE, confidence=0.9, outcome="failed")
    wrong = next(
        at
        for at, each in enumerate(changed)
        if isinstance(event := _event(each), Finding) and event.finding != "correct"
    )
    return replaced(changed, wrong, note=HOSTILE, error_class=HOSTILE, by=HOSTILE)


def _event(record: Record) -> object:
    return CODEC.decode_or_none(record.value)


def rounded_up(share: float) -> str:
    """An upper bound in percent with two digits."""
    return f"{math.ceil(Fraction(str(share)) * 10_000) / 100:.2f}"


# --- the terminal


def test_what_nobody_must_overlook_comes_first(desk: Desk, records: list[Record]) -> None:
    """Time-outs and break-glass stand before any rate."""
    out, _ = desk.report(records, "--period", "30d")
    assert out.startswith("approved by time-out, without a person: 1\n  TIME-OUT 2026-01-01")
    assert "by policy:after-an-hour" in out
    places = [out.index(word) for word in ("TIME-OUT", "BREAK-GLASS", "review OPEN", "92 finished jobs", "\nstratum\t")]
    assert places == sorted(places)
    assert "person/rosa over topic:job.ask.*: fire" in out
    assert "g1 of deployer on job.ask.now: reviewed: WRONG to run" in out


def test_a_zero_is_told_as_a_bound(desk: Desk) -> None:
    """None found is not none; and where nobody judged, nothing is known."""
    world = audit_world()
    for number in range(12):
        if finish(world, f"j{number}", "job.x").drawn:
            find(world, f"j{number}", "correct")
    finish(world, "d", "job.deploy", agent="reader")
    out, _ = desk.report(world.records(), "--period", "1d")
    high = next(each.high for each in of_log(world.records()).agents if each.name == "deployer")
    assert f"none found; at most {rounded_up(high)} % at 95 %" in out
    assert "nothing is known: no sample has been judged (1 sample still waiting)" in out


def test_json_has_all_that_the_report_has(desk: Desk, records: list[Record]) -> None:
    """Field for field; what nobody must overlook comes first there, too."""
    found = desk.json(records, "--period", "30d")
    read = [each for each in records if each.topic in NEEDED]
    assert list(found)[:6] == ["ok", "page", "timed_out_count", "timed_out", "break_glass_count", "break_glass"]
    assert (found.pop("ok"), found.pop("page")) == (True, None)
    assert msgspec.convert(found, AuditReport) == of_log(read, found["evidence"]["from_ms"])


def test_one_agent_can_be_asked_about(desk: Desk, records: list[Record]) -> None:
    """Weights are not to be written from the jobs of one agent, and the report says so."""
    found = desk.json(records, "--period", "30d", "--agent", "reader")
    assert [each["name"] for each in found["agents"]] == ["reader"]
    out, _ = desk.report(records, "--period", "30d", "--agent", "reader")
    assert "finished jobs of agent reader" in out
    assert "leave out --agent" in out


def test_no_text_in_the_log_steers_the_terminal(desk: Desk, records: list[Record]) -> None:
    """Escapes and turned reading directions are spelt out."""
    spoilt = hostile(records)
    out, _ = desk.report(spoilt, "--period", "30d")
    assert "\\x1b[2J\\u202e" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert run(["confidence", "report", "--log", desk.copy(spoilt)]) == 0
    out, _ = desk.capsys.readouterr()
    assert "<script>alert(1)</script>\\x1b[2J\\u202e" in out
    assert "\x1b" not in out


# --- the page


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(desk: Desk, records: list[Record]) -> None:
    """Balanced tags, plots inside, no script, no address, no file of its own."""
    text = desk.page(records)
    page = Page(text)
    assert (page.open, page.faults) == ([], [])
    assert {"svg", "table", "circle", "rect"} <= page.tags
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "a", "form"})
    assert {name for name, _ in page.attributes}.isdisjoint({"src", "href", "srcset", "action", "style", "onload"})
    assert "//" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_has_the_six_parts_in_their_order_and_a_place_to_sign(desk: Desk, records: list[Record]) -> None:
    """What an auditor must see first stands first."""
    page = Page(desk.page(records))
    parts = (
        "1. What nobody must overlook",
        "approved by time-out",
        "Break-glass by person/rosa",
        "2. How often",
        "3. What it would take",
        "4. Where the samples",
        "5. What was found",
        "6. What this rests on",
        "sluicegate verify",
        "Signature",
    )
    places = [page.words.index(part) for part in parts]
    assert places == sorted(places)


def test_the_page_shows_the_numbers_of_the_report(desk: Desk, records: list[Record]) -> None:
    """Rates with both bounds, errors one by one, epochs by commitment, the digest."""
    page = Page(desk.page(records))
    report = of_log(records)
    for rate in (*report.agents, *report.topics, *report.strata):
        assert rate.name in page.words
        assert f"{rounded_up(rate.high)}\N{NO-BREAK SPACE}%" in page.words
    assert all(each.job_id in page.words for each in report.errors)
    assert report.evidence.policy_digest is not None
    assert report.evidence.policy_digest in page.words
    assert report.evidence.epochs[0].epoch.commitment in page.words


def test_no_text_in_the_log_changes_the_page(desk: Desk, records: list[Record]) -> None:
    """Names and notes stand there as text; the page has the same elements as without them."""
    text = desk.page(hostile(records))
    page = Page(text)
    assert page.words.count("<script>alert(1)</script>\\x1b[2J\\u202e & <b>bold</b>") > 3
    assert (page.open, page.faults) == ([], [])
    assert page.tags == Page(desk.page(records)).tags
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_plots_stay_inside_their_drawing(desk: Desk, records: list[Record]) -> None:
    """No mark stands left of the scale or right of the page."""
    page = Page(desk.page(records))
    across = [float(value) for name, value in page.attributes if name in ("x1", "x2", "cx")]
    assert across
    assert min(across) >= 170
    assert max(across) <= 490


# --- periods, and what goes wrong


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("", (0, START_MS + 1)),
        ("1d", (START_MS - DAY_MS, START_MS + 1)),
        ("2025-11-01..2025-12-01", (1_761_955_200_000, 1_764_547_200_000)),
        ("2025-11-01T06:00..2025-11-01T07:00+01:00", None),
        ("2025-12-01..2025-11-01", None),
        ("2025-11-01..2025-11-01", None),
        ("2025-11-01", None),
        ("..2025-11-01", None),
        ("soon", None),
        ("0d", None),
    ],
)
def test_a_period_is_a_span_or_two_times(text: str, period: tuple[int, int] | None) -> None:
    """The newest record is in a span; the end of a range is not in it; anything else is refused with what to do."""
    if period is not None:
        assert period_of(text, START_MS) == period
        return
    with pytest.raises(BadInput, match="--period"):
        period_of(text, START_MS)


def test_no_finished_job_is_a_negative_outcome(desk: Desk, records: list[Record]) -> None:
    """Exit 1, with what to do; no page is written, and what must not be overlooked is told all the same."""
    span = ("--period", "2020-01-01..2020-02-01")
    out, err = desk.report(records, *span, "--html", "page.html", code=1)
    assert "no job finished in the period" in err
    assert "longer --period" in err
    assert not (desk.folder / "page.html").exists()
    assert out.startswith("approved by time-out")
    assert desk.json(records, *span, code=1)["ok"] is False
    assert run(["confidence", "report", "--log", desk.copy(records), *span]) == 1


def test_who_trusts_no_operator_gets_no_report(desk: Desk, records: list[Record]) -> None:
    """Without them no break-glass would be told, and nobody would miss it."""
    (desk.folder / "run" / "keys" / "operators.json").unlink()
    _, err = desk.report(records, "--period", "30d", code=2)
    assert "trusts no operator" in err


def test_a_page_that_cannot_be_written_is_told(desk: Desk, records: list[Record]) -> None:
    """Exit 2, with the file."""
    _, err = desk.report(records, "--period", "30d", "--html", "nowhere/page.html", code=2)
    assert "`nowhere/page.html` cannot be written" in err


# --- confidence


def test_confidence_in_words_and_in_json(desk: Desk, records: list[Record]) -> None:
    """Where there are too few labels it says so, and how errors are weighed."""
    copy = desk.copy(records)
    assert run(["confidence", "report", "--log", copy]) == 0
    out, _ = desk.capsys.readouterr()
    assert "deployer on job.deploy: " in out
    assert "too few labels to tell: " in out
    assert "weighs an error that only a sample shows by 1/p" in out
    assert run(["confidence", "report", "--log", copy, "--agent", "reader", "--json"]) == 0
    found = json.loads(desk.capsys.readouterr().out)
    assert {each["agent_id"] for each in found["groups"]} == {"reader"}
    assert found["whole"]["jobs"] == sum(each["jobs"] for each in found["groups"])


def test_bounds_are_rounded_away_from_the_estimate() -> None:
    """What is said must be no narrower than what is known."""
    assert (at_least(0.123499), at_most(0.123401)) == ("12.34 %", "12.35 %")
    assert (at_least(0.05), at_most(0.05), at_most(0.290001, 1)) == ("5.00 %", "5.00 %", "29.1 %")
