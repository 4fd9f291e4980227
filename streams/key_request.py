"""How a key is asked for: one signed question over HTTP on this machine, with a time and a nonce. No engine, no store.

The body is JSON, ``{"question": base64, "by": key id, "signature": base64}``; the question's exact bytes are signed,
framed with a domain of their own, so that no signature of a record can be one of a question. Agents sign with the key
that they sign intents with, people with theirs, a pool of workers with ``keys/pool.<pool>.key``.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

import msgspec

from sluicegate.schemas.errors import SealingError
from sluicegate.schemas.payload import framed
from sluicegate.streams.identity import Signer

ENDPOINT_FILE: Final = "keys-endpoint"
PATH: Final = "/key"
BODY_BYTES_MAX: Final = 8_192
NONCE_CHARS_MIN: Final = 16
NONCE_CHARS_MAX: Final = 64
WINDOW_MS: Final = 60_000
"""How far a question's time may be from the service's, either way."""


class KeyRefused(SealingError):
    """The key service gives this key not to this asker, or not for this question. ``code`` is one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class KeyQuestion(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Who asks for which key. ``request_id`` names the approval request that a person looks at."""

    tenant: str
    key_id: str
    create: bool = False
    request_id: str | None = None
    issued_at_ms: int
    nonce: str


class Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A question as it is sent; ``signature`` is over `question_message` of the question's exact bytes."""

    question: bytes
    by: str
    signature: bytes


def question_message(by: str, question: bytes) -> bytes:
    """The exact bytes that are signed."""
    return framed(b"sluicegate.key_question.v1", by.encode("utf-8", "surrogatepass"), question)


def new_nonce() -> str:
    """A nonce that nobody used."""
    return secrets.token_hex(16)


def asked_by(signer: Signer, question: KeyQuestion) -> bytes:
    """The signed body of a question."""
    content = msgspec.json.encode(question)
    signature = signer.sign(question_message(signer.key_id, content))
    return msgspec.json.encode(Asked(question=content, by=signer.key_id, signature=signature))


def parse_asked(body: bytes) -> tuple[Asked, KeyQuestion]:
    """A body in parts. Raises KeyRefused (`malformed`) for what is no question."""
    try:
        asked = msgspec.json.decode(body, type=Asked)
        question = msgspec.json.decode(asked.question, type=KeyQuestion)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise KeyRefused("malformed", "the body is no signed question for a key; ask through a keyring") from None
    if not NONCE_CHARS_MIN <= len(question.nonce) <= NONCE_CHARS_MAX:
        raise KeyRefused("malformed", f"a nonce has {NONCE_CHARS_MIN} to {NONCE_CHARS_MAX} characters; make a new one")
    return asked, question


def encoded_key(leaf: bytes) -> str:
    """A key as it stands in an answer."""
    return base64.b64encode(leaf).decode()


def decoded_key(text: str) -> bytes:
    """A key from an answer. Raises SealingError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SealingError("the key service answered no key; look at its log") from None
