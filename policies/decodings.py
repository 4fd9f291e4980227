r"""What a text says once it is decoded, with the way back to where it stood.

A `Layer` is a text as bytes with, for each of its stretches, the stretch of the layer it came from. Three kinds come
from one:

- *visible*: compatibility forms as NFKC has them (full-width digits, ligatures), digits of other scripts as ASCII, all
  dashes `-`, all spaces one kind; format, control and combining characters and blank fillers left out;
- *escapes*: percent-encoding (a plus beside it is a space), JSON and C escapes (`\u0040`, `\x40`, `\"`), character
  references of HTML;
- *runs*: base64 (both alphabets, padding or not, lines of MIME, starting anywhere in a run), hex; UTF-16 in them; tag
  characters.

JSON inside a string needs no parser of its own: its text is looked through as it stands, its escapes as a layer.
The first two map every character, so a finding covers what was seen and no more; of a run the whole run is covered.
A layer holds only what changed: each stretch between two `ENTRY` bytes that has something to decode.

Not looked into: base32, base85, quoted-printable, octal escapes, compressed or encrypted content, look-alike letters of
other scripts, letters with blanks between them, runs of base64 under `RUN_CHARS_MIN` characters. Sources: RFC 3986 2.1,
RFC 4648 4 and 5, RFC 2045 6.8, RFC 8259 7, UAX #15, UAX #44.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, Final

import re2

from sluicegate.policies.secrecy import unpadded

ENTRY: Final = b"\x00"
"""Between the entries of a document; no pattern of ours reaches over it."""
AFTER_KEY: Final = b"\x01"
"""Between a key and its value."""
RUN_CHARS_MIN: Final = 12
CHARACTERS_KEPT_MAX: Final = 20_000
STRETCH_CHARS_MIN: Final = 6
"""A readable stretch inside decoded bytes that is shorter is taken for chance."""

Edit = tuple[int, int, bytes]


class Layer:
    """A text and its way back: ``starts[i]`` is where stretch i begins, ``origins[i]`` its (start, end, exact)."""

    __slots__ = ("data", "depth", "origins", "parent", "starts", "trivial")

    def __init__(self, data: bytes, parent: Layer | None = None) -> None:
        self.data = data
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.starts: list[int] = []
        self.origins: list[tuple[int, int, bool]] = []
        self.trivial = False
        """Nothing but backslashes went away, as from a path of Windows: no reason to stop at the deepest layer."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The span of the first layer in which this span (not empty) was found."""
        layer = self
        while layer.parent is not None:
            first, last = bisect_right(layer.starts, start) - 1, bisect_right(layer.starts, end - 1) - 1
            from_start, _, start_exact = layer.origins[first]
            last_start, last_end, end_exact = layer.origins[last]
            start = from_start + start - layer.starts[first] if start_exact else from_start
            end = min(last_start + end - layer.starts[last], last_end) if end_exact else last_end
            end = max(end, start + 1)
            layer = layer.parent
        return start, end

    def unchanged(self, start: int, end: int) -> bool:
        """Whether the span stands like this in the layer before, where it was looked at already."""
        if self.parent is None:
            return False
        first = bisect_right(self.starts, start) - 1
        return first == bisect_right(self.starts, end - 1) - 1 and self.origins[first][2]


def _bytewise(pattern: bytes) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    return re2.compile(pattern, options)


_ODD_CHARACTER: Final = re.compile("[^\t\n\r\x00\x01\x20-\x7e]")
_ESCAPED: Final = _bytewise(rb"%u?[0-9A-Fa-f]{2}|\\[\"\\/uxnrtbf]|&#[0-9xX]|&[A-Za-z]{2,8};")
_ESCAPE: Final = re.compile(
    rb"%(?P<percent>[0-9A-Fa-f]{2})|[\\%]u(?P<unit>[0-9A-Fa-f]{4})|\\u\{(?P<point>[0-9A-Fa-f]{1,6})\}"
    rb"|\\x(?P<byte>[0-9A-Fa-f]{2})|\\(?P<letter>[\"\\/nrtbf])|(?P<reference>&#[0-9]{1,7};|&#[xX][0-9A-Fa-f]{1,6};"
    rb"|&[A-Za-z]{2,8};)|(?P<space>\+)"
)
_PERCENT: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_LETTERS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"", b"f": b""}
_RUN: Final = _bytewise(
    # What has only hex digits and dashes for so long is a hash or a UUID, and no base64 of a text.
    rb"[0-9A-Fa-f-]{0,15}[G-Zg-z+/_][A-Za-z0-9+/_-]{14,}={0,2}"
)
_LINES: Final = _bytewise(rb"(?:[A-Za-z0-9+/]{60,80}\r?\n[ \t]*)+[A-Za-z0-9+/]{2,80}={0,2}")
_ASCII_RUN: Final = _bytewise(
    # Four characters of base64 that hold three ASCII bytes: each byte's first bit is 0, the first byte is printable.
    rb"(?:[C-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]){3,}"
)
_TEXT_HEX: Final = _bytewise(
    # Hex of UTF-8: ASCII but for controls, and characters of two and three bytes.
    rb"(?i)(?:[2-7][0-9a-f]|[cd][0-9a-f][89ab][0-9a-f]|e[0-9a-f][89ab][0-9a-f][89ab][0-9a-f]){9,}"
)
_TAG: Final = b"\xf3\xa0"
_TAGS: Final = re.compile(rb"(?:\xf3\xa0(?:\x80[\xa0-\xbf]|\x81[\x80-\xbe])){6,}")
_RUN_AT: Final = re.compile(rb"[A-Za-z0-9+/_-]*={0,2}")
_RUN_BEFORE: Final = re.compile(rb"[A-Za-z0-9+/_-]*")
_HEX_AT: Final = re.compile(rb"[0-9A-Fa-f]*")
_UNREADABLE: Final = re.compile(rb"[^\t\n\r -~]+")
_FILLERS: Final = frozenset("\u115f\u1160\u2065\u2800\u3164\uffa0")
_DASHES: Final = frozenset("\u02d7\u2043\u207b\u208b\u2212")
"""Signs that are no dashes to Unicode, and are to everyone who reads a number."""
_DOTS: Final = frozenset("\u00b7\u2027\u22c5")
_LEFT_OUT: Final = frozenset({"Cf", "Cc", "Mn", "Me"})
_BLOCKS: Final = (
    range(0x7F, 0x3400),
    range(0xA4D0, 0xAC00),
    range(0xFB00, 0x12000),
    range(0x13430, 0x13460),
    range(0x16A00, 0x17000),
    range(0x1BC00, 0x20000),
    range(0xE0000, 0xE1000),
)
"""Where characters stand that are not seen as what they are; the rest is ideographs, syllables, signs and nothing."""


def _seen(code: int) -> str:
    """What a character is seen as."""
    letter = chr(code)
    kind = unicodedata.category(letter)
    if (kind in _LEFT_OUT and letter not in "\t\n\r\x00\x01") or letter in _FILLERS:
        return ""
    if kind == "Nd":
        return str(unicodedata.digit(letter))
    if kind == "Pd" or letter in _DASHES:
        return "-"
    if letter in _DOTS:
        return "."
    if kind in {"Zs", "Zl", "Zp"}:
        return " "
    plain = unicodedata.normalize("NFKC", letter)
    return plain if plain.isascii() else letter


class _Visible(dict[int, str]):
    """What each character is seen as, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        seen = _seen(code)
        if len(self) < CHARACTERS_KEPT_MAX:
            self[code] = seen
        return seen


_VISIBLE: Final = _Visible()


@cache
def odd_characters() -> Any:
    """The pattern of every character that is not seen as what it is.

    Worked out once a process, in about 20 ms: where detectors are built, so that no scan waits for it.
    """
    ranges: list[list[int]] = []
    for code in chain.from_iterable(_BLOCKS):
        if _seen(code) != chr(code):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    odd = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges)
    return re2.compile(f"[\\x02-\\x08\\x0b\\x0c\\x0e-\\x1f{odd}]".encode())


def layers_of(layer: Layer) -> Iterator[Layer]:
    """Every layer that decoding this one by one step gives."""
    for made in (_visible(layer), _unescaped(layer), _runs(layer)):
        if made is not None:
            yield made


def entry_around(data: bytes, at: int) -> tuple[int, int]:
    """The span of the entry in which this place lies."""
    end = data.find(ENTRY, at)
    return data.rfind(ENTRY, 0, at) + 1, len(data) if end < 0 else end


def _entries(data: bytes, gate: Any) -> Iterator[tuple[int, int]]:
    """Each entry in which the gate's pattern occurs."""
    at = 0
    while (found := gate.search(data, at)) is not None:
        start, end = entry_around(data, found.start())
        yield start, end
        at = end


def _edited(layer: Layer, changes: list[tuple[int, int, list[Edit]]]) -> Layer | None:
    """The layer with the edits made, of the entries that have some."""
    if not changes:
        return None
    data, made, out, size = layer.data, Layer(b"", layer), [], 0

    def add(piece: bytes, start: int, end: int, exact: bool) -> None:
        nonlocal size
        if piece:
            made.starts.append(size)
            made.origins.append((start, end, exact))
            out.append(piece)
            size += len(piece)

    for start, end, edits in changes:
        at = start
        for edit_start, edit_end, text in edits:
            add(data[at:edit_start], at, edit_start, True)
            add(text, edit_start, edit_end, False)
            at = edit_end
        add(data[at:end], at, end, True)
        add(ENTRY, end - 1, end, False)
    made.data = b"".join(out)
    return made


def _visible(layer: Layer) -> Layer | None:
    data = layer.data
    changes = []
    for start, end in _entries(data, odd_characters()):
        text = data[start:end].decode("utf-8", "surrogateescape")
        if text.translate(_VISIBLE) == text:
            continue
        edits: list[Edit] = []
        at_character, at = 0, start
        for found in _ODD_CHARACTER.finditer(text):
            at += found.start() - at_character
            at_character = found.end()
            width = len(found[0].encode("utf-8", "surrogateescape"))
            seen = _VISIBLE[ord(found[0])]
            if seen != found[0]:
                edits.append((at, at + width, seen.encode("utf-8", "surrogateescape")))
            at += width
        changes.append((start, end, edits))
    return _edited(layer, changes)


def _unescaped(layer: Layer) -> Layer | None:
    changes, trivial = [], True
    for start, end in _entries(layer.data, _ESCAPED):
        edits: list[Edit] = []
        form: bool | None = None
        for found in _ESCAPE.finditer(layer.data, start, end):
            if found.lastgroup == "space":
                # In a form (as `application/x-www-form-urlencoded`) a plus is a space; elsewhere it is itself.
                form = _PERCENT.search(layer.data, start, end) is not None if form is None else form
                between = layer.data[found.start() - 1 : found.end() + 1] if form and found.start() > start else b""
                meant = b" " if between[:1].isalnum() and between[2:].isalnum() else None
            else:
                meant = _meant(found)
            if meant is not None:
                trivial = trivial and found.lastgroup == "letter"
                edits.append((found.start(), found.end(), meant.replace(b"\x00", b"").replace(b"\x01", b"")))
        if edits:
            changes.append((start, end, edits))
    made = _edited(layer, changes)
    if made is not None:
        made.trivial = trivial
    return made


def _meant(found: re.Match[bytes]) -> bytes | None:
    """The bytes that an escape stands for, None where it stands for nothing."""
    kind, text = str(found.lastgroup), found[found.lastgroup or 0]
    if kind in {"percent", "byte"}:
        return bytes((int(text, 16),))
    if kind in {"unit", "point"}:
        code = int(text, 16)
        return chr(code).encode("utf-8", "surrogatepass") if code <= 0x10FFFF else None
    if kind == "letter":
        return _LETTERS.get(text, text)
    name = text.decode()
    meant = html.unescape(name)
    return None if meant == name else meant.encode("utf-8", "surrogatepass")


def _runs(layer: Layer) -> Layer | None:
    data, made, out, size = layer.data, Layer(b"", layer), [], 0
    for start, end, plain in _decoded_runs(layer):
        key_end = start - 1 if data[start - 1 : start] == AFTER_KEY else -1
        if key_end >= 0:
            # A value that is a run as a whole is read beside its key, as it would be in the clear.
            key_start = data.rfind(ENTRY, 0, key_end) + 1
            made.starts.append(size)
            made.origins.append((key_start, key_end + 1, True))
            out.append(data[key_start : key_end + 1])
            size += key_end + 1 - key_start
        made.starts.append(size)
        made.origins.append((start, end, False))
        out += [plain, ENTRY]
        size += len(plain) + 1
    if not out:
        return None
    made.data = b"".join(out)
    return made


def _decoded_runs(layer: Layer) -> Iterator[tuple[int, int, bytes]]:
    """Each run that holds text: its span and the text."""
    data = layer.data
    readable = _grown(data, _ASCII_RUN, _RUN_BEFORE, _RUN_AT)
    for found in _RUN.finditer(data):
        start, end = found.span()
        phases = 4 if readable.pop(start, None) is not None else 1
        if not layer.unchanged(start, end):
            yield from _text_of_run(start, end, data[start:end], phases)
    for start, end in readable.items():
        if end - start >= RUN_CHARS_MIN and not layer.unchanged(start, end):
            yield from _text_of_run(start, end, data[start:end], 4)
    for start, end in _grown(data, _TEXT_HEX, _HEX_AT, _HEX_AT).items():
        if not layer.unchanged(start, end):
            for phase in (0, 1):
                plain = bytes.fromhex(data[start + phase : end - (end - start - phase) % 2].decode())
                text = _as_text(plain)
                yield from ((start, end, each) for each in ([text] if text is not None else _stretches(plain)))
    if _TAG in data:
        for found in _TAGS.finditer(data):
            # They are ASCII that only machines read, beyond U+E0000.
            letters = (chr(ord(each) & 0x7F) for each in found[0].decode())
            yield (*found.span(), "".join(letters).encode())
    if b"\n" in data:
        for found in _LINES.finditer(data):
            start, end = found.span()
            if not layer.unchanged(start, end):
                yield from _text_of_run(start, end, re.sub(rb"\s+", b"", data[start:end]), 1, lines=True)


def _grown(data: bytes, gate: Any, before: re.Pattern[bytes], after: re.Pattern[bytes]) -> dict[int, int]:
    """The whole run around each match of the gate, start to end."""
    grown: dict[int, int] = {}
    at = 0
    while (found := gate.search(data, at)) is not None:
        start = found.start()
        # The run begins where its alphabet does: look back in steps, so that a long run is not copied for each match.
        while (length := _length(before, data[max(at, start - 4096) : start][::-1])) > 0:
            start -= length
        at = max(found.end(), found.start() + _length(after, data, found.start()))
        grown[start] = at
    return grown


def _length(pattern: re.Pattern[bytes], data: bytes, at: int = 0) -> int:
    found = pattern.match(data, at)
    return found.end() - at if found else 0


def _text_of_run(
    start: int, end: int, run: bytes, phases: int, lines: bool = False
) -> Iterator[tuple[int, int, bytes]]:
    run = run.rstrip(b"=")
    for phase in range(phases):
        part = run[phase:]
        plain = unpadded(part[: len(part) - 1] if len(part) % 4 == 1 else part)
        text = _as_text(plain) if phase == 0 else None
        if text is not None:
            yield start, end, text
        elif phases > 1 or lines:
            yield from ((start, end, stretch) for stretch in _stretches(plain))


def _as_text(plain: bytes) -> bytes | None:
    """The text when all of it is readable UTF-8, or UTF-16 of Latin letters."""
    if b"\x00" in plain:
        plain = plain.replace(b"\x00", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    try:
        text = plain.decode()
    except UnicodeDecodeError:
        return None
    return plain.replace(b"\x01", b"\x02") if len(text) >= STRETCH_CHARS_MIN else None


def _stretches(plain: bytes) -> Iterator[bytes]:
    for stretch in _UNREADABLE.split(plain):
        if len(stretch) >= STRETCH_CHARS_MIN:
            yield stretch
