"""Which constraints of a grant a worker can hold a handler to, and what it holds it to. Pure.

    @worker.handles(
        "job.support.refund",
        limits={"max_amount_usd": "refund.amount_usd"},  # checked against the payload before anything runs
        spends=("max_affected_rows",),  # the handler takes from `call.budget` before it acts
        enforces=("path_allowlist",),  # the handler's own word, which the log calls that
    )

The worker itself enforces `max_runtime_sec`, `max_output_bytes` and `network_allowlist`. A constraint that is true or
false chooses credentials: `Worker(..., credentials={"": {...}, "read_only": {...}, "dry_run+read_only": {...}})` has a
set for each combination of true ones, and the handler gets that set alone. What is left cannot be enforced, and then
the grant is refused: a constraint that is only attached would be a suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from sluicegate.clients.allowlist import allowlist_problem, printable
from sluicegate.clients.budget import exact
from sluicegate.clients.judging import Refuse, Terms
from sluicegate.schemas.errors import BadInput

UNENFORCEABLE: Final = "constraint_unenforceable"
EXCEEDED: Final = "constraint_exceeded"
RUNTIME: Final = "max_runtime_sec"
OUTPUT: Final = "max_output_bytes"
NETWORK: Final = "network_allowlist"
BY_WORKER: Final = frozenset({RUNTIME, OUTPUT, NETWORK})
"""What the worker enforces for every handler."""
HARMLESS_FALSE: Final = frozenset({"read_only", "dry_run"})
"""Constraints of which `false` asks for nothing; of another one `false` may be the tighter value."""
PATH_CHARS_MAX: Final = 200

Steps = tuple[str | int, ...]
_MISSING: Final = object()
_COUNT: Final = "#"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STEP: Final = re.compile(
    r"(?:^|\.)(?P<key>[^.\[\]#$\s][^.\[\]#\s]*)|\[(?P<index>0|[1-9][0-9]{0,5})\]|(?:^|\.)(?P<count>#)$"
)


class Capability(msgspec.Struct, frozen=True):
    """What one handler can be held to. ``limits`` are paths into the payload, ready to be read."""

    topics: str
    limits: Mapping[str, Steps] = {}
    spends: frozenset[str] = frozenset()
    enforces: frozenset[str] = frozenset()

    def words(self) -> dict[str, str]:
        """Each constraint it can be held to, and by whom: `worker`, `argument`, `budget` or `handler`."""
        words = dict.fromkeys(self.enforces, "handler") | dict.fromkeys(self.spends, "budget")
        words |= dict.fromkeys(self.limits, "argument") | dict.fromkeys(BY_WORKER, "worker")
        return dict(sorted(words.items()))


def capability(
    topics: str,
    *,
    limits: Mapping[str, str] | None = None,
    spends: Collection[str] = (),
    enforces: Collection[str] = (),
) -> Capability:
    """A handler's registration. Raises BadInput for what could not mean what its author thinks."""
    for option, names in (("limits", limits or {}), ("spends", spends), ("enforces", enforces)):
        if isinstance(names, str):
            raise BadInput(f'`{option}="{names}"` is one text; write `{option}=("{names}",)`')
        for name in names:
            if not _NAME.fullmatch(name):
                raise BadInput(f"`{printable(name)}` in `{option}` is no constraint's name; see `constraint_types`")
            if name in BY_WORKER:
                raise BadInput(f"the worker enforces `{name}` itself; leave it out of `{option}`")
            if option != "enforces" and name.startswith("min_"):
                raise BadInput(f"`{name}` is no upper limit; the worker cannot check it, so name it in `enforces`")
    paths = {name: _steps(path) for name, path in (limits or {}).items()}
    return Capability(topics, paths, frozenset(spends), frozenset(enforces))


def credential_sets(credentials: Mapping[str, Any] | None) -> frozenset[str]:
    """The names of a worker's credential sets. Raises BadInput for one that no grant could choose."""
    for name in credentials or {}:
        parts = name.split("+") if name else []
        if parts != sorted(set(parts)) or not all(_NAME.fullmatch(part) for part in parts):
            right = "+".join(sorted({part.strip() for part in parts if part.strip()}))
            raise BadInput(f"no grant chooses the credentials `{printable(name)}`; name the set `{right}`")
    return frozenset(credentials or {})


def enforce(
    constraints: Mapping[str, Any], payload: Any, handler: Capability, sets: Collection[str] = ()
) -> Terms | Refuse:
    """What to hold the handler to, or why the grant must be refused. ``sets`` names the worker's credential sets."""
    chosen = _chosen({name for name, value in constraints.items() if value is True} - BY_WORKER, handler, sets)
    if isinstance(chosen, Refuse):
        return chosen
    for name in sorted(constraints):
        problem = _problem(name, constraints[name], payload, handler)
        if problem is not None:
            return problem
    amounts = handler.spends | set(handler.limits)
    network = constraints.get(NETWORK)
    kept = {name for name in handler.enforces & set(constraints) if name not in amounts}
    return Terms(
        runtime_sec_max=constraints.get(RUNTIME),
        output_bytes_max=constraints.get(OUTPUT),
        network=None if network is None else tuple(network),
        budget={name: constraints.get(name) for name in sorted(amounts)},
        credential_set=chosen,
        by_handler=tuple(sorted(kept - set(chosen.split("+")))),
    )


def _chosen(true: set[str], handler: Capability, sets: Collection[str]) -> str | Refuse:
    """The credential set of these constraints. One that covers all goes before one that leaves some to the handler."""
    for names in (true, true - handler.enforces):
        name = "+".join(sorted(names))
        if not name or name in sets:
            return name
    name = "+".join(sorted(true))
    remedy = f"give the worker `credentials` with a set `{name}`, or register the handler with `enforces`"
    return _unenforceable(" and ".join(sorted(true)), handler, remedy)


def _problem(name: str, value: Any, payload: Any, handler: Capability) -> Refuse | None:
    if name in BY_WORKER:
        return _worker_problem(name, value, handler)
    if isinstance(value, bool):
        if value or name in HARMLESS_FALSE or name in handler.enforces:
            return None  # what is true has chosen the credentials
        return _unenforceable(name, handler, f"register it with `enforces=({name!r},)` if it keeps to `{name}: false`")
    if name in handler.limits or name in handler.spends:
        limit = _amount(value)
        if limit is None:
            return _unenforceable(name, handler, f"{_shown(value)} is no number from 0; mend the policy")
        return _argument_problem(name, limit, payload, handler) if name in handler.limits else None
    if name in handler.enforces:
        return None
    if _amount(value) is None:
        return _unenforceable(name, handler, f"register it with `enforces=({name!r},)` if it keeps to it itself")
    remedy = f"register it with `limits={{{name!r}: PATH}}`, `spends=({name!r},)` or `enforces=({name!r},)`"
    return _unenforceable(name, handler, remedy)


def _worker_problem(name: str, value: Any, handler: Capability) -> Refuse | None:
    if name == NETWORK:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            return _unenforceable(name, handler, "it is no list of texts; mend the policy")
        problem = allowlist_problem(value)
        return None if problem is None else _unenforceable(name, handler, f"{problem}; mend the policy")
    if _amount(value) is None or (name == OUTPUT and not isinstance(value, int)):
        wanted = "whole number" if name == OUTPUT else "number"
        return _unenforceable(name, handler, f"{_shown(value)} is no {wanted} from 0; mend the policy")
    return None


def _argument_problem(name: str, limit: Decimal, payload: Any, handler: Capability) -> Refuse | None:
    steps = handler.limits[name]
    found = _read(payload, steps)
    where = f"`{_path(steps)}` of the payload"
    if found is _MISSING:
        return Refuse(EXCEEDED, f"{where} is missing, and `{name}` is checked there for handler `{handler.topics}`")
    amount = _amount(found)
    if amount is None:
        return Refuse(EXCEEDED, f"{where} is no number from 0, and `{name}` is checked there")
    if amount > limit:
        return Refuse(
            EXCEEDED, f"{where} is {printable(f'{amount:f}', 40)}, above `{name}` {printable(f'{limit:f}', 40)}"
        )
    return None


def _unenforceable(name: str, handler: Capability, remedy: str) -> Refuse:
    message = f"constraint `{printable(name)}` cannot be enforced for handler `{printable(handler.topics)}`: {remedy}"
    return Refuse(UNENFORCEABLE, message)


def _shown(value: Any) -> str:
    return f"`{printable(str(value), 40)}`" if isinstance(value, str | float | None) else f"its {type(value).__name__}"


def _amount(value: Any) -> Decimal | None:
    try:
        return exact(value)
    except BadInput:
        return None


def manifest(pool: str, handlers: Iterable[Capability], sets: Collection[str]) -> dict[str, Any]:
    """What a worker can enforce, as `policy check --workers` reads it: handlers in the order they are asked in."""
    handles = [{"topics": each.topics, "constraints": each.words()} for each in handlers]
    return {"pool": pool, "credentials": sorted(sets), "handles": handles}


def _steps(path: str) -> Steps:
    """A path as policies write it: keys joined by dots, `[n]`, and `#` at the end for how many entries there are."""
    text = str(path).removeprefix("$.")
    steps: list[str | int] = []
    at = 0
    while at < len(text) and len(text) <= PATH_CHARS_MAX:
        found = None if text.startswith(".") else _STEP.match(text, at)
        if found is None:
            break
        steps.append(int(found["index"]) if found["index"] is not None else found["key"] or _COUNT)
        at = found.end()
    if not steps or at < len(text):
        raise BadInput(f"`{printable(str(path))}` is no path into a payload; write it like `order.lines[0].price`")
    return tuple(steps)


def _read(payload: Any, steps: Steps) -> Any:
    here = payload
    for step in steps:
        if isinstance(step, int):
            if not isinstance(here, list) or step >= len(here):
                return _MISSING
            here = here[step]
        elif step == _COUNT:
            return len(here) if isinstance(here, list) else _MISSING
        elif isinstance(here, dict) and step in here:
            here = here[step]
        else:
            return _MISSING
    return here


def _path(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
