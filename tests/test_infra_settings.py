from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.schemas.sealing import AES_256_GCM
from sluicegate.streams.control_state import StepSettings
from sluicegate.streams.logins import kafka_config, load_logins, save_logins
from sluicegate.streams.settings import Settings


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICEGATE_CONFIG", raising=False)


def test_arguments_go_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first source that names a setting wins: argument, environment, file."""
    (tmp_path / "sluicegate.yaml").write_text("partitions: 4\nattempts_max: 5\ntenant: acme\n")
    monkeypatch.setenv("SLUICEGATE_ATTEMPTS_MAX", "6")
    monkeypatch.setenv("SLUICEGATE_TENANT", "globex")
    found = Settings(tenant="initech")
    assert (found.partitions, found.attempts_max, found.tenant) == (4, 6, "initech")


def test_a_named_file_is_read_and_a_missing_one_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SLUICEGATE_CONFIG` names the file; a file that was named must be there."""
    monkeypatch.setenv("SLUICEGATE_CONFIG", str(tmp_path / "other.yaml"))
    with pytest.raises(BadInput, match=r"other\.yaml"):
        Settings()
    (tmp_path / "other.yaml").write_text("partitions: 7\n")
    assert Settings().partitions == 7


def test_an_unknown_key_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    """A misspelt setting is never ignored."""
    (tmp_path / "sluicegate.yaml").write_text("request_timout_sec: 5\n")
    with pytest.raises(BadInput, match=r"`request_timout_sec`; did you mean `request_timeout_sec`\?"):
        Settings()


@pytest.mark.parametrize("text", ["- a\n- b\n", "tenant: [", "7: 8\n"])
def test_a_file_that_is_no_settings_is_an_error(tmp_path: Path, text: str) -> None:
    """A file that holds anything but names and values is refused, naming the file."""
    (tmp_path / "sluicegate.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"`sluicegate\.yaml`"):
        Settings()


@pytest.mark.parametrize("tenant", ["gate", "job", "admin", "a.b", "Acme", "", "x" * 21])
def test_a_tenant_whose_names_could_be_those_of_another_is_refused(tenant: str) -> None:
    """No tenant's prefix may be, or hold, the beginning of another tenant's topics, groups or logins."""
    with pytest.raises(BadInput, match="`tenant`"):
        Settings(tenant=tenant)


def test_pools_come_as_words_from_the_environment_and_hold_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`a,b` names two pools; the pool `default` always exists."""
    monkeypatch.setenv("SLUICEGATE_POOLS", "deploy,mail")
    assert Settings().pools == ("deploy", "mail", "default")


def test_every_setting_of_a_judgement_is_a_setting() -> None:
    """What travels in the activating command is made from the settings, field by field, with the same defaults.

    Only that a command without a word on sealing is one from before it stays so.
    """
    assert Settings(sealing="none").step_settings() == StepSettings()
    assert Settings().step_settings().sealing == AES_256_GCM


def test_settings_load_neither_kafka_nor_an_engine() -> None:
    """An offline verb that needs settings and logins starts without Kafka's client, Quix, Faust and ClickHouse."""
    code = (
        "import sys, sluicegate.streams.settings, sluicegate.streams.logins, sluicegate.streams.changelog;"
        "print({'confluent_kafka', 'quixstreams', 'faust', 'clickhouse_connect', 'jgo'} & sys.modules.keys())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_an_embedded_broker_that_never_started_is_said_so(tmp_path: Path) -> None:
    """Without `bootstrap` and without a broker in the run folder there is nothing to connect to."""
    with pytest.raises(Unavailable, match="sluicegate up"):
        kafka_config(Settings(run_dir=tmp_path), "gate")


def test_logins_are_kept_from_other_users(tmp_path: Path) -> None:
    """The logins file is 0600 in a 0700 folder; one that others can read is not used."""
    path = tmp_path / "run" / "logins.json"
    save_logins(path, {"gate": "secret"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_logins(path) == {"gate": "secret"}
    path.chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        load_logins(path)


def test_a_connection_is_that_of_the_tenants_login(tmp_path: Path) -> None:
    """A tenant's logins carry its prefix, the cluster's own do not; a missing password is said without any other."""
    settings = Settings(tenant="acme", run_dir=tmp_path, bootstrap="kafka:9092")
    save_logins(settings.logins_path, {"acme.gate": "one", "admin": "two"})
    gate = kafka_config(settings, "gate", client_id="x", linger_ms=5)
    assert (gate["sasl.username"], gate["sasl.password"]) == ("acme.gate", "one")
    assert (gate["client.id"], gate["linger.ms"]) == ("x", "5")
    assert kafka_config(settings, "admin")["sasl.username"] == "admin"
    with pytest.raises(BadInput, match=r"agents enroll deployer") as refused:
        kafka_config(settings, "agent.deployer")
    assert "one" not in str(refused.value).split("`")
