"""The reading room's tables and views, made from the topic table and the Avro schemas.

Plain MergeTree throughout: the projector never writes a place in the log twice, so a count needs no FINAL.
"""

from __future__ import annotations

from typing import Final

from sluicegate.streams.tables import EVENT_COLUMNS, EVENTS, LOG_ENDS, LOG_IDENTITY, PLACE_COLUMNS, Table, tables
from sluicegate.streams.topics import TOPICS

_BLOOM: Final = "TYPE bloom_filter(0.001) GRANULARITY 1"
_SKIPPED: Final = ("job_id", "request_id")
"""Ids that people look up: each gets a skip index wherever it is a column."""

VIEWS: Final = {
    "break_glass_runs": "first of all: jobs that ran without the people they should have waited for, and their review",
    "job_timeline": "every event about a job, oldest first; filter by job_id",
    "decisions_by_rule": "how often each rule determined a decision, by snapshot and topic of the job",
    "approvals_with_evidence": "each resolution with each counted verdict, and what of its evidence is missing",
    "executions_without_grant": "starts whose grant the gate never journalled; must be empty",
    "coverage": "per partition how far it is projected, and where its log ends",
}
"""The views and what they are for."""


def ddl(database: str) -> tuple[str, ...]:
    """Every statement that makes the database ready, in order; each may be run again at any time."""
    statements = [f"CREATE DATABASE IF NOT EXISTS `{database}`", _events(database), *_log_tables(database)]
    for table in tables().values():
        statements += [_typed(database, table), _newer_columns(database, table)]
    statements.extend(_views(database))
    return tuple(statements)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _column(name: str, kind: str, doc: str) -> str:
    return f"    `{name}` {kind} COMMENT {_quoted(doc)}"


def _indices(names: list[str]) -> list[str]:
    return [f"    INDEX `{name}_skip` `{name}` {_BLOOM}" for name in _SKIPPED if name in names]


def _events(database: str) -> str:
    lines = [_column(*column) for column in EVENT_COLUMNS] + _indices([name for name, _, _ in EVENT_COLUMNS])
    body = ",\n".join(lines)
    return (
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{EVENTS}` (\n{body}\n) ENGINE = MergeTree\n"
        f"ORDER BY (topic, partition, offset)\nCOMMENT 'every record of the log, written last'"
    )


def _typed(database: str, table: Table) -> str:
    lines = [_column(*column) for column in PLACE_COLUMNS]
    lines.extend(_column(column.name, column.type, column.doc) for column in table.columns)
    lines.extend(_indices([column.name for column in table.columns]))
    on = ", ".join(spec.name for spec in TOPICS if table.event in spec.types)
    body = ",\n".join(lines)
    return (
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{table.name}` (\n{body}\n) ENGINE = MergeTree\n"
        f"ORDER BY (log_topic, log_partition, log_offset)\nCOMMENT {_quoted(f'{table.event} events of {on}')}"
    )


def _newer_columns(database: str, table: Table) -> str:
    """For a table made by an earlier build: the columns of fields that its schema did not have then."""
    added = ",\n".join(
        f"    ADD COLUMN IF NOT EXISTS{_column(column.name, column.type, column.doc)[3:]}" for column in table.columns
    )
    return f"ALTER TABLE `{database}`.`{table.name}`\n{added}"


def _log_tables(database: str) -> list[str]:
    return [
        f"""CREATE TABLE IF NOT EXISTS `{database}`.`{LOG_ENDS}` (
    `topic` LowCardinality(String) COMMENT 'logical name of the topic',
    `partition` Int32 COMMENT 'partition of the topic',
    `projected_to` Int64 COMMENT 'every record below this offset is in events',
    `log_end` Int64 COMMENT 'the offset the next record will get',
    `measured_at` DateTime64(3, 'UTC') COMMENT 'when the projector asked the broker'
) ENGINE = ReplacingMergeTree(measured_at) ORDER BY (topic, partition)
COMMENT 'how far the log and the projection reach; read it through the view coverage'""",
        f"""CREATE TABLE IF NOT EXISTS `{database}`.`{LOG_IDENTITY}` (
    `cluster_id` String COMMENT 'id of the Kafka cluster whose log this is',
    `tenant` String COMMENT 'the tenant',
    `recorded_at` DateTime64(3, 'UTC') COMMENT 'when it was first seen'
) ENGINE = MergeTree ORDER BY recorded_at
COMMENT 'the one log that is projected into this database'""",
    ]


def _views(database: str) -> list[str]:
    queries = {
        "break_glass_runs": _BREAK_GLASS_RUNS,
        "job_timeline": _JOB_TIMELINE,
        "decisions_by_rule": _DECISIONS_BY_RULE,
        "approvals_with_evidence": _APPROVALS_WITH_EVIDENCE,
        "executions_without_grant": _EXECUTIONS_WITHOUT_GRANT,
        "coverage": _COVERAGE,
    }
    return [
        f"CREATE OR REPLACE VIEW `{database}`.`{name}` AS {queries[name].replace('{db}', f'`{database}`')}\n"
        f"COMMENT {_quoted(doc)}"
        for name, doc in VIEWS.items()
    ]


_TIMELINE_COLUMNS: Final = """
    e.timestamp AS timestamp, e.topic AS topic, e.partition AS partition, e.offset AS offset,
    e.type AS type, e.agent_id AS agent_id, e.request_id AS request_id,
    multiIf(
        e.type = 'Decision', JSONExtractString(e.body, 'decision'),
        e.type IN ('Refused', 'GrantRefused'), JSONExtractString(e.body, 'code'),
        e.type IN ('Verdict', 'VerdictAccepted'), JSONExtractString(e.body, 'verdict'),
        e.type = 'Result', JSONExtractString(e.body, 'output_safety_decision'),
        e.type = 'AuditDrawn', if(JSONExtractBool(e.body, 'drawn'), 'drawn', 'not drawn'),
        e.type = 'Finding', JSONExtractString(e.body, 'finding'),
        e.type = 'LevelChanged', JSONExtractString(e.body, 'change'),
        JSONExtractString(e.body, 'outcome')
    ) AS outcome,
    multiIf(
        e.type IN ('Verdict', 'VerdictAccepted'), JSONExtractString(e.body, 'approver_id'),
        e.type IN ('Resolved', 'Closed', 'Finding', 'LevelChanged'), JSONExtractString(e.body, 'by'),
        JSONExtractString(e.body, 'worker_id')
    ) AS by,
    coalesce(
        nullIf(JSONExtractString(e.body, 'reason'), ''), nullIf(JSONExtractString(e.body, 'message'), ''),
        nullIf(JSONExtractString(e.body, 'note'), ''), JSONExtractString(e.body, 'detail')
    ) AS reason,
    e.body AS body, e.hash AS hash"""

# A verdict names a request and no job; the request's job is found among the requests. Two halves, so that the
# first is a look-up by the skip index and the second reads two topics only.
_JOB_TIMELINE: Final = f"""
SELECT * FROM (
    SELECT e.job_id AS job_id, {_TIMELINE_COLUMNS}
    FROM {{db}}.events AS e WHERE e.job_id != ''
    UNION ALL
    SELECT r.job_id AS job_id, {_TIMELINE_COLUMNS}
    FROM {{db}}.events AS e
    INNER JOIN (SELECT DISTINCT request_id, job_id FROM {{db}}.approval_requests) AS r ON e.request_id = r.request_id
    WHERE e.topic IN ('approval.requests', 'approval.verdicts') AND e.job_id = '' AND e.request_id != ''
)
ORDER BY job_id, timestamp, topic, partition, offset"""

_DECISIONS_BY_RULE: Final = """
SELECT
    r.1 AS layer, r.2 AS rule, r.3 AS content_hash, d.decision AS decision, d.policy_snapshot AS policy_snapshot,
    d.topic AS job_topic, count() AS decisions, uniqExact(d.agent_id) AS agents,
    min(d.log_timestamp) AS first_at, max(d.log_timestamp) AS last_at
FROM {db}.decisions AS d
ARRAY JOIN if(
    empty(d.`rules.id`), [('', 'default', '')], arrayZip(d.`rules.layer`, d.`rules.id`, d.`rules.content_hash`)
) AS r
GROUP BY layer, rule, content_hash, decision, policy_snapshot, job_topic
ORDER BY decisions DESC, layer, rule"""

# One row per resolution and counted verdict; `evidence_missing` names what the contract asks for and is not there.
_APPROVALS_WITH_EVIDENCE: Final = """
SELECT
    s.request_id AS request_id, s.job_id AS job_id, s.agent_id AS agent_id, s.kind AS kind, s.outcome AS outcome,
    v.1 AS verdict_id, v.2 AS approver_id, v.3 AS verdict, fromUnixTimestamp64Milli(v.4, 'UTC') AS decision_ts,
    v.5 AS policy_snapshot, v.6 AS job_hash, v.7 AS reason, s.constraints AS constraints,
    s.`rules.id` AS rules, s.log_timestamp AS resolved_at, q.created_at AS requested_at,
    if(q.request_id = '', NULL, v.6 = q.job_hash) AS job_hash_matches,
    if(v.1 = '', [], arrayFilter(
        name -> name != '',
        [if(v.5 = '', 'policy_snapshot', ''), if(v.6 = '', 'job_hash', ''),
         if(v.2 = '', 'approver_id', ''), if(v.4 = 0, 'decision_ts', '')]
    )) AS evidence_missing
FROM {db}.resolutions AS s
LEFT ARRAY JOIN arrayZip(
    s.`verdicts.verdict_id`, s.`verdicts.approver_id`, s.`verdicts.verdict`, s.`verdicts.decision_ts_ms`,
    s.`verdicts.policy_snapshot`, s.`verdicts.job_hash`, arrayMap(text -> ifNull(text, ''), s.`verdicts.reason`)
) AS v
LEFT ANY JOIN (
    SELECT request_id, any(job_hash) AS job_hash, min(log_timestamp) AS created_at
    FROM {db}.approval_requests GROUP BY request_id
) AS q ON s.request_id = q.request_id
ORDER BY resolved_at, request_id, decision_ts"""

# The review of a run is the request of kind `break_glass` about its job; without a resolution it is still open.
_BREAK_GLASS_RUNS: Final = """
SELECT
    d.log_timestamp AS decided_at, d.job_id AS job_id, d.agent_id AS agent_id, d.topic AS job_topic,
    d.break_glass AS command_id, c.by AS broken_by, c.reason AS reason, d.`rules.id` AS rules,
    if(s.outcome = '', 'open', s.outcome) AS review, q.expires_at_ms AS review_until_ms
FROM {db}.decisions AS d
LEFT ANY JOIN {db}.commands AS c ON c.command_id = assumeNotNull(d.break_glass)
LEFT ANY JOIN (SELECT * FROM {db}.approval_requests WHERE kind = 'break_glass') AS q
    ON q.job_id = d.job_id AND q.agent_id = d.agent_id
LEFT ANY JOIN (SELECT request_id, toString(outcome) AS outcome FROM {db}.resolutions) AS s
    ON s.request_id = q.request_id
WHERE d.break_glass IS NOT NULL
ORDER BY decided_at"""

_EXECUTIONS_WITHOUT_GRANT: Final = """
SELECT s.*
FROM {db}.started AS s
LEFT ANTI JOIN {db}.granted AS g
    ON s.agent_id = g.agent_id AND s.job_id = g.job_id AND s.attempt = g.attempt AND s.grant_id = g.grant_id
ORDER BY s.log_timestamp"""

_COVERAGE: Final = """
SELECT
    l.topic AS topic, l.partition AS partition, ifNull(e.events, 0) AS events,
    greatest(l.projected_to, ifNull(e.next_offset, 0)) AS projected_to, l.log_end AS log_end,
    greatest(l.log_end - greatest(l.projected_to, ifNull(e.next_offset, 0)), 0) AS behind, l.measured_at AS measured_at
FROM (
    SELECT topic, partition, max(projected_to) AS projected_to, max(log_end) AS log_end, max(measured_at) AS measured_at
    FROM {db}.log_ends GROUP BY topic, partition
) AS l
LEFT JOIN (
    SELECT topic, partition, toInt64(count()) AS events, max(offset) + 1 AS next_offset
    FROM {db}.events GROUP BY topic, partition
) AS e ON l.topic = e.topic AND l.partition = e.partition
ORDER BY topic, partition"""
