"""What the gate remembers of the log and judges by: windows, retries, first times, the anomaly score, levels, modes."""

from __future__ import annotations

import pytest
import yaml
from gate_world import PASS, REFUNDS, done, facts, files, refund
from world import ARTICLE, World, policy_files

from sluicegate.policies.anomaly import COLD_START_EVENTS
from sluicegate.schemas.events import ApprovalRequest, Decision

# --- windows


def test_one_large_refund_split_into_small_ones_is_held() -> None:
    """The window holds the sum, this intent included; the threshold is strict, and what is held counts, too."""
    world = World(files(refunds=REFUNDS))
    said = [refund(world, f"j{number}", 25).decision for number in range(6)]
    assert said == ["ALLOW"] * 4 + ["REQUIRE_APPROVAL"] * 2
    last = world.last("job.decisions", Decision)
    assert [rule.id for rule in last.rules] == ["split"]
    assert facts(last)["amount_usd_24h"] == 150.0
    assert world.verified().faults == []


def test_variants_of_a_topic_share_one_window() -> None:
    """A topic is the agent's word: another spelling under the same entry of actions.yaml opens no new window."""
    world = World(files(refunds=REFUNDS))
    topics = [f"job.support.refund-{number}" for number in range(5)]
    assert [refund(world, f"j{n}", 25, topic).decision for n, topic in enumerate(topics)][-1] == "REQUIRE_APPROVAL"


def test_a_negative_amount_takes_nothing_from_a_window() -> None:
    """Only what is positive counts."""
    world = World(files(refunds=REFUNDS))
    for number, amount in enumerate([60, -60, 60]):
        refund(world, f"j{number}", amount)
    assert facts(world.last("job.decisions", Decision))["amount_usd_24h"] == 120.0


def test_a_window_forgets_what_it_has_left_behind() -> None:
    """A day and one slice later the sum begins anew, and the card holds no old slice."""
    world = World(files(refunds=REFUNDS))
    refund(world, "j1", 90)
    world.log.advance(25 * 3_600_000 + 1)
    assert facts(refund(world, "j2", 90))["amount_usd_24h"] == 90.0


def test_an_unreadable_amount_leaves_the_window_open_and_the_refund_waits() -> None:
    """Text where a number belongs is unknown: the rule over the window is open, and it is the stricter one."""
    world = World(files(refunds=REFUNDS))
    decision = refund(world, "j1", "25")
    assert (decision.decision, decision.missing) == ("REQUIRE_APPROVAL", ["amount_usd", "amount_usd_24h"])


def test_what_is_judged_again_counts_once() -> None:
    """A resend and a judgement after an approval under another snapshot add nothing to a window."""
    world = World(files(refunds=REFUNDS))
    refund(world, "j1", 101)
    world.activate(files(refunds=REFUNDS, more=PASS))
    world.decide("j1", "approve")
    last = world.last("job.decisions", Decision)
    assert last.again_after is not None
    assert facts(last)["amount_usd_24h"] == 101.0


def test_a_window_that_comes_with_another_policy_holds_what_is_judged_again() -> None:
    """Jobs that wait for people are counted by a rule that comes meanwhile, each as it is judged again."""
    world = World(files(all='rules: [{ id: ask, match: { topics: ["*"] }, decision: require_approval }]\n'))
    for number in range(3):
        refund(world, f"j{number}", 100)
    capped = """
rules:
  - { id: much, match: { topics: ["job.support.*"], amount_usd_24h_above: 150 }, decision: deny }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""
    world.activate(files(all=capped))
    for number in range(3):
        world.decide(f"j{number}", "approve")
    last = [each for each in world.events("job.decisions", Decision) if each.again_after]
    assert [each.decision for each in last] == ["ALLOW", "DENY", "DENY"]


def test_what_is_judged_again_after_the_window_holds_its_own_share() -> None:
    """The window always holds the intent that is judged."""
    half = REFUNDS.replace("24h_above: 100", "30m_above: 100")
    world = World(files(refunds=half))
    refund(world, "j1", 101)
    world.log.advance(50 * 60_000)
    world.activate(files(refunds=half, more=PASS))
    refund(world, "j2", 80)
    world.decide("j1", "approve")
    assert facts(world.last("job.decisions", Decision))["amount_usd_30m"] == 181.0


def test_a_window_that_nothing_asks_for_any_more_is_dropped() -> None:
    """A rule that is gone leaves no sums behind, and one that comes begins to count with its snapshot."""
    world = World(files(refunds=REFUNDS))
    refund(world, "j1", 60)
    world.activate(files(refunds=PASS))
    refund(world, "j2", 60)
    world.activate(files(refunds=REFUNDS))
    assert facts(refund(world, "j3", 60))["amount_usd_24h"] == 120.0  # nothing was judged by windows in between
    world.activate(files(refunds=REFUNDS.replace("24h", "12h")))
    refund(world, "j4", 1)
    world.activate(files(refunds=REFUNDS))
    assert facts(refund(world, "j5", 10))["amount_usd_24h"] == 10.0


# --- retries and first times

RETRIES = """
rules:
  - { id: storm, match: { retry_count_above: 2 }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""


def test_a_retry_storm_is_held() -> None:
    """The same order again and again, whatever else the payload says: the fourth try waits."""
    world = World(files(retries=RETRIES))
    said = [refund(world, f"j{number}", number, order="o-1").decision for number in range(4)]
    assert said == ["ALLOW", "ALLOW", "ALLOW", "REQUIRE_APPROVAL"]
    assert facts(world.last("job.decisions", Decision))["retry_count"] == 3.0
    assert world.verified().faults == []


def test_a_success_ends_the_count_of_retries() -> None:
    """Tries are counted since the last success of the same thing."""
    world = World(files(retries=RETRIES))
    for number in range(3):
        refund(world, f"j{number}", 1, order="o-1")
    done(world, "j2")
    assert facts(refund(world, "j4", 1, order="o-1"))["retry_count"] == 0.0


def test_after_an_hour_without_a_try_nothing_is_a_retry() -> None:
    """An hour from the last try, not from the first."""
    world = World(files(retries=RETRIES))
    counts = []
    for number in range(3):
        counts.append(facts(refund(world, f"j{number}", 1, order="o-1"))["retry_count"])
        world.log.advance(3_599_000)
    world.log.advance(3_600_001)
    counts.append(facts(refund(world, "j9", 1, order="o-1"))["retry_count"])
    assert counts == [0.0, 1.0, 2.0, 0.0]


def test_other_orders_do_not_make_a_storm_forgotten() -> None:
    """Each thing has a count of its own, so a flood of other things hides no storm."""
    world = World(files(retries=RETRIES))
    for number in range(2):
        refund(world, f"j{number}", 1, order="o-1")
        for other in range(150):
            refund(world, f"k{number}-{other}", 1)
    assert facts(refund(world, "j9", 1, order="o-1"))["retry_count"] == 2.0


def test_another_spelling_of_the_topic_or_the_number_is_the_same_try() -> None:
    """What the entry of actions.yaml says is one thing stays one, however its agent spells it."""
    world = World(files(retries=RETRIES))
    for number, order in enumerate(("7", "7.0", "7")):
        payload = f'{{"order":{{"id":{order},"total_usd":1}}}}'.encode()
        world.submit(f"j{number}", f"job.support.refund{number}", payload)
    assert facts(world.last("job.decisions", Decision))["retry_count"] == 2.0


def test_tries_are_forgotten_in_the_state_too() -> None:
    """An hour after the last try its entry goes, and what is kept for longer holds nothing back."""
    world = World(files(retries=RETRIES))
    for hour in range(6):
        for number in range(20):
            refund(world, f"j{hour}-{number}", 1)
        world.log.advance(3_700_000)
    names = [name for store in world.engines[0]._group.state.values() for name in store]
    assert len([name for name in names if name.startswith("tries/")]) <= 40


FIRST = """
rules:
  - { id: first, match: { first_time_action: true }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""


def test_an_action_is_a_first_time_until_it_had_a_result() -> None:
    """Asking is not doing: what was only asked for makes nothing familiar, and another topic is new again."""
    world = World(files(first=FIRST))
    assert refund(world, "j1", 1).decision == "REQUIRE_APPROVAL"
    assert refund(world, "j2", 1).decision == "REQUIRE_APPROVAL"
    world.decide("j1", "approve")
    done(world, "j1")
    assert refund(world, "j3", 1).decision == "ALLOW"
    assert refund(world, "j4", 1, topic="job.support.refund-2").decision == "REQUIRE_APPROVAL"
    assert world.verified().faults == []


def test_a_topic_without_a_result_for_90_days_is_new_again() -> None:
    """What is remembered of a topic ends, in meaning and in the state."""
    world = World(files(first=FIRST))
    refund(world, "j1", 1)
    world.decide("j1", "approve")
    done(world, "j1")
    world.log.advance(91 * 86_400_000)
    assert refund(world, "j2", 1).decision == "REQUIRE_APPROVAL"


# --- the anomaly score

ANOMALY = """
rules:
  - { id: strange, match: { anomaly_score_above: 0.8 }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""


def test_an_agent_that_has_learned_nothing_is_in_cold_start_and_says_so() -> None:
    """Without a baseline the score is 0; the decision names the cold start and the features it saw."""
    world = World(files(anomaly=ANOMALY))
    decision = refund(world, "j1", 10)
    score = next(fact for fact in decision.facts if fact.name == "anomaly_score")
    assert (decision.decision, score.value, score.source) == ("ALLOW", 0.0, "cold_start")
    assert decision.features


def test_a_strange_refund_is_held_after_the_cold_start_and_verify_recomputes_it() -> None:
    """300 results teach what is usual; a hundredfold amount is not."""
    world = World(files(anomaly=ANOMALY))
    for number in range(COLD_START_EVENTS):
        refund(world, f"j{number}", 20 + number % 7)
        done(world, f"j{number}")
        world.log.advance(600_000)
    usual, strange = refund(world, "usual", 22), refund(world, "strange", 9_000)
    assert (usual.decision, strange.decision) == ("ALLOW", "REQUIRE_APPROVAL")
    assert {fact.source for fact in strange.facts if fact.name == "anomaly_score"} == {"own"}
    assert world.verified().faults == []


# --- levels and modes


def autonomy(level: int) -> dict[str, str]:
    base = policy_files()
    agents = [
        {
            "id": "deployer",
            "owner": "rosa",
            "version": "1",
            "key": {"kind": "hmac"},
            "initial_level": {"level": level, "reason": "shown", "signer": "rosa"},
        }
    ]
    base["agents.yaml"] = yaml.safe_dump({"agents": agents})
    base["graduated-autonomy.yaml"] = (ARTICLE / "graduated-autonomy.yaml").read_text()
    return base


@pytest.mark.parametrize(
    ("level", "decision"), [(0, "REQUIRE_APPROVAL"), (1, "ALLOW"), (2, "ALLOW_WITH_CONSTRAINTS"), (3, "ALLOW")]
)
def test_the_level_of_an_agent_is_one_more_layer(level: int, decision: str) -> None:
    """Every agent is judged at the level that agents.yaml gives it, and the decision names it."""
    world = World(autonomy(level))
    world.submit("j1", "job.crm.read")
    last = world.last("job.decisions", Decision)
    assert (last.decision, last.level) == (decision, level)


def test_an_observed_bundle_grants_and_records_what_it_would_have_held() -> None:
    """Nobody is asked, the job runs, and the decision holds the whole judgement."""
    world = World({**policy_files(), "bundle.yaml": "mode: observe\n"})
    world.submit("j1", "job.deploy.web")
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.mode) == ("ALLOW", "observe")
    assert decision.observed is not None
    assert decision.observed.decision == "REQUIRE_APPROVAL"
    assert [rule.id for rule in decision.observed.rules] == ["approve-prod-deploys"]
    assert len(world.grants("j1")) == 1
    assert world.events("approval.requests", ApprovalRequest) == []
    assert world.verified().faults == []


def test_an_observed_layer_leaves_the_others_acting() -> None:
    """A new file can be tried beside what is enforced."""
    extra = 'mode: observe\nrules: [{ id: never, match: { topics: ["job.crm.*"] }, decision: deny }]\n'
    world = World(policy_files(**{"new.yaml": extra}))
    world.submit("j1", "job.crm.read")
    decision = world.last("job.decisions", Decision)
    assert decision.decision == "ALLOW"
    assert decision.observed is not None
    assert decision.observed.decision == "DENY"


# --- what the request carries


def test_whoever_decides_sees_the_facts_the_judgement_rests_on() -> None:
    """The request holds what the decision holds."""
    world = World(files(refunds=REFUNDS))
    decision = refund(world, "j1", 1_400)
    request = world.request("j1")
    assert request.facts == decision.facts
    assert {fact.name: fact.source for fact in request.facts} == {
        "amount_usd": "payload",
        "affected_users": "payload",
        "confidence": "claimed",
        "amount_usd_24h": "computed",
        "count_1h": "computed",
    }
