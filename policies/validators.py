"""What a pattern cannot say: check digits, ranges that were never issued, randomness, and what stands around a match.

A validator is given the text, and where the pattern matched in it; it answers the span that is really meant, which may
be shorter, or None. Each is pure and looks at no more than the match and `AROUND_BYTES` before and after it.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from typing import Final

import re2

from sluicegate.policies.secrecy import (
    Span,
    basic,
    discord,
    has_digit_and_letter,
    jwt,
    mixed,
    no_placeholder,
    no_word,
    password,
    password_in_text,
    secret,
    secret_by_key,
)

Validator = Callable[[bytes, int, int], Span | None]

AROUND_BYTES: Final = 48
ADDRESS_BYTES_MAX: Final = 320
"""How long an address of e-mail may be (RFC 5321, 4.5.3.1)."""

_DIGITS: Final = frozenset(b"0123456789")
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_ALPHANUMERIC: Final = _WORD - frozenset(b"_")
_CARD_WORD: Final = re.compile(rb"(?i)card|visa|amex|master|credit|debit|\bpan\b|\bcc\b")
_CARD_JOINED: Final = re.compile(
    rb"(?i)(?:(?:^|[^a-z0-9])(?:[a-z]+_)*(?:card|visa|amex|master|mastercard|discover|credit|debit|pan|cc)"
    rb"(?:_?(?:no|nr|num|number))?_?|%b)$"
)
"""A word that may be joined to a card's number: `card_4111...`, `PAN4111...`, and the begin of a magnetic track."""
_CARD_GROUPS: Final = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (4, 4, 4, 1), (4, 3, 3, 3)})
_VERSION_BEFORE: Final = re2.compile(
    rb"(?i)(?:\b(?:v|ver|version|release|rel|build|firmware|assembly|driver|sdk|revision|upgrade[ds]?|bump(?:ed)?)"
    rb"[\s_.:='\"\x01-]*(?:(?:to|from|is|of)\s+)?|[=~><!]=\s?|version[^.]{0,12}|"
    rb"\b(?:sections?|clauses?|chapters?|appendix|annex|paragraphs?|figures?)\s+|\x{a7}\s?)$"
)
_PRODUCT_BEFORE: Final = re2.compile(
    rb"(?i)(?:chrom(?:e|ium)|crios|edga?|edgios|safari|firefox|opera|opr|version|electron|brave|vivaldi|yabrowser|"
    rb"browser|webkit|cef|trident|curl|mobile)/$"
)
_NAMED: Final = re.compile(rb"(?:^|[^A-Za-z_:])(?:[A-Za-z_]*[G-Zg-z_][A-Za-z_]*|[A-Za-z_]{5,}):$")
"""A name, which no group of an address can be, before an address: `addr:fe80::1`."""
_DATE_LIKE: Final = re.compile(rb"(?:19|20)[0-9]{2}[-./ ]?(?:0[1-9]|1[0-2])[-./ ]?(?:0[1-9]|[12][0-9]|3[01])\b.*")
_UNSPACED: Final = "\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f"
"""Letters of scripts that put no space between words: ideographs, kana, hangul."""
_UNSPACED_BEFORE: Final = re.compile(rf".*[{_UNSPACED}](?=[!-~][^{_UNSPACED}]*\Z)", re.DOTALL)
_UNSPACED_AFTER: Final = re.compile(rf"\.[A-Za-z]{{2,24}}(?=[{_UNSPACED}])")
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
    before = text[max(0, start - AROUND_BYTES) : start]
    if start and ((text[start - 1] in _WORD and not _CARD_JOINED.search(before)) or _continues(before[-2:])):
        return None
    for stop in range(min(end, start + 23), start + 12, -1):
        if text[stop - 1] not in _DIGITS or (stop < len(text) and text[stop] in _ALPHANUMERIC):
            continue
        groups = re.split(rb"[ .+-]", text[start:stop])
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
    """Whether a number goes on over a point, a dash or a slash: `3.4111...`, `12-4111...`, `12/536...`."""
    return len(two) == 2 and two[1] in b".-/" and two[0] in _DIGITS


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
    named = text[max(0, start - 4) : start].lower() == b"iban"
    if start and not named and (text[start - 1] in _ALPHANUMERIC or text[start - 1] in b"-/+"):
        return None
    length = _IBAN_CHARS.get(text[start : start + 2].decode("ascii", "replace").upper())
    if length is None:
        return None
    taken, stop = bytearray(), start
    while stop < len(text) and len(taken) < length:
        letter = text[stop]
        if letter in _WORD and letter != 0x5F:
            taken.append(letter)
        elif letter not in b" +-" or stop + 1 >= len(text) or text[stop + 1] in b" +-":
            break
        stop += 1
    if len(taken) != length or (stop < len(text) and text[stop] in _ALPHANUMERIC):
        return None
    groups = re.split(rb"[ +-]", text[start:stop])
    if len(groups) > 1 and (any(len(each) != 4 for each in groups[:-1]) or len(groups[-1]) > 4):
        return None
    turned = (taken[4:] + taken[:4]).decode().upper()
    return (start, stop) if int("".join(str(int(each, 36)) for each in turned)) % 97 == 1 else None


def ssn(text: bytes, start: int, end: int) -> Span | None:
    """A US social security number: areas 000, 666 and 9xx, group 00 and serial 0000 were never given out."""
    return (start, end) if _given_out(text[start:end]) and _stands_alone(text, start, end) else None


def ssn_by_word(text: bytes, start: int, end: int) -> Span | None:
    """As `ssn`, right after a word such as `ssn`, which may be joined to it."""
    return (start, end) if _given_out(text[start:end]) and not _goes_on(text, end) else None


def _given_out(found: bytes) -> bool:
    digits = bytes(each for each in found if each in _DIGITS)
    if len(digits) != 9 or digits[:3] in {b"000", b"666"} or digits[:1] == b"9":
        return False
    return digits[3:5] != b"00" and digits[5:] != b"0000" and len(set(digits)) > 1


def _stands_alone(text: bytes, start: int, end: int) -> bool:
    """Whether no number, word or path goes on to the left or the right of a match."""
    before = text[max(0, start - 2) : start]
    if before and (before[-1] in _ALPHANUMERIC or before[-1] in b"-+" or _continues(before)):
        return False
    return not _goes_on(text, end)


def _goes_on(text: bytes, end: int) -> bool:
    """Whether a word or a further group is joined to the end of a number."""
    after = text[end : end + 2]
    return bool(after) and (after[0] in _ALPHANUMERIC or (after[0] in b"-/." and after[1:].isdigit()))


def email(text: bytes, start: int, end: int) -> Span | None:
    """An address of a person: not a file (`logo@2x.png`), not a clone address (`git@github.com:owner/name`)."""
    narrowed = _narrowed(text, start, end)
    if narrowed is None:
        return None
    start, end = narrowed
    local, _, domain = text[start:end].rpartition(b"@")
    if start and (text[start - 1] in _WORD or text[start - 1] in b".%+'-"):
        return None
    if domain.rpartition(b".")[2].lower() in _FILES or b".." in domain or local.lower() in _NOT_PEOPLE:
        return None
    return start, end


def _narrowed(text: bytes, start: int, end: int) -> Span | None:
    """An address without what cannot be of one: typographic signs, words of a script that has no spaces.

    The pattern takes every character beyond ASCII for a letter, which it can tell fast.
    """
    if text[start:end].isascii():
        return start, end
    at = text.rfind(b"@", start, end)
    local = text[max(start, at - ADDRESS_BYTES_MAX) : at].decode("utf-8", "replace")
    first = max((place + 1 for place, letter in enumerate(local) if not _is_letter(letter)), default=0)
    joined = _UNSPACED_BEFORE.match(local, first)
    first = first if joined is None else joined.end()
    if first:
        start = at - len(local[first:].encode())
    domain = text[at + 1 : min(end, at + ADDRESS_BYTES_MAX)].decode("utf-8", "replace")
    stop = next((place for place, letter in enumerate(domain) if not _is_letter(letter)), len(domain))
    joined = _UNSPACED_AFTER.search(domain, 0, stop)
    domain = domain[: stop if joined is None else joined.end()].rstrip(".-")
    if start >= at or len(domain.rpartition(".")[2]) < 2 or "." not in domain:
        return None
    return start, at + 1 + len(domain.encode())


def _is_letter(sign: str) -> bool:
    """Whether a sign beyond ASCII can stand in an address (RFC 6531); of ASCII the pattern knows."""
    return sign.isascii() or unicodedata.category(sign)[0] in "LMN"


def phone(text: bytes, start: int, end: int) -> Span | None:
    """A telephone number that shows itself: `+` with a calling code of ITU-T E.164, or the groups of North America."""
    before = text[max(0, start - 2) : start]
    if before and (before[-1] in _WORD or before[-1] in b"-.+" or _continues(before)):
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
    """Whether no word and no further group is joined to the end of a number; after a comma is another column."""
    return end >= len(text) or not (text[end] in _WORD or (text[end] in b"-/." and text[end + 1 : end + 2].isdigit()))


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
    joined = start > 0 and (text[start - 1] in _WORD or text[start - 1] in b":.")
    if joined and not _NAMED.search(text[max(0, start - AROUND_BYTES) : start]):
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
    if len(groups) == 8 and all(len(each) == 2 for each in groups):
        return None  # the octets of an EUI-64, or of what else is written so
    named = not any(each in _DIGITS for each in text[start:end])
    return None if len(groups) < 2 or (named and len(groups) < 4) else (start, end)


VALIDATORS: Final[dict[str, Validator]] = {
    each.__name__: each
    for each in (
        card,
        iban,
        ssn,
        ssn_by_word,
        email,
        phone,
        phone_by_word,
        ip4,
        ip6,
        jwt,
        basic,
        password,
        password_in_text,
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
