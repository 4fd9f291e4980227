"""The puncturable tree: one leaf can be taken away, and only that one."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest

from sluicegate.schemas.errors import SealingError
from sluicegate.schemas.key_tree import DIGITS, LEVELS, ROOT, SEED_BYTES, SEEDS_PER_PUNCTURE_MAX, leaf, puncture

SEED = bytes(range(SEED_BYTES))


def random_leaf(chance: random.Random, near: str = "") -> str:
    """Ten digits; with ``near`` a random number of the first ones are its own, so that paths share nodes."""
    kept = chance.randrange(LEVELS) if near else 0
    return near[:kept] + "".join(chance.choices(DIGITS, k=LEVELS - kept))


def punctured(nodes: dict[str, bytes], digits: str) -> dict[str, bytes]:
    """The nodes without one leaf."""
    cut = puncture(nodes, digits)
    if cut is None:
        return nodes
    return {**{prefix: seed for prefix, seed in nodes.items() if prefix != cut.gone}, **cut.stay}


def test_a_leaf_is_the_function_of_the_paper() -> None:
    """The key at ten digits is the root's seed led through one HMAC a digit: a second reading of the definition."""
    expected = SEED
    for digit in "00f13a9e5c":
        expected = hmac.new(expected, b"sluicegate.tree.v1" + bytes([int(digit, 16)]), hashlib.sha256).digest()
    assert leaf({ROOT: SEED}, "00f13a9e5c") == expected


@pytest.mark.parametrize("seed", range(8))
def test_exactly_the_punctured_leaves_are_gone(seed: int) -> None:
    """Whatever is punctured, in whatever order, near or far: those leaves are gone and every other one is unchanged."""
    chance = random.Random(seed)
    nodes, gone = {ROOT: SEED}, set[str]()
    for number in range(30):
        digits = random_leaf(chance, chance.choice(sorted(gone)) if gone and number % 2 else "")
        nodes = punctured(nodes, digits)
        gone.add(digits)
    others = {random_leaf(chance, chance.choice(sorted(gone))) for _ in range(300)} - gone
    assert all(leaf(nodes, digits) is None for digits in gone)
    assert all(leaf(nodes, digits) == leaf({ROOT: SEED}, digits) for digits in others)
    assert len(nodes) <= len(gone) * SEEDS_PER_PUNCTURE_MAX


def test_nothing_that_stays_gives_what_is_gone() -> None:
    """No seed that stays lies on the way to the punctured leaf, and none is the beginning of another one."""
    digits = "0123456789"
    nodes = punctured({ROOT: SEED}, digits)
    assert len(nodes) == SEEDS_PER_PUNCTURE_MAX
    assert not any(digits.startswith(prefix) for prefix in nodes)
    assert SEED not in nodes.values()
    assert leaf({ROOT: SEED}, digits) not in nodes.values()


def test_puncturing_again_changes_nothing() -> None:
    """What is gone cannot go again."""
    nodes = punctured({ROOT: SEED}, "abcdef0123")
    assert puncture(nodes, "abcdef0123") is None


@pytest.mark.parametrize("digits", ["", "abc", "ABCDEF0123", "abcdef012g", "abcdef01234", "abcdef012\n"])
def test_what_names_no_leaf_is_refused(digits: str) -> None:
    """Ten lower-case hex digits, nothing else: a shorter one would be a node above many leaves."""
    with pytest.raises(SealingError, match="names no leaf"):
        leaf({ROOT: SEED}, digits)
    with pytest.raises(SealingError, match="names no leaf"):
        puncture({ROOT: SEED}, digits)
