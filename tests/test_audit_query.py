from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from fixtures_clickhouse import project, record, rows, sample

from sluicegate.processors.audit_query import check_text
from sluicegate.processors.audit_service import Audit
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.clickhouse import QUERY_ROWS_MAX, ReadingRoom

ANSWERED: Final = {
    "select 1; ": [[1]],
    "SELECT type, count() AS n FROM events GROUP BY type ORDER BY type": [["Decision", 2], ["Intent", 1]],
    "WITH d AS (SELECT job_id FROM decisions) SELECT count() FROM events WHERE job_id IN (SELECT job_id FROM d)": [[3]],
    "SELECT countIf(decision = 'DENY'), uniqExactIf(job_id, one) FROM (SELECT *, 1 AS one FROM decisions)": [[1, 2]],
    "SELECT d.job_id FROM decisions AS d JOIN intents AS i ON d.job_id = i.job_id": [["j1"]],
    "SELECT JSONExtractString(body, 'decision') AS d FROM events WHERE type = 'Decision' ORDER BY d": [
        ["ALLOW"],
        ["DENY"],
    ],
    "SELECT `rules.id`[1], length(rules.layer) FROM decisions LIMIT 1": [["some id", 1]],
    "SELECT * EXCEPT (body, hash) FROM events WHERE 0": [],
    "SELECT settings FROM commands": [],
    "SELECT case when offset > 0 then 'on' else '' end, formatDateTime(timestamp, '%Y') FROM events WHERE offset = 1": [
        ["on", "2026"]
    ],
    "SELECT row_number() OVER (PARTITION BY topic ORDER BY offset) AS n FROM events ORDER BY n DESC LIMIT 1": [[2]],
    "SELECT 'it''s; -- into outfile /* \\' */ settings' AS text": [["it's; -- into outfile /* ' */ settings"]],
    "SELECT count() FROM (SELECT job_id FROM decisions UNION ALL SELECT job_id FROM intents)": [[3]],
}

REFUSED: Final = (
    # writing, and statements that are no SELECT
    "INSERT INTO events (topic) VALUES ('x')",
    "CREATE TABLE mine (a Int8) ENGINE = Memory",
    "DROP TABLE events",
    "TRUNCATE TABLE events",
    "ALTER TABLE events DELETE WHERE 1",
    "DELETE FROM events WHERE 1",
    "SET max_threads = 64",
    "SYSTEM SHUTDOWN",
    "ATTACH TABLE x",
    "USE system",
    "SHOW TABLES FROM system",
    "SHOW DATABASES",
    "DESCRIBE system.tables",
    "DESCRIBE TABLE file('/etc/passwd')",
    "DESCRIBE nothing_here",
    "EXPLAIN SELECT 1",
    "BACKUP TABLE events TO File('{canary}')",
    "",
    " ; ",
    # more than one statement, and getting out of the wrapping
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE events",
    "SELECT 1) UNION ALL (SELECT 2",
    "SELECT 1) INTO OUTFILE '{canary}' FORMAT CSV; SELECT (1",
    "SELECT 1) --",
    "SELECT 1) /*",
    "SELECT 1 /* quiet */",
    "SELECT 1 -- quiet",
    "SELECT 1 # quiet",
    "SELECT $$a$$",
    "SELECT (1",
    "SELECT 'open",
    "SELECT \u2018curly\u2019",
    'SELECT 1 AS "a\\"',
    # files and the network
    "SELECT 1 INTO OUTFILE '{canary}'",
    "SELECT 1. INTO OUTFILE '{canary}'",
    "SELECT 1 FORMAT CSV",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM `file`('/etc/passwd', 'LineAsString')",
    "SELECT * FROM \"file\"('/etc/passwd')",
    "SELECT file('/etc/passwd')",
    "SELECT 1 IN (SELECT count() FROM FILE('/etc/passwd', 'LineAsString'))",
    "WITH file('/etc/passwd') AS text SELECT text",
    "SELECT arrayMap(path -> file(path), ['/etc/passwd'])",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM remote('127.0.0.1:1', 'system.one')",
    "SELECT * FROM remoteSecure('127.0.0.1:1', 'system.one')",
    "SELECT * FROM cluster('default', 'system.one')",
    "SELECT * FROM executable('id', 'TabSeparated', 'a String')",
    "SELECT * FROM python('x')",
    "SELECT * FROM sqlite('/tmp/x.db', 't')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM dictionary('x')",
    "SELECT dictGet('x', 'y', 1)",
    "SELECT joinGet('x', 'y', 1)",
    "SELECT aiClassify('x', ['y'])",
    "SELECT * FROM input('a String')",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM '/etc/passwd'",
    # other databases, and the engine's own tables
    "SELECT * FROM system.tables",
    "SELECT * FROM `system`.tables",
    "SELECT * FROM system . settings",
    'SELECT * FROM "system"."processes"',
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.COLUMNS",
    "SELECT * FROM default.t",
    "SELECT * FROM sluicegate_other.events",
    "SELECT 1 IN system.one",
    "SELECT 'x' IN (`system`.`databases`)",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM merge('.*')",
    "SELECT * FROM view(SELECT 1)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
    "SELECT * FROM (EXPLAIN SELECT 1)",
    "SELECT * FROM (SHOW TABLES)",
    "SELECT * FROM loop('system', 'one')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT hasColumnInTable('system', 'tables', 'name')",
    # settings, the host, and waiting
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
    "SELECT getSetting('readonly')",
    "SELECT getServerSetting('path')",
    "SELECT getMacro('x')",
    "SELECT hostName()",
    "SELECT currentUser()",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM numbers(3)",
    "SELECT addressToLine(1)",
    "SELECT {p:String}",
    # what is wrong in itself
    "SELECT * FROM nothing_here",
    "SELECT nonsense FROM events",
    "SELECT FROM WHERE",
)


@pytest.fixture
def audit(room: ReadingRoom) -> Audit:
    project(
        room,
        [
            record("job.intents", 0, sample("Intent", job_id="j1")),
            record("job.decisions", 0, sample("Decision", job_id="j1", decision="ALLOW")),
            record("job.decisions", 1, sample("Decision", job_id="j2", decision="DENY")),
        ],
    )
    return Audit(room)


def test_plain_questions_are_answered(audit: Audit) -> None:
    """Joins, subqueries, windows, aggregates, JSON and text that looks hostile: all that only reads."""
    for sql, expected in ANSWERED.items():
        assert audit.query(sql).rows == expected, sql


def test_everything_else_is_refused_and_leaves_no_trace(audit: Audit, room: ReadingRoom, tmp_path: Path) -> None:
    """No write, no second statement, no file, no network, no other database, no setting: each attempt is an error."""
    canary = tmp_path / "canary"
    tables_before = room.ask_engine("SELECT count() FROM system.tables")
    for sql in REFUSED:
        with pytest.raises(BadInput) as caught:
            print(sql, audit.query(sql.replace("{canary}", str(canary))).rows)  # noqa: T201  # names what slipped through
        assert str(caught.value), sql
        assert not canary.exists(), sql
    assert room.ask_engine("SELECT count() FROM system.tables") == tables_before
    assert rows(room, "SELECT count() FROM events") == [[3]]
    assert audit.query("SELECT count() FROM events").rows == [[3]]


def test_tables_and_their_columns_can_be_asked_for(audit: Audit) -> None:
    """`SHOW TABLES` and `DESCRIBE <table>` answer with names and meanings, of this tenant's database only."""
    found = {row[0]: row[1:] for row in audit.query("show tables;").rows}
    assert found["decisions"] == [0, "Decision events of job.decisions"]
    assert found["executions_without_grant"] == [1, "starts whose grant the gate never journalled; must be empty"]
    columns = audit.query("DESCRIBE TABLE decisions").rows
    assert columns[0] == ["log_topic", "LowCardinality(String)", "logical name of the topic the record stands on"]
    assert ["rules.id", "Array(String)", "id of the rule within its layer"] in columns


def test_another_tenants_database_on_the_same_server_is_out_of_reach(audit: Audit, chdb_dsn: str) -> None:
    """A table is named alone, or with this tenant's database; any other database is refused by name."""
    other = ReadingRoom(chdb_dsn, "sluicegate_acme")
    other._writer.command("CREATE DATABASE IF NOT EXISTS sluicegate_acme")
    other._writer.command("CREATE TABLE IF NOT EXISTS sluicegate_acme.events (a Int8) ENGINE = MergeTree ORDER BY a")
    other.close()
    for sql in ("SELECT * FROM sluicegate_acme.events", "SELECT 1 IN sluicegate_acme.events"):
        with pytest.raises(BadInput, match="sluicegate_acme"):
            audit.query(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT number FROM numbers(20000)", "SELECT * FROM (SELECT number FROM numbers(10001))"]
)
def test_rows_are_bounded_and_the_answer_says_so(audit: Audit, sql: str) -> None:
    """At most 10,000 rows come back; that there were more is told, not hidden."""
    found = audit.query(sql)
    assert len(found.rows) == QUERY_ROWS_MAX
    assert found.truncated
    assert not audit.query("SELECT number FROM numbers(10000)").truncated


def test_a_greedy_query_ends_and_harms_nobody(audit: Audit) -> None:
    """Memory and result size are bounded, and the next question gets its own answer, not the rest of the failed one."""
    for sql in ("SELECT groupArray(number) FROM numbers(2000000000)", "SELECT repeat('x', 1000000) FROM numbers(9999)"):
        with pytest.raises(BadInput, match="the query failed"):
            audit.query(sql)
        assert audit.query("SELECT 42 AS answer").rows == [[42]]


def test_time_is_bounded(room: ReadingRoom, audit: Audit) -> None:
    """A query that would run for hours ends, and the projector writes on meanwhile and after."""
    with pytest.raises(BadInput, match="Timeout exceeded"):
        audit.query("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1")
    assert audit.query("SELECT 42 AS answer").rows == [[42]]
    project(room, [record("job.intents", 1, sample("Intent"))])


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DROP TABLE events", "begins with SELECT"),
        ("SELECT 1; SELECT 2", "give one SELECT"),
        ("SELECT 1 -- x", "comment"),
        ("SELECT 1 INTO OUTFILE 'x'", "may not write anywhere"),
        ("SELECT (1]", "balance the brackets"),
        ("SELECT " + "1," * 20_000 + "1", "at most 20000"),
        ("SELECT 'x", "never closed"),
    ],
)
def test_a_refusal_says_what_to_change(sql: str, says: str) -> None:
    """Each refusal by the text alone names what is wrong and what to do."""
    with pytest.raises(BadInput, match=says):
        check_text(sql)
