"""Stops and revocations in the fold of commands: what they cover, how long, and that every process agrees."""

from __future__ import annotations

import random
from typing import Any

import pytest
from control_log_world import (
    JOB,
    OLGA,
    PEOPLE,
    REX,
    ControlLog,
    digest_of,
    documents_of,
    persons,
    snapshot_name,
)

from sluicegate.schemas.events import Command
from sluicegate.streams import control_fold, control_scopes
from sluicegate.streams.control_scopes import (
    GLASSES_MAX,
    REVOCATIONS_KEPT_MS,
    REVOCATIONS_MAX,
    STOPS_KEPT_MS,
    STOPS_MAX,
    Revocation,
    Stop,
    kept_revocations,
    kept_stops,
    with_stop,
)
from sluicegate.streams.control_state import COMMANDS
from sluicegate.streams.control_terms import SnapshotTerms

HOUR_MS = 3_600_000


@pytest.fixture
def log() -> ControlLog:
    return ControlLog()


# --- stop


def test_a_stop_pauses_its_scope_until_it_is_resumed(log: ControlLog) -> None:
    """Nothing new starts in a stopped scope; a resume of the scope lets it go on."""
    log.say("stop", "agent:deployer")
    assert log.state.paused(*JOB) == "agent:deployer"
    log.say("resume", "agent:deployer")
    assert log.state.paused(*JOB) is None


def test_a_stop_covers_what_was_started_before_it_and_nothing_after(log: ControlLog) -> None:
    """An attempt that was started after the scope was resumed is none of the stop's business."""
    log.say("pause", "agent:other")
    started_under = log.state.offset
    command_id = log.say("stop", "tag:prod", reason="drill")
    found = log.state.stops_after(started_under, *JOB)
    assert [(stop.command_id, stop.scope, stop.reason, stop.by) for stop in found] == [
        (command_id, "tag:prod", "drill", OLGA.key_id)
    ]
    assert log.state.stops_after(log.state.offset, *JOB) == ()


def test_a_stop_covers_only_its_scope(log: ControlLog) -> None:
    """Another agent's jobs run on."""
    log.say("stop", "agent:deployer")
    assert log.state.stops_after(-1, "other", *JOB[1:]) == ()


def test_every_stop_of_a_scope_is_answered_for_itself(log: ControlLog) -> None:
    """A second stop does not take the first one's place: whoever sent each waits for its answer."""
    first, second = log.say("stop"), log.say("stop")
    assert [stop.command_id for stop in log.state.stops_after(-1, *JOB)] == [first, second]


def test_stops_are_forgotten_by_later_commands_after_48_hours() -> None:
    """Exactly 48 hours of log time; the pause stays."""
    log = ControlLog()
    log.say("stop", "agent:deployer")
    log.later(48)
    log.say("pause", "agent:x")
    assert len(log.state.stops) == 1
    log.now_ms += 1
    log.say("pause", "agent:y")
    assert not log.state.stops
    assert log.state.paused(*JOB) == "agent:deployer"


def test_no_stop_of_a_burst_is_dropped() -> None:
    """A worker may meet them all at once: one too many is refused aloud, and what it names is paused all the same."""
    log = ControlLog()
    for number in range(STOPS_MAX):
        log.say("stop", f"job:j{number}")
    assert log.state.stops_after(-1, *JOB[:3], "j0") != ()
    log.say("stop", "agent:deployer")
    assert log.refused() == "too_many_stops"
    assert log.state.paused(*JOB) == log.blind.paused(*JOB) == "agent:deployer"
    assert len(log.state.stops) == len(log.blind.stops) == STOPS_MAX


@pytest.mark.parametrize(("scope", "kept"), [("everything", 1), ("job:j0", STOPS_MAX)])
def test_a_stop_that_covers_earlier_ones_finds_room(scope: str, kept: int) -> None:
    """The switch for everything always works: it reaches every attempt that those in whose place it stands reached."""
    stops = tuple(Stop(str(number), f"job:j{number}", number, 0, "", None) for number in range(STOPS_MAX))
    found = with_stop(stops, Stop("last", scope, STOPS_MAX, 0, "", None))
    assert found is not None
    assert (len(found), found[-1].command_id) == (kept, "last")
    assert kept_stops(found, STOPS_KEPT_MS) == found


# --- snapshots


@pytest.mark.parametrize(
    "lie",
    [
        {"documents": "{}"},
        {"documents": documents_of("b")},
        {"digest": "0" * 64},
        {"digest": digest_of("a").upper()},
        {"name": "a:c0ffee"},
        {"name": digest_of("a")[:6]},
        {"name": f":{digest_of('a')[:6]}"},
    ],
)
def test_a_snapshot_is_what_its_digest_says(lie: dict[str, str]) -> None:
    """Anything else is refused at publication, and takes no honest one's place."""
    log = ControlLog()
    log.terms["a"] = SnapshotTerms()
    log.publish("a", **lie)
    assert log.state.last_snapshot is not None
    assert log.state.last_snapshot.code == log.blind.last_snapshot.code == "bad_digest"  # type: ignore[union-attr]
    log.publish("a")
    log.activate("a")
    assert log.active == "a"


def test_another_version_of_the_name_does_not_block_the_true_one() -> None:
    """Whose word for the version is false names what nobody can activate; the true name stands beside it."""
    log = ControlLog()
    log.terms.update(
        a=SnapshotTerms(snapshot_name=snapshot_name("a")), lie=SnapshotTerms(snapshot_name=snapshot_name("a"))
    )
    lie = f"lie:{digest_of('a')[:6]}"
    log.publish("a", name=lie)
    log.activate("a", policy_snapshot=lie)
    assert log.refused() == "unusable_snapshot"
    log.publish("a")
    log.activate("a")
    assert (log.active, log.refused()) == ("a", None)
    log.publish("a")
    assert log.state.last_snapshot is not None
    assert log.state.last_snapshot.code == "repeated"


def test_an_activation_names_its_snapshot_by_name_and_digest() -> None:
    """A name that is another's tells those who read the log, or agree, of something else."""
    log = ControlLog(a=SnapshotTerms(), b=SnapshotTerms())
    for given in (snapshot_name("b"), "a:000000", None):
        log.activate("a", policy_snapshot=given)
        assert (log.refused(), log.active) == ("unknown_snapshot", None)


def test_an_activation_names_what_it_replaces() -> None:
    """Of two operators who looked at the same state one comes first; the other is told to look again."""
    log = ControlLog(a=SnapshotTerms(), b=SnapshotTerms(), c=SnapshotTerms())
    log.activate("a", previous=snapshot_name("b"))
    assert log.refused() == "stale_previous"
    log.activate("a")
    log.activate("b", previous=None)
    assert log.refused() == "stale_previous"
    log.activate("b")
    log.activate("c", previous=snapshot_name("a"))
    assert (log.refused(), log.active) == ("stale_previous", "b")


def test_nothing_is_activated_over_what_this_build_cannot_read() -> None:
    """Whose word the active bundle asks for is unknown, so that nobody's word would be asked for."""
    log = ControlLog(a=SnapshotTerms(), b=SnapshotTerms())
    log.activate("a")
    log.terms["a"] = None
    log.activate("b")
    assert (log.refused(), log.active) == ("unusable_active", "a")


# --- revoke


def test_a_revocation_voids_the_grants_before_it_and_no_later_ones(log: ControlLog) -> None:
    """It names its command and who gave it; nothing is paused."""
    granted_under = log.state.offset
    command_id = log.say("revoke", "job:j1", reason="leaked")
    found = log.state.revoked(granted_under, *JOB)
    assert found is not None
    assert (found.command_id, found.by, found.reason) == (command_id, OLGA.key_id, "leaked")
    assert log.state.revoked(log.state.offset, *JOB) is None
    assert log.state.revoked(granted_under, *JOB[:3], "j2") is None
    assert log.state.paused(*JOB) is None


def test_a_resume_does_not_bring_a_revoked_grant_back(log: ControlLog) -> None:
    """What is void stays void."""
    log.say("revoke")
    log.say("resume")
    assert log.state.revoked(-1, *JOB) is not None


def _revocations(count: int) -> tuple[Revocation, ...]:
    return tuple(Revocation(str(number), "agent:x", number, number, "", None) for number in range(count))


def test_an_old_revocation_voids_more_and_never_less() -> None:
    """After 8 days it is one of everything at the same offset: an older grant of anybody is void."""
    young = kept_revocations(_revocations(2), REVOCATIONS_KEPT_MS)
    old = kept_revocations(_revocations(2), REVOCATIONS_KEPT_MS + 1)
    assert [each.scope for each in young] == ["agent:x", "agent:x"]
    assert [(each.scope, each.offset) for each in old] == [("everything", 0), ("agent:x", 1)]
    assert kept_revocations(old, REVOCATIONS_KEPT_MS + 2)[0].offset == 1


def test_too_many_revocations_void_more_and_never_less() -> None:
    """The oldest become one of everything; their number is bounded."""
    kept = kept_revocations(_revocations(REVOCATIONS_MAX + 3), 0)
    assert (len(kept), kept[0].scope, kept[0].offset) == (REVOCATIONS_MAX + 1, "everything", 2)
    assert kept_revocations(_revocations(REVOCATIONS_MAX), 0)[0].scope == "agent:x"


# --- ids


def test_an_id_is_used_up_by_a_refused_command(log: ControlLog) -> None:
    """Those who cannot tell whether an activation is accepted still agree that its id is used."""
    log.activate("nothing", command_id="once")
    assert log.refused() == "unknown_snapshot"
    log.say("pause", command_id="once")
    assert log.refused() == "repeated"
    assert log.state.pauses == log.blind.pauses == ()


def test_a_copy_is_stale_before_its_id_is_forgotten(log: ControlLog) -> None:
    """No hour lets an old pause in again, and ids do not pile up."""
    record = log.write(
        OLGA, COMMANDS, "everything", Command(command_id="p", kind="pause", scope="everything", by=OLGA.key_id)
    )
    for hours, code in ((23, "repeated"), (2, "stale"), (22.9, "stale"), (0.2, "stale")):
        log.later(hours)
        log.again(record)
        assert log.refused() == code
    assert log.state.seen == {}


@pytest.mark.parametrize(("kind", "signer"), [("sign_off", OLGA), ("break_glass", OLGA), ("pause", PEOPLE["ken"])])
def test_each_kind_has_its_signers(kind: str, signer: Any) -> None:
    """Operators neither agree nor break the glass; people command nothing else."""
    log = ControlLog(a=SnapshotTerms(persons=persons(ken=("boss",))))
    log.activate("a")
    log.say(kind, signer=signer, reason="x")
    assert log.refused() == "wrong_signer"


# --- those who fold without bundles


def test_the_shortest_lease_of_all_activations_is_known_without_bundles() -> None:
    """A worker cannot tell which activation holds, so it gives signs of life for the shortest lease of all."""
    log = ControlLog(a=SnapshotTerms(sign_off_people=1), bad=None)
    assert log.blind.lease_sec == 30
    log.activate("a", settings='{"attempt_lease_sec":60}')
    assert (log.blind.lease_sec, log.blind.active, log.blind.settings.attempt_lease_sec) == (60, None, 30)
    log.activate("a", settings='{"attempt_lease_sec":20}')
    assert (log.state.settings.attempt_lease_sec, log.blind.lease_sec) == (60, 20)
    log.activate("bad", settings='{"attempt_lease_sec":90}')
    assert (log.state.lease_sec, log.blind.lease_sec) == (20, 20)


KINDS = ("pause", "resume", "stop", "revoke", "activate", "sign_off", "break_glass", "wait")
SCOPES = ("everything", "agent:deployer", "tag:prod", "job:j1", "nonsense")
SIGNERS: dict[str, Any] = {"olga": OLGA, "rex": REX, "ken": PEOPLE["ken"], "rosa": PEOPLE["rosa"]}


@pytest.mark.parametrize("seed", range(300))
def test_who_folds_without_bundles_reaches_the_same_pauses_stops_and_revocations(seed: int) -> None:
    """Whatever is activated, agreed to or refused, with ids used twice and days in between."""
    chance = random.Random(seed)
    people = persons(ken=("boss",), rosa=("boss",))
    terms = SnapshotTerms(sign_off_people=1, break_glass_role="boss", break_glass_sec_max=60, persons=people)
    log = ControlLog(a=terms, b=SnapshotTerms(persons=people), bad=None)
    for _ in range(25):
        kind = chance.choice(KINDS)
        if kind == "wait":
            log.later(chance.choice((1, 13, 49)))
            continue
        proposed, named = log.state.proposed, chance.choice(("a", "b", "bad"))
        log.say(
            kind,
            chance.choice(SCOPES),
            chance.choice(list(SIGNERS.values())),
            command_id=f"id{chance.randrange(12)}",
            policy_digest=digest_of(named),
            policy_snapshot=snapshot_name(named),
            previous=None if log.state.active is None else log.state.active.name,
            ref=None if proposed is None else proposed.command_id,
            reason="why",
            until_ms=log.now_ms + 1000,
        )
        for field in ("offset", "at_ms", "pauses", "stops", "revocations", "shortest_lease_sec"):
            assert getattr(log.state, field) == getattr(log.blind, field), field
        assert (log.blind.active, log.blind.proposed, log.blind.glasses) == (None, None, ())


def test_the_limits_are_named() -> None:
    """Everything has a limit with a name and a unit."""
    assert (STOPS_KEPT_MS, control_fold.SEEN_KEPT_MS) == (48 * HOUR_MS, 48 * HOUR_MS)
    assert control_scopes.REVOCATIONS_KEPT_MS == 192 * HOUR_MS
    assert GLASSES_MAX == 100
