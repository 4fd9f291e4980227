"""How `bundle.yaml` changed: default, modes, default constraints, sign-off and break-glass in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sluicegate.policies.changes import Change, Place, compare, widenings
from sluicegate.policies.constraints import ConstraintType
from sluicegate.policies.evaluate import RANKS
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.rule_changes import constraint_changes
from sluicegate.policies.wording import DECISION_WORDS, canonical, named, quoted

Json = Mapping[str, Any]

_TABLE: Final = widenings(
    none=["version", "default", "mode", "default_constraints", "constraint_types", "classes*"],
    lower=["sign_off.people"],
    higher=["break_glass.max_sec"],
    lost=["constraint_types.*"],
)


def mode_change(what: str, mode: str, section: int, *, wider: bool) -> Change:
    """That something began to be enforced, or ceased to be."""
    words = {
        "enforce": "is enforced from now on, it was only observed",
        "observe": "is only observed from now on, it was enforced",
    }
    return Change(section, f"{what} {words[mode]}", wider)


def setting_changes(section: int, old: Json, new: Json, types: Mapping[str, ConstraintType]) -> Iterator[Change]:
    """The changes of the bundle's settings; ``types`` are the constraint types after them."""
    said: set[str] = set()
    for change, keys in _in_words(section, old, new, types):
        said.update(keys)
        yield change
    rest = [{key: value for key, value in each.items() if key not in said} for each in (old, new)]
    yield from compare(Place("bundle", section, _TABLE), *rest)


def _in_words(
    section: int, old: Json, new: Json, types: Mapping[str, ConstraintType]
) -> Iterator[tuple[Change, tuple[str, ...]]]:
    """The changes that have words of their own, and the keys that nothing more need be said of."""
    was, becomes = (each.get("default", "require_approval") for each in (old, new))
    if was != becomes:
        text = f"where no rule speaks, the default is to {DECISION_WORDS[becomes]}; it was to {DECISION_WORDS[was]}"
        yield Change(section, text, RANKS[DECISIONS[becomes]] < RANKS[DECISIONS[was]]), ("default",)
    was, becomes = (each.get("mode", "enforce") for each in (old, new))
    if was != becomes:
        yield mode_change("the whole bundle", becomes, section, wider=becomes == "observe"), ("mode",)
    for change in _classes(section, old.get("classes") or {}, new.get("classes") or {}):
        yield change, ("classes",)
    was, becomes = (each.get("default_constraints") or {} for each in (old, new))
    for words, wider in constraint_changes(was, becomes, types):
        yield Change(section, f"`default_constraints`: {words}", wider), ("default_constraints",)
    if "sign_off" in new and "sign_off" not in old:
        yield Change(section, f"`sign_off`: a change needs one from now on: {named(new['sign_off'])}"), ("sign_off",)
    elif "sign_off" in old and "sign_off" not in new:
        text = f"`sign_off`: a change no longer needs one; it was {named(old['sign_off'])}"
        yield Change(section, text, wider=True), ("sign_off",)
    if "break_glass" in new and "break_glass" not in old:
        text = f"`break_glass` is possible from now on: {named(new['break_glass'])}"
        yield Change(section, text, wider=True), ("break_glass",)
    elif "break_glass" in old and "break_glass" not in new:
        text = f"`break_glass` is no longer possible; it was {named(old['break_glass'])}"
        yield Change(section, text), ("break_glass",)


def _classes(section: int, old: Json, new: Json) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        was, becomes = ({"mode": "enforce", "confidence": True, **(each.get(name) or {})} for each in (old, new))
        if was["mode"] != becomes["mode"]:
            what = f"every agent of class {quoted(name)}"
            yield mode_change(what, becomes["mode"], section, wider=becomes["mode"] == "observe")
        if was["confidence"] != becomes["confidence"]:
            asked = "is" if becomes["confidence"] else "is not"
            text = f"class {quoted(name)}: confidence {asked} asked of its agents from now on"
            yield Change(section, text, wider=True)
        if canonical(was) == canonical(becomes) and canonical(old.get(name)) != canonical(new.get(name)):
            yield Change(section, f"class {quoted(name)} is written differently and means the same")
