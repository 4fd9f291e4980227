"""What a worker and a handler's process say to each other: four bytes of length (big endian) and one JSON value.

They run over pipes and not over a socket: a socket carries descriptors, and who receives one from a stranger can be
made to hang in closing it. What the process says is held to be a stranger's word: a frame of another shape, or longer
than ``FRAME_BYTES_MAX``, is `BadFrame`, and the attempt fails.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from sluicegate.streams.topics import MESSAGE_BYTES_MAX

FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX
CALL_BYTES_MAX: Final = 8 * MESSAGE_BYTES_MAX
"""A payload's numbers may be longer as Python writes them."""
OUTPUT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 100_000
"""What a handler's JSON may weigh: review adds to it, and the result must still fit into a record."""
ERROR_CHARS_MAX: Final = 2_000
NAME_CHARS_MAX: Final = 200
AMOUNT_CHARS_MAX: Final = 1_000
LENGTH_BYTES: Final = 4
KIND: Final = "[A-Za-z_][A-Za-z0-9_]*"
"""What the kind of a failure is written like: the log shows it to whoever reads the log, so it is no free text."""
_LENGTH: Final = struct.Struct(">I")


class BadFrame(Exception):
    """What came is no frame: too long, not JSON, or of no shape that is known here."""


class Note(msgspec.Struct, frozen=True, tag="note", forbid_unknown_fields=True):
    """A sign of life with a word for people."""

    text: Annotated[str, msgspec.Meta(max_length=ERROR_CHARS_MAX)]


class Spend(msgspec.Struct, frozen=True, tag="spend", forbid_unknown_fields=True):
    """The handler asks for a part of its budget, in decimal digits. An amount of 0 asks what is left."""

    budget: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)]
    amount: Annotated[str, msgspec.Meta(max_length=AMOUNT_CHARS_MAX)]


class Returned(msgspec.Struct, frozen=True, tag="returned", forbid_unknown_fields=True):
    """The handler has returned this JSON, kept byte for byte."""

    content: msgspec.Raw


class Raised(msgspec.Struct, frozen=True, tag="raised", forbid_unknown_fields=True):
    """The handler has raised; ``stopped`` says that it was `Stopped`."""

    kind: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX, pattern=rf"\A{KIND}\Z")]
    message: Annotated[str, msgspec.Meta(max_length=ERROR_CHARS_MAX)]
    stopped: bool


Said = Note | Spend | Returned | Raised
"""What a handler's process may say."""


class Spent(msgspec.Struct, frozen=True):
    """The answer to `Spend`: what is left (None: there is no limit), or why it was refused.

    ``exceeded``: it was refused because there is less left; else because there is no such budget or amount.
    """

    left: str | None = None
    refused: str | None = None
    exceeded: bool = False


_SAID: Final = msgspec.json.Decoder(Said)
_SPENT: Final = msgspec.json.Decoder(Spent)


def frame_of(value: msgspec.Struct, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The frame of a word; raises BadFrame if it is longer than ``bytes_max``."""
    content = msgspec.json.encode(value)
    if len(content) > bytes_max:
        raise BadFrame(f"{len(content)} bytes, at most {bytes_max}")
    return _LENGTH.pack(len(content)) + content


class Frames:
    """Takes bytes as they come and gives whole frames; holds at most one frame that is not yet whole."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Raises BadFrame as soon as a length is too large."""
        self._held += data
        found: list[bytes] = []
        at = 0
        while len(self._held) - at >= LENGTH_BYTES:
            (size,) = _LENGTH.unpack_from(self._held, at)
            if size > FRAME_BYTES_MAX:
                raise BadFrame(f"a frame of {size} bytes, at most {FRAME_BYTES_MAX}")
            end = at + LENGTH_BYTES + size
            if len(self._held) < end:
                break
            found.append(bytes(self._held[at + LENGTH_BYTES : end]))
            at = end
        del self._held[:at]
        return found


def said(frame: bytes) -> Said:
    """What a handler's process said; raises BadFrame."""
    try:
        word: Said = _SAID.decode(frame)
        return word
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadFrame(f"not a word that is known here: {type(error).__name__}") from None


def spent(frame: bytes) -> Spent:
    """The worker's answer; raises BadFrame."""
    try:
        return _SPENT.decode(frame)
    except msgspec.MsgspecError:
        raise BadFrame("the worker's answer cannot be read") from None
