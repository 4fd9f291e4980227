"""Deterministic ids: the same cause gives the same id, so a replay writes the same bytes."""

from __future__ import annotations

import hashlib

from sluicegate.schemas.payload import framed

ID_HEX_DIGITS = 32


def derived_id(kind: str, *parts: str | int) -> str:
    """An id of ``kind`` made from its parts: ``grant-`` or ``request-`` and 32 hex digits of a SHA-256."""
    digest = hashlib.sha256(framed(kind.encode(), *[str(part).encode() for part in parts])).hexdigest()
    return f"{kind}-{digest[:ID_HEX_DIGITS]}"
