"""What one bundle changes against another, in words that a person who signs for it reads in a minute.

Every document is covered: rules, levels, actions, agents, people and the bundle's own settings in words of their own,
all else by key paths. Lines that may permit more than before begin with `wider: ` and come first; within both groups
what is about the whole bundle comes before what is about one rule or one person.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from sluicegate.policies import documents as docs
from sluicegate.policies.action_changes import action_changes
from sluicegate.policies.changes import Change, Place, Widenings, compare, widenings
from sluicegate.policies.load import Bundle
from sluicegate.policies.rule_changes import Rules, Terms, rule_changes, whole_widens
from sluicegate.policies.setting_changes import mode_change, setting_changes
from sluicegate.policies.wording import canonical, clip, named, quoted

LINES_MAX: Final = 200
"""How many changes are listed; the last line says how many more there are."""
LINE_CHARS_MAX: Final = 400
"""The longest line, in characters."""
WIDER: Final = "wider: "

SETTINGS, LAYERS, RULES, LEVELS, ACTIONS, AGENTS, PEOPLE, AUDIT, CONTRACT, WORKFLOWS, REST = range(11)

Json = Mapping[str, Any]

_LEVELS: Final = widenings(
    none=["version", "mode"],
    lower=["*.min_successful_actions", "*.review_period_days", "*.requires_human_sign_off"],
    higher=["*.max_error_rate"],
    lost=["demotion_triggers"],
)
_AGENT: Final = widenings(none=["version", "initial_level.reason", "initial_level.signer"], gained=["pools"])
_PERSON: Final = widenings(none=["name"], gained=["roles"])
_QUEUE: Final = widenings(gained=["members"])
_AUDIT: Final = widenings(
    none=["version"],
    lower=["audit.sampling.rate", "audit.sampling.weights.*"],
    lost=["audit.mandatory*"],
)
_CONTRACT: Final = widenings(
    none=["version", "*.target_median_wait_sec", "*.target_p95_wait_sec", "*.escalate_after_sec", "*.auto_rebalance"],
    higher=["*.max_open_requests_per_reviewer", "*.cooldown_after_approvals"],
    lower=["*.sampled_second_review_rate", "*.reject_if_incomplete"],
    lost=["*.required_fields"],
)
_WORKFLOW: Final = widenings(none=["version", "steps.*.reason"])
_HARMLESS: Final = widenings(none=["*"])


def difference(before: Bundle, after: Bundle) -> tuple[str, ...]:
    """The lines, at most ``LINES_MAX`` and one more; none exactly when both publish the same documents."""
    if canonical(dict(before.documents)) == canonical(dict(after.documents)):
        return ()
    changes = sorted(_changes(before, after), key=lambda change: (not change.wider, change.section))
    lines = [clip(WIDER * change.wider + change.text, LINE_CHARS_MAX) for change in changes]
    rest = changes[LINES_MAX:]
    if rest:
        wider = sum(change.wider for change in rest)
        lines[LINES_MAX:] = [WIDER * bool(wider) + f"and {len(rest)} more changes" + f", {wider} wider" * bool(wider)]
    return tuple(lines)


def _changes(before: Bundle, after: Bundle) -> Iterator[Change]:
    olds, news = _by_key(before), _by_key(after)
    for key in sorted({*olds, *news}):
        old_file, old = olds.get(key, ("", {}))
        new_file, new = news.get(key, ("", {}))
        kind = key[0]
        if old_file != new_file:
            if not old_file or not new_file:
                words = "is gone" if not new_file else "is new"
                yield Change(REST, f"the document {quoted(old_file or new_file)} {words}")
            else:
                yield Change(REST, f"the document {quoted(old_file)} is now called {quoted(new_file)}")
        if kind == "rules":
            yield from _layer(key[1], (old, before), (new, after))
        elif kind == "autonomy":
            yield from _autonomy((old, before), (new, after))
        else:
            yield from _document(kind, key[1], (old, before), (new, after))


def _by_key(bundle: Bundle) -> dict[tuple[str, str], tuple[str, Json]]:
    """(kind, name) to (file, document): what may stand in a bundle once is found whatever its file is called."""
    found: dict[tuple[str, str], tuple[str, Json]] = {}
    for file, document in bundle.documents.items():
        body = document if isinstance(document, dict) else {}
        kind = docs.kind_of(file, set(body))
        found[_key(kind, file)] = (file, body)
    return found


def _key(kind: type[BaseModel] | None, file: str) -> tuple[str, str]:
    stem = docs.stem_of(file)
    if kind is docs.RulesDocument:
        return "rules", stem
    for one, name in ((docs.AutonomyDocument, "autonomy"), (docs.AuditDocument, "audit")):
        if kind is one:
            return name, ""
    if kind is docs.ContractDocument:
        return "contract", ""
    if stem in docs.KINDS_BY_NAME:
        return stem, ""
    return ("workflow" if kind is docs.WorkflowDocument else "other"), file


_Side = tuple[Json, Bundle]


def _document(kind: str, name: str, old: _Side, new: _Side) -> Iterator[Change]:
    if kind == "bundle":
        yield from setting_changes(SETTINGS, old[0], new[0], new[1].constraint_types)
    elif kind == "actions":
        yield from action_changes(ACTIONS, old[0], new[0], _all_rules(new[1]))
        yield from compare(Place("actions", REST, _HARMLESS), *_without("actions", old[0], new[0]))
    elif kind == "agents":
        yield from _entries("agent", AGENTS, _AGENT, _ids(old[0].get("agents")), _ids(new[0].get("agents")))
        yield from compare(Place("agents", REST, _HARMLESS), *_without("agents", old[0], new[0]))
        yield from _order("agents", old[0].get("agents"), new[0].get("agents"))
    elif kind == "reviewers":
        yield from _entries("person", PEOPLE, _PERSON, _ids(old[0].get("people")), _ids(new[0].get("people")))
        yield from _entries("queue", PEOPLE, _QUEUE, old[0].get("queues") or {}, new[0].get("queues") or {})
        yield from compare(Place("reviewers", REST, _HARMLESS), *_without(("people", "queues"), old[0], new[0]))
        yield from _order("people", old[0].get("people"), new[0].get("people"))
    else:
        sections = {"audit": (AUDIT, _AUDIT), "contract": (CONTRACT, _CONTRACT), "workflow": (WORKFLOWS, _WORKFLOW)}
        section, table = sections.get(kind, (REST, widenings(none=["version"])))
        subject = f"workflow {quoted(name)}" if kind == "workflow" else quoted(name) if kind == "other" else kind
        yield from compare(Place(subject, section, table), old[0], new[0])


def _without(keys: str | Sequence[str], *documents: Json) -> Iterator[Json]:
    left_out = (keys,) if isinstance(keys, str) else keys
    for document in documents:
        yield {key: value for key, value in document.items() if key not in left_out}


def _ids(entries: Any) -> dict[str, Json]:
    return {entry["id"]: entry for entry in entries or ()}


def _order(name: str, old: Any, new: Any) -> Iterator[Change]:
    """That entries found by their ids stand in another order, where nothing else says that the list changed."""
    old, new = old or [], new or []
    if canonical(old) != canonical(new) and canonical(_ids(old)) == canonical(_ids(new)):
        yield Change(REST, f"the {name} stand in another order")


def _entries(
    noun: str, section: int, table: Widenings, old: Mapping[str, Json], new: Mapping[str, Json]
) -> Iterator[Change]:
    """Agents, people and queues: one that comes permits more, one that goes does not."""
    for name in sorted({*old, *new}):
        if name not in old:
            rest = named({key: value for key, value in new[name].items() if key != "id"})
            yield Change(section, f"{noun} {quoted(name)} is new" + f": {rest}" * bool(rest), wider=True)
        elif name not in new:
            yield Change(section, f"{noun} {quoted(name)} is gone")
        else:
            yield from compare(Place(f"{noun} {quoted(name)}", section, table), old[name], new[name])


_UNDEFINED: Final = {"decision": "require_approval", "match": {"topics": ["*"]}}
"""What a level that the autonomy document does not define decides of everything."""


def _terms(bundle: Bundle) -> Terms:
    settings = bundle.settings
    return Terms(settings.default, settings.default_constraints, bundle.constraint_types)


def _all_rules(bundle: Bundle) -> Iterator[Json]:
    """The rules of every layer and level."""
    for (kind, _), (_, document) in _by_key(bundle).items():
        if kind == "rules":
            yield from document["rules"]
        elif kind == "autonomy":
            for level in document["autonomy_levels"].values():
                yield from level["rules"]


def _layer(name: str, old: _Side, new: _Side) -> Iterator[Change]:
    place = f"layer {quoted(name)}"
    lists = [Rules(name, document.get("rules") or (), _terms(bundle)) for document, bundle in (old, new)]
    acts = yield from _whole_layer(place, old[0], new[0], [lists[0]], [lists[1]])
    yield from rule_changes(place, RULES, *lists, acts=acts)
    yield from _rest_of_layer(place, ("rules",), _HARMLESS, old[0], new[0])


def _whole_layer(
    place: str, old: Json, new: Json, olds: Sequence[Rules], news: Sequence[Rules], unwritten: Sequence[Rules] = ()
) -> Generator[Change, None, bool]:
    """What happens to a layer as a whole; whether it decides anything, before or after.

    ``unwritten`` is what the layer decides beside its rules.
    """
    modes = [document.get("mode", "enforce") for document in (old, new) if document]
    acts = "enforce" in modes
    comes, goes = (
        any(whole_widens(rules, comes=way) for rules in (*some, *unwritten))
        for way, some in ((True, news), (False, olds))
    )
    if not old:
        count = sum(len(rules.rules) for rules in news)
        words = f"{count} rule{'s' * (count != 1)}, {'enforced' if acts else 'only observed'}"
        yield Change(LAYERS, f"{place} is new: {words}", acts and comes)
    elif not new:
        count = sum(len(rules.rules) for rules in olds)
        yield Change(LAYERS, f"{place} is gone, with {count} rule{'s' * (count != 1)}", acts and goes)
    elif modes[0] != modes[1]:
        yield mode_change(place, modes[1], LAYERS, wider=comes if modes[1] == "enforce" else goes)
    return acts


def _rest_of_layer(place: str, said: Sequence[str], table: Widenings, old: Json, new: Json) -> Iterator[Change]:
    if not old or not new:
        return
    if old.get("mode", "enforce") != new.get("mode", "enforce"):
        said = (*said, "mode")
    yield from compare(Place(place, REST, table), *_without(said, old, new))


def _autonomy(old: _Side, new: _Side) -> Iterator[Change]:
    levels = [document.get("autonomy_levels") or {} for document, _ in (old, new)]
    lists = [
        {name: Rules(name, level["rules"], _terms(bundle)) for name, level in each.items()}
        for each, (_, bundle) in zip(levels, (old, new), strict=True)
    ]
    undefined = [Rules("autonomy", (_UNDEFINED,), _terms(bundle)) for _, bundle in (old, new)]
    acts = yield from _whole_layer(
        "layer `autonomy`", old[0], new[0], [*lists[0].values()], [*lists[1].values()], undefined
    )
    for name in sorted({*levels[0], *levels[1]}):
        place = f"level {quoted(name)}"
        if old[0] and new[0] and (name not in levels[0] or name not in levels[1]):
            # Where a level is not defined everything waits for a person, whatever other levels say.
            yield Change(LEVELS, f"{place} is {'new' if name in levels[1] else 'gone'}", wider=acts)
        rules = [each.get(name, Rules(name, (), _terms(new[1]))) for each in lists]
        yield from rule_changes(place, LEVELS, *rules, acts=acts)
        yield from _rest_of_layer(place, ("rules",), _HARMLESS, *(each.get(name) or {} for each in levels))
    for change in _rest_of_layer("autonomy", ("autonomy_levels",), _LEVELS, old[0], new[0]):
        yield Change(LEVELS, change.text, change.wider)
