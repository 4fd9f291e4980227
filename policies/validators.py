"""What a pattern cannot say: check digits, ranges that were never issued, randomness, and what stands around a match.

A validator is given the text, and where the pattern matched in it; it answers the span that is really meant, which may
be shorter, or None. Each is pure and looks at no more than the match and `AROUND_BYTES` before and after it.
"""

from __future__ import annotations

import binascii
import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import re2

Span = tuple[int, int]
Validator = Callable[[bytes, int, int], Span | None]

AROUND_BYTES: Final = 48

_DIGITS: Final = frozenset(b"0123456789")
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_CARD_WORD: Final = re.compile(rb"(?i)card|visa|amex|master|credit|debit|\bpan\b|\bcc\b")
_CARD_GROUPS: Final = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (4, 4, 4, 1), (4, 3, 3, 3)})
_VERSION_BEFORE: Final = re2.compile(
    rb"(?i)(?:\b(?:v|ver|version|release|rel|build|firmware|assembly|driver|sdk|revision|upgrade[ds]?|bump(?:ed)?)"
    rb"[\s_.:='\"\x01-]*(?:(?:to|from|is|of)\s+)?|[=~><!]=\s?|version[^.]{0,12})$"
)
_PRODUCT_BEFORE: Final = re2.compile(
    rb"(?i)(?:chrom(?:e|ium)|crios|edga?|edgios|safari|firefox|opera|opr|version|electron|brave|vivaldi|yabrowser|"
    rb"browser|webkit|cef|trident|curl|mobile)/$"
)
_UUID: Final = re.compile(rb"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX: Final = re.compile(rb"(?i)[0-9a-f]+")
_NUMBER: Final = re.compile(rb"[-+]?[0-9][0-9.,:_-]*")
_WORDS: Final = re.compile(rb"[A-Za-z]+(?:[-_./: ][A-Za-z]+)*[.,;:!?]?")
_TIME: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?")
_DATE_LIKE: Final = re.compile(rb"(?:19|20)[0-9]{2}[-./ ]?(?:0[1-9]|1[0-2])[-./ ]?(?:0[1-9]|[12][0-9]|3[01])\b.*")
_PLACEHOLDER: Final = re.compile(
    rb"(?i)[$%][{(].*|(?-i:\$[A-Z_][A-Z0-9_]*|%[A-Z_]+%)|\{\{.*|<[^>]*>?|\[[^\]]*\]?|(.)\1*|[x*.#_-]+|.*\*{3,}.*|.*(?:redacted|placeholder|example|"
    rb"change[-_]?me|your[-_ ]|dummy).*|process\.env.*|os\.environ.*|secrets\..*|vault:.*|arn:.*|https?://[^@]*|"
    rb"[a-z_.]+\(.*"
)
_NO_SECRET: Final = frozenset(
    b"none null nil true false required optional changed expired hidden masked invalid missing unknown empty unset "
    b"reset disabled enabled string password passwd secret token bearer basic digest default active inactive revoked "
    b"rotated valid incorrect wrong forgotten protected encrypted sealed private public admin internal yes no and is "
    b"was has will must for the with not are".split()
)
_FILES: Final = frozenset(
    b"png jpg jpeg gif svg webp ico bmp pdf js mjs ts css scss html md txt json yaml yml xml csv zip gz tar py go rs "
    b"java rb php sh service socket timer target mount conf cfg ini log lock toml sql".split()
)
_NOT_PEOPLE: Final = frozenset(b"git hg svn".split())
_CALLING_CODES: Final = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1234569]\d|3[578]\d|42[013]|50\d|59\d|"
    r"6[789]\d|80[08]|85\d|87[08]|88[0268]|9[679]\d"
)
_IBAN_CHARS: Final = {
    **dict.fromkeys("NO".split(), 15),
    **dict.fromkeys("BE BI".split(), 16),
    **dict.fromkeys("DK FI FO GL NL FK SD".split(), 18),
    **dict.fromkeys("MK SI".split(), 19),
    **dict.fromkeys("AT BA EE KZ LT LU XK MN".split(), 20),
    **dict.fromkeys("CH HR LI LV".split(), 21),
    **dict.fromkeys("BG BH CR DE GB GE IE ME RS VA".split(), 22),
    **dict.fromkeys("AE GI IL IQ TL OM SO".split(), 23),
    **dict.fromkeys("AD CZ ES MD PK RO SA SE SK TN VG".split(), 24),
    **dict.fromkeys("PT ST LY".split(), 25),
    **dict.fromkeys("IS TR".split(), 26),
    **dict.fromkeys("FR GR IT MC MR SM DJ".split(), 27),
    **dict.fromkeys("AL AZ BY CY DO GT HU LB PL SV NI".split(), 28),
    **dict.fromkeys("BR EG PS QA UA".split(), 29),
    **dict.fromkeys("JO KW MU YE".split(), 30),
    **dict.fromkeys("MT SC".split(), 31),
    **dict.fromkeys("LC".split(), 32),
    **dict.fromkeys("RU".split(), 33),
}
"""The length of an IBAN by country: SWIFT's registry of ISO 13616."""


def card(text: bytes, start: int, end: int) -> Span | None:
    """A payment card: a range and length of an issuer, usual groups, Luhn (ISO/IEC 7812-1), nothing joined to it.

    Lengths that are rare among cards and common among other numbers (13 and 19) need a word such as `card` before.
    """
    if start and (text[start - 1] in _WORD or _continues(text[start - 2 : start])):
        return None
    before = text[max(0, start - AROUND_BYTES) : start]
    for stop in range(min(end, start + 23), start + 12, -1):
        if text[stop - 1] not in _DIGITS or (stop < len(text) and text[stop] in _WORD):
            continue
        groups = re.split(rb"[ .-]", text[start:stop])
        digits = b"".join(groups)
        if not _issued(digits.decode()) or not luhn(digits):
            continue
        if len(set(text[start:stop]) - _DIGITS) > 1 or not (
            len(groups) == 1 or tuple(map(len, groups)) in _CARD_GROUPS
        ):
            continue
        if text[stop : stop + 1] == b"." and text[stop + 1 : stop + 2].isdigit():
            continue
        if len(digits) in {13, 19} and not _CARD_WORD.search(before):
            continue
        return start, stop
    return None


def _continues(two: bytes) -> bool:
    """Whether a number goes on over a point or a dash: `3.4111...`, `12-4111...`."""
    return len(two) == 2 and two[1] in b".-" and two[0] in _DIGITS


def _issued(digits: str) -> bool:
    """Whether an issuer gives cards of this beginning and length."""
    size, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if digits[0] == "4":
        return size in {13, 16, 19}
    if size == 15:
        return two in {34, 37}
    if size == 14:
        return two in {36, 38, 39} or 300 <= two * 10 + int(digits[2]) <= 305
    if size != 16:
        return False
    return (
        51 <= two <= 55
        or 2221 <= four <= 2720
        or four == 6011
        or two in {62, 65}
        or 644 <= four // 10 <= 649
        or 3528 <= four <= 3589
        or four in {5018, 5019, 5020, 5038, 6304, 6759, 6761, 6762, 6763}
    )


def luhn(digits: bytes) -> bool:
    """Whether the check digit of ISO/IEC 7812-1 holds."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = digit - 48
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def iban(text: bytes, start: int, end: int) -> Span | None:
    """An account number of ISO 13616: the country's length and its check digits (ISO 7064, mod 97-10)."""
    if start and (text[start - 1] in _WORD or text[start - 1] in b"-/+"):
        return None
    length = _IBAN_CHARS.get(text[start : start + 2].decode("ascii", "replace").upper())
    if length is None:
        return None
    taken, stop = bytearray(), start
    while stop < len(text) and len(taken) < length:
        letter = text[stop]
        if letter in _WORD and letter != 0x5F:
            taken.append(letter)
        elif letter not in b" -" or stop + 1 >= len(text) or text[stop + 1] in b" -":
            break
        stop += 1
    if len(taken) != length or (stop < len(text) and text[stop] in _WORD):
        return None
    groups = re.split(rb"[ -]", text[start:stop])
    if len(groups) > 1 and (any(len(each) != 4 for each in groups[:-1]) or len(groups[-1]) > 4):
        return None
    turned = (taken[4:] + taken[:4]).decode().upper()
    return (start, stop) if int("".join(str(int(each, 36)) for each in turned)) % 97 == 1 else None


def ssn(text: bytes, start: int, end: int) -> Span | None:
    """A US social security number: areas 000, 666 and 9xx, group 00 and serial 0000 were never given out."""
    digits = bytes(each for each in text[start:end] if each in _DIGITS)
    if len(digits) != 9 or digits[:3] in {b"000", b"666"} or digits[:1] == b"9":
        return None
    if digits[3:5] == b"00" or digits[5:] == b"0000" or len(set(digits)) == 1:
        return None
    return (start, end) if _stands_alone(text, start, end) else None


def _stands_alone(text: bytes, start: int, end: int) -> bool:
    """Whether no number, word or path goes on to the left or the right of a match."""
    if start and (text[start - 1] in _WORD or text[start - 1] in b"-/+" or _continues(text[start - 2 : start])):
        return False
    after = text[end : end + 2]
    return not after or not (after[0] in _WORD or (after[0] in b"-/." and after[1:].isdigit()))


def email(text: bytes, start: int, end: int) -> Span | None:
    """An address of a person: not a file (`logo@2x.png`), not a clone address (`git@github.com:owner/name`)."""
    local, _, domain = text[start:end].rpartition(b"@")
    if start and (text[start - 1] in _WORD or text[start - 1] in b".%+'-"):
        return None
    if domain.rpartition(b".")[2].lower() in _FILES or b".." in domain or local.lower() in _NOT_PEOPLE:
        return None
    return start, end


def phone(text: bytes, start: int, end: int) -> Span | None:
    """A telephone number that shows itself: `+` with a calling code of ITU-T E.164, or the groups of North America."""
    if start and (text[start - 1] in _WORD or text[start - 1] in b"-/.+=" or _continues(text[start - 2 : start])):
        return None
    if text[start] != 0x2B:
        digits = "".join(map(chr, (each for each in text[start:end] if each in _DIGITS)))
        national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        return (start, end) if _north_american(national) and _ends_here(text, end) else None
    area = text.find(b"(", start + 6, end)
    for stop in range(end if area < 0 else area, start + 8, -1):
        # Another number may follow after a space: the longest that can be one counts.
        if text[stop - 1] not in _DIGITS or not _ends_here(text, stop):
            continue
        digits = "".join(map(chr, (each for each in text[start:stop] if each in _DIGITS)))
        if not _CALLING_CODES.match(digits) or not 9 <= len(digits) <= 15 or len(set(digits)) < 3:
            continue
        if not digits.startswith("1") or _north_american(digits[1:]):
            return start, stop
    return None


def _ends_here(text: bytes, end: int) -> bool:
    """Whether no word and no further group is joined to the end of a number."""
    return end >= len(text) or not (text[end] in _WORD or (text[end] in b"-/.," and text[end + 1 : end + 2].isdigit()))


def _north_american(digits: str) -> bool:
    """Area and exchange begin with 2 to 9, and no area is a service code (`x11`)."""
    return len(digits) == 10 and digits[0] > "1" and digits[3] > "1" and digits[1:3] != "11"


def phone_by_word(text: bytes, start: int, end: int) -> Span | None:
    """The number right after a word such as `phone`: 7 to 15 digits, and no date, time or amount."""
    found = text[start:end]
    digits = bytes(each for each in found if each in _DIGITS)
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 3 or _DATE_LIKE.fullmatch(found):
        return None
    return (start, end) if _ends_here(text, end) else None


def ip4(text: bytes, start: int, end: int) -> Span | None:
    """An IPv4 address (`ipaddress`), not a version of four numbers; neither 0.0.0.0, loopback nor a mask."""
    if start and (text[start - 1] in _WORD or text[start - 1 : start] == b"." or _continues(text[start - 2 : start])):
        return None
    if end < len(text) and (text[end] in _WORD or (text[end] in b".-" and text[end + 1 : end + 2].isalnum())):
        return None
    before = text[max(0, start - AROUND_BYTES) : start]
    if _VERSION_BEFORE.search(before) or _PRODUCT_BEFORE.search(before):
        return None
    try:
        address = ipaddress.IPv4Address(text[start:end].decode().partition("/")[0])
    except ValueError:
        return None
    if address.is_unspecified or address.is_loopback or address.packed[0] in {0, 255}:
        return None
    return start, end


def ip6(text: bytes, start: int, end: int) -> Span | None:
    """An IPv6 address (`ipaddress`), not a name such as `std::dec`, a fingerprint or the loopback."""
    if start and (text[start - 1] in _WORD or text[start - 1] in b":."):
        return None
    if end < len(text) and (text[end] in _WORD or text[end] == 0x3A):
        return None
    try:
        address = ipaddress.IPv6Address(re.split("[%/]", text[start:end].decode())[0])
    except ValueError:
        return None
    if address.is_unspecified or address.is_loopback:
        return None
    groups = [each for each in text[start:end].split(b":") if each]
    named = not any(each in _DIGITS for each in text[start:end])
    return None if len(groups) < 2 or (named and len(groups) < 4) else (start, end)


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
    if password(text, start, end) is None or len(value) < 8 or _UUID.fullmatch(value):
        return None
    if _NUMBER.fullmatch(value) or _WORDS.fullmatch(value) or _TIME.fullmatch(value):
        return None
    if _HEX.fullmatch(value) and len(value) < 32:
        return None
    kinds = _kinds(value) + (not value.isalnum())
    return (start, end) if kinds >= 2 and entropy_bits(value) >= 2.75 else None


def secret_by_key(text: bytes, start: int, end: int) -> Span | None:
    """As `secret`, for a key that means nothing but a secret: a UUID counts too, a lone word does not."""
    return (start, end) if _UUID.fullmatch(text[start:end]) else secret(text, start, end)


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


VALIDATORS: Final[dict[str, Validator]] = {
    each.__name__: each
    for each in (
        card,
        iban,
        ssn,
        email,
        phone,
        phone_by_word,
        ip4,
        ip6,
        jwt,
        basic,
        password,
        secret,
        secret_by_key,
        mixed,
        discord,
        no_word,
        no_placeholder,
        has_digit_and_letter,
    )
}
"""By the name that a detector gives."""
