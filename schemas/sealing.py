"""Sealing: AES-256-GCM over the envelope of `records.Sealed`, under the key of one job or of one quarantined output.

From a leaf of the key tree (32 bytes) two keys derive: one seals, one makes nonces. The nonce is the beginning of an
HMAC-SHA256 over the event's id and the SHA-256 of salt and content, as a synthetic initialization vector (Rogaway and
Shrimpton, 2006): a step that is replayed seals equal bytes, and other content never meets a nonce again under one key.
Algorithm and key id are bound as additional data. The salt stands before the content, inside. Pure: the same arguments
give the same envelope.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NoReturn, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluicegate.schemas.errors import SealingError
from sluicegate.schemas.key_tree import SEED_BYTES
from sluicegate.schemas.payload import NONE, SALT_BYTES, framed, seal, unseal
from sluicegate.schemas.records import Sealed

AES_256_GCM: Final = "AES-256-GCM"
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = SALT_BYTES + TAG_BYTES
"""How much larger an envelope's bytes are than what they hold."""
_SEALS: Final = framed(b"sluicegate.seal.key.v1")
_NONCES: Final = framed(b"sluicegate.seal.nonce.v1")


class Keyring(Protocol):
    """What seals and opens envelopes; where its keys come from is its own business."""

    def leaf(self, key_id: str) -> bytes:
        """The key of this name, 32 bytes. Raises KeyErased, or SealingError when it cannot be had."""
        ...

    def seal(self, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
        """Seal content; ``event_id`` keeps equal contents of different events apart. Raises as `leaf`."""
        ...

    def open(self, sealed: Sealed) -> tuple[bytes, bytes]:
        """The (content, salt) of an envelope. Raises as `leaf`, and SealingError when it was altered."""
        ...


class LeafKeyring:
    """Seals and opens with whatever `leaf` gives. What was sealed with algorithm `none` is opened as well."""

    def leaf(self, key_id: str) -> bytes:
        """As `Keyring.leaf`."""
        raise NotImplementedError

    def leaf_to_seal(self, key_id: str) -> bytes:
        """As `leaf`; a keyring that may make what is missing does so here."""
        return self.leaf(key_id)

    def seal(self, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
        """As `Keyring.seal`."""
        return seal_with(self.leaf_to_seal(key_id), content, salt, key_id, event_id)

    def open(self, sealed: Sealed) -> tuple[bytes, bytes]:
        """As `Keyring.open`."""
        if sealed.algorithm == NONE:
            return unseal(sealed)
        if sealed.algorithm != AES_256_GCM:
            _unknown(sealed)
        return open_with(self.leaf(sealed.key_id), sealed)


class NoKeyring:
    """Where nothing is encrypted: algorithm `none`, no key."""

    def leaf(self, key_id: str) -> bytes:
        """Raises SealingError: there is none."""
        raise SealingError(f"no key store is named here, so there is no key `{key_id[:80]}`; set one, or seal nothing")

    def seal(self, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
        """As `payload.seal`."""
        return seal(content, salt)

    def open(self, sealed: Sealed) -> tuple[bytes, bytes]:
        """As `payload.unseal`."""
        if sealed.algorithm == AES_256_GCM:
            raise SealingError(
                f"sealed under `{sealed.key_id[:80]}`, and no keys are named here; set `sealing: {AES_256_GCM}`, as "
                "the tenant has it, where its keys are"
            )
        return unseal(sealed)


def seal_with(leaf: bytes, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
    """Seal content under a leaf. Raises SealingError for a salt or a key of the wrong length."""
    if len(salt) != SALT_BYTES:
        raise SealingError(f"a salt of `{len(salt)}` bytes; give {SALT_BYTES}")
    plain = salt + content
    cipher = _cipher(leaf)
    told = framed(_NONCES, event_id.encode(), hashlib.sha256(plain).digest())
    nonce = hmac.digest(leaf, told, "sha256")[:NONCE_BYTES]
    return Sealed(
        algorithm=AES_256_GCM,
        key_id=key_id,
        nonce=nonce,
        content=cipher.encrypt(nonce, plain, _bound(AES_256_GCM, key_id)),
    )


def open_with(leaf: bytes, sealed: Sealed) -> tuple[bytes, bytes]:
    """The (content, salt) of an envelope under a leaf. Raises SealingError when key or envelope is not the one."""
    if sealed.algorithm != AES_256_GCM:
        _unknown(sealed)
    if len(sealed.nonce) != NONCE_BYTES or len(sealed.content) < OVERHEAD_BYTES:
        raise SealingError(f"the envelope under `{sealed.key_id[:80]}` is cut short; it cannot be opened")
    try:
        plain = _cipher(leaf).decrypt(sealed.nonce, sealed.content, _bound(sealed.algorithm, sealed.key_id))
    except InvalidTag:
        raise SealingError(
            f"the envelope under `{sealed.key_id[:80]}` was altered, or sealed with another key; it cannot be opened"
        ) from None
    return plain[SALT_BYTES:], plain[:SALT_BYTES]


def _cipher(leaf: bytes) -> AESGCM:
    if len(leaf) != SEED_BYTES:
        raise SealingError(f"a key of `{len(leaf)}` bytes; it has {SEED_BYTES}")
    return AESGCM(hmac.digest(leaf, _SEALS, "sha256"))


def _bound(algorithm: str, key_id: str) -> bytes:
    return framed(b"sluicegate.seal.v1", algorithm.encode(), key_id.encode("utf-8", "surrogatepass"))


def _unknown(sealed: Sealed) -> NoReturn:
    known = f"this build opens `{NONE}` and `{AES_256_GCM}`"
    raise SealingError(f"algorithm `{sealed.algorithm[:40]}` is unknown here; {known}")
