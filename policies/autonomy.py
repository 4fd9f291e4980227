"""Autonomy: what an agent's finished work says of the level it may have. Pure; the same events give the same levels.

An event either finishes a job well (`succeeded`), is an error (`failed`, `found_wrong`, `found_harmful`), labels one
(`found_correct`), lowers (`policy_violation`, `safety_incident`), or is a person's word (`signed_off`,
`sign_off_refused`, `level_set`). The error rate is errors over successes and errors within the review period up to
now, begun anew at every change of level and at a refused sign-off. The article's criteria ("Pattern 3: Graduated
autonomy") are necessary; where the document names `evidence`, a likelihood-ratio e-process over the labelled actions
of the whole time at the level (Wald, Sequential analysis, 1947; Ramdas et al., Game-theoretic statistics and safe
anytime-valid inference, 2023) must have passed, too: it may be looked at after every action, which a rate may not.
"""

from __future__ import annotations

from bisect import bisect_left
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from sluicegate.policies.patterns import Glob
from sluicegate.policies.statistics import NATS, Cusum, interval, upper_bound

if TYPE_CHECKING:
    from sluicegate.policies.criteria import Drift
    from sluicegate.policies.documents import AutonomyDocument

Word = Literal[
    "succeeded",
    "failed",
    "found_correct",
    "found_wrong",
    "found_harmful",
    "policy_violation",
    "safety_incident",
    "signed_off",
    "sign_off_refused",
    "level_set",
]
ChangeWord = Literal["requested", "promoted", "demoted", "set"]

ERRORS: Final = ("failed", "found_wrong", "found_harmful")
LOWERING: Final = ("policy_violation", "safety_incident")
FINISHED_MIN: Final = 20
"""How many jobs must be finished before an error rate demotes."""
SLICES_MAX: Final = 168
"""Slices of a review period in a step's state: of the article's week, one an hour."""
DAY_MICROS: Final = 86_400_000_000
_SURE: Final = Fraction(95, 100)
_EXACT: Final = Context(prec=50)
"""Logarithms are taken in decimal arithmetic: every machine gives the same digits."""


class Happened(msgspec.Struct, frozen=True):
    """One event of an agent. ``at`` is in µs since the epoch; ``level`` is what a person sets."""

    at: int
    word: Word
    level: int = 0


class Job(msgspec.Struct, omit_defaults=True):
    """What is remembered of one job as long as something may still be said of it."""

    standing: Literal["open", "succeeded", "erred"] = "open"
    slice_at: int = 0
    """Where the slice begins that counts it as a success."""
    begun: int = 0
    """The counting (`Score.begun`) in which it was taken for a success."""
    labelled: int = -1
    """The level (`Score.moves`) at which it was found correct; -1 where it was not."""


class Counts(msgspec.Struct, frozen=True):
    """What was counted when something changed: within the period, and of labels and errors at the level."""

    level: int = 0
    successes: int = 0
    errors: int = 0
    right: int = 0
    wrong: int = 0


class Change(msgspec.Struct, frozen=True):
    """What an event does to a level. ``level`` is the new one, for `requested` the one asked for."""

    change: ChangeWord
    level: int
    reason: str
    before: Counts = Counts()


class Score(msgspec.Struct, omit_defaults=True):
    """What is remembered of an agent. ``slices`` are (begin, successes, errors), the oldest first."""

    level: int = 0
    asked: int | None = None
    """The level that a person was asked for."""
    slices: list[tuple[int, int, int]] = []
    successes: int = 0
    errors: int = 0
    """The sums over the slices."""
    right: int = 0
    """Labelled actions at this level that were found correct."""
    wrong: int = 0
    """Errors at this level, whoever found them."""
    drift: int = 0
    """The sum of a sequential test for drift, in millionths of a nat."""
    begun: int = 0
    """How often counting began anew."""
    moves: int = 0
    """How often the level changed."""


class EProcess:
    """Evidence that an agent's error rate is below ``ruled_out``, against ``expected``; it is enough at ``threshold``.

    The value is the product over labelled actions of the likelihood ratio of ``expected`` to ``ruled_out``. Under any
    rate of at least ``ruled_out`` the chance that it ever reaches 1/a is at most a (Ville, 1939).
    """

    def __init__(self, ruled_out: Decimal, expected: Decimal, confidence: Decimal) -> None:
        one = Decimal(1)
        self._right = _EXACT.ln(_EXACT.divide(one - expected, one - ruled_out))
        self._wrong = _EXACT.ln(_EXACT.divide(expected, ruled_out))
        self._enough = _EXACT.ln(_EXACT.divide(one, one - confidence))

    def log_value(self, right: int, wrong: int) -> Decimal:
        """The natural logarithm of the e-value."""
        return _EXACT.add(_EXACT.multiply(self._right, right), _EXACT.multiply(self._wrong, wrong))

    def value(self, right: int, wrong: int) -> Decimal:
        """The e-value, to six digits."""
        return Context(prec=6).exp(self.log_value(right, wrong))

    def enough(self, right: int, wrong: int) -> bool:
        """Whether the evidence suffices."""
        return right >= self.wanted(wrong)

    @lru_cache(maxsize=1_024)  # noqa: B019  # as many as there are documents that name evidence
    def wanted(self, wrong: int) -> int:
        """How many actions found correct it takes with so many errors."""
        missing = _EXACT.subtract(self._enough, _EXACT.multiply(self._wrong, wrong))
        return int(_EXACT.divide(missing, self._right).to_integral_value("ROUND_CEILING"))


class AutonomyTerms:
    """What a document says of how levels move."""

    def __init__(self, document: AutonomyDocument) -> None:
        self.levels = frozenset(int(name.removeprefix("level_")) for name in document.autonomy_levels)
        self._domains = [(name, tuple(map(Glob, document.domains[name]))) for name in sorted(document.domains)]
        criteria = document.promotion_criteria
        self._criteria = criteria
        said = None if criteria is None else criteria.topics
        self._counted = None if said is None else tuple(map(Glob, said))
        self.period = None if criteria is None else round(_exact(criteria.review_period_days) * DAY_MICROS)
        self._rate_max = Fraction(0) if criteria is None else _exact(criteria.max_error_rate)
        triggers = document.demotion_triggers
        self._falls: dict[str, int] = {
            each.trigger: each.to_level or 0 for each in triggers if each.trigger is not None
        }
        rates = [(_exact(each.error_rate_above), each) for each in triggers if each.error_rate_above is not None]
        self._rate_above = min([(rate, each.levels_down or 1) for rate, each in rates], default=None)
        drifts = [(_cusum(each.drift), each.levels_down or 1) for each in triggers if each.drift is not None]
        self._drift = drifts[0] if drifts else None

    @cached_property
    def evidence(self) -> EProcess | None:
        """The e-process that the document names."""
        said = None if self._criteria is None else self._criteria.evidence
        if said is None:
            return None
        parts = (said.error_rate_ruled_out, said.error_rate_expected, said.confidence)
        return EProcess(*[Decimal(repr(part)) for part in parts])

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain in which an agent has a level, the empty name for the topics of none."""
        return ("", *[name for name, _ in self._domains])

    def domain(self, topic: str) -> str:
        """The domain of a topic."""
        return next((name for name, globs in self._domains if any(glob.matches(topic) for glob in globs)), "")

    def counts(self, topic: str) -> bool:
        """Whether jobs of a topic count for a level."""
        return self._counted is None or any(glob.matches(topic) for glob in self._counted)

    def lacking(self, score: Score) -> str | None:
        """What is missing for the next level, or None: then it may be asked for."""
        criteria = self._criteria
        if criteria is None or score.level + 1 not in self.levels:
            return "there is no next level"
        successes, errors = score.successes, score.errors
        if successes < criteria.min_successful_actions:
            return f"{successes} successes of {criteria.min_successful_actions}"
        if _above(errors, successes + errors, self._rate_max):
            return f"{errors} errors of {successes + errors} finished, more than {criteria.max_error_rate}"
        said, evidence = criteria.evidence, self.evidence
        if said is None or evidence is None or score.level + 1 not in said.levels:
            return None
        if evidence.enough(score.right, score.wrong):
            return None
        wanted = evidence.wanted(score.wrong)
        return f"{score.right} labelled correct of {wanted} wanted with {score.wrong} errors"

    @property
    def grain(self) -> int:
        """How much time one slice of a step's score holds, in µs: the period has at most `SLICES_MAX` of them."""
        return 1 if self.period is None else max(1, self.period // SLICES_MAX)

    @property
    def asks_people(self) -> bool:
        """Whether a person must sign a promotion off."""
        return self._criteria is None or self._criteria.requires_human_sign_off

    def case(self, counted: Counts) -> dict[str, int | str]:
        """What speaks for a promotion, for the person who signs it off: counts, exact 95 % bounds, evidence."""
        finished, labelled = counted.successes + counted.errors, counted.right + counted.wrong
        low, high = interval(counted.errors, finished, _SURE)
        found: dict[str, int | str] = {
            "successes": counted.successes,
            "errors": counted.errors,
            "error_rate_95_percent": f"{low} to {high}",
            "labelled_correct": counted.right,
            "labelled_wrong": counted.wrong,
            "labelled_error_rate_at_most": str(upper_bound(counted.wrong, labelled, _SURE)),
        }
        evidence = self.evidence
        if evidence is not None:
            found["e_value"] = str(evidence.value(counted.right, counted.wrong))
            found["labelled_correct_wanted"] = evidence.wanted(counted.wrong)
        return found

    def weigh(self, score: Score, event: Happened, job: Job | None = None, grain: int = 1) -> list[Change]:
        """Take an event into a score, and into the job it is about, in place; what it changes, in order.

        ``grain`` is how much time one slice of the score holds, in µs: 1 is exact; with more a slice counts until its
        last moment has left the period, and a score stays small.
        """
        self._forget(score, event.at, grain)
        job = Job() if job is None else job
        changes: list[Change] = []
        word = event.word
        if word == "succeeded":
            if job.standing == "open":
                job.standing, job.begun = "succeeded", score.begun
                job.slice_at = _count(score, event.at, grain, succeeded=1)
                self._drifts(score, wrong=False)
        elif word == "found_correct":
            _found_correct(score, job)
        elif word in ERRORS:
            if _erred(score, job, event.at, grain):
                self._drifts(score, wrong=True)
        elif word in LOWERING:
            lowest = self._falls.get(word, score.level)
            if score.level > lowest:
                changes.append(_moved(score, "demoted", lowest, word.replace("_", " ")))
        elif word == "level_set":
            if event.level != score.level:
                changes.append(_moved(score, "set", event.level, "set by a person"))
        elif word == "signed_off":
            asked, score.asked = score.asked, None
            if asked is not None and self.lacking(score) is None:
                changes.append(_moved(score, "promoted", asked, "signed off"))
        elif word == "sign_off_refused":
            score.asked = None
            _begin(score)
        return changes + self._follows(score)

    def _follows(self, score: Score) -> list[Change]:
        """What the counts themselves ask for."""
        finished = score.successes + score.errors
        if score.level and self._rate_above is not None and finished >= FINISHED_MIN:
            most, down = self._rate_above
            if _above(score.errors, finished, most):
                reason = f"{score.errors} errors of {finished} finished, above {float(most)}"
                return [_moved(score, "demoted", max(0, score.level - down), reason)]
        if score.level and self._drift is not None and score.drift >= self._drift[0].threshold:
            reason = f"drift: {score.errors} errors of {finished} finished, {score.drift / NATS:.2f} nats"
            return [_moved(score, "demoted", max(0, score.level - self._drift[1]), reason)]
        if score.asked is None and self.lacking(score) is None:
            reason = f"{score.successes} successes, {score.errors} errors of {finished} finished"
            if not self.asks_people:
                return [_moved(score, "promoted", score.level + 1, reason)]
            score.asked = score.level + 1
            return [Change("requested", score.asked, reason, counts(score))]
        return []

    def _drifts(self, score: Score, *, wrong: bool) -> None:
        if self._drift is not None:
            score.drift = self._drift[0].next(score.drift, wrong=wrong)

    def _forget(self, score: Score, at: int, grain: int) -> None:
        """Drop the slices that lie before the period up to now; without criteria there is no period."""
        if self.period is None:
            return
        begin, old = at - self.period, 0
        for first, successes, errors in score.slices:
            if first + grain - 1 >= begin:
                break
            old += 1
            score.successes -= successes
            score.errors -= errors
        del score.slices[:old]


def _exact(number: float) -> Fraction:
    """A number of a document as it is written there."""
    return Fraction(repr(number))


def _cusum(said: Drift) -> Cusum:
    return Cusum(_exact(said.usual_error_rate), _exact(said.feared_error_rate), _exact(said.threshold))


def _above(errors: int, finished: int, rate: Fraction) -> bool:
    """Whether so many errors are a higher rate than this, strictly."""
    return errors * rate.denominator > rate.numerator * finished


def _count(score: Score, at: int, grain: int, *, succeeded: int = 0, erred: int = 0) -> int:
    """Count one; where its slice begins, which is never before the last one: time of a step stands still or goes on."""
    begin = at // grain * grain
    last = score.slices[-1] if score.slices else None
    if last is not None and last[0] >= begin:
        begin = last[0]
        score.slices[-1] = (begin, last[1] + succeeded, last[2] + erred)
    else:
        score.slices.append((begin, succeeded, erred))
    score.successes += succeeded
    score.errors += erred
    return begin


def _found_correct(score: Score, job: Job) -> None:
    if job.standing != "erred" and job.labelled != score.moves:
        job.labelled = score.moves
        score.right += 1


def _erred(score: Score, job: Job, at: int, grain: int) -> bool:
    """A job is at most one error, and what is an error is no success, and was not rightly found correct."""
    if job.standing == "erred":
        return False
    if job.standing == "succeeded" and job.begun == score.begun:
        place = bisect_left(score.slices, (job.slice_at,))
        if place < len(score.slices) and score.slices[place][0] == job.slice_at:
            begin, successes, errors = score.slices[place]
            score.slices[place] = (begin, successes - 1, errors)
            score.successes -= 1
    if job.labelled == score.moves:
        score.right -= 1
    job.standing, job.labelled = "erred", -1
    _count(score, at, grain, erred=1)
    score.wrong += 1
    return True


def _begin(score: Score) -> None:
    score.slices.clear()
    score.successes = score.errors = score.drift = 0
    score.begun += 1


def _moved(score: Score, change: ChangeWord, level: int, reason: str) -> Change:
    return Change(change, level, reason, move(score, level))


def move(score: Score, level: int) -> Counts:
    """Put a score at a level, where all counting begins anew and nothing is asked for; what was counted before."""
    before = counts(score)
    _begin(score)
    score.level, score.asked, score.right, score.wrong = level, None, 0, 0
    score.moves += 1
    return before


def counts(score: Score) -> Counts:
    """What is counted now."""
    return Counts(score.level, score.successes, score.errors, score.right, score.wrong)
