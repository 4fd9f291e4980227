"""Payload schemas beside another implementation of the same draft: random schemas, random payloads, one answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sluicegate.policies.payload_schema import PayloadSchema
from sluicegate.policies.schema_words import schema_problems

SHORT: Final = 3_000
LONG: Final = 100_000
NAMES: Final = ("a", "b", "c", "d")
SCALARS: Final = (None, True, False, 0, 1, 1.0, 2, -3, 2.5, 0.0, -0.0, 4, 7, 10**20, "", "a", "ab", "b")
TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")


class Maker:
    """Makes payloads and schemas; ``broken`` is how often a keyword's value is anything at all."""

    def __init__(self, chance: random.Random, broken: float) -> None:
        self.chance = chance
        self.broken = broken

    def value(self, depth: int = 0) -> Any:
        kind = self.chance.randrange(9 if depth < 3 else 6)
        if kind < 6:
            return self.chance.choice(SCALARS)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.chance.randrange(4))]
        return {self.chance.choice(NAMES): self.value(depth + 1) for _ in range(self.chance.randrange(4))}

    def schema(self, depth: int = 0) -> Any:
        chance = self.chance
        if depth and (depth > 4 or chance.random() < 0.1):
            return chance.random() < 0.7
        makers = self._keywords(depth)
        words = chance.sample(sorted(makers), chance.choice([1, 1, 2, 3, 5]))
        return {word: self.value() if chance.random() < self.broken else makers[word]() for word in words}

    def _names(self) -> list[str]:
        return self.chance.sample(NAMES, self.chance.randrange(3))

    def _keywords(self, depth: int) -> dict[str, Callable[[], Any]]:
        chance = self.chance

        def one() -> Any:
            return self.schema(depth + 1)

        def several() -> list[Any]:
            return [one() for _ in range(chance.randrange(1, 3))]

        def named() -> dict[str, Any]:
            return {name: one() for name in self._names()}

        def number() -> Any:
            return chance.choice([0, 1, 2, -1, 2.5, 3, 1.0, 0.5])

        def count() -> Any:
            return chance.choice([0, 1, 2, 1.0])

        bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        counts = [f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties", "Contains")]
        ones = ("additionalProperties", "propertyNames", "items", "contains", "not", "if", "then", "else")
        return {
            **dict.fromkeys(bounds, number),
            **dict.fromkeys(counts, count),
            **dict.fromkeys((*ones, "contentSchema"), one),
            **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), several),
            **dict.fromkeys(("properties", "dependentSchemas", "$defs"), named),
            "type": lambda: chance.choice([chance.choice(TYPES), chance.sample(TYPES, chance.randrange(1, 4))]),
            "const": self.value,
            "enum": lambda: [self.value() for _ in range(chance.randrange(4))],
            "multipleOf": lambda: chance.choice([1, 2, 0.5, 2.5, 3, 1.0]),
            "pattern": lambda: chance.choice(["a", "^a$", "b+"]),
            "required": self._names,
            "dependentRequired": lambda: {name: self._names() for name in self._names()},
            "uniqueItems": lambda: chance.random() < 0.7,
            "format": lambda: "email",
        }


def compare(seed: int, count: int) -> Counter[str]:
    """Ask both of so many schemas; how they ended."""
    ended: Counter[str] = Counter()
    chance = random.Random(seed)
    maker = Maker(chance, broken=0.05)
    for _ in range(count):
        schema = maker.schema()
        problems = list(schema_problems(schema))
        if any("no keyword" in message for _, message, _ in problems):
            continue  # the other one takes unknown words for notes
        try:
            Draft202012Validator.check_schema(schema, format_checker=None)
        except SchemaError:
            assert problems, schema
            ended["no schema"] += 1
            continue
        assert not problems, schema
        ours, theirs = PayloadSchema(schema), Draft202012Validator(schema)
        for _ in range(5):
            payload = maker.value()
            fault = ours.fault(payload)
            assert (fault is None) == theirs.is_valid(payload), (schema, payload, fault)
            if fault is not None:
                place = fault.split("`")[1]
                places = {".".join(map(str, error.absolute_schema_path)) for error in theirs.iter_errors(payload)}
                # The other one leaves out the last step before the schema `false`.
                assert places & {place, place.rpartition(".")[0]}, (schema, payload, fault)
            ended["fits" if fault is None else "does not fit"] += 1
    return ended


def test_another_implementation_gives_the_same_answers() -> None:
    """3,000 schemas: the same ones are refused, the same payloads fit, and the same place is at fault."""
    ended = compare(84, SHORT)
    assert min(ended["no schema"], ended["fits"], ended["does not fit"]) > SHORT // 20, ended


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(8_400, 8_404))
def test_another_implementation_gives_the_same_answers_very_often(seed: int) -> None:
    """The long form."""
    assert compare(seed, LONG).total() > LONG
