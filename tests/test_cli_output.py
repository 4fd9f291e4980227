"""How the command line speaks: help, JSON, errors, exit codes, what it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sluicegate.cli.main import app, run
from sluicegate.cli.output import Output, json_text
from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.settings import Settings

HEAVY = ("confluent_kafka", "clickhouse_connect", "chdb", "quixstreams", "faust", "aiokafka")


def commands() -> list[tuple[str, ...]]:
    """Every command and group, as words."""
    found: list[tuple[str, ...]] = [()]
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]  # the root is a group
        found.append((name,))
        found += [(name, inner) for inner in getattr(command, "commands", {})]
    return found


def call(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without any settings of ours."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "sluicegate.cli.main", *words],
        cwd=cwd,
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has a help text, and no argument or option of it is without one."""
    assert run([*words, "--help"]) == 0
    assert "Usage: sluicegate" in capsys.readouterr().out
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]  # a group until the last word
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "hidden", False) or getattr(parameter, "help", None), parameter.name


def test_every_verb_takes_json() -> None:
    """Every command but `run`, which only logs, has --json."""
    without = []
    for words in commands():
        command = typer.main.get_command(app)
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]  # a group until the last word
        if not hasattr(command, "commands") and "as_json" not in [each.name for each in command.params]:
            without.append(words)
    assert without == [("run",)]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["up", "--help"],
        ["policy", "check", "POLICIES"],
        ["policy", "check", "POLICIES", "--json"],
        ["agents", "list", "--policies", "POLICIES"],
        ["audit", "query", "SELECT 1"],
    ],
    ids=" ".join,
)
def test_help_and_offline_verbs_load_neither_kafka_nor_clickhouse(words: list[str], tmp_path: Path) -> None:
    """A verb that needs no broker starts quickly because it loads no client of one."""
    from sluicegate.cli.configuration import shipped_policies

    words = [str(shipped_policies()) if word == "POLICIES" else word for word in words]
    code = (
        "import sys\nfrom sluicegate.cli.main import run\n"
        f"run({words!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert answer.stderr.splitlines()[-1] == "[]"


def test_an_error_is_one_line_on_stderr(tmp_path: Path) -> None:
    """What cannot be used exits 2 with one line that says what to do; stdout stays empty."""
    answer = call("policy", "check", "nowhere", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("error: cannot read `nowhere`")


def test_a_bad_setting_is_unusable_input(tmp_path: Path) -> None:
    """A setting that cannot be used is named, with exit 2."""
    answer = call("control", "show", cwd=tmp_path, SLUICEGATE_PARTITIONS="many")
    assert answer.returncode == 2
    assert "`partitions`" in answer.stderr


def test_what_does_not_run_is_unavailable(tmp_path: Path) -> None:
    """Without a broker a verb that needs one says how to start it and exits 3."""
    answer = call("control", "show", "--json", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (3, "")
    assert "sluicegate up" in answer.stderr


def test_an_unknown_command_is_unusable_input(tmp_path: Path) -> None:
    """A word that is no command exits 2."""
    assert call("frobnicate", cwd=tmp_path).returncode == 2


def test_no_colour_when_not_on_a_terminal(tmp_path: Path) -> None:
    """Nothing that is piped holds an escape sequence or a closing line for people at a terminal."""
    from sluicegate.cli.configuration import shipped_policies

    for words in (("--help",), ("policy", "check", str(shipped_policies())), ("frobnicate",)):
        answer = call(*words, cwd=tmp_path)
        assert "\x1b" not in answer.stdout + answer.stderr
        assert "next:" not in answer.stdout


def test_json_is_exactly_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing but the result is on stdout, whatever else a verb says."""
    out = Output(as_json=True)
    out.say("words")
    out.table(("a",), [(1,)])
    out.next("more")
    out.result({"a": "\x1b[31m\u202e"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": "\x1b[31m\u202e"}
    assert text.isascii()
    assert "\x1b" not in text


def test_json_of_events_and_faults() -> None:
    """Structs become objects of their fields."""
    from sluicegate.policies.faults import Fault

    assert json.loads(json_text(Fault("a.yaml", 1, 2, "x", "m", "f")))["column"] == 2


def test_a_table_in_a_pipe_is_tab_separated_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells keep to their line and cannot steer a terminal."""
    Output(as_json=False).table(("a", "b"), [("one\ttwo\n", None), ("\x1b[2J", 3)])
    assert capsys.readouterr().out == "a\tb\none\\ttwo\\n\t-\n\\x1b[2J\t3\n"


def test_errors_have_their_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Unusable input is 2, what does not answer 3, Ctrl-C 130."""
    from sluicegate.cli import main

    for raised, code in ((BadInput("x"), 2), (Unavailable("y"), 3), (KeyboardInterrupt(), 130)):

        def fail(error: BaseException = raised, **_: object) -> None:
            raise error

        monkeypatch.setattr(main, "app", fail)
        assert main.run([]) == code
    assert capsys.readouterr().err == "error: x\nerror: y\n"


def test_a_hostile_error_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """The user's own input comes back in errors with escape sequences spelt out."""
    answer = call("policy", "check", "no\x1b[2Jwhere", cwd=tmp_path)
    assert "\x1b" not in answer.stderr
    assert "\\x1b[2J" in answer.stderr


def test_in_a_clone_the_shipped_policies_are_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There `policies/` is the package, whose `output-policy.yaml` is no bundle; a folder of one's own counts."""
    from sluicegate.cli.configuration import policies_folder, shipped_policies

    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    assert policies_folder(Settings()) == shipped_policies()
    monkeypatch.chdir(tmp_path)
    assert policies_folder(Settings()) == shipped_policies()
    own = tmp_path / "policies"
    own.mkdir()
    (own / "rules.yaml").write_text("rules: []\n")
    assert policies_folder(Settings()) == Path("policies")
