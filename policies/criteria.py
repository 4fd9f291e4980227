"""What moves a level, as people write it: criteria of promotion, triggers of demotion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from sluicegate.policies.fields import Count, OpenRate, Patterns, Positive, Rate, Strict


class Evidence(Strict):
    """What labelled actions must have shown before an agent is promoted to one of these levels, tested sequentially."""

    levels: Annotated[list[Positive], Field(min_length=1)]
    error_rate_ruled_out: OpenRate
    error_rate_expected: OpenRate
    confidence: OpenRate


class PromotionCriteria(Strict):
    """What an agent must have shown before a person may promote it."""

    min_successful_actions: Positive
    max_error_rate: Rate
    review_period_days: Annotated[float, Field(gt=0)]
    requires_human_sign_off: bool
    evidence: Evidence | None = None
    topics: Patterns | None = None
    """The topics of the jobs that count, as success, error or label; by default all."""


class Drift(Strict):
    """From which error rate to which an agent must not drift; the threshold is in nats."""

    usual_error_rate: OpenRate
    feared_error_rate: OpenRate
    threshold: Annotated[float, Field(gt=0, le=100)] = 4.0


class Trigger(Strict):
    """What lowers a level: something that happened (to 0, or to ``to_level``), a rate, or a sequential test for drift.

    The latter two take ``levels_down`` levels, by default one. A trigger that happens may be written as its word alone.
    """

    trigger: Literal["policy_violation", "safety_incident"] | None = None
    to_level: Count | None = None
    error_rate_above: Rate | None = None
    drift: Drift | None = None
    levels_down: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_word(cls, given: Any) -> Any:
        return {"trigger": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_whole(self) -> Trigger:
        kinds = [each for each in ("trigger", "error_rate_above", "drift") if getattr(self, each) is not None]
        fix = "name one of `trigger`, `error_rate_above`, `drift`"
        if len(kinds) != 1:
            said = f"a trigger is one thing, and this is {len(kinds)}"
            raise PydanticCustomError("trigger", "{said}", {"said": said, "fix": fix})
        other = "levels_down" if kinds == ["trigger"] else "to_level"
        if getattr(self, other) is not None:
            said = f"`{other}` says nothing beside `{kinds[0]}`"
            use = "to_level" if other == "levels_down" else "levels_down"
            raise PydanticCustomError("trigger", "{said}", {"said": said, "fix": f"use `{use}`"})
        return self
