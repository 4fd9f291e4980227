"""Who wrote a record: signatures over its exact bytes, because Kafka puts no principal on it.

What is signed is the length-prefixed sequence of topic (the Kafka name, so tenants cannot be crossed), key id,
record id, issue time, key and value. Agents sign by HMAC-SHA256 under a key derived per agent, or by Ed25519;
people, operators and monitors by Ed25519. Pure: no clock and no I/O, so a step can verify.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.payload import framed
from sluicegate.streams.engine import Headers

KEY_ID: Final = "sg_key_id"
ISSUED_AT: Final = "sg_issued_at_ms"
SIGNATURE: Final = "sg_signature"
RECORD_ID: Final = "ce_id"
STALE_AFTER_MS: Final = 24 * 60 * 60 * 1000
"""A record issued longer than this before its append time is refused."""
AHEAD_MAX_MS: Final = 5 * 60 * 1000
"""How far a signer's clock may run ahead of the broker's."""

PrincipalKind = Literal["agent", "person", "operator", "oversight", "monitor", "gate"]


class Principal(msgspec.Struct, frozen=True):
    """Someone whose signature was verified. ``key_id`` is ``<kind>/<id>``."""

    kind: PrincipalKind
    id: str

    @property
    def key_id(self) -> str:
        return f"{self.kind}/{self.id}"


class Signer(Protocol):
    """Signs for one principal."""

    key_id: str

    def sign(self, message: bytes) -> bytes: ...


class Verifier(Protocol):
    """Verifies one principal's signatures."""

    def verify(self, message: bytes, signature: bytes) -> bool: ...


class HmacKey:
    """A shared key: signs and verifies by HMAC-SHA256."""

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.key_id = key_id
        self._secret = secret

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, "sha256")

    def verify(self, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(message), signature)

    def salt(self, job_id: str) -> bytes:
        """The salt of a job: the same at every submission, unknown to anyone without the key."""
        return hmac.digest(self._secret, framed(b"salt", job_id.encode()), "sha256")[:16]


class Ed25519Signer:
    """A private Ed25519 key (RFC 8032)."""

    def __init__(self, key_id: str, private: bytes) -> None:
        self.key_id = key_id
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self._salt_secret = hashlib.sha256(framed(b"salt", private)).digest()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def public(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._private.public_key().public_bytes_raw()

    def salt(self, job_id: str) -> bytes:
        """As `HmacKey.salt`."""
        return hmac.digest(self._salt_secret, framed(b"salt", job_id.encode()), "sha256")[:16]


class Ed25519Verifier:
    """A public Ed25519 key, 32 bytes. Raises BadInput for anything else."""

    def __init__(self, public: bytes) -> None:
        try:
            self._public = Ed25519PublicKey.from_public_bytes(public)
        except ValueError:
            raise BadInput("an Ed25519 public key has 32 bytes; give it in base64") from None

    @property
    def public(self) -> bytes:
        """The 32 bytes of the key: two names with the same ones are one signer."""
        return self._public.public_bytes_raw()

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def public_key(text: str) -> Ed25519Verifier:
    """The verifier of a public key written in base64; raises BadInput."""
    try:
        return Ed25519Verifier(base64.b64decode(text, validate=True))
    except ValueError:
        raise BadInput(f"`{text}` is not base64; give the 32 bytes of an Ed25519 public key in base64") from None


def agent_secret(master: bytes, agent_id: str) -> bytes:
    """The HMAC key of one agent, derived from the tenant's master key."""
    return hmac.digest(master, framed(b"sluicegate.agent.v1", agent_id.encode()), "sha256")


def signed_message(topic: str, key_id: str, record_id: str, issued_at_ms: int, key: bytes, value: bytes) -> bytes:
    """The exact bytes that are signed. ``topic`` is the Kafka name."""
    return framed(
        b"sluicegate.record.v1",
        topic.encode(),
        key_id.encode(),
        record_id.encode(),
        str(issued_at_ms).encode(),
        key,
        value,
    )


def sign(signer: Signer, topic: str, record_id: str, issued_at_ms: int, key: bytes, value: bytes) -> Headers:
    """The headers that carry a signature. ``topic`` is the Kafka name."""
    signature = signer.sign(signed_message(topic, signer.key_id, record_id, issued_at_ms, key, value))
    return (
        (RECORD_ID, record_id.encode()),
        (KEY_ID, signer.key_id.encode()),
        (ISSUED_AT, str(issued_at_ms).encode()),
        (SIGNATURE, signature),
    )


class Checked(msgspec.Struct, frozen=True):
    """What a signature check found. ``code`` is None when all is well; ``principal`` is set once verified."""

    principal: Principal | None
    code: str | None
    message: str = ""


_KINDS: Final = ("agent", "person", "operator", "oversight", "monitor", "gate")
Keys = Callable[[str], "Verifier | None"]
"""Finds the verifier of a key id; None when nobody has it."""


def check(headers: Headers, topic: str, key: bytes, value: bytes, appended_at_ms: int, keys: Keys) -> Checked:
    """Check a record's signature and freshness. ``topic`` is the Kafka name; times in ms since the epoch.

    Codes: ``unsigned``, ``unknown_key``, ``bad_signature``, ``stale``, ``ahead``.
    """
    checked = check_signature(headers, topic, key, value, keys)
    if checked.code is not None:
        return checked
    issued_at_ms = int(dict(headers)[ISSUED_AT])
    if appended_at_ms - issued_at_ms > STALE_AFTER_MS:
        return Checked(checked.principal, "stale", "issued more than 24 hours before it was appended; submit it anew")
    if issued_at_ms - appended_at_ms > AHEAD_MAX_MS:
        return Checked(checked.principal, "ahead", "issued more than 5 minutes in the future; set the signer's clock")
    return checked


def check_signature(headers: Headers, topic: str, key: bytes, value: bytes, keys: Keys) -> Checked:
    """Check a record's signature, whenever it was issued: for what says itself until when it holds.

    ``topic`` is the Kafka name. Codes: ``unsigned``, ``unknown_key``, ``bad_signature``.
    """
    found = dict(headers)
    if not {KEY_ID, ISSUED_AT, SIGNATURE, RECORD_ID} <= found.keys():
        return Checked(None, "unsigned", "the record carries no signature; sign it with your key")
    try:
        key_id, record_id = found[KEY_ID].decode(), found[RECORD_ID].decode()
        issued_at_ms = int(found[ISSUED_AT])
    except ValueError:
        return Checked(None, "unsigned", "the signature's headers cannot be read; sign the record again")
    kind, _, name = key_id.partition("/")
    verifier = keys(key_id) if kind in _KINDS and name else None
    if verifier is None:
        return Checked(None, "unknown_key", f"key `{key_id}` is not enrolled; enrol it first")
    if not verifier.verify(signed_message(topic, key_id, record_id, issued_at_ms, key, value), found[SIGNATURE]):
        return Checked(None, "bad_signature", f"the signature is not one of `{key_id}` over this record")
    return Checked(Principal(kind, name), None)  # type: ignore[arg-type]  # checked against _KINDS above
