"""Activation with a second person's word, and break-glass: every refusal and every bound."""

from __future__ import annotations

import pytest
from control_log_world import JOB, OLGA, PEOPLE, REX, ControlLog, digest_of, persons

from sluicegate.streams.control_fold import ACTIVATED_MAX
from sluicegate.streams.control_scopes import GLASSES_MAX
from sluicegate.streams.control_terms import Person, SnapshotTerms, could_agree
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier

PERSONS = persons(olga=("boss",), ken=("boss",), rosa=("boss", "incident-commander"), mia=())
ONE = SnapshotTerms(sign_off_people=1, sign_off_roles=("boss",), persons=PERSONS)
TWO = SnapshotTerms(sign_off_people=2, sign_off_roles=("boss",), persons=PERSONS)
FREE = SnapshotTerms(persons=PERSONS)
GLASS = SnapshotTerms(break_glass_role="incident-commander", break_glass_sec_max=60, persons=PERSONS)


def log_of(**terms: SnapshotTerms | None) -> ControlLog:
    """A log in which the first of these snapshots is active."""
    log = ControlLog(**terms)
    log.activate(next(iter(terms)))
    assert log.active == next(iter(terms))
    return log


# --- sign-off


def test_the_first_activation_needs_nobodys_word() -> None:
    """There are no people before it who could agree."""
    assert log_of(a=TWO).last.code is None


def test_an_activation_waits_for_the_people_the_active_bundle_asks_for() -> None:
    """It is accepted as proposed, and active at the offset of the last word needed."""
    log = log_of(a=TWO, b=FREE)
    command_id = log.activate("b", settings='{"attempts_max":7}')
    assert (log.last.accepted, log.last.code, log.active) == (True, "awaiting_sign_off", "a")
    log.agree("ken", command_id, "b")
    assert (log.last.accepted, log.last.code, log.active) == (True, "awaiting_sign_off", "a")
    log.agree("rosa", command_id, "b")
    assert (log.last.accepted, log.last.code, log.active) == (True, None, "b")
    assert (log.state.settings.attempts_max, log.state.proposed) == (7, None)


def test_the_new_bundle_may_ask_for_more_people_than_the_active_one() -> None:
    """Both are heard, so that no bundle is weakened by its successor nor its own wish passed over."""
    log = log_of(a=FREE, b=ONE)
    log.activate("b")
    assert log.active == "a"
    assert log.state.proposed is not None
    assert [need.people for need in log.state.proposed.needs] == [1]


def test_no_requirement_is_active_at_once() -> None:
    """Neither the active nor the new bundle asks for anybody."""
    log = log_of(a=FREE, b=FREE)
    log.activate("b")
    assert (log.active, log.last.code) == ("b", None)


def test_the_roles_of_the_active_bundle_stand_when_both_ask_for_as_many() -> None:
    """The author of a new bundle cannot choose easier signers."""
    easy = SnapshotTerms(sign_off_people=1, sign_off_roles=(), persons=PERSONS)
    log = log_of(a=ONE, b=easy)
    log.agree("mia", log.activate("b"), "b")
    assert (log.refused(), log.active) == (None, "a")
    unasked = log_of(a=ONE, b=FREE)
    unasked.agree("mia", unasked.activate("b"), "b")
    assert (unasked.refused(), unasked.active) == ("role_missing", "a")


def test_more_people_are_no_substitute_for_the_role_that_was_asked_for() -> None:
    """What the active bundle asks for and what the new one asks for must both be met, each for itself."""
    active = SnapshotTerms(
        sign_off_people=1, sign_off_roles=("security",), persons=persons(ken=(), rosa=(), mia=("security",))
    )
    log = log_of(a=active, b=SnapshotTerms(sign_off_people=2, persons=PERSONS))
    command_id = log.activate("b")
    for person, now in (("ken", "a"), ("rosa", "a"), ("mia", "b")):
        log.agree(person, command_id, "b")
        assert (log.refused(), log.active) == (None, now)


def test_one_word_counts_for_both_bundles() -> None:
    """A person who fits what both ask for is asked once."""
    log = log_of(a=ONE, b=SnapshotTerms(sign_off_people=1, persons=PERSONS))
    log.agree("ken", log.activate("b"), "b")
    assert log.active == "b"


def test_any_reviewer_agrees_where_no_role_is_named() -> None:
    """No roles: everybody in `reviewers.yaml` with a key."""
    log = log_of(a=SnapshotTerms(sign_off_people=1, persons=PERSONS), b=FREE)
    log.agree("mia", log.activate("b"), "b")
    assert log.active == "b"


def test_whoever_activates_does_not_agree_as_a_person() -> None:
    """`operator/olga` and `person/olga` are one person; another operator's activation she may agree to."""
    log = log_of(a=ONE, b=FREE)
    log.agree("olga", log.activate("b"), "b")
    assert (log.refused(), log.active) == ("own_activation", "a")
    log.agree("olga", log.activate("b", signer=REX), "b")
    assert log.active == "b"


def test_one_key_is_one_person_under_two_names() -> None:
    """Whoever holds one key cannot agree twice, nor to what the same key activated."""
    both = {**persons(ken=("boss",)), "person/kim": persons(ken=("boss",))["person/ken"]}
    log = log_of(a=SnapshotTerms(sign_off_people=2, persons=both), b=FREE)
    kim = Ed25519Signer("person/kim", b"k" * 32)
    command_id = log.activate("b")
    log.agree("ken", command_id, "b")
    log.say("sign_off", signer=kim, ref=command_id, policy_digest=digest_of("b"))
    assert (log.refused(), log.active) == ("signed_before", "a")


def test_whoever_activates_does_not_agree_under_another_name_of_the_same_key() -> None:
    """`operator/olga` and `person/zoe` with one key are one signer."""
    zoe = Ed25519Signer("person/zoe", b"o" * 32)
    log = log_of(
        a=SnapshotTerms(sign_off_people=1, persons={zoe.key_id: Person(Ed25519Verifier(zoe.public()))}), b=FREE
    )
    log.say("sign_off", signer=zoe, ref=log.activate("b"), policy_digest=digest_of("b"))
    assert (log.refused(), log.active) == ("own_activation", "a")


def test_who_could_agree_counts_each_key_once_and_not_the_operators() -> None:
    """So that what nobody could bring about is refused before it is published."""
    people = {**persons(olga=(), ken=()), "person/kim": persons(ken=())["person/ken"], **persons(rosa=())}
    able = could_agree(SnapshotTerms(persons=people), OLGA.key_id, PEOPLE["rosa"].public())
    assert [each.verifier.public for each in able] == [PEOPLE["ken"].public()]


def test_one_person_counts_once() -> None:
    """Two commands of one person are one word."""
    log = log_of(a=TWO, b=FREE)
    command_id = log.activate("b")
    log.agree("ken", command_id, "b")
    log.agree("ken", command_id, "b")
    assert (log.refused(), log.active) == ("signed_before", "a")


def test_a_newer_activation_takes_the_place_of_an_open_proposal() -> None:
    """The words given to the old one do not count for the new one, even of the same snapshot."""
    log = log_of(a=ONE, b=FREE, c=FREE)
    old, new = log.activate("b"), log.activate("c")
    log.agree("ken", old, "b")
    assert log.refused() == "no_proposal"
    log.agree("ken", new, "b")
    assert log.refused() == "no_proposal"
    log.agree("ken", new, "c")
    assert log.active == "c"


def test_a_refused_activation_leaves_the_open_proposal() -> None:
    """What does not count changes nothing."""
    log = log_of(a=ONE, b=FREE, bad=None)
    command_id = log.activate("b")
    log.activate("bad")
    assert log.refused() == "unusable_snapshot"
    log.agree("ken", command_id, "b")
    assert log.active == "b"


@pytest.mark.parametrize(("ms_more", "active"), [(0, "b"), (1, "a")])
def test_a_proposal_counts_for_24_hours(ms_more: int, active: str) -> None:
    """Exactly so long, in log time."""
    log = log_of(a=ONE, b=FREE)
    command_id = log.activate("b")
    log.later(24)
    log.now_ms += ms_more
    log.agree("ken", command_id, "b")
    assert log.active == active


def test_agreement_with_nothing_is_refused() -> None:
    """There is no proposal, or it is another one."""
    log = log_of(a=ONE, b=FREE)
    log.agree("ken", "c0", "b")
    assert log.refused() == "no_proposal"


def test_a_person_of_the_new_bundle_only_is_nobody_yet() -> None:
    """The people are those of the active bundle, or a bundle could bring its own signers."""
    log = log_of(a=SnapshotTerms(sign_off_people=1, persons=persons(ken=("boss",))), b=ONE)
    log.agree("rosa", log.activate("b"), "b")
    assert (log.refused(), log.active) == ("unknown_key", "a")


def test_a_going_back_needs_the_same_word() -> None:
    """A rollback is an activation like any other; the former snapshots are known in their order."""
    log = log_of(a=FREE, b=ONE)
    log.agree("ken", log.activate("b"), "b")
    assert list(log.state.activated) == [digest_of("a"), digest_of("b")]
    command_id = log.activate("a")
    assert log.last.code == "awaiting_sign_off"
    log.agree("ken", command_id, "a")
    assert list(log.state.activated) == [digest_of(each) for each in "aba"]


def test_former_activations_are_bounded() -> None:
    """The latest are known; the same snapshot again is not counted twice."""
    log = log_of(a=FREE, b=FREE)
    log.activate("a")
    assert log.state.activated == (digest_of("a"),)
    for _ in range(ACTIVATED_MAX):
        log.activate("b")
        log.activate("a")
    assert len(log.state.activated) == ACTIVATED_MAX
    assert log.state.activated[-1] == digest_of("a")


# --- break-glass


def broken(
    log: ControlLog, person: str = "rosa", sec: int = 60, scope: str = "agent:deployer", reason: str = "fire"
) -> str:
    """A person breaks the glass for some seconds."""
    return log.say("break_glass", scope, PEOPLE[person], until_ms=log.now_ms + sec * 1000, reason=reason)


def test_a_broken_glass_holds_for_its_scope_and_time() -> None:
    """By a person of the named role, with a reason, until its end."""
    log = log_of(a=GLASS)
    command_id = broken(log)
    found = log.state.glass(log.now_ms, *JOB)
    assert found is not None
    assert (found.command_id, found.by, found.reason) == (command_id, "person/rosa", "fire")
    assert log.state.glass(found.until_ms - 1, *JOB) is not None
    assert log.state.glass(found.until_ms, *JOB) is None
    assert log.state.glass(log.now_ms, "other", *JOB[1:]) is None


@pytest.mark.parametrize(
    ("person", "sec", "reason", "code"),
    [
        ("ken", 60, "fire", "role_missing"),
        ("rosa", 60, "", "reason_missing"),
        ("rosa", 60, "  ", "reason_missing"),
        ("rosa", 0, "fire", "bad_until"),
        ("rosa", -1, "fire", "bad_until"),
        ("rosa", 61, "fire", "bad_until"),
        ("rosa", 1, "fire", None),
    ],
)
def test_each_break_glass_counts_or_is_refused_by_name(person: str, sec: int, reason: str, code: str | None) -> None:
    """Role, reason and time box, each at its bound."""
    log = log_of(a=GLASS)
    broken(log, person, sec, reason=reason)
    assert log.refused() == code
    assert (len(log.state.glasses) == 1) == (code is None)


def test_a_break_glass_without_an_end_is_refused() -> None:
    """It is always time-boxed."""
    log = log_of(a=GLASS)
    log.say("break_glass", signer=PEOPLE["rosa"], reason="fire")
    assert log.refused() == "bad_until"


def test_a_glass_covers_by_the_actions_own_tags() -> None:
    """An agent adds tags as it likes, and must not choose by them what runs without a person."""
    log = log_of(a=GLASS)
    broken(log, scope="tag:hotfix")
    job = ("deployer", "job.deploy.prod", ("hotfix",), "j1")
    assert log.state.glass(log.now_ms, *job) is None
    assert log.state.glass(log.now_ms, *job, action_tags=("prod",)) is None
    assert log.state.glass(log.now_ms, *job, action_tags=("hotfix",)) is not None


def test_a_pause_of_an_added_tag_stands_before_a_glass() -> None:
    """What forbids keeps its wide cover: the tags that the agent added count there."""
    log = log_of(a=GLASS)
    broken(log, scope="tag:hotfix")
    log.say("pause", "tag:risky")
    assert log.state.glass(log.now_ms, "d", "job.x", ("hotfix", "risky"), "j1", ("hotfix",)) is None
    assert log.state.glass(log.now_ms, "d", "job.x", ("hotfix",), "j1", ("hotfix",)) is not None


def test_no_glass_is_broken_over_a_job() -> None:
    """A job id is the agent's choice: the one that was announced would be the one it takes."""
    log = log_of(a=GLASS)
    broken(log, scope="job:j1")
    assert (log.refused(), log.state.glasses) == ("bad_scope", ())


def test_a_bundle_that_names_no_role_has_no_glass_to_break() -> None:
    """Nor is there one before any bundle is active."""
    log = log_of(a=FREE)
    broken(log)
    assert log.refused() == "no_break_glass"
    before = ControlLog()
    broken(before)
    assert before.refused() == "unknown_key"


@pytest.mark.parametrize("kind", ["pause", "stop"])
def test_a_pause_stands_before_a_broken_glass(kind: str) -> None:
    """Whichever came first; after the resume the glass holds again, within its time."""
    log = log_of(a=GLASS)
    broken(log, sec=60)
    log.say(kind, "tag:prod")
    assert log.state.glass(log.now_ms, *JOB) is None
    log.say("resume", "tag:prod")
    assert log.state.glass(log.now_ms, *JOB) is not None


def test_a_revocation_ends_a_broken_glass_for_what_it_covers() -> None:
    """One that came before it does not, so that the glass can be broken anew."""
    log = log_of(a=GLASS)
    broken(log, scope="everything")
    log.say("revoke", "agent:deployer")
    assert log.state.glass(log.now_ms, *JOB) is None
    assert log.state.glass(log.now_ms, "other", *JOB[1:]) is not None
    broken(log)
    assert log.state.glass(log.now_ms, *JOB) is not None


@pytest.mark.parametrize(("scope", "left"), [("agent:deployer", 0), ("everything", 0), ("tag:prod", 1)])
def test_a_glass_whose_whole_scope_is_revoked_is_gone(scope: str, left: int) -> None:
    """Nobody reads of a broken glass that lets nothing through any more."""
    log = log_of(a=GLASS)
    broken(log)
    log.say("revoke", scope)
    assert len(log.state.glasses) == left


def test_a_glass_ends_with_the_right_to_break_it() -> None:
    """A bundle that names another role, or takes the person out, ends it."""
    log = log_of(a=GLASS, b=GLASS, c=FREE)
    broken(log)
    log.activate("b")
    assert len(log.state.glasses) == 1
    log.activate("c")
    assert not log.state.glasses


def test_glasses_that_are_over_are_dropped_and_open_ones_bounded() -> None:
    """One more than `GLASSES_MAX` is refused: what nobody can survey is not opened."""
    log = log_of(a=GLASS)
    for _ in range(GLASSES_MAX):
        broken(log)
    assert log.refused() is None
    broken(log)
    assert log.refused() == "too_many_open"
    log.now_ms += 60_000
    log.say("pause", "agent:x", signer=OLGA)
    assert not log.state.glasses
