"""Epochs of sampled audit: each has a key, committed to when it begins and told when it is over. Pure.

Nobody can foresee what is drawn before the key is told, and everybody can check it afterwards. The keys of all epochs
derive from one master key, which gate and oversight hold; what one of them tells says nothing of another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

import msgspec

from sluicegate.schemas.events import Command
from sluicegate.schemas.payload import framed

KINDS: Final = ("epoch", "reveal")
"""The commands that begin and tell; oversight may give them, too, and no others."""
UNREVEALED_MAX: Final = 100
"""Epochs whose keys are not told yet, and still may be: the latest."""
REVEAL_AFTER_MS: Final = 30_000
"""How long an epoch must have been over before its key is told: longer than any gate may still draw with it."""
_COMMITMENT: Final = r"[0-9a-f]{64}"
_SCALE: Final = r"[0-9]{1,6}(\.[0-9]{1,6})?"


class Epoch(msgspec.Struct, frozen=True):
    """A time in which jobs are drawn under one key. ``commitment`` is SHA-256 of it, ``scale`` a decimal."""

    number: int
    commitment: str
    scale: str
    began_at_ms: int
    ended_at_ms: int = 0


def epoch_key(master: bytes, number: int) -> bytes:
    """The key of an epoch, derived from the tenant's master key of audits."""
    return hmac.digest(master, framed(b"sluicegate.epoch.v1", str(number).encode()), hashlib.sha256)


def commitment_of(key: bytes) -> str:
    """What is published of a key before it is told."""
    return hashlib.sha256(key).hexdigest()


def told_key(event: Command) -> bytes | None:
    """The key that a command tells; None where it is none."""
    return bytes.fromhex(event.revealed) if re.fullmatch(_COMMITMENT, event.revealed or "") and event.revealed else None


def after(epochs: tuple[Epoch, ...], event: Command, at_ms: int) -> tuple[Epoch, ...] | str:
    """The epochs that are not told, once a command was given; or the code for which it is refused."""
    return _begun(epochs, event, at_ms) if event.kind == "epoch" else _told(epochs, event, at_ms)


def _begun(epochs: tuple[Epoch, ...], event: Command, at_ms: int) -> tuple[Epoch, ...] | str:
    if event.epoch != (epochs[-1].number + 1 if epochs else 1):
        return "bad_epoch"
    commitment, scale = event.commitment or "", event.scale or ""
    if not re.fullmatch(_COMMITMENT, commitment) or not re.fullmatch(_SCALE, scale):
        return "bad_terms"
    ended = tuple(msgspec.structs.replace(each, ended_at_ms=at_ms) for each in epochs[-1:])
    return (*epochs[:-1], *ended, Epoch(event.epoch, commitment, scale, at_ms))[-UNREVEALED_MAX:]


def _told(epochs: tuple[Epoch, ...], event: Command, at_ms: int) -> tuple[Epoch, ...] | str:
    over = next((each for each in epochs[:-1] if each.number == event.epoch), None)
    if over is None:
        return "bad_epoch"
    if at_ms < over.ended_at_ms + REVEAL_AFTER_MS:
        return "too_soon"
    key = told_key(event)
    if key is None or commitment_of(key) != over.commitment:
        return "bad_key"
    return tuple(each for each in epochs if each is not over)
