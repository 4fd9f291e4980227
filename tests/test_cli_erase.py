"""`sluicegate erase`, as far as no broker is asked: what it refuses, that it asks, what it tells."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sluicegate.cli.erase import GONE, STAYS, _erased, _tell, erase
from sluicegate.cli.output import Output
from sluicegate.cli.verify import _say
from sluicegate.processors.verify_report import Report
from sluicegate.schemas.errors import BadInput, KeyErased, Unavailable
from sluicegate.schemas.key_ids import job_key, month_of
from sluicegate.streams.key_store import ErasedUnit, KeyStore
from sluicegate.streams.keys import new_operator
from sluicegate.streams.settings import Settings

NOW_MS = time.time_ns() // 1_000_000
KEY = job_key("default", "support", NOW_MS, "j").text


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICEGATE_RUN_DIR", str(tmp_path / "run"))
    return Settings()


@pytest.fixture
def store(settings: Settings) -> KeyStore:
    found = KeyStore(settings.run_dir / "keystore.db", make=True)
    found.leaf(KEY, create=True)
    return found


def test_whose_and_why_must_be_said(store: KeyStore) -> None:
    """Neither is guessed."""
    with pytest.raises(BadInput, match="neither --agent nor --job"):
        erase(reason="asked to", yes=True)
    with pytest.raises(BadInput, match="--reason is empty"):
        erase(agent="support", reason=" ", yes=True)
    assert store.leaf(KEY)


def test_a_machine_must_say_yes(store: KeyStore) -> None:
    """What cannot be taken back is asked for; where nobody could answer, nothing is erased."""
    for as_json in (False, True):
        with pytest.raises(BadInput, match="here give --yes"):
            erase(agent="support", reason="asked to", as_json=as_json)
    assert store.leaf(KEY)


def test_it_runs_where_the_store_stands(settings: Settings) -> None:
    """On another host there is nothing to erase, and no empty store is left behind."""
    with pytest.raises(BadInput, match="no key store"):
        erase(job="j", reason="asked to", yes=True)
    assert not settings.run_dir.exists()


def test_nothing_is_erased_by_one_who_cannot_sign(store: KeyStore, settings: Settings) -> None:
    """The log must be told who did it: without a key of the operator, or a broker, the keys stay."""
    with pytest.raises(BadInput, match="operator"):
        erase(agent="support", reason="asked to", yes=True)
    new_operator(settings, "operator")
    with pytest.raises(Unavailable, match="no broker"):
        erase(agent="support", reason="asked to", yes=True)
    assert store.leaf(KEY)


@pytest.mark.parametrize(("agent", "job"), [("support", ""), ("support", "j"), ("", "j")])
def test_what_is_meant_is_erased(store: KeyStore, agent: str, job: str) -> None:
    """All of an agent, one job of it, or that job whoever's it is."""
    other = job_key("default", "ops", NOW_MS, "k").text
    store.leaf(other, create=True)
    units = _erased(store, "default", agent, job, [], "asked to", "operator/omar")
    assert ErasedUnit("support", month_of(NOW_MS), before=False) in units
    with pytest.raises(KeyErased, match="by `operator/omar`: asked to"):
        store.leaf(KEY)
    assert store.leaf(other)


def test_it_tells_what_is_gone_and_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """Evidence stays, and so do copies that this verb cannot reach: it says so, to people and to machines."""
    units = (ErasedUnit("support", "2026-11", before=False), ErasedUnit("support", "2026-10", before=True))
    _tell(Output(as_json=False), "job j of support", {"scope": "job:j"}, units)
    said = capsys.readouterr().out
    assert "support\t2026-11\tnow\nsupport\t2026-10\tbefore\n" in said
    assert f"gone of job j of support: {GONE}" in said
    assert all(f"stays: {line}" in said for line in STAYS)
    _tell(Output(as_json=True), "", {"scope": "job:j"}, units)
    told = json.loads(capsys.readouterr().out)
    assert told["units"][0] == {"agent_id": "support", "month": "2026-11", "before": False}
    assert (told["kind"], told["stays"]) == ("erase", list(STAYS))


def test_verify_says_what_it_recomputed_without_a_payload(capsys: pytest.CaptureFixture[str]) -> None:
    """Three counts that are never mixed: from everything, from facts, and what had to be taken as it stands."""
    report = Report({"Granted": 3}, 9, 0, [], 0, erased={"Decision": 2}, as_recorded={"Result": 1})
    _say(Output(as_json=False), report)
    said = capsys.readouterr().out
    assert "recomputed: 3 Granted\n" in said
    assert "recomputed from facts, payload erased: 2 Decision\n" in said
    assert "payload erased, taken as recorded where only it could tell: 1 Result\n" in said
    assert "clean" in said
