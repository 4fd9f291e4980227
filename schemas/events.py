"""Every event of Sluicegate, by name."""

from __future__ import annotations

from typing import Final, get_args

from sluicegate.schemas.approval_events import (
    ApprovalRequest,
    RequestEscalated,
    RequestOpened,
    RequestWithdrawn,
    Resolution,
    Resolved,
    Verdict,
    VerdictAccepted,
    ViewAccepted,
    Viewed,
)
from sluicegate.schemas.control_events import (
    Acknowledged,
    Command,
    DeadLetter,
    SnapshotPublished,
    TimerFired,
    TimerRequest,
)
from sluicegate.schemas.job_events import (
    AttemptEnded,
    AttemptOpened,
    Breached,
    Closed,
    Decision,
    Ended,
    Grant,
    Granted,
    GrantRefused,
    Held,
    Incident,
    Intent,
    Lapsed,
    Noted,
    Output,
    Progressed,
    Quarantined,
    Refused,
    Repeated,
    Result,
    Started,
    StopAnswered,
    Withdrawal,
)
from sluicegate.schemas.records import (
    Ask,
    AttemptWord,
    Cause,
    CommandKind,
    DecisionWord,
    EndWord,
    Fact,
    FindingWord,
    JobOutcome,
    LevelWord,
    Observed,
    RedactionDetail,
    RequestKind,
    ResolutionOutcome,
    RuleError,
    RuleRef,
    SafetyWord,
    Sealed,
    Severity,
    StopWord,
    VerdictRef,
    VerdictWord,
)
from sluicegate.schemas.trust_events import AuditDrawn, Finding, LevelChanged

Event = (
    Intent
    | Withdrawal
    | Decision
    | Granted
    | Repeated
    | Refused
    | Held
    | Closed
    | Noted
    | Acknowledged
    | Grant
    | Started
    | Lapsed
    | GrantRefused
    | Progressed
    | Ended
    | StopAnswered
    | Breached
    | Output
    | AttemptOpened
    | AttemptEnded
    | Quarantined
    | Result
    | Incident
    | LevelChanged
    | AuditDrawn
    | Finding
    | ApprovalRequest
    | RequestWithdrawn
    | Verdict
    | Viewed
    | RequestOpened
    | RequestEscalated
    | VerdictAccepted
    | ViewAccepted
    | Resolved
    | Resolution
    | TimerRequest
    | TimerFired
    | Command
    | SnapshotPublished
    | DeadLetter
)
"""Any event that may stand on a topic."""

EVENT_TYPES: Final[dict[str, type[Event]]] = {cls.__name__: cls for cls in get_args(Event)}

__all__ = [
    "EVENT_TYPES",
    "Acknowledged",
    "ApprovalRequest",
    "Ask",
    "AttemptEnded",
    "AttemptOpened",
    "AttemptWord",
    "AuditDrawn",
    "Breached",
    "Cause",
    "Closed",
    "Command",
    "CommandKind",
    "DeadLetter",
    "Decision",
    "DecisionWord",
    "EndWord",
    "Ended",
    "Event",
    "Fact",
    "Finding",
    "FindingWord",
    "Grant",
    "GrantRefused",
    "Granted",
    "Held",
    "Incident",
    "Intent",
    "JobOutcome",
    "Lapsed",
    "LevelChanged",
    "LevelWord",
    "Noted",
    "Observed",
    "Output",
    "Progressed",
    "Quarantined",
    "RedactionDetail",
    "Refused",
    "Repeated",
    "RequestEscalated",
    "RequestKind",
    "RequestOpened",
    "RequestWithdrawn",
    "Resolution",
    "ResolutionOutcome",
    "Resolved",
    "Result",
    "RuleError",
    "RuleRef",
    "SafetyWord",
    "Sealed",
    "Severity",
    "SnapshotPublished",
    "Started",
    "StopAnswered",
    "StopWord",
    "TimerFired",
    "TimerRequest",
    "Verdict",
    "VerdictAccepted",
    "VerdictRef",
    "VerdictWord",
    "ViewAccepted",
    "Viewed",
    "Withdrawal",
]
