"""Whether the workers there are can enforce what the rules constrain, said before anything is granted. Pure.

A worker's manifest is what `Worker.manifest()` gives; a file of them is a list:

    - pool: default
      credentials: ["", read_only, dry_run+read_only]
      handles:
        - topics: job.support.refund
          constraints: { max_amount_usd: argument, max_runtime_sec: worker, path_allowlist: handler }

A job goes to the pool of its action and there to the first handler of a worker that takes its topic. For each rule and
each such handler every constraint must be enforced, by it or by another worker of the pool that takes the same topics;
else a grant would be refused, and that is an error here. Rules that want a tag are held only against actions that carry
it, as far as there are any: an agent that adds the tag to another job makes its own job harder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import AfterValidator, ConfigDict, Field, RootModel
from pydantic_core import PydanticCustomError

from sluicegate.policies import documents as docs
from sluicegate.policies.actions import DEFAULT_POOL
from sluicegate.policies.checks import validated
from sluicegate.policies.constraints import ConstraintType
from sluicegate.policies.faults import Fault, PolicyFaults
from sluicegate.policies.fields import FactName, Pattern, PoolName, Strict
from sluicegate.policies.load import Bundle
from sluicegate.policies.patterns import Glob
from sluicegate.policies.reading import read_source
from sluicegate.policies.source import Source

STATES_MAX: Final = 100_000
"""How long three patterns are looked at for a common topic, in states; beyond it they count as having one."""
SHOWN_MAX: Final = 3
"""How many handlers one fault names."""
NETWORK: Final = "network_allowlist"
HARMLESS_FALSE: Final = frozenset({"read_only", "dry_run"})
"""Constraints of which `false` asks for nothing, for the worker as here."""

Enforcer = Literal["worker", "argument", "budget", "handler"]
Path = tuple[str | int, ...]
ListProblem = Callable[[Sequence[str]], str | None]
"""What is wrong with a `network_allowlist` for the worker that must enforce it, or None."""


def _check_set(name: str) -> str:
    parts = name.split("+") if name else []
    if parts != sorted(set(parts)) or "" in parts:
        fix = "join the names of its constraints with `+`, in the order of the alphabet"
        raise PydanticCustomError("set", "{said}", {"said": f"no grant chooses the credentials `{name}`", "fix": fix})
    return name


class Handles(Strict):
    """A handler: the topics it takes, and who enforces which constraint."""

    topics: Pattern
    constraints: dict[FactName, Enforcer] = {}


class Manifest(Strict):
    """One worker: its pool, the names of its credential sets, its handlers in the order they are asked in."""

    pool: PoolName
    credentials: list[Annotated[str, AfterValidator(_check_set)]] = []
    handles: Annotated[list[Handles], Field(min_length=1)]


class WorkersDocument(RootModel[Annotated[list[Manifest], Field(min_length=1)]]):
    """The workers there are."""

    model_config = ConfigDict(strict=True, frozen=True)


def read_workers(file: str, text: str) -> tuple[Manifest, ...]:
    """The manifests of a file. Raises PolicyFaults with every fault of it."""
    source = read_source(file, text, "list")
    document = validated(source, WorkersDocument) if source.root is not None else None
    if document is None or source.faults:
        raise PolicyFaults(source.faults)
    return tuple(document.root)


class _Binding(msgspec.Struct, frozen=True):
    """Constraints that may bind a job: those of a rule, or the bundle's default ones. ``path`` leads to them."""

    file: str
    path: Path
    name: str
    match: docs.Match
    constraints: Mapping[str, Any]


class _Cell(msgspec.Struct, frozen=True):
    """Topics that fit a rule's pattern and an action's, and the pool that their jobs go to."""

    rule: str
    action: str
    pool: str


class _Taker(msgspec.Struct, frozen=True):
    """A handler that may get a job of a cell, and the worker it belongs to."""

    worker: int
    credentials: frozenset[str]
    handler: Handles


def check_workers(
    files: Mapping[str, str], bundle: Bundle, workers: Sequence[Manifest], list_problem: ListProblem
) -> tuple[Fault, ...]:
    """What no worker can enforce (errors) and which actions no handler takes (warnings), in file order.

    ``files`` are the texts that ``bundle`` was parsed from: the faults point into them.
    """
    sources = {name: read_source(name, text) for name, text in files.items()}
    told: set[tuple[str, Path]] = set()
    for binding in _bindings(bundle):
        source = sources[binding.file]
        for name, value in binding.constraints.items():
            where = (*binding.path, name)
            if (binding.file, where) in told:
                continue
            problem = list_problem(value) if name == NETWORK else None
            fault = (problem, "mend the entry") if problem else _unenforced(bundle, binding, name, workers)
            if fault is not None:
                told.add((binding.file, where))
                source.fault(where, *fault, at_key=True)
    _check_taken(sources, bundle, workers)
    return tuple(sorted(fault for source in sources.values() for fault in source.faults))


def _bindings(bundle: Bundle) -> Iterator[_Binding]:
    lists: list[tuple[str, Path, str, list[docs.Rule]]] = [
        (placed.file, ("rules",), layer, placed.document.rules) for layer, placed in bundle.layers.items()
    ]
    if bundle.autonomy is not None:
        levels = bundle.autonomy.document.autonomy_levels.items()
        lists += [(bundle.autonomy.file, ("autonomy_levels", name, "rules"), name, each.rules) for name, each in levels]
    for file, path, layer, rules in lists:
        for index, rule in enumerate(rules):
            name = rule.id or f"{layer}/{index}"
            if rule.constraints and rule.decision != "deny":
                yield _Binding(file, (*path, index, "constraints"), name, rule.match, rule.constraints)
            elif rule.decision == "allow_with_constraints":
                yield from _by_default(bundle, name, rule.match)
    if bundle.settings.default == "allow_with_constraints":
        yield from _by_default(bundle, "default", docs.Match(topics=["*"]))


def _by_default(bundle: Bundle, name: str, match: docs.Match) -> Iterator[_Binding]:
    constraints = bundle.settings.default_constraints
    file = next((each for each in bundle.documents if docs.stem_of(each) == "bundle"), None)
    if constraints and file is not None:
        yield _Binding(file, ("default_constraints",), name, match, constraints)


def _unenforced(bundle: Bundle, binding: _Binding, name: str, workers: Sequence[Manifest]) -> tuple[str, str] | None:
    """(message, fix) when some handler would get the constraint and no worker could enforce it."""
    kind = bundle.constraint_types[name]
    lacking: dict[str, None] = {}
    for cell in _cells(bundle, binding.match):
        takers = _takers(cell, workers)
        able = [each for each in takers if _enforces(each, name, kind, binding.constraints)]
        for taker in takers:
            topics = taker.handler.topics
            instead = (each for each in able if each.worker != taker.worker)
            if taker not in able and not any(
                _meet(cell.rule, cell.action, topics, each.handler.topics) for each in instead
            ):
                lacking[f"`{topics}` in pool `{cell.pool}`"] = None
    if not lacking:
        return None
    shown = ", ".join(list(lacking)[:SHOWN_MAX]) + (", ..." if len(lacking) > SHOWN_MAX else "")
    return f"no worker enforces `{name}` of `{binding.name}` for {shown}", _remedy(name, kind, binding.constraints)


def _remedy(name: str, kind: ConstraintType, constraints: Mapping[str, Any]) -> str:
    if kind.kind == "boolean" and constraints[name]:
        wanted = "+".join(sorted(each for each, value in constraints.items() if value is True))
        return f"give the worker a credential set `{wanted}`, or register its handler with `enforces`"
    if kind.kind in ("boolean", "list") or kind.merge == "max":
        return "register the handler with `enforces` if it keeps to it itself, or remove the constraint"
    return "register the handler with `limits`, `spends` or `enforces`, or remove the constraint"


def _enforces(taker: _Taker, name: str, kind: ConstraintType, constraints: Mapping[str, Any]) -> bool:
    by = taker.handler.constraints
    value = constraints[name]
    if kind.kind == "list" and name != NETWORK:
        return by.get(name) == "handler"  # a worker compares numbers only
    if not isinstance(value, bool):
        # A worker compares with an upper limit: of what merges to the larger value it would check the wrong side.
        return name in by and (kind.merge != "max" or by[name] == "handler")
    if by.get(name) == "handler" or (not value and name in HARMLESS_FALSE):
        return True
    if not value:
        return False
    true = {each for each, said in constraints.items() if said is True}
    left = {each for each in true if by.get(each) != "handler"}
    return any("+".join(sorted(names)) in taker.credentials for names in (true, left))


def _cells(bundle: Bundle, match: docs.Match) -> list[_Cell]:
    entries = bundle.actions.actions
    wanted = [set(match.risk_tags or ()), *({tag} for tag in match.risk_tags_all or ())]
    carriers = [entry for entry in entries if all(not tags or tags & set(entry.risk_tags) for tags in wanted)]
    tagged = any(wanted)
    cells: list[_Cell] = []
    for rule in match.topics or ["*"]:
        for entry in carriers if carriers and tagged else entries:
            for action in entry.topics:
                if _meet(rule, action):
                    cells.append(_Cell(rule, action, _pool(entries, entry, rule, action)))  # noqa: PERF401
        known = any(_covers(action, rule) for entry in entries for action in entry.topics)
        if not known and not (carriers and tagged):
            cells.append(_Cell(rule, "*", DEFAULT_POOL))  # topics that no action names
    return list(dict.fromkeys(cells))


def _pool(entries: Iterable[docs.ActionEntry], own: docs.ActionEntry, rule: str, action: str) -> str:
    """The pool of the first entry that has one and fits all topics of a cell, else the cell's own, else the default."""
    for entry in entries:
        fits = any(_covers(each, rule) or _covers(each, action) for each in entry.topics)
        if entry.pool is not None and (entry is own or fits):
            return entry.pool
    return DEFAULT_POOL


def _takers(cell: _Cell, workers: Sequence[Manifest]) -> list[_Taker]:
    """The handlers that may get a job of the cell: of each worker the first ones, not what stands behind them."""
    takers: list[_Taker] = []
    for number, worker in enumerate(workers):
        if worker.pool != cell.pool:
            continue
        before: list[str] = []
        for handler in worker.handles:
            topics = (handler.topics, cell.rule, cell.action)
            if _meet(*topics) and not any(_covers(wide, each) for wide in before for each in topics):
                takers.append(_Taker(number, frozenset(worker.credentials), handler))
            before.append(handler.topics)
    return takers


def _check_taken(sources: Mapping[str, Source], bundle: Bundle, workers: Sequence[Manifest]) -> None:
    file = next((each for each in bundle.documents if docs.stem_of(each) == "actions"), None)
    entries = bundle.actions.actions
    for index, entry in enumerate(entries if file is not None else ()):
        for number, action in enumerate(entry.topics):
            pool = _pool(entries, entry, action, action)
            if not _takers(_Cell(action, action, pool), workers):
                message = f"no handler of pool `{pool}` takes `{action}`"
                path = ("actions", index, "topics", number)
                fix = "register one, or give the action another pool"
                sources[file or ""].fault(path, message, fix, severity="warning")


def _covers(wide: str, narrow: str) -> bool:
    """Whether every topic that fits ``narrow`` fits ``wide``: a letter that no pattern has stands for each `*`."""
    return Glob(wide).matches(narrow.replace("*", "\0"))


def _meet(*patterns: str) -> bool:
    """Whether some topic fits all of these patterns: a search over how far each has been read."""
    pending = [(0,) * len(patterns)]
    seen = set(pending)
    while pending and len(seen) <= STATES_MAX:
        state = pending.pop()
        rests = [pattern[at : at + 1] for pattern, at in zip(patterns, state, strict=True)]
        if not any(rests):
            return True
        following = [
            (*state[:index], state[index] + 1, *state[index + 1 :]) for index, sign in enumerate(rests) if sign == "*"
        ]
        if all(rests) and len({*rests} - {"*"}) == 1:
            following.append(tuple(at + (sign != "*") for at, sign in zip(state, rests, strict=True)))
        pending += [each for each in following if each not in seen]
        seen.update(following)
    return bool(pending)
