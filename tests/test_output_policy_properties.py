"""What holds of every reviewed output: nothing that was detected leaves, in no decoding; a second review is content.

The documents are made at random from seeds: things that must not leave stand in keys and values at any depth, as they
are and in the decodings that the scan knows. The judge here has decoders of its own.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest

from sluicegate.policies.load import shipped_output_policy
from sluicegate.policies.output_document import (
    AUDIENCES,
    DATA_CLASSES,
    AudienceWord,
    OutputBody,
    OutputPolicyDocument,
)
from sluicegate.policies.output_policy import OutputPolicy
from sluicegate.policies.redaction import REMOVED, REPLACED
from sluicegate.policies.review import Review, review
from sluicegate.schemas.payload import parse_strict

POLICY: Final = OutputPolicy(shipped_output_policy())
SECRETS: Final = (
    "536-22-8471",
    "219-09-4518",
    "4111111111111111",
    "5500005555555559",
    "DE89370400440532013000",
    "AKIAQ4J7XW2MN5RTB3KD",
    "ghp_x7Kq2LmN9vTzR4bYw8sDfG3hJ6pQcV1aE5uZ",
)
"""Of classes that leave to no audience."""
WORDS: Final = (
    "parcel",
    "order 4711",
    "on Monday",
    "naïve café",
    "Größe 7",
    "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "",
)
NAMES: Final = ("id", "note", "total", "items", "a.b", "the key", "имя", "internal_notes", "debugTrace", "0")
SEEDS: Final = 60
SEEDS_LONG: Final = 3_000

HIDDEN: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: text,
    lambda text: f"see {text}, please",
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.b64encode(f"it is {text} indeed".encode()).decode(),
    lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "\u200b".join,
    lambda text: "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text),
    lambda text: json.dumps({"inner": text}),
    lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
)
"""How a secret may be written."""


def documents(seed: int) -> tuple[Any, list[str]]:
    """A document, and the secrets in it."""
    chance = random.Random(seed)
    planted: list[str] = []

    def text() -> str:
        if chance.random() < 0.3:
            secret = chance.choice(SECRETS)
            planted.append(secret)
            return chance.choice(HIDDEN)(secret)
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 3)))

    def value(depth: int) -> Any:
        kind = chance.random()
        if depth < 5 and kind < 0.3:
            return {
                (text() if chance.random() < 0.1 else chance.choice(NAMES)): value(depth + 1)
                for _ in range(chance.randint(0, 4))
            }
        if depth < 5 and kind < 0.5:
            return [value(depth + 1) for _ in range(chance.randint(0, 4))]
        if kind < 0.6:
            return chance.choice([None, True, 3, 4.5, 1e21, -7])
        return text()

    return {"answer": value(0), "more": [value(0), value(0)]}, planted


def decodings(text: str, depth: int = 3) -> Iterator[str]:
    """The text and all that can be read in it."""
    yield text
    if depth == 0:
        return
    plain = unicodedata.normalize("NFKC", "".join(sign for sign in text if unicodedata.category(sign) != "Cf"))
    found = {plain, unquote(text)} - {text}
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}={0,2}", text):
        try:
            found.add(base64.b64decode(run + "=" * (-len(run) % 4), altchars=b"-_" if "_" in run else None).decode())
        except (binascii.Error, UnicodeDecodeError, ValueError):
            continue
    with contextlib.suppress(ValueError):
        found |= set(texts_of(json.loads(text)))
    for each in found - {text}:
        yield from decodings(each, depth - 1)


def texts_of(document: Any) -> Iterator[str]:
    """Every key and value of a document as text."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from texts_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from texts_of(value)
    elif document is not None:
        yield document if isinstance(document, str) else json.dumps(document)


def survivors(said: Review, planted: list[str]) -> set[str]:
    """The secrets that can be read in anything that review gives out, in any decoding."""
    given: list[str] = [said.reason, said.rule, *said.classes]
    for detail in (*said.details, *said.redacted_details):
        given += (detail.field, detail.reason, detail.action)
    for content in (said.document, said.redacted):
        if content is not None:
            given += (content.decode(), *texts_of(parse_strict(content)))
    read = "\n".join(each for text in given for each in decodings(text))
    return {secret for secret in planted if secret in read}


def place(document: Any, field: str) -> bool:
    """Whether a detail's field leads somewhere in a document; a masked key may stand for any key there."""
    steps = re.findall(r'(?:^|\.)([\w-]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]', field)
    heres = [document]
    for key, index, quoted in steps:
        name = key or json.loads(f'"{quoted}"')
        following: list[Any] = []
        for here in heres:
            if index and isinstance(here, list) and int(index) < len(here):
                following.append(here[int(index)])
            elif not index and isinstance(here, dict):
                following += [each for own, each in here.items() if name in (own, "[REDACTED]")]
        heres = following
    return bool(heres)


def check(seed: int, audience: AudienceWord, policy: OutputPolicy = POLICY) -> Review:
    document, planted = documents(seed)
    content = json.dumps(document).encode()
    said = review(content, topic="job.x", audience=audience, tenant=None, policy=policy)
    assert survivors(said, planted) == set(), f"seed {seed}"
    assert said.redacted is not None, f"seed {seed}: {said.reason}"
    again = review(said.redacted, topic="job.x", audience=audience, tenant=None, policy=policy)
    assert (again.decision, again.document, again.details) == ("ALLOW", said.redacted, ()), f"seed {seed}"
    for detail in (*said.details, *said.redacted_details):
        assert place(document, detail.field), f"seed {seed}: `{detail.field}`"
    fields = [detail.field for detail in said.redacted_details if detail.action == REPLACED]
    assert len(set(fields)) == len(fields), f"seed {seed}"
    assert (said.decision == "ALLOW") == (said.document == content)
    return said


@pytest.mark.parametrize("audience", AUDIENCES)
def test_nothing_detected_leaves_and_a_second_review_is_content(audience: AudienceWord) -> None:
    """In no decoding, neither in what leaves nor in what may be released nor in what is said of it."""
    decisions = {check(seed, audience).decision for seed in range(SEEDS)}
    assert {"REDACT", "QUARANTINE" if audience != "internal" else "REDACT"} <= decisions


REMOVING: Final = OutputPolicy(
    OutputPolicyDocument(
        default=OutputBody(remove=["id", "$.more.note"], detect=dict.fromkeys(DATA_CLASSES, "remove")),
    )
)


def test_nothing_is_left_of_what_is_removed_from_lists_either() -> None:
    """Fields and entries that go whole: what stands behind them moves up, and no detail points astray."""
    for seed in range(SEEDS):
        said = check(seed, "internal", REMOVING)
        assert said.decision != "QUARANTINE"
        assert {detail.action for detail in said.details} <= {REMOVED}


@pytest.mark.campaign
@pytest.mark.parametrize("audience", AUDIENCES)
def test_nothing_detected_leaves_of_thousands(audience: AudienceWord) -> None:
    """The long form."""
    for seed in range(SEEDS, SEEDS_LONG):
        check(seed, audience)
        check(seed, audience, REMOVING)


def test_the_judge_of_these_properties_can_read() -> None:
    """Each way of hiding is one that the judge sees through, else it would find nothing for that reason."""
    for hide in HIDDEN:
        for secret in SECRETS:
            assert any(secret in read for read in decodings(hide(secret))), hide(secret)
