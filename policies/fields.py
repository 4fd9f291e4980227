"""The values that documents are made of: names, patterns, paths, keys, numbers with their ranges."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sluicegate.policies.paths import path_problem
from sluicegate.policies.patterns import pattern_problem
from sluicegate.schemas.records import DecisionWord

DecisionName = Literal["allow", "allow_with_constraints", "require_approval", "deny"]
DECISIONS: Final[dict[str, DecisionWord]] = {
    "allow": "ALLOW",
    "allow_with_constraints": "ALLOW_WITH_CONSTRAINTS",
    "require_approval": "REQUIRE_APPROVAL",
    "deny": "DENY",
}
"""The decisions as documents spell them, from the mildest to the strictest, and as events spell them."""

PUBLIC_KEY_BYTES: Final = 32


def _check_pattern(pattern: str) -> str:
    problem = pattern_problem(pattern)
    if problem is not None:
        raise PydanticCustomError("pattern", "{said}", {"said": problem[0], "fix": problem[1]})
    return pattern


def _check_path(path: str) -> str:
    problem = path_problem(path)
    if problem is not None:
        raise PydanticCustomError("path", "{said}", {"said": problem[0], "fix": problem[1]})
    return path


def _check_public_key(text: str) -> str:
    try:
        length = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        length = -1
    if length != PUBLIC_KEY_BYTES:
        fix = f"write the {PUBLIC_KEY_BYTES} bytes of the public key in base64"
        raise PydanticCustomError("public_key", "this is no Ed25519 public key", {"fix": fix})
    return text


NAME: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9])?$"
PERSON: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9_.@+-]{0,98}[A-Za-z0-9])?$"
POOL: Final = r"^[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?$"
TAG: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$"
FACT: Final = r"^[a-z][a-z0-9_]{0,63}$"
RULE_ID: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}$"
VERSION: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$"
LEVEL: Final = r"^level_(0|[1-9][0-9]?)$"
PATTERN_WORDS: Final = {
    NAME: "letters, digits, `_`, `.` and `-` between letters or digits, at most 100",
    PERSON: "letters, digits and any of `_.@+-` between letters or digits, at most 100",
    POOL: "lower case letters, digits and `-` between them, at most 50: it is part of a topic's name",
    TAG: "letters, digits and any of `_.:/-`, at most 100",
    FACT: "lower case letters, digits and `_`, a letter first, at most 64",
    RULE_ID: "letters, digits and any of `_.:/-`, at most 100",
    VERSION: "letters, digits, `_`, `.` and `-`, at most 32",
    LEVEL: "`level_0`, `level_1` and so on",
}
"""What each kind of name may be made of, for the people who get it wrong."""

Name = Annotated[str, Field(pattern=NAME)]
PersonId = Annotated[str, Field(pattern=PERSON)]
PoolName = Annotated[str, Field(pattern=POOL)]
Tag = Annotated[str, Field(pattern=TAG)]
FactName = Annotated[str, Field(pattern=FACT)]
RuleId = Annotated[str, Field(pattern=RULE_ID)]
Version = Annotated[str, Field(pattern=VERSION)]
Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Path = Annotated[str, AfterValidator(_check_path)]
PublicKey = Annotated[str, AfterValidator(_check_public_key)]
Rate = Annotated[float, Field(ge=0, le=1)]
OpenRate = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(gt=0, le=366 * 24 * 3600)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Patterns = Annotated[list[Pattern], Field(min_length=1)]
Paths = Annotated[list[Path], Field(min_length=1)]
Tags = Annotated[list[Tag], Field(min_length=1)]
Mode = Literal["enforce", "observe"]
Confidence = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A mapping with these keys and no others; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
