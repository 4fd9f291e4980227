from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sluicegate.schemas.errors import BadInput
from sluicegate.streams import keys
from sluicegate.streams.identity import HmacKey, agent_secret, public_key
from sluicegate.streams.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=tmp_path / "run")


def test_key_files_are_private(settings: Settings) -> None:
    """Every file of the keys folder is 0600, the folder 0700."""
    keys.make_master(settings)
    keys.new_agent(settings, "a")
    keys.new_operator(settings, "o")
    folder = keys.keys_dir(settings)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_agent_signs_with_the_key_the_gate_derives(settings: Settings) -> None:
    """An agent holds only its own secret, and the gate finds the same from the master."""
    master = keys.make_master(settings)
    keys.new_agent(settings, "a")
    signature = keys.agent_signer(settings, "a").sign(b"m")
    assert HmacKey("agent/a", agent_secret(master, "a")).verify(b"m", signature)


def test_keys_stay_when_they_are_made_again(settings: Settings) -> None:
    """Making a key on first use never replaces one that exists."""
    master = keys.make_master(settings)
    assert keys.make_master(settings) == master
    assert keys.new_person(settings, "rosa") == keys.new_person(settings, "rosa")


def test_agent_may_have_an_ed25519_key(settings: Settings) -> None:
    """An agent's Ed25519 key signs for the public key that goes into `agents.yaml`."""
    public = keys.new_agent_ed25519(settings, "b")
    assert public_key(public).verify(b"m", keys.agent_signer(settings, "b").sign(b"m"))


def test_new_operator_is_trusted(settings: Settings) -> None:
    """An operator's public key stands in the local trust file under its key id."""
    keys.new_operator(settings, "o")
    trusted = keys.trusted_operators(settings)
    assert trusted["operator/o"].verify(b"m", keys.operator_signer(settings, "o").sign(b"m"))


def test_monitor_may_not_command(settings: Settings) -> None:
    """A monitor's key is trusted for incidents, never for commands."""
    keys.new_monitor(settings, "m")
    assert keys.trusted_operators(settings) == {}
    assert list(keys.trusted_monitors(settings)) == ["monitor/m"]


def test_missing_key_says_what_to_do(settings: Settings) -> None:
    """Who has no key is told which verb makes one."""
    with pytest.raises(BadInput, match="agents enroll a"):
        keys.agent_signer(settings, "a")


def test_key_open_to_others_is_refused(settings: Settings) -> None:
    """A key that other users can read is no secret, and is not used."""
    keys.new_person(settings, "rosa")
    (keys.keys_dir(settings) / "person.rosa.key").chmod(0o644)
    with pytest.raises(BadInput, match="open to other users"):
        keys.person_signer(settings, "rosa")


@pytest.mark.parametrize("bad", ["../x", "", ".x", "a b", "a\nb"])
def test_id_that_leaves_the_folder_is_refused(settings: Settings, bad: str) -> None:
    """An id becomes a file's name: it must not lead elsewhere."""
    with pytest.raises(BadInput, match="cannot be an id"):
        keys.new_person(settings, bad)
