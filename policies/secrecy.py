"""What a pattern cannot say of a secret: whether it looks drawn at random, is a place for one, or a word.

Validators as in `sluicegate.policies.validators`, which names them all.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections import Counter
from typing import Final

Span = tuple[int, int]

_UUID: Final = re.compile(rb"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX: Final = re.compile(rb"(?i)[0-9a-f]+")
_NUMBER: Final = re.compile(rb"[-+]?[0-9][0-9.,:_-]*")
_WORDS: Final = re.compile(rb"[A-Za-z]+(?:[-_./: ][A-Za-z]+)*[.,;:!?]?")
_TIME: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?")
_PLACEHOLDER: Final = re.compile(
    rb"(?i)[$%][{(].*|(?-i:\$[A-Z_][A-Z0-9_]*|%[A-Z_]+%)|\{\{.*|<[^>]*>?|\[[^\]]*\]?|(.)\1*|[x*.#_-]+|.*\*{3,}.*|(?:.*[^a-z0-9])?example.*|.*(?:redacted|placeholder|"
    rb"change[-_]?me|your[-_ ]|dummy).*|process\.env.*|os\.environ.*|secrets\..*|vault:.*|arn:.*|https?://[^@]*|"
    rb"[a-z_.]+\(.*"
)
_NO_SECRET: Final = frozenset(
    b"none null nil true false required optional changed expired hidden masked invalid missing unknown empty unset "
    b"reset disabled enabled string password passwd secret token bearer basic digest default active inactive revoked "
    b"rotated valid incorrect wrong forgotten protected encrypted sealed private public admin internal yes no and is "
    b"was has will must for the with not are".split()
)


def jwt(text: bytes, start: int, end: int) -> Span | None:
    """A JSON Web Token (RFC 7519): its first part is the JSON of a header that names an algorithm or a type."""
    try:
        header = json.loads(unpadded(text[start:end].partition(b".")[0]))
    except (ValueError, RecursionError):
        return None
    return (start, end) if isinstance(header, dict) and ("alg" in header or "typ" in header) else None


def unpadded(run: bytes) -> bytes:
    """The bytes of base64 in either alphabet, with or without padding. Raises ValueError."""
    run = run.rstrip(b"=").translate(_STANDARD)
    return binascii.a2b_base64(run + b"=" * (-len(run) % 4))


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def basic(text: bytes, start: int, end: int) -> Span | None:
    """Credentials of HTTP Basic (RFC 7617): base64 of `user:password`."""
    try:
        plain = unpadded(text[start:end])
    except ValueError:
        return None
    return (start, end) if b":" in plain and plain.isascii() and plain.decode().isprintable() else None


def password(text: bytes, start: int, end: int) -> Span | None:
    """What a connection string or a key named `password` holds, unless it is a place for one or a word of prose."""
    value = text[start:end]
    inner = value.rpartition(b":")[2]
    if not inner or _PLACEHOLDER.fullmatch(inner) or inner.lower().strip(b".,;:!?") in _NO_SECRET:
        return None
    return start, end


def secret(text: bytes, start: int, end: int) -> Span | None:
    """A value that looks drawn at random: no word, number, date, UUID or hash, at least 3 bits a character."""
    value = text[start:end]
    if len(value) < 8 or _UUID.fullmatch(value) or (_HEX.fullmatch(value) and len(value) < 32):
        return None
    return (start, end) if password(text, start, end) is not None and _drawn(value) else None


def _drawn(value: bytes) -> bool:
    """Whether a value can have been drawn at random: no number, word or time, of two kinds of characters at least."""
    if _NUMBER.fullmatch(value) or _WORDS.fullmatch(value) or _TIME.fullmatch(value):
        return False
    return _kinds(value) + (not value.isalnum()) >= 2 and entropy_bits(value) >= 2.75


def password_in_text(text: bytes, start: int, end: int) -> Span | None:
    """As `secret`, for what follows `password:` in a text: short ones and hex count, too."""
    value = text[start:end]
    return (start, end) if len(value) >= 7 and password(text, start, end) is not None and _drawn(value) else None


def secret_by_key(text: bytes, start: int, end: int) -> Span | None:
    """As `secret`, for a key that means nothing but a secret: a UUID and short hex count too, a lone word does not."""
    value = text[start:end]
    if _UUID.fullmatch(value) or (_HEX.fullmatch(value) and len(value) >= 16 and _drawn(value)):
        return start, end
    return secret(text, start, end)


def mixed(text: bytes, start: int, end: int) -> Span | None:
    """A token after its provider's prefix: random enough, and no placeholder such as `xxxx`."""
    value = text[start:end]
    return (start, end) if entropy_bits(value) >= 3.0 and not _PLACEHOLDER.fullmatch(value[8:]) else None


def discord(text: bytes, start: int, end: int) -> Span | None:
    """A token of Discord: three parts, the first and the last mixed from capitals, small letters and digits."""
    first, _, last = text[start:end].split(b".")
    return (start, end) if _kinds(first) >= 2 and _kinds(last) >= 2 and _kinds(first + last) == 3 else None


def _kinds(value: bytes) -> int:
    """How many there are of small letters, capitals and digits: one kind each."""
    return sum(bool(re.search(each, value)) for each in (rb"[a-z]", rb"[A-Z]", rb"[0-9]"))


def no_word(text: bytes, start: int, end: int) -> Span | None:
    """A token that could be a word in capitals, were there no digit or small letter in it."""
    value = text[start:end]
    return None if value.isalpha() and value.isupper() else (start, end)


def no_placeholder(text: bytes, start: int, end: int) -> Span | None:
    """A `user:password` that is no place for one, such as `${USER}:${PASSWORD}` or `user:<password>`."""
    inner = text[start:end].rpartition(b":")[2]
    return (start, end) if inner and not _PLACEHOLDER.fullmatch(inner) else None


def has_digit_and_letter(text: bytes, start: int, end: int) -> Span | None:
    """A token without a prefix, named by the word before it: it has digits, letters and randomness."""
    value = text[start:end]
    if _UUID.fullmatch(value) or value.isdigit() or value.isalpha():
        return None
    return (start, end) if entropy_bits(value) >= 3.0 else None


def entropy_bits(value: bytes) -> float:
    """Shannon's entropy of the bytes, in bits a byte."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) if size else 0.0
