"""What an auditor's SQL may be: one SELECT over this tenant's tables, with functions that only compute.

Four fences, none trusted alone. The text is cut into words here, so that it is one statement in balanced brackets
without comments; the engine's own parser then says which nodes, tables and functions it has (`EXPLAIN AST`, which
runs nothing), and each must be allowed by name; the query runs as ``SELECT * FROM (...)``, where a second
statement, `INTO OUTFILE` or a `FORMAT` is a syntax error; and the connection is read-only and limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from sluicegate.schemas.errors import BadInput

QUERY_CHARS_MAX: Final = 20_000

_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<comment>--|/\*|\#)
    | (?P<text>'(?:[^'\\]|\\.|'')*')
    | (?P<name>"[^"\\()\r\n]*"|`[^`\\()\r\n]*`)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>[0-9][A-Za-z0-9_]*(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?)?|\.[0-9]+)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<sign>->|::|\|\||[-+*/%=<>!,.:?|])
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_FORBIDDEN_WORDS: Final = {
    "into": "a query may not write anywhere",
    "outfile": "a query may not write files",
    "infile": "a query may not read files",
}
_NODES: Final = frozenset(
    """SelectWithUnionQuery SelectIntersectExceptQuery SelectQuery ExpressionList TablesInSelectQuery
    TablesInSelectQueryElement TableExpression TableIdentifier TableJoin ArrayJoin Subquery WithElement Function
    Identifier Literal Asterisk QualifiedAsterisk ColumnsListMatcher ColumnsExceptTransformer OrderByElement
    WindowDefinition WindowListElement SampleRatio ColumnsTransformerList ColumnsReplaceTransformer DataType""".split()
)
_NODE_REASONS: Final = {
    "Set": "a query may not change settings; take them out",
    "QueryParameter": "write the value itself",
}
_TABLE_FUNCTIONS: Final = frozenset(("numbers", "zeros", "values", "generate_series", "generateseries"))
_CATEGORIES: Final = (
    "Aggregate Functions",
    "Arithmetic",
    "Arrays",
    "Bit",
    "Bitmap",
    "Comparison",
    "Conditional",
    "Dates and Times",
    "Encoding",
    "Hash",
    "IP Address",
    "JSON",
    "Logical",
    "Map",
    "Mathematical",
    "Null",
    "Rounding",
    "String",
    "String Replacement",
    "String Search",
    "String Splitting",
    "Time Window",
    "Tuple",
    "Type Conversion",
    "URL",
    "UUID",
)
_ALSO: Final = frozenset(
    """in notin globalin globalnotin nullin notnullin lambda exists casewithexpression caseWithoutExpression tuple array
    toTypeName transform identity materialize formatReadableSize formatReadableQuantity formatReadableTimeDelta bar
    rowNumberInAllBlocks countDigits finalizeAggregation untuple grouping interval""".lower().split()
)
_NEVER: Final = frozenset(
    """chdb formatrow formatrownonewline groupformat servertimezone aggthrow flamegraph isprime isprobableprime
    multifuzzymatchallindices multifuzzymatchany multifuzzymatchanyindex""".split()
)
_NEVER_LIKE: Final = re.compile("distance|levenshtein|similarity|naivebayes|random|^kql|^timeseries|shuffle")
"""Quadratic over one row, which no time limit interrupts; or of no use over a log."""

FUNCTIONS_SQL: Final = (
    "SELECT lower(f.name) AS name, f.is_aggregate OR o.is_aggregate AS is_aggregate FROM system.functions AS f "
    "LEFT ANY JOIN system.functions AS o ON f.alias_to = o.name AND f.alias_to != '' "
    f"WHERE if(f.alias_to = '', f.categories, o.categories) IN ({', '.join(repr(name) for name in _CATEGORIES)}) "
    "AND f.origin = 'System'"
)
"""Asks the engine for its functions of the allowed kinds: what a newer engine adds elsewhere stays forbidden."""
COMBINATORS_SQL: Final = "SELECT lower(name) FROM system.aggregate_function_combinators"
DATABASES_SQL: Final = "SELECT name FROM system.databases"


def _is_never(name: str) -> bool:
    return name in _NEVER or _NEVER_LIKE.search(name) is not None


class Vocabulary(msgspec.Struct, frozen=True):
    """What an engine has: functions allowed by name (lower case), aggregates among them, combinators."""

    functions: frozenset[str]
    aggregates: frozenset[str]
    combinators: tuple[str, ...]

    @classmethod
    def of(cls, functions: Iterable[tuple[str, bool]], combinators: Iterable[str]) -> Vocabulary:
        """Made from the rows of the first two statements above."""
        rows = [(name, is_aggregate) for name, is_aggregate in functions if not _is_never(name)]
        return cls(
            frozenset(name for name, _ in rows) | _ALSO,
            frozenset(name for name, is_aggregate in rows if is_aggregate),
            tuple(combinators),
        )

    def allows(self, function: str) -> bool:
        """Whether a function, or an aggregate with combinators (`countIf`), only computes."""
        name = function.lower()
        if name in self.functions:
            return True
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in self.aggregates:
                return True
            waiting.extend(
                name.removesuffix(suffix) for suffix in self.combinators if name.endswith(suffix) and name != suffix
            )
        return False


def wrapped(sql: str, rows_max: int) -> str:
    """The only form in which a query runs; one row more than the limit tells that there are more."""
    return f"SELECT * FROM (\n{sql}\n) LIMIT {rows_max + 1}"


def check_text(sql: str) -> str:
    """The query without spaces around it and without a final semicolon. Raises BadInput, saying what to change."""
    sql = sql.strip()
    if sql.endswith(";"):
        sql = sql[:-1].rstrip()
    if not sql:
        raise BadInput("an empty query; give one SELECT")
    if len(sql) > QUERY_CHARS_MAX:
        raise BadInput(f"a query of {len(sql)} characters; give at most {QUERY_CHARS_MAX}")
    first = ""
    open_brackets: list[str] = []
    position = 0
    while position < len(sql):
        token = _TOKEN.match(sql, position)
        if token is None:
            raise BadInput(_unknown_sign(sql[position]))
        kind, text = str(token.lastgroup), token.group()
        position = token.end()
        if kind == "comment":
            raise BadInput(f"a comment (`{text}`) cannot stand in a query; take it out")
        if kind == "word":
            first = first or text.lower()
            if text.lower() in _FORBIDDEN_WORDS:
                raise BadInput(f"`{text}` cannot stand in a query: {_FORBIDDEN_WORDS[text.lower()]}; take it out")
        if kind == "open":
            open_brackets.append(text)
        elif kind == "close" and (not open_brackets or open_brackets.pop() != _PAIRS[text]):
            raise BadInput(f"`{text}` closes a bracket that was not opened; balance the brackets")
    if open_brackets:
        raise BadInput(f"`{open_brackets[-1]}` is never closed; balance the brackets")
    if first not in ("select", "with"):
        raise BadInput(
            f"a query begins with SELECT or WITH, not `{sql.split()[0][:40]}`; "
            "besides, only `SHOW TABLES` and `DESCRIBE <table>` are answered"
        )
    return sql


def _unknown_sign(sign: str) -> str:
    if sign == ";":
        return "`;` separates statements; give one SELECT"
    if sign in "'\"`":
        return f"a {sign} is never closed, or a quoted name holds a backslash, bracket or line end; mend the quotes"
    return f"`{sign}` cannot stand in a query outside quotes; take it out"


def check_tree(tree: Iterable[str], vocabulary: Vocabulary, database: str, databases: Iterable[str]) -> None:
    """Check each node of the engine's own syntax tree. Raises BadInput, naming what is not allowed.

    ``databases`` are all that the engine has now; only ``database`` may be named.
    """
    others = {name.lower() for name in databases} - {database.lower()}
    path: list[str] = []
    for line in tree:
        depth = len(line) - len(line.lstrip(" "))
        node, _, rest = line.strip().partition(" ")
        del path[depth:]
        parent = path[-1] if path else ""
        path.append(node)
        name = rest.split(" (")[0]
        if node not in _NODES:
            reason = _NODE_REASONS.get(node, "use plain SELECTs, joins and functions")
            raise BadInput(f"`{node}` cannot stand in a query here: {reason}")
        if node == "TableIdentifier" and "." in name and name.rsplit(".", 1)[0] != database:
            raise BadInput(f"table `{name}` is outside `{database}`; ask for this tenant's tables only")
        if node == "Identifier" and "." in name and name.split(".", 1)[0].lower() in others:
            raise BadInput(f"`{name}` is outside `{database}`; ask for this tenant's tables only")
        if node == "Function" and parent == "TableExpression":
            if name.lower() not in _TABLE_FUNCTIONS:
                raise BadInput(f"table function `{name}` reads outside the tables; take it out")
        elif node == "Function" and not vocabulary.allows(name):
            raise BadInput(f"function `{name}` is not among those that only compute; take it out")
