"""Operating errors. Outcomes (denied, expired, redacted) are events and never stand here."""

from __future__ import annotations


class SluicegateError(Exception):
    """The root of every error that Sluicegate raises on purpose; its text says what to do next."""


class Undecodable(SluicegateError):
    """Bytes that are no event of ours: no wire format, an unknown schema, or a body that does not fit it."""


class BadPayload(SluicegateError):
    """A payload that is not strict JSON: duplicate keys, NaN or infinity, absurd depth, or no JSON at all."""


class SealingError(SluicegateError):
    """An envelope that cannot be opened here: unknown algorithm, missing key, or content too short."""


class KeyErased(SealingError):
    """The key of an envelope was erased on purpose: when, by whom and why stands in the text.

    ``at_ms`` is when by the key store's clock, in ms since the epoch; None where that is not told.
    """

    def __init__(self, text: str, at_ms: int | None = None) -> None:
        super().__init__(text)
        self.at_ms = at_ms


class BadInput(SluicegateError):
    """What a user gave cannot be used; the text says where and what to do."""


class Unavailable(SluicegateError):
    """Something that must run does not answer; the text says what and how to start it."""


class StaleControl(SluicegateError):
    """The control topic could not be confirmed fresh in time: judging must stop and the process must end."""


class InvariantBroken(SluicegateError):
    """State or log contradict an invariant; the process ends before it writes anything."""


class IndeterminateCommit(SluicegateError):
    """A commit whose outcome is unknown: the producer must never be used again, the process begins anew."""


class RecordTooLarge(SluicegateError):
    """A record or a state entry above its limit, refused before it is produced."""


class LoginRefused(SluicegateError):
    """The broker refused the name or the password; trying again cannot help."""
