"""What differs between two plain documents, key by key, and whether it may permit more.

A difference counts as wider unless the key is known to be harmless in that direction: whoever signs should rather
read one line too many with the mark than one too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec

from sluicegate.policies.patterns import Glob
from sluicegate.policies.wording import canonical, from_to, gains_and_losses, list_change, quoted

Widening = Literal["higher", "lower", "gained", "lost", "any", "none"]
"""Which change of a value permits more: a higher number, a lower one, an entry more, one less, any, none."""
Widenings = Sequence[tuple[Glob, Widening]]
"""By key path, the first that fits; `any` where none does."""

E = TypeVar("E")

ABSENT: Final = object()
"""Stands for a key that one of the documents does not have."""


class Change(msgspec.Struct, frozen=True):
    """One line. ``section`` orders by how much of the bundle it is about, the whole first."""

    section: int
    text: str
    wider: bool = False


class Place(msgspec.Struct, frozen=True):
    """What is compared: how its lines begin, where they stand, and what permits more."""

    subject: str
    section: int
    widenings: Widenings = ()


def widenings(**by_kind: Sequence[str]) -> Widenings:
    """The table of these patterns of key paths; patterns that are given first win."""
    return [(Glob(path), kind) for kind, paths in by_kind.items() for path in paths]  # type: ignore[misc]


def pairs_of(old: Sequence[E], new: Sequence[E], keys: Sequence[Callable[[int, E], Any]]) -> list[tuple[int, int]]:
    """(index before, index after) of each entry that is there still, found by the first of ``keys`` that agrees.

    A key is a function of index and entry; None finds nothing.
    """
    pairs: list[tuple[int, int]] = []
    left = [dict(enumerate(entries)) for entries in (old, new)]
    for key_of in keys:
        free: dict[Any, list[int]] = {}
        for index, entry in left[0].items():
            free.setdefault(key_of(index, entry), []).append(index)
        for index, entry in list(left[1].items()):
            key = key_of(index, entry)
            if key is not None and free.get(key):
                at = free[key].pop(0)
                pairs.append((at, index))
                del left[0][at], left[1][index]
    return sorted(pairs, key=lambda pair: pair[1])


def compare(place: Place, old: Any, new: Any, *, path: tuple[str, ...] = ()) -> Iterator[Change]:
    """The changes between two values, by sorted key path; entries of a list with ids are found by them."""
    if old is not ABSENT and new is not ABSENT and canonical(old) == canonical(new):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from compare(place, old.get(key, ABSENT), new.get(key, ABSENT), path=(*path, key))
    elif isinstance(old, list) and isinstance(new, list) and not _have_ids(old + new):
        yield _change(place, path, list_change(old, new), old, new)
    elif isinstance(old, list) and isinstance(new, list):
        entries, others = ({item["id"]: item for item in items} for items in (old, new))
        yield from compare(place, entries, others, path=path)
        if canonical(entries) == canonical(others):
            yield _change(place, path, "stands in another order", ABSENT, ABSENT)
    elif old is ABSENT:
        yield _change(place, path, f"is new: {quoted(new)}", old, new)
    elif new is ABSENT:
        yield _change(place, path, f"is gone; it was {quoted(old)}", old, new)
    else:
        yield _change(place, path, from_to(old, new), old, new)


def _have_ids(items: Sequence[Any]) -> bool:
    ids = [item.get("id") for item in items if isinstance(item, Mapping)]
    return len(ids) == len(items) > 0 and all(isinstance(each, str) for each in ids)


def _change(place: Place, path: tuple[str, ...], words: str, old: Any, new: Any) -> Change:
    name = f"{quoted('.'.join(path))} " if path else ""
    return Change(place.section, f"{place.subject}: {name}{words}", _permits_more(place.widenings, path, old, new))


def _permits_more(table: Widenings, path: tuple[str, ...], old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        # A whole branch that came or went; one that took the place of a value counts as both.
        sides = [side if isinstance(side, Mapping) else {} for side in (old, new)]
        inner = {*sides[0], *sides[1]}
        if inner:
            return any(_permits_more(table, (*path, key), *(side.get(key, ABSENT) for side in sides)) for key in inner)
    name = ".".join(path)
    kind: Widening = next((kind for pattern, kind in table if pattern.matches(name)), "any")
    return widens(kind, old, new)


def widens(kind: Widening, old: Any, new: Any) -> bool:
    """Whether a change of a value permits more; a limit that goes counts as wider, one that comes does not."""
    if kind in ("any", "none"):
        return kind == "any"
    if kind in ("gained", "lost"):
        came, went = (value if isinstance(value, list) else [value] * (value is not ABSENT) for value in (new, old))
        gained, lost = gains_and_losses(went, came)
        return bool(gained if kind == "gained" else lost)
    if old is ABSENT:
        return False
    if isinstance(old, int | float) and isinstance(new, int | float):
        return bool(new > old) if kind == "higher" else bool(new < old)
    return True
