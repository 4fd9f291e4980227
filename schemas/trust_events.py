"""Events of trust: how an agent's level moves.

One class per Avro schema in `avro/`, field for field; a test keeps the two equal.
"""

from __future__ import annotations

import msgspec

from sluicegate.schemas.records import Cause, LevelWord


class LevelChanged(msgspec.Struct, kw_only=True):
    """What moved an agent's level of autonomy, or asked a person to."""

    cause: Cause
    at_ms: int
    number: int
    control_offset: int
    judge: int
    agent_id: str
    agent_version: str
    change: LevelWord
    level_before: int
    level: int
    reason: str
    successes_count: int
    errors_count: int
    labelled_correct_count: int
    labelled_wrong_count: int
    job_id: str | None = None
    request_id: str | None = None
    by: str | None = None
    policy_snapshot: str
