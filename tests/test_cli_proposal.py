"""What a person reads before agreeing, who must be able to agree, and what is said when a gate refuses."""

from __future__ import annotations

import pytest
import typer
from control_log_world import OLGA, REX, ControlLog, persons, snapshot_name

from sluicegate.cli import policy_activation
from sluicegate.cli.control_log import Obeyed
from sluicegate.cli.obeyed import ADVICE, report_obeyed, say_refusals
from sluicegate.cli.output import Output
from sluicegate.cli.proposal import check_can_sign, say_proposal
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.control_terms import SnapshotTerms

PEOPLE = persons(ken=("boss",), rosa=("boss",), olga=("boss",))
BOSS = SnapshotTerms(sign_off_people=1, sign_off_roles=("boss",), persons=PEOPLE)


def proposed() -> ControlLog:
    """A log in which rex proposes b."""
    log = ControlLog(a=BOSS, b=SnapshotTerms(sign_off_people=2, persons=PEOPLE))
    log.activate("a")
    log.activate("b", signer=REX, settings='{"attempts_max":9}', reason="faster", difference=["nothing changes"])
    return log


def test_a_proposal_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Who, why, the full digest, what changes as it was found here, the settings, and who must agree."""
    log = proposed()
    assert log.state.proposed is not None
    say_proposal(Output(as_json=False), log.state, log.state.proposed, ["wider: rule `x` is gone"])
    said = capsys.readouterr().out
    for words in (
        f"{snapshot_name('b')} in the place of {snapshot_name('a')}, by operator/rex: faster",
        log.state.proposed.snapshot.digest,
        "wider: rule `x` is gone",
        "setting `attempts_max` from `3` to `9`",
        "must agree: 1 with a role of boss and 2; agreed so far: nobody",
    ):
        assert words in said
    assert "nothing changes" not in said


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_is_signed_unseen(as_json: bool) -> None:
    """Where nobody can type `yes` it takes --yes, and the refusal names the whole digest."""
    log = proposed()
    assert log.state.proposed is not None
    snapshot = log.state.proposed.snapshot
    with pytest.raises(BadInput, match=f"{snapshot.digest}.*--yes"):
        policy_activation._ask(Output(as_json), snapshot)


def obeyed(**refused: str) -> Obeyed:
    return Obeyed("c", ["0", "1"], [name for name in ("0", "1") if name not in refused], dict(refused), 0.1)


def test_a_refusal_is_said_first_and_the_verb_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """What a gate does not obey is not said to hold."""
    out = Output(as_json=False)
    one = obeyed(**{"1": "unknown_key"})
    assert not say_refusals(out, one)
    assert "gate `1` refused the command as `unknown_key`" in capsys.readouterr().err
    with pytest.raises(typer.Exit) as ended:
        report_obeyed(out, one)
    assert ended.value.exit_code == 1
    assert say_refusals(out, obeyed())
    assert not say_refusals(out, Obeyed("c", ["0"], [], {}, 20.0))


@pytest.mark.parametrize("code", ["stale_previous", "too_many_stops", "unusable_active"])
def test_a_refusal_that_people_can_mend_says_how(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is more than a code."""
    say_refusals(Output(as_json=False), obeyed(**{"0": code}))
    assert ADVICE[code] in capsys.readouterr().err


def test_what_nobody_could_agree_to_is_not_published() -> None:
    """Of the active bundle's people, without the operator: roles that only the new bundle gives do not count yet."""
    new = SnapshotTerms(sign_off_people=1, sign_off_roles=("security",), persons=persons(ken=("security",)))
    with pytest.raises(BadInput, match=r"1 with a role of security must agree.*enrol them"):
        check_can_sign(BOSS, new, "operator/rex", None)
    alone = SnapshotTerms(sign_off_people=1, sign_off_roles=("boss",), persons=persons(olga=("boss",)))
    with pytest.raises(BadInput, match="1 with a role of boss must agree"):
        check_can_sign(alone, SnapshotTerms(), OLGA.key_id, None)
    check_can_sign(BOSS, BOSS, OLGA.key_id, None)
    check_can_sign(None, new, OLGA.key_id, None)


def test_a_bundle_that_would_lock_everybody_out_is_not_published() -> None:
    """People without a key cannot sign, and a glass that nobody can break is none."""
    keyless = SnapshotTerms(sign_off_people=2, persons=persons(ken=()))
    with pytest.raises(BadInput, match=r"`sign_off` asks for 2, .* add their `public_key`"):
        check_can_sign(None, keyless, OLGA.key_id, None)
    with pytest.raises(BadInput, match="nobody with the role `commander` has a key"):
        check_can_sign(None, SnapshotTerms(break_glass_role="commander", persons=PEOPLE), OLGA.key_id, None)
