"""Documents with nothing to hide, as agents of support, deployment and finance return them; seeded.

They are full of what a hasty detector takes for something else: identifiers, hashes, order and tracking numbers,
prices, dates, versions, offsets, ISBNs, images in base64, and talk about passwords, tokens, cards and phones.
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

Document = dict[str, Any]

SENTENCES: Final = (
    "The customer asked where the parcel is and was given the tracking page.",
    "We reset the password of the account; the link in the mail is valid for 24 hours.",
    "Phone support is closed on Sundays, please use the form instead.",
    "The card on file was declined by the issuing bank, a second attempt succeeded.",
    "An API key can be rotated in the settings under Developer, then Keys.",
    "Token usage rose by 12 % since the last release of the assistant.",
    "Your social security contributions are shown on page 3 of the payslip.",
    "The secret of a good handover is a short list of what is still open.",
    "Please call the customer back between 10:00 and 12:30 on weekdays.",
    "Version 3.11.7 fixes the memory leak that was introduced in 3.11.0-rc2.",
    "The e-mail was bounced twice, the address seems to be mistyped.",
    "Authentication failed because the session had expired; signing in again helped.",
    "La commande a été expédiée à Orléans, « livraison prévue » le 14 février.",
    "Die Rechnung wurde über das Portal geprüft und für größere Beträge freigegeben.",
    "注文は発送済みです。到着予定日は金曜日です。",
    "Great job 🎉 the roll-out took less than 4 minutes 👩‍💻.",
    "Password: must be at least 12 characters long and contain a number.",
    "The bearer of this voucher gets 15 % off; basic membership is enough.",
    "Call id and contact reason are required for each ticket.",
    "The mobile team merged the branch feature/checkout-redesign-2 at noon.",
)
SERVICES: Final = "checkout payments-api inventory search-indexer gateway auth-proxy mailer ledger".split()
STATES: Final = "open pending solved shipped delivered failed running healthy degraded".split()
CITIES: Final = "Berlin Lyon Austin Osaka Leeds Utrecht Porto Malmö".split()


def digits(rng: random.Random, count: int, first: str = "123456789") -> str:
    """A number of so many digits."""
    return rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def hexadecimal(rng: random.Random, count: int) -> str:
    """So many hex digits, as hashes have them."""
    return f"{rng.getrandbits(4 * count):0{count}x}"


def identifier(rng: random.Random) -> str:
    """A random UUID of version 4."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def moment(rng: random.Random) -> str:
    """A timestamp in one of the usual forms."""
    day = f"20{rng.randint(19, 26)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    time = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    zone = rng.choice(["Z", "+00:00", "+02:00", "-0500", f".{rng.randint(0, 999999):06d}Z"])
    return rng.choice([day, f"{day}T{time}{zone}", f"{day} {time}", f"{day[8:]}.{day[5:7]}.{day[:4]}"])


def isbn(rng: random.Random) -> str:
    """An ISBN-13 with its check digit."""
    body = "978" + digits(rng, 9, "0123456789")
    total = sum(int(each) * (3 if place % 2 else 1) for place, each in enumerate(body))
    body += str(-total % 10)
    return rng.choice([body, f"{body[:3]}-{body[3]}-{body[4:7]}-{body[7:12]}-{body[12]}"])


def price(rng: random.Random) -> str:
    """An amount of money as a text."""
    amount = rng.randint(1, 9_999_999) / 100
    return rng.choice([f"${amount:,.2f}", f"{amount:.2f} EUR", f"€ {amount:.2f}", f"{amount:.2f}"])


def version(rng: random.Random) -> str:
    """A version, of three numbers or of four."""
    three = f"{rng.randint(0, 20)}.{rng.randint(0, 30)}.{rng.randint(0, 99)}"
    return rng.choice([three, f"v{three}", f"{three}-rc{rng.randint(1, 9)}", f"{three}+build.{digits(rng, 4)}"])


def tracking(rng: random.Random) -> str:
    """The number of a parcel, in the forms of three carriers."""
    forms: list[Callable[[], str]] = [
        lambda: f"1Z{hexadecimal(rng, 16).upper()}",
        lambda: f"94{digits(rng, 20)}",
        lambda: f"{digits(rng, 12, '123456789')}",
        lambda: f"R{rng.choice('ABCDE')}{digits(rng, 9)}{rng.choice(['DE', 'GB', 'US'])}",
    ]
    return rng.choice(forms)()


def image(rng: random.Random) -> str:
    """A small image as a data URL; its bytes are random, as compressed ones are."""
    return (
        "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + rng.randbytes(rng.randint(60, 400))).decode()
    )


def prose(rng: random.Random, sentences: int) -> str:
    """A text of so many sentences, some with a number in them."""
    said = []
    for _ in range(sentences):
        said.append(rng.choice(SENTENCES))
        if rng.random() < 0.3:
            said.append(
                rng.choice(
                    [
                        f"Order {digits(rng, 8)} of {moment(rng)} came to {price(rng)}.",
                        f"See commit {hexadecimal(rng, 40)} and build #{digits(rng, 5)}.",
                        f"Offset {digits(rng, rng.randint(3, 10))} of partition {rng.randint(0, 63)} was skipped.",
                        f"The parcel {tracking(rng)} left {rng.choice(CITIES)} at {rng.randint(10, 23)}:47.",
                        f"Read https://docs.shop.test/v2/orders/{digits(rng, 7)}?page=2&sort=asc#top for more.",
                        f"Request {identifier(rng)} took {rng.randint(1, 900)} ms, ratio {rng.random():.4f}.",
                        f"Upgraded requests from {version(rng)} to {version(rng)}; sha256:{hexadecimal(rng, 64)}.",
                    ]
                )
            )
    return " ".join(said)


def ticket(rng: random.Random) -> Document:
    """What a support agent returns."""
    return {
        "ticket": {
            "id": identifier(rng),
            "number": int(digits(rng, 7)),
            "state": rng.choice(STATES),
            "created_at": moment(rng),
        },
        "order_number": rng.choice(
            [f"ORD-2026-{digits(rng, 6)}", digits(rng, rng.randint(6, 12)), f"#{digits(rng, 5)}"]
        ),
        "refund": {"amount": price(rng), "amount_cents": rng.randint(100, 900_000), "approved": rng.random() < 0.5},
        "tracking_number": tracking(rng),
        "password_reset_required": rng.random() < 0.5,
        "phone_verified": True,
        "phone_model": rng.choice(["Pixel 9 Pro", "iPhone 15", "Galaxy S24"]),
        "messages": [
            {"from": rng.choice(["customer", "agent"]), "at": moment(rng), "text": prose(rng, rng.randint(1, 5))}
            for _ in range(rng.randint(1, 4))
        ],
        "tags": rng.sample(["refund", "parcel", "login", "invoice", "card-declined", "phone"], 3),
    }


def log_line(rng: random.Random, service: str) -> str:
    """A line of a service's log."""
    what = f"request_id={identifier(rng)} status={rng.choice([200, 204, 404, 503])} took={rng.random() * 90:.3f}ms"
    return f"{moment(rng)} INFO  {service} {rng.choice(STATES)} {what}"


def difference(rng: random.Random, service: str) -> str:
    """A change of a program as a unified diff."""
    head = f"--- a/{service}/main.py\n+++ b/{service}/main.py\n@@ -{rng.randint(1, 90)},7 +{rng.randint(1, 90)},9 @@\n"
    return f"{head}-    retries = {rng.randint(1, 3)}\n+    retries = {rng.randint(4, 9)}  # as std::vector and a::b\n"


def deployment(rng: random.Random) -> Document:
    """What a deploy agent returns."""
    service = rng.choice(SERVICES)
    return {
        "deployment_id": identifier(rng),
        "service": service,
        "commit": hexadecimal(rng, 40),
        "commit_short": hexadecimal(rng, 7),
        "image": f"registry.shop.test/{service}@sha256:{hexadecimal(rng, 64)}",
        "version": rng.choice(
            [version(rng), f"{rng.randint(1, 9)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}"]
        ),
        "md5": hexadecimal(rng, 32),
        "replicas": {"wanted": rng.randint(1, 20), "ready": rng.randint(1, 20)},
        "kafka": {"topic": f"{service}.events.v1", "partition": rng.randint(0, 63), "offset": rng.randint(0, 10**10)},
        "started_at_ms": rng.randint(1_600_000_000_000, 1_800_000_000_000),
        "duration_ns": rng.randint(10**9, 10**12),
        "log": [log_line(rng, service) for _ in range(rng.randint(2, 9))],
        "next_page_token": base64.urlsafe_b64encode(rng.randbytes(9)).decode() if rng.random() < 0.1 else None,
        "token_count": rng.randint(100, 90_000),
        "primary_key": "id",
        "notes": prose(rng, rng.randint(1, 6)),
        "diff": difference(rng, service),
    }


def report(rng: random.Random) -> Document:
    """What a finance agent returns."""
    return {
        "report": identifier(rng),
        "period": {"from": moment(rng), "to": moment(rng)},
        "currency": rng.choice(["EUR", "USD", "GBP"]),
        "lines": [
            {
                "invoice": f"INV-{rng.randint(2019, 2026)}-{digits(rng, 5)}",
                "net": round(rng.random() * 10_000, 2),
                "gross": price(rng),
                "account": digits(rng, rng.choice([4, 6, 8])),
                "cost_center": f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
                "sku": f"{rng.choice('ABCDEFG')}{rng.choice('HJKLMN')}-{digits(rng, 5)}-{rng.choice('SML')}",
            }
            for _ in range(rng.randint(2, 12))
        ],
        "books": [isbn(rng) for _ in range(rng.randint(0, 3))],
        "exchange_rates": {"EURUSD": round(1 + rng.random() / 5, 6), "EURGBP": round(0.8 + rng.random() / 10, 6)},
        "checksum": rng.choice(
            [hexadecimal(rng, 64), hexadecimal(rng, 32), base64.b64encode(rng.randbytes(32)).decode()]
        ),
        "logo": image(rng) if rng.random() < 0.2 else None,
        "summary": prose(rng, rng.randint(2, 12)),
        "path": f"C:\\reports\\{rng.randint(2019, 2026)}\\new\\table_{digits(rng, 3)}.xlsx",
    }


def clean_document(rng: random.Random) -> Document:
    """One document of any kind."""
    return rng.choice([ticket, deployment, report])(rng)


def clean_documents(count: int, seed: int = 9) -> Iterator[Document]:
    """So many documents; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311  # the same documents every time
    for _ in range(count):
        yield clean_document(rng)


def documents_of(size_bytes: int, count: int, seed: int = 9) -> list[Document]:
    """Documents whose JSON, written compactly, has so many bytes, give or take 2 %."""
    rng = random.Random(seed)  # noqa: S311  # the same documents every time
    return [_filled(size_bytes, rng) for _ in range(count)]


def _filled(size_bytes: int, rng: random.Random) -> Document:
    """Entries of documents one after another as long as they fit, and prose up to the size."""
    made: Document = {}
    left = size_bytes - len('{"story":""}')
    while left > 0:
        part = clean_document(rng)
        took = _size_bytes(part) + len('"":,') + 4
        if took <= left:
            made[f"part_{len(made)}"] = part
            left -= took
            continue
        for key, value in part.items():
            took = _size_bytes({key: value})
            if key not in made and took <= left:
                made[key] = value
                left -= took
        break
    said = ""
    while len(said.encode()) < left:
        said += f"{prose(rng, 1)} "
    made["story"] = said.encode()[: max(left, 0)].decode("utf-8", "ignore")
    return made


def _size_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
