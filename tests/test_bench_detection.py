"""What is told of recall and precision: cases of others are read as meant and counted rightly, none left in silence."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from sluicegate.bench.detection import case_figures, foreign, measure
from sluicegate.bench.detection_process import presidio_finds
from sluicegate.bench.figures import Findings, begin
from sluicegate.bench.foreign_cases import CASES_VARIABLE, DETECT_SECRETS, PRESIDIO, Case, ForeignCases, read_cases
from sluicegate.bench.peer_process import PEERS_VARIABLE
from sluicegate.schemas.errors import BadInput

CARD = "4111111111111111"


def checkout(folder: Path, under: str, name: str, module: str) -> Path:
    """A folder with one checkout, with one test module."""
    path = folder / "checkout" / under / name
    path.parent.mkdir(parents=True)
    path.write_text(dedent(module), encoding="utf-8")
    return folder


def read(folder: Path) -> ForeignCases:
    """What was read from the only checkout."""
    (found,) = read_cases(folder)
    return found


def test_flagged_lines_are_read_without_running_anything(tmp_path: Path) -> None:
    """Literals, names, formats, stacked tables and texts alone are understood; what is computed is told as left out."""
    module = """
        import nowhere
        KEY = 'k9' * 3
        raise SystemExit('a module of others is not run')

        class TestKey:
            @pytest.mark.parametrize('payload, should_flag', [
                ('key = {}'.format(KEY), True),
                ('key = {k}'.format(k=KEY[:2]), False),
                ('key = {}'.format(KEY), True),
                (nowhere.made(), True),
            ])
            def test_analyze(self, payload, should_flag): ...

        @pytest.mark.parametrize('secret, non_secret', (('s3', 'n0'),))
        class TestBoth:
            @pytest.mark.parametrize('format, should_be_caught', (('"{secret}"', True), ("'{non_secret}'", False)))
            def test_it(self, **cell): ...

        @pytest.mark.parametrize('line', ['one', ('two')])
        def test_all(line): ...

        @pytest.mark.parametrize('content, expected_output', [('x', 1)])
        def test_other(content, expected_output): ...
    """
    found = read(checkout(tmp_path, DETECT_SECRETS, "key_test.py", module))
    assert found.name == "detect-secrets"
    assert [(case.text, case.count) for case in found.cases] == [
        ("key = k9k9k9", 1),
        ("key = k9", 0),
        ('"s3"', 1),
        ("'n0'", 0),
        ("one", 1),
        ("two", 1),
    ]
    assert len(found.left_out) == 2
    assert "`nowhere.made()` is computed" in found.left_out[0]
    assert "not about finding" in found.left_out[1]


def test_tables_that_endings_share_are_read_once(tmp_path: Path) -> None:
    """A table of keywords is one table, whatever files it is for; one row that is computed leaves the others."""
    module = """
        ROWS = [('a = "{}"'.format('s1'), 's1'), (made(), None), ('b = ""', None)]

        @pytest.mark.parametrize(
            'file_extension, line, expected_secret', (parse_test_cases([('py', ROWS), (None, ROWS)]))
        )
        def test_keyword(file_extension, line, expected_secret): ...
    """
    found = read(checkout(tmp_path, DETECT_SECRETS, "keyword_test.py", module))
    assert [(case.text, case.count, case.kind) for case in found.cases] == [
        ('a = "s1"', 1, "beside a word"),
        ('b = ""', 0, "beside a word"),
    ]
    assert len(found.left_out) == 2


def test_spans_are_read_and_another_leniency_is_left_out(tmp_path: Path) -> None:
    """A case of presidio says where its values stand; one of a setting of theirs is about the setting."""
    module = """
        @pytest.mark.parametrize('text, expected_len, expected_positions', [('a 1', 1, ((2, 3),)), ('b', 0, ())])
        def test_some(text, expected_len, expected_positions): ...

        @pytest.mark.parametrize('text, expected_len, leniency', [('c', 1, 2)])
        def test_lenient(text, expected_len, leniency): ...
    """
    found = read(checkout(tmp_path, PRESIDIO, "test_phone_recognizer.py", module))
    name = "test_phone_recognizer.py"
    assert found.cases == [Case(name, "phone", "a 1", 1, ((2, 3),)), Case(name, "phone", "b", 0)]
    assert any("leniency" in line for line in found.left_out)
    assert any("test_us_ssn_recognizer.py: is not there" in line for line in found.left_out)


def test_values_are_counted_by_where_they_stand() -> None:
    """Found is what a finding of the class touches, in part what it leaves a digit of; a finding elsewhere is false."""
    cases = [
        Case("m", "card", "12 34", 2, ((0, 2), (3, 5))),
        Case("m", "card", "56", 1),
        Case("m", "card", "78", 0),
        Case("m", "ip", "90", 1, ((0, 2),)),
    ]
    found = [[("card", 0, 1), ("card", 2, 3)], [("card", 0, 1), ("card", 1, 2)], [("card", 0, 2)], [("card", 0, 2)]]
    rows = case_figures(cases, found)
    card, ip = rows["card"], rows["ip"]
    assert (card.values, card.found, card.partly, card.clean, card.false) == (3, 2, 1, 1, 2)
    assert (ip.values, ip.found, ip.false) == (1, 0, 0)
    assert card.missed_texts == ["m: '12 34'"]
    assert "recall 66.7% (2 of 3, 1 in part), precision 50.0%" in card.tell()
    assert "recall 0.0%" in ip.tell()


def test_what_is_missed_and_what_is_false_is_told() -> None:
    """A figure without its misses cannot be judged."""
    every = [ForeignCases("x", [Case("m", "card", CARD, 0), Case("m", "card", "no card", 1)])]
    told = {text.name: text.lines for text in foreign(every)}
    assert told["missed in the cases of x"] == ["card: m: 'no card'"]
    assert told["false in the cases of x"] == [f"card: m: '{CARD}'"]


def test_without_peers_the_generated_part_is_told_and_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of others is a dependency: without it the command says so, and how to get it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(CASES_VARIABLE, raising=False)
    monkeypatch.delenv(PEERS_VARIABLE, raising=False)
    findings: Findings = begin()
    measure(findings, per_class=2, clean=2)
    generated, cases, phones = findings.texts
    assert [line.split()[0] for line in generated.lines] == "card iban ssn email phone ip credential".split()
    for text in (cases, phones):
        assert text.lines[0].startswith("left out: ")
        assert "`make peers`" in text.lines[1]


def test_what_is_named_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or an interpreter that cannot be used is not left out in silence."""
    monkeypatch.setenv(CASES_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BadInput, match=f"which {CASES_VARIABLE} names"):
        measure(begin(), per_class=1, clean=1)
    for interpreter in (sys.executable, "/nowhere/python"):
        with pytest.raises(BadInput, match="make peers"):
            presidio_finds(interpreter, ["a"])
