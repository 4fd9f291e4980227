"""The sealed envelope: what is inside comes back whole, and nothing of it can be changed or moved."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from sluicegate.schemas.errors import SealingError
from sluicegate.schemas.key_ids import (
    KeyId,
    job_digits,
    job_key,
    key_fault,
    month_of,
    parse_key_id,
    quarantine_key,
    request_digits,
)
from sluicegate.schemas.payload import SALT_BYTES, seal
from sluicegate.schemas.records import Sealed
from sluicegate.schemas.sealing import OVERHEAD_BYTES, LeafKeyring, NoKeyring, open_with, seal_with

SALT = bytes(range(SALT_BYTES))
LEAF = bytes(range(32))
KEY_ID = "default/support/2026-11/0123456789"
CONTENT = b'{"customer": "ada"}'
NOVEMBER_MS = 1_795_000_000_000


class OneKey(LeafKeyring):
    """A keyring of one key."""

    def leaf(self, key_id: str) -> bytes:
        return LEAF


def changed(**fields: object) -> Sealed:
    """The envelope with something else in it."""
    return msgspec.structs.replace(seal_with(LEAF, CONTENT, SALT, KEY_ID), **fields)


def flipped(content: bytes, at: int) -> bytes:
    """One bit is another one."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("size", [0, 1, 300, 65_536])
def test_content_and_salt_come_back(size: int) -> None:
    """Whatever its size; the envelope is larger by a fixed number of bytes."""
    content = random.Random(size).randbytes(size)
    sealed = seal_with(LEAF, content, SALT, KEY_ID)
    assert open_with(LEAF, sealed) == (content, SALT)
    assert len(sealed.content) == size + OVERHEAD_BYTES
    assert size == 0 or content not in sealed.content


def test_the_same_is_sealed_to_the_same_bytes() -> None:
    """A step that is replayed writes equal bytes."""
    assert seal_with(LEAF, CONTENT, SALT, KEY_ID, "e1") == seal_with(LEAF, CONTENT, SALT, KEY_ID, "e1")


def test_nothing_else_meets_a_nonce_again() -> None:
    """Other content, salt, event or key: another nonce, so that no two ciphertexts of one key can be compared."""
    made = [
        seal_with(leaf, content, salt, KEY_ID, event)
        for leaf in (LEAF, bytes(32))
        for content in (CONTENT, CONTENT + b" ", b"")
        for salt in (SALT, bytes(SALT_BYTES))
        for event in ("", "e1", "e2")
    ]
    assert len({each.nonce for each in made}) == len(made)


@pytest.mark.parametrize("at", range(0, len(CONTENT) + OVERHEAD_BYTES, 7))
def test_no_bit_of_the_bytes_can_be_changed(at: int) -> None:
    """Of salt, content and tag."""
    sealed = seal_with(LEAF, CONTENT, SALT, KEY_ID)
    with pytest.raises(SealingError, match="was altered"):
        open_with(LEAF, changed(content=flipped(sealed.content, at)))


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (lambda: changed(key_id=KEY_ID[:-1] + "8"), "was altered"),
        (lambda: changed(key_id="other/support/2026-11/0123456789"), "was altered"),
        (lambda: changed(nonce=bytes(12)), "was altered"),
        (lambda: changed(nonce=bytes(11)), "cut short"),
        (lambda: changed(content=bytes(OVERHEAD_BYTES - 1)), "cut short"),
        (lambda: changed(algorithm="aes-256-gcm"), "is unknown here"),
        (lambda: changed(algorithm="none"), "is unknown here"),
    ],
)
def test_an_envelope_is_bound_to_what_it_says(altered: Callable[[], Sealed], said: str) -> None:
    """Key id, nonce and algorithm belong to it: an envelope put under another name does not open with the right key."""
    with pytest.raises(SealingError, match=said):
        open_with(LEAF, altered())


def test_another_key_opens_nothing() -> None:
    """The key of another job of the same unit is another key."""
    with pytest.raises(SealingError, match="sealed with another key"):
        open_with(bytes(32), seal_with(LEAF, CONTENT, SALT, KEY_ID))


def test_a_keyring_opens_what_was_not_encrypted_too() -> None:
    """A log that began without encryption stays readable; without a key store nothing else is."""
    assert OneKey().open(seal(CONTENT, SALT)) == (CONTENT, SALT)
    assert NoKeyring().open(NoKeyring().seal(CONTENT, SALT, KEY_ID)) == (CONTENT, SALT)
    with pytest.raises(SealingError, match="AES-256-GCM"):
        NoKeyring().open(seal_with(LEAF, CONTENT, SALT, KEY_ID))
    with pytest.raises(SealingError, match="no key store"):
        NoKeyring().leaf(KEY_ID)


@pytest.mark.parametrize("keys", [OneKey(), NoKeyring()])
def test_a_salt_has_its_length(keys: OneKey | NoKeyring) -> None:
    """A shorter one would shift the content."""
    with pytest.raises(SealingError, match="a salt of `3` bytes"):
        keys.seal(CONTENT, b"abc", KEY_ID)


@pytest.mark.parametrize("agent", ["support", "a/b", "a%2Fb", "%", "a/../b", "\u00e9\u4e2d", "quarantine", "2026-11"])
@pytest.mark.parametrize("tenant", ["default", "t/x"])
def test_a_name_says_what_it_was_made_from(tenant: str, agent: str) -> None:
    """Whatever an agent is called: no two agents share a name, and a name is read back as it was made."""
    job = job_key(tenant, agent, NOVEMBER_MS, "job-1")
    assert parse_key_id(job.text) == job == KeyId(tenant, agent, "2026-11", job_digits("job-1"))
    held = quarantine_key(job, "request-1")
    assert parse_key_id(held.text) == held
    assert (held.key_class, held.job, held.request) == ("quarantine", job.job, request_digits("request-1"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t/a/2026-11",
        "t/a/2026-13/0123456789",
        "t/a/2026-1/0123456789",
        "t/a/2026-11/0123456789a",
        "t/a/2026-11/012345678G",
        "t/a/b/2026-11/0123456789",
        "t//2026-11/0123456789",
        "t/%41/2026-11/0123456789",
        "t/a%2f/2026-11/0123456789",
        "t/a/2026-11/0123456789\n",
        "t/a/2026-11/quarantine/0123456789",
        "t/a/2026-11/quarantine/0123456789/" + "0" * 31,
        "t/" + "a" * 1_000 + "/2026-11/0123456789",
    ],
)
def test_a_name_is_written_in_one_way_only(text: str) -> None:
    """What is written otherwise names no key: one unit under two names could be erased by one and read by the other."""
    with pytest.raises(SealingError, match="is no key's name"):
        parse_key_id(text)


@pytest.mark.parametrize(
    ("at_ms", "month"),
    [(0, "1970-01"), (1_796_083_199_999, "2026-11"), (1_796_083_200_000, "2026-12"), (253_402_300_799_999, "9999-12")],
)
def test_a_month_is_that_of_the_time_given(at_ms: int, month: str) -> None:
    """In UTC, to the millisecond."""
    assert month_of(at_ms) == month


@pytest.mark.parametrize("at_ms", [10**18, -(10**18)])
def test_what_is_no_time_has_no_month(at_ms: int) -> None:
    """A clock that says nothing sensible is named."""
    with pytest.raises(SealingError, match="look at the clock"):
        month_of(at_ms)


def test_an_intent_sealed_under_anothers_key_is_found() -> None:
    """The key must be that of this agent and this job, and of no quarantine: else an erasure would miss it."""
    own = job_key("t", "a", NOVEMBER_MS, "j")
    assert key_fault(own.text, "t", "a", "j") is None
    wrong = [
        job_key("t", "b", NOVEMBER_MS, "j"),
        job_key("u", "a", NOVEMBER_MS, "j"),
        job_key("t", "a", NOVEMBER_MS, "k"),
    ]
    for each in (*wrong, quarantine_key(own, "r")):
        assert "is not that of job `j` of `a`" in (key_fault(each.text, "t", "a", "j") or "")
    assert "is no key's name" in (key_fault("", "t", "a", "j") or "")
