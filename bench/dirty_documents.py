"""Clean documents with values planted in them, in the clear or under decodings, and a reader that looks for them again.

The reader (`readings`) shares nothing with the scanner: it decodes strings one by one with the standard library.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import copy
import html
import json
import random
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from sluicegate.bench.clean_documents import clean_document, digits, hexadecimal, identifier
from sluicegate.policies.scan import Finding

ALNUM: Final = string.ascii_letters + string.digits
MASK: Final = "[REDACTED]"


def _some(rng: random.Random, letters: str, count: int) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


CARD_FORMS: Final = (
    ("4", 16),
    ("51", 16),
    ("55", 16),
    ("2221", 16),
    ("6011", 16),
    ("34", 15),
    ("37", 15),
    ("3530", 16),
    ("36", 14),
)
"""How the number begins and how long it is."""


def _card(rng: random.Random) -> str:
    first, size = rng.choice(CARD_FORMS)
    body = first + _some(rng, string.digits, size - len(first) - 1)
    total = sum(
        sum(divmod(int(each) * 2, 10)) if place % 2 == 0 else int(each) for place, each in enumerate(reversed(body))
    )
    number = body + str(-total % 10)
    if size == 16:
        mark = rng.choice(["", " ", "-"])
        return mark.join(number[at : at + 4] for at in range(0, 16, 4))
    return rng.choice([number, f"{number[:4]} {number[4:10]} {number[10:]}"])


def _iban(rng: random.Random) -> str:
    country, body = rng.choice(
        [
            ("DE", _some(rng, string.digits, 18)),
            (
                "FR",
                _some(rng, string.digits, 20) + _some(rng, string.ascii_uppercase, 1) + _some(rng, string.digits, 2),
            ),
            ("GB", _some(rng, string.ascii_uppercase, 4) + _some(rng, string.digits, 14)),
            ("NL", _some(rng, string.ascii_uppercase, 4) + _some(rng, string.digits, 10)),
            ("NO", _some(rng, string.digits, 11)),
        ]
    )
    value = int("".join(str(int(each, 36)) for each in f"{body}{country}00"))
    whole = f"{country}{98 - value % 97:02d}{body}"
    return rng.choice([whole, " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))])


def _ssn(rng: random.Random) -> str:
    area = rng.choice([rng.randint(1, 665), rng.randint(667, 899)])
    mark = rng.choice(["-", "-", " "])
    return f"{area:03d}{mark}{rng.randint(1, 99):02d}{mark}{rng.randint(1, 9999):04d}"


def _email(rng: random.Random) -> str:
    name = rng.choice(["maria.lopez", "j_smith+news", "info", "o'neill", "anna-lena.h", "x9"])
    return f"{name}{rng.randint(1, 999)}@{rng.choice(['example.com', 'mail.shop.co.uk', 'uni-köln.de', 'a-b.io'])}"


def _phone(rng: random.Random) -> str:
    area, exchange, line = rng.randint(220, 989), rng.randint(220, 989), rng.randint(0, 9999)
    area += area % 100 == 11
    return rng.choice(
        [
            f"({area}) {exchange}-{line:04d}",
            f"{area}-{exchange}-{line:04d}",
            f"{area}.{exchange}.{line:04d}",
            f"+1 {area} {exchange} {line:04d}",
            f"+1-{area}-{exchange}-{line:04d}",
            f"+49 30 {rng.randint(100_000, 99_999_999)}",
            f"+44 20 7{rng.randint(100, 999)} {rng.randint(1000, 9999)}",
            f"+33 6 {rng.randint(10, 99)} {rng.randint(10, 99)} {rng.randint(10, 99)} {rng.randint(10, 99)}",
            f"+91{rng.randint(6_000_000_000, 9_999_999_999)}",
            f"+49 (0)89 {rng.randint(100_000, 9_999_999)}",
        ]
    )


def _ip(rng: random.Random) -> str:
    four = f"{rng.randint(1, 126)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
    groups = [f"{rng.getrandbits(16):x}" for _ in range(8)]
    return rng.choice(
        [four, four, ":".join(groups), f"2001:db8:{groups[0]}::{groups[1]}", f"fe80::{groups[2]}:{groups[3][:3]}1"]
    )


def _jwt(rng: random.Random) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"sub": digits(rng, 9), "id": identifier(rng)}
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{_some(rng, ALNUM + '-_', 43)}"


def _private_key(rng: random.Random) -> str:
    lines = "\n".join(_some(rng, ALNUM + "+/", 64) for _ in range(rng.randint(2, 6)))
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


CREDENTIALS: Final[dict[str, Callable[[random.Random], str]]] = {
    "aws": lambda rng: "AKIA" + _some(rng, string.ascii_uppercase + "234567", 16),
    "github": lambda rng: rng.choice(["ghp_", "gho_", "ghs_"]) + _some(rng, ALNUM, 36),
    "github_fine": lambda rng: f"github_pat_{_some(rng, ALNUM, 22)}_{_some(rng, ALNUM, 59)}",
    "gitlab": lambda rng: "glpat-" + _some(rng, ALNUM + "-_", 20),
    "slack": lambda rng: f"xoxb-{digits(rng, 12)}-{digits(rng, 12)}-{_some(rng, ALNUM, 24)}",
    "slack_webhook": lambda rng: (
        f"https://hooks.slack.com/services/T{_some(rng, ALNUM, 8)}/B{_some(rng, ALNUM, 8)}/{_some(rng, ALNUM, 24)}"
    ),
    "stripe": lambda rng: rng.choice(["sk_live_", "rk_live_"]) + _some(rng, ALNUM, 24),
    "google": lambda rng: "AIza" + _some(rng, ALNUM + "-_", 35),
    "openai": lambda rng: rng.choice(
        [f"sk-proj-{_some(rng, ALNUM, 60)}", f"sk-{_some(rng, ALNUM, 20)}T3BlbkFJ{_some(rng, ALNUM, 20)}"]
    ),
    "anthropic": lambda rng: f"sk-ant-api03-{_some(rng, ALNUM + '-_', 93)}AA",
    "sendgrid": lambda rng: f"SG.{_some(rng, ALNUM + '-_', 22)}.{_some(rng, ALNUM + '-_', 43)}",
    "twilio": lambda rng: "SK" + hexadecimal(rng, 32),
    "npm": lambda rng: "npm_" + _some(rng, ALNUM, 36),
    "pypi": lambda rng: "pypi-AgEIcHlwaS5vcmc" + _some(rng, ALNUM + "-_", 70),
    "digitalocean": lambda rng: "dop_v1_" + hexadecimal(rng, 64),
    "azure": lambda rng: f"AccountName=store1;AccountKey={base64.b64encode(rng.randbytes(64)).decode()}",
    "hugging_face": lambda rng: "hf_" + _some(rng, string.ascii_letters, 34),
    "telegram": lambda rng: f"{digits(rng, 9)}:AA{_some(rng, ALNUM + '-_', 33)}",
    "discord": lambda rng: (
        f"{base64.b64encode(digits(rng, 18, '3456').encode()).decode()}.{_some(rng, ALNUM, 6)}.{_some(rng, ALNUM, 27)}"
    ),
    "mailgun": lambda rng: "key-" + hexadecimal(rng, 32),
    "shopify": lambda rng: "shpat_" + hexadecimal(rng, 32),
    "square": lambda rng: "sq0atp-" + _some(rng, ALNUM, 22),
    "databricks": lambda rng: "dapi" + hexadecimal(rng, 32),
    "vault": lambda rng: "hvs." + _some(rng, ALNUM, 24),
    "docker": lambda rng: "dckr_pat_" + _some(rng, ALNUM, 27),
    "jwt": _jwt,
    "private_key": _private_key,
    "database": lambda rng: f"postgres://app:{_some(rng, ALNUM + '!*', 12)}@db.internal:5432/orders",
    "basic_url": lambda rng: f"https://bot:{_some(rng, ALNUM, 14)}@git.shop.test/team/app.git",
    "bearer": lambda rng: f"Authorization: Bearer {_some(rng, ALNUM, 40)}",
}
"""By provider. Of those that stand in something longer, `secret_part` is what must not survive."""

VALUES: Final[dict[str, Callable[[random.Random], str]]] = {
    "card": _card,
    "iban": _iban,
    "ssn": _ssn,
    "email": _email,
    "phone": _phone,
    "ip": _ip,
    "credential": lambda rng: CREDENTIALS[rng.choice(sorted(CREDENTIALS))](rng),
}

KEYED: Final[tuple[tuple[str, str, Callable[[random.Random], str]], ...]] = (
    ("ssn", "ssn", lambda rng: f"{rng.randint(1, 665):03d}{rng.randint(1, 99):02d}{rng.randint(1, 9999):04d}"),
    ("phone", "phone_number", lambda rng: f"{rng.randint(220, 989)}{rng.randint(220, 989)}{rng.randint(1000, 9999)}"),
    ("phone", "mobile", lambda rng: f"0{rng.randint(150, 179)} {rng.randint(1_000_000, 9_999_999)}"),
    ("credential", "password", lambda rng: _some(rng, ALNUM + "!#%", 10) + "7"),
    ("credential", "client_secret", lambda rng: _some(rng, ALNUM, 32)),
    ("credential", "api_key", lambda rng: "k9" + _some(rng, ALNUM, 30)),
    ("credential", "access_token", lambda rng: "t4" + _some(rng, ALNUM + "-_", 38)),
)
"""Class, key and value of what only its key gives away."""


def _zero_width(text: str, rng: random.Random) -> str:
    return "".join(each + rng.choice(["", "", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060"]) for each in text)


def _full_width(text: str, rng: random.Random) -> str:
    return "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text)


ENCODINGS: Final[dict[str, Callable[[str, random.Random], str]]] = {
    "base64": lambda text, _rng: base64.b64encode(text.encode()).decode(),
    "base64url": lambda text, _rng: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "percent": lambda text, _rng: quote(text, safe=""),
    "percent_all": lambda text, _rng: "".join(f"%{each:02X}" for each in text.encode()),
    "json": lambda text, _rng: json.dumps({"note": text, "n": 1}),
    "json_escapes": lambda text, rng: "".join(
        f"\\u{ord(each):04x}" if each == "\\" or rng.random() < 0.6 else each for each in text
    ),
    "full_width": _full_width,
    "zero_width": _zero_width,
    "hex": lambda text, _rng: text.encode().hex(),
    "html": lambda text, rng: "".join(f"&#{ord(each)};" if rng.random() < 0.6 else each for each in text),
}


@dataclass(frozen=True)
class Planted:
    """A value, its class, the decodings it lies under (outermost last), and the text that stands in the document."""

    klass: str
    value: str
    under: tuple[str, ...]
    text: str

    @property
    def secret_part(self) -> str:
        """What must not be readable afterwards: of a value with something harmless around it the core."""
        if self.klass == "credential":
            found = re.search(r"AccountKey=(.+)|://[^:]*:(.+)@|Bearer (.+)|hooks\.slack\.com(.+)", self.value)
            if found:
                return next(each for each in found.groups() if each)
        return self.value


def encoded(text: str, rng: random.Random, deepest: int = 2, inside: str = "") -> tuple[str, tuple[str, ...]]:
    """The text under none to ``deepest`` encodings, and their names; never under ``inside``, which brings a key."""
    names = tuple(rng.choice(sorted(ENCODINGS.keys() - {inside})) for _ in range(rng.choice(range(deepest + 1))))
    for name in names:
        text = ENCODINGS[name](text, rng)
    return text, names


def _holders(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _holders(each)
    elif isinstance(value, list):
        for each in value:
            yield from _holders(each)


def plant(document: Any, klass: str, rng: random.Random, deepest: int = 2) -> Planted:
    """Put one value of the class somewhere into the document, which is changed."""
    holder = rng.choice(list(_holders(document)))
    keyed = [each for each in KEYED if each[0] == klass]
    if keyed and rng.random() < 0.25:
        _, key, make = rng.choice(keyed)
        value = make(rng)
        text, under = (
            (value, ())
            if klass == "ssn" and rng.random() < 0.5
            else encoded(value, rng, min(deepest, 1), inside="json")
        )
        holder[key] = int(value) if not under and value.isdigit() and value[0] != "0" and rng.random() < 0.5 else text
        return Planted(klass, value, under, text)
    value = VALUES[klass](rng)
    text, under = encoded(value, rng, deepest)
    place = rng.choice(["value", "sentence", "list", "key", "appended"])
    if place == "key" and len(text) < 200:
        holder[text] = rng.choice([1, "yes", None])
    elif place == "list":
        holder["items_seen"] = ["one", text, 3]
    elif place == "value":
        holder["detail"] = text
    else:
        sentence = rng.choice(["Please use {} for this.", "It was {}, as agreed.", "({})", "see: {}\nthanks", "«{}»"])
        holder["remark"] = sentence.replace("{}", text)
    return Planted(klass, value, under, text)


def dirty_document(klass: str, rng: random.Random, deepest: int = 2) -> tuple[Any, Planted]:
    """A clean document with one value of the class in it."""
    document = copy.deepcopy(clean_document(rng))
    return document, plant(document, klass, rng, deepest)


def replaced(document: Any, findings: tuple[Finding, ...]) -> Any:
    """The document with what was found masked; a key with something in it is left out with its value."""
    by_path: dict[tuple[str | int, ...], list[Finding]] = {}
    for finding in findings:
        by_path.setdefault(finding.path, []).append(finding)

    def cut(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            kept = {}
            for key, each in value.items():
                if not any(finding.in_key for finding in by_path.get((*path, key), ())):
                    kept[key] = cut(each, (*path, key))
            return kept
        if isinstance(value, list):
            return [cut(each, (*path, place)) for place, each in enumerate(value)]
        here = [finding for finding in by_path.get(path, ()) if not finding.in_key]
        if any(finding.start is None for finding in here):
            return MASK
        for finding in sorted(here, key=lambda each: each.start or 0, reverse=True):
            value = value[: finding.start] + MASK + value[finding.end :]
        return value

    return cut(document, ())


def readings(text: str, depth: int = 3) -> Iterator[str]:
    """The text and everything it may be read as, decoded up to ``depth`` times."""
    yield text
    if depth == 0:
        return
    seen = "".join(each for each in unicodedata.normalize("NFKC", text) if unicodedata.category(each) != "Cf")
    further = {seen, unquote(text), html.unescape(text)}
    further.add(
        re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        .replace('\\"', '"')
        .replace("\\n", "\n")
        .replace("\\\\", "\\")
    )
    for run in re.findall(r"[A-Za-z0-9+/_-]{12,}={0,2}", text):
        padded = run.rstrip("=").replace("-", "+").replace("_", "/")
        for codec in ("b64", "hex"):
            try:
                plain = (
                    base64.b64decode(padded + "=" * (-len(padded) % 4)) if codec == "b64" else codecs.decode(run, "hex")
                )
                further.add(plain.decode())
            except (binascii.Error, ValueError):
                continue
    for each in further - {text}:
        yield from readings(each, depth - 1)


def texts_of(value: Any) -> Iterator[str]:
    """Every key and value of a document as a text."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each)
    elif value is not None:
        yield str(value)


def survives(document: Any, secret: str) -> bool:
    """Whether the secret can be read anywhere in the document."""
    return any(secret in reading for text in texts_of(document) for reading in readings(text))
